"""Orders by HL7 over MLLP, sent by python-hl7's client, found in the worklist, and answered as the standard has it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import hl7
import pytest
from hl7.client import MLLPClient
from pydantic import ValidationError

from central.access.doorkeeper import Doorkeeper
from central.access.policy import Role
from central.audit.events import Action
from central.audit.reading import Wanted
from central.audit.record import Audit
from central.workflow.hl7_message import Delimiters, acknowledgement, read_message
from central.workflow.hl7_settings import Hl7Settings
from central.workflow.mllp import MllpServer, OrderDesk
from central.workflow.ordering import Ordering
from central.workflow.worklist import WorklistStore
from tests.central.access.house import CHEAP, FACTOR_KEY, PASSWORD
from tests.central.databases import open_archive_in, open_index, open_record
from tests.edge.gateway.authority import Authority

DAY, LATER = (format(datetime.now().astimezone() + timedelta(days=days), "%Y%m%d") for days in (1, 2))
ORM = [
    "MSH|^~\\&|RIS|HOSP|DICOMNET|RAD|20260105080000||ORM^O01|MSG1|P|2.3.1||||||8859/1",
    "PID|1||4711^^^HOSP||Müller^Anna^Maria^Jr^Dr||19800101|F",
    "PV1|1|O||||||1234^House^Gregory^^^Dr|||||||||||V99",
    f"ORC|NW|P100|F100||SC||^^^{DAY}093000",
    "OBR|1|P100|F100|CTTHX^CT thorax^L^CTT^CT Thorax nativ^99HOSP||||||||||||5678^Cuddy^Lisa||ACC1|RP1|SPS1|CT1|||CT",
    "ZDS|1.2.3.4.5^DICOMNET^Application^DICOM",
]
OMI = [
    "MSH|^~\\&|RIS|HOSP|DICOMNET|RAD|20260105080000||OMI^O23^OMI_O23|MSG2|P|2.5.1||||||UNICODE UTF-8",
    "PID|1||4712^^^HOSP||Øverås^Åse||19810101|F",
    "ORC|NW|P200||||",
    f"TQ1|1||||||{DAY}1000",
    "OBR|1|P200||MRKNEE^MR knee^L",
    "IPC|ACC2|RP2|1.2.3.4.6|SPS2|MR|PC^Knee protocol^L|MRNAME|ROOM 2|MR1",
    "IPC|ACC2|RP2|1.2.3.4.6|SPS3|MR|PC^Second^L|MRNAME|ROOM 2|MR1",
]


def text(lines: list[str], *changes: tuple[str, str]) -> str:
    joined = "\r".join(lines) + "\r"
    for old, new in changes:
        assert old in joined, old
        joined = joined.replace(old, new)
    return joined


class Ris:
    """The worklist behind an open port, and what sends to it."""

    def __init__(
        self,
        port: int,
        worklist: WorklistStore,
        audit: Audit,
        ordering: Ordering,
        doorkeeper: Doorkeeper,
    ) -> None:
        self.port, self.worklist, self.audit = port, worklist, audit
        self.ordering, self.doorkeeper = ordering, doorkeeper

    def send(self, message: str, encoding: str = "latin-1") -> hl7.Message:
        with MLLPClient("127.0.0.1", self.port) as client:
            return hl7.parse(client.send_message(message.encode(encoding)).decode("ascii"))

    def items(self) -> list[dict[str, object]]:
        """Keyword-free: DICOM JSON by tag."""
        return [dict(entry.item) for entry in self.worklist.entries(limit=100)]


@contextmanager
def open_ris(root: Path, **settings: object) -> Iterator[Ris]:
    db = open_index(root)
    worklist, audit = WorklistStore(db), open_record(root)
    chosen = Hl7Settings.model_validate({"port": 0, "senders": ["127.0.0.0/8"], **settings})
    doorkeeper = Doorkeeper.open(db, hashes=CHEAP, factor_key=FACTOR_KEY)
    ordering = Ordering(doorkeeper.assignments, open_archive_in(root, db).receiving)
    server = MllpServer(chosen, OrderDesk(worklist, audit, ordering, chosen))
    server.start()
    try:
        yield Ris(server.port, worklist, audit, ordering, doorkeeper)
    finally:
        server.stop()
        audit.close()
        db.close()


@pytest.fixture
def ris(tmp_path: Path) -> Iterator[Ris]:
    with open_ris(tmp_path) as opened:
        yield opened


def value(item: dict[str, object], tag: str) -> object:
    return item[tag].get("Value", [None])[0]  # type: ignore[attr-defined]


def test_an_order_becomes_an_item(ris: Ris) -> None:
    answer = ris.send(text(ORM))
    assert (str(answer.segment("MSA")[1]), str(answer.segment("MSA")[2])) == ("AA", "MSG1")
    assert str(answer.segment("MSH")[9]) == "ACK^O01^ACK"
    assert (str(answer.segment("MSH")[5]), str(answer.segment("MSH")[6])) == ("RIS", "HOSP")
    [item] = ris.items()
    assert value(item, "00100010") == {"Alphabetic": "Müller^Anna^Maria^Dr^Jr"}
    expected = {
        "00100020": "4711",
        "00100021": "HOSP",
        "00100030": "19800101",
        "00100040": "F",
        "00080050": "ACC1",
        "0020000D": "1.2.3.4.5",
        "00401001": "RP1",
        "00321060": "CT Thorax nativ",
        "00380010": "V99",
    }
    assert {tag: value(item, tag) for tag in expected} == expected
    assert value(item, "00080090") == {"Alphabetic": "House^Gregory^^Dr"}
    step = value(item, "00400100")
    wanted = {
        "00400001": "CT1",
        "00400002": DAY,
        "00400003": "093000",
        "00080060": "CT",
        "00400009": "SPS1",
    }
    assert {tag: value(step, tag) for tag in wanted} == wanted  # type: ignore[arg-type]
    event = ris.audit.newest(Wanted(), limit=1)[0].event
    assert (event.actor, event.action, event.study_instance_uid) == (
        "hl7:RIS",
        Action.WORKLIST_CHANGE,
        "1.2.3.4.5",
    )


def test_an_imaging_order_has_a_step_for_each_ipc_in_utf_8(ris: Ris) -> None:
    assert str(ris.send(text(OMI), "utf-8").segment("MSA")[1]) == "AA"
    items = ris.items()
    assert {value(value(item, "00400100"), "00400009") for item in items} == {"SPS2", "SPS3"}  # type: ignore[arg-type]
    assert value(items[0], "00100010") == {"Alphabetic": "Øverås^Åse"}


def test_a_change_replaces_and_a_cancellation_removes(ris: Ris) -> None:
    ris.send(text(ORM))
    ris.send(text(ORM, ("ORC|NW|", "ORC|XO|"), (f"{DAY}093000", f"{LATER}110000")))
    [item] = ris.items()
    assert value(value(item, "00400100"), "00400002") == LATER  # type: ignore[arg-type]
    assert (
        str(ris.send(text(ORM, ("ORC|NW|P100|F100||SC", "ORC|SC|P100|F100||IP"))).segment("MSA")[1]) == "AA"
    )
    assert len(ris.items()) == 1
    for _ in range(2):  # and again: the second finds nothing, which is what was wanted
        assert str(ris.send(text(ORM, ("ORC|NW|", "ORC|CA|"))).segment("MSA")[1]) == "AA"
        assert ris.items() == []


@pytest.mark.parametrize("says", [["ORC|CA|P200"], ["ORC|CA|P200", "OBR|1|P200||MRKNEE^MR knee^L"]])
def test_a_cancellation_need_not_say_which_steps_there_were(ris: Ris, says: list[str]) -> None:
    ris.send(text(OMI), "utf-8")
    ris.send(text(ORM))
    assert len(ris.items()) == 3
    assert str(ris.send(text([*OMI[:2], *says]), "utf-8").segment("MSA")[1]) == "AA"
    [left] = ris.items()
    assert value(left, "00100020") == "4711"
    ris.send(text([*ORM[:3], "ORC|CA|P100|F100"]))
    assert ris.items() == []


@pytest.mark.parametrize(
    ("character_set", "encoding", "name"),
    [
        ("UNICODE UTF-8", "utf-8", "M\\XC3BC\\ller^Anna"),
        ("8859/1", "latin-1", "M\\XFC\\ller^Anna"),
        ("8859/5", "iso8859-5", "Иванов^Анна"),
        ("~ISO IR87", "iso2022_jp", "Yamada^Anna=山田^太郎"),
        ("ASCII~ISO IR87~ISO IR159", "iso2022_jp_2", "Yamada^Anna=山田^丂"),
    ],
)
def test_names_in_the_character_set_that_is_said(
    ris: Ris, character_set: str, encoding: str, name: str
) -> None:
    sent = text(ORM, ("8859/1", character_set), ("Müller^Anna^Maria^Jr^Dr", name))
    assert str(ris.send(sent, encoding).segment("MSA")[1]) == "AA"
    [item] = ris.items()
    said = value(item, "00100010")
    assert isinstance(said, dict)
    wanted = name.replace("\\XC3BC\\", "ü").replace("\\XFC\\", "ü")
    assert said["Alphabetic"] == wanted.replace("=", " ")


def test_a_character_set_that_cannot_be_mixed_in_is_refused(ris: Ris) -> None:
    answer = ris.send(text(ORM, ("8859/1", "8859/1~8859/5")))
    assert str(answer.segment("MSA")[1]) == "AR"
    assert ris.items() == []


def test_a_completed_order_leaves_the_worklist(ris: Ris) -> None:
    ris.send(text(ORM))
    ris.send(text(ORM, ("ORC|NW|P100|F100||SC", "ORC|SC|P100|F100||CM")))
    assert ris.items() == []


@pytest.mark.parametrize(
    ("changes", "code", "condition", "says"),
    [
        ([("ORM^O01", "ADT^A01")], "AR", "200", "ORM^O01 and OMI^O23"),
        ([("ORC|NW|", "ORC|ZZ|")], "AR", "200", "ORC-1"),
        ([("4711^^^HOSP", "")], "AE", "101", "PID-3"),
        ([("|CT1|||CT", "||||CT")], "AE", "101", "OBR-21"),
        ([(f"^^^{DAY}093000", "")], "AE", "101", "start"),
        ([(f"^^^{DAY}093000", "^^^tomorrow")], "AE", "102", "YYYYMMDD"),
        ([("8859/1", "KLINGON")], "AR", "102", "MSH-18"),
        ([("8859/1", "ASCII")], "AE", "102", "MSH-18"),
        ([("1.2.3.4.5^", "../evil^")], "AE", "102", "UID"),
        ([("ACC1", "HOSP-2026-0000001")], "AE", "102", "accession number (IPC-1, OBR-18) has 17 characters"),
        ([("RP1", "HOSP-2026-0000001")], "AE", "102", "requested procedure id (IPC-2, OBR-19) has 17"),
        ([("SPS1", "HOSP-2026-0000001")], "AE", "102", "scheduled procedure step id (IPC-4, OBR-20) has 17"),
    ],
)
def test_what_is_not_accepted_is_said_and_changes_nothing(
    ris: Ris, changes: list[tuple[str, str]], code: str, condition: str, says: str
) -> None:
    answer = ris.send(text(ORM, *changes))
    assert (str(answer.segment("MSA")[1]), str(answer.segment("MSA")[2])) == (code, "MSG1")
    assert str(answer.segment("ERR")[3]) == condition
    assert says in hl7.parse(str(answer)).unescape(str(answer.segment("MSA")[3]))
    assert "Müller" not in str(answer)
    assert ris.items() == []


def test_what_the_record_cannot_hold_is_not_changed(ris: Ris) -> None:
    answer = ris.send(text(ORM, ("|MSG1|", f"|{'x' * 9000}|")))
    assert (str(answer.segment("MSA")[1]), ris.items()) == ("AE", [])
    (refused,) = ris.audit.newest(Wanted(), limit=9)
    assert (refused.event.action, refused.event.outcome) == (Action.WORKLIST_CHANGE, "refused")


def test_without_a_record_nothing_is_changed(ris: Ris) -> None:
    ris.audit.close()
    answer = ris.send(text(ORM))
    assert (str(answer.segment("MSA")[1]), str(answer.segment("ERR")[3])) == ("AE", "207")
    assert ris.items() == []


def test_a_study_uid_that_is_not_sent_is_made_the_same_each_time(ris: Ris) -> None:
    without = ORM[:-1]
    ris.send(text(without))
    [first] = ris.items()
    ris.send(text(without, ("ORC|NW|", "ORC|XO|")))
    [second] = ris.items()
    assert value(first, "0020000D") == value(second, "0020000D")
    assert str(value(first, "0020000D")).startswith("2.25.")


@pytest.mark.parametrize("accession_number", ["HOSP-2026-00000", ""])
def test_no_two_orders_share_a_study_uid_that_was_made(ris: Ris, accession_number: str) -> None:
    without = [line.replace("|P100|F100|", "|||") if line[:3] == "ORC" else line for line in ORM[:-1]]
    for number in ("1", "2"):
        accession = accession_number and accession_number + number
        answer = ris.send(text(without, ("P100|F100", f"P{number}|F{number}"), ("ACC1", accession)))
        assert str(answer.segment("MSA")[1]) == "AA"
    assert len({value(one, "0020000D") for one in ris.items()}) == 2


def test_many_messages_on_one_connection_and_in_pieces(ris: Ris) -> None:
    framed = b"\x0b" + text(ORM).encode("latin-1") + b"\x1c\r"
    with socket.create_connection(("127.0.0.1", ris.port), 5) as sock:
        for at in range(0, len(framed), 7):
            sock.sendall(framed[at : at + 7])
        sock.sendall(framed + framed)
        held = b""
        while held.count(b"\x1c\r") < 3:
            held += sock.recv(65_536)
    assert held.count(b"MSA|AA|MSG1") == 3


def closed(port: int, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        try:
            sock.sendall(sent)
            return sock.recv(100)
        except ConnectionError:
            return b""


def test_what_is_no_message_ends_the_connection(tmp_path: Path) -> None:
    with open_ris(tmp_path, max_message_bytes=2048, message_timeout_s=1.5) as ris:
        assert closed(ris.port, b"GET / HTTP/1.1\r\n\r\n") == b""
        assert closed(ris.port, b"\x0b" + b"x" * 5000) == b""
        assert closed(ris.port, b"\x0bMSH|") == b""  # never ends
        assert str(ris.send(text(ORM)).segment("MSA")[1]) == "AA"


def test_only_configured_senders_are_listened_to(tmp_path: Path) -> None:
    with open_ris(tmp_path, senders=["192.0.2.0/24"]) as ris:
        assert closed(ris.port, b"\x0b" + text(ORM).encode("latin-1") + b"\x1c\r") == b""
        assert ris.items() == []


def test_over_tls_with_the_senders_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    ours, theirs = authority.issue("central"), authority.issue("ris")
    tls = {"tls_certificate": ours.certificate, "tls_key": ours.key, "tls_client_ca": authority.ca}
    framed = b"\x0b" + text(ORM).encode("latin-1") + b"\x1c\r"
    with open_ris(tmp_path, **tls) as ris:
        context = ssl.create_default_context(cafile=str(authority.ca))
        context.load_cert_chain(theirs.certificate, theirs.key)
        with (
            socket.create_connection(("127.0.0.1", ris.port), 10) as raw,
            context.wrap_socket(raw, server_hostname="127.0.0.1") as sock,
        ):
            sock.sendall(framed)
            assert b"MSA|AA" in sock.recv(4096)
        assert closed(ris.port, framed) == b""  # in the clear


@pytest.mark.parametrize(
    "raw", [b"", b"MSH", b"MSH|||||", b"PID|1", b"\xff\xfe", b"MSH|^~\\&" + b"|" * 50_000]
)
def test_whatever_comes_is_answered(tmp_path: Path, raw: bytes) -> None:
    with open_ris(tmp_path) as ris:
        desk = OrderDesk(ris.worklist, ris.audit, ris.ordering, Hl7Settings.model_validate({}))
        assert b"MSA|A" in desk.answer(raw, "127.0.0.1")


def test_escapes_and_an_answer_that_cannot_be_broken_out_of() -> None:
    assert Delimiters().unescape("a\\T\\b\\F\\c\\S\\d\\R\\e\\E\\f\\X41\\") == "a&b|c^d~e\\fA"
    hostile = read_message(b"MSH|^~\\&|A\\F\\X\\X0D\\MSA|F|||||ORM^O01|1|P|2.5", "ASCII")
    answer = acknowledgement(hostile, "AA", "", "", datetime(2026, 1, 1), "DICOMNET")  # noqa: DTZ001
    assert answer.count(b"\r") == 2
    assert b"A\\F\\X" in answer


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ValidationError, match="together"):
        Hl7Settings.model_validate({"tls_certificate": "a.pem"})


def test_an_order_gives_its_physicians_the_study_and_names_its_department(ris: Ris) -> None:
    create = ris.doorkeeper.accounts.create_user
    create("cuddy", PASSWORD, Role.DOCTOR, referring_physician_names=["CUDDY^LISA"])
    create("house", PASSWORD, Role.DOCTOR, referring_physician_names=["House^Gregory"])
    create("north", PASSWORD, Role.DOCTOR, referring_physician_names=["House^Gregory"], institution="north")
    ris.send(text(ORM, (f"{DAY}093000", f"{DAY}093000||||||||||CARD^Cardiology^L")))
    assert value(ris.items()[0], "00321033") == "Cardiology"
    assigned = ris.doorkeeper.assignments.listed()
    assert {(one.username, one.study_instance_uid, one.by_order) for one in assigned} == {
        ("cuddy", "1.2.3.4.5", True),
        ("house", "1.2.3.4.5", True),
    }
    told, put = ris.audit.newest(Wanted(), limit=2)
    assert (told.event.action, put.event.action) == (Action.ACCESS_CHANGE, Action.WORKLIST_CHANGE)
    assert told.event.study_instance_uid == "1.2.3.4.5"
    assert {"cuddy", "house"} <= set(told.event.detail.replace(",", "").split())


def test_an_order_is_the_institutions_whose_sender_it_comes_from(tmp_path: Path) -> None:
    north = {"institution": "north", "senders": ["127.0.0.0/8"]}
    with open_ris(tmp_path, senders=[], institutions=[north]) as ris:
        ris.send(text(ORM))
        assert ris.items() == []
        assert len(ris.worklist.entries(limit=9, institution="north")) == 1
        (row,) = ris.audit.newest(Wanted(institutions=("north",)), limit=9)
        assert row.event.action is Action.WORKLIST_CHANGE
        ris.send(text(ORM, ("ORC|NW", "ORC|CA")))
        assert ris.worklist.entries(limit=9, institution="north") == []
