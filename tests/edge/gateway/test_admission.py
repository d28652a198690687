"""Who may open an association, what the others are told, and that a technician's decision lasts."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError

from edge.gateway.admission import MAX_CALLED, Admission, Caller
from edge.gateway.approved import Approved, ApprovedFile
from edge.gateway.errors import AdmissionError, AdmissionNotSavedError, RejectedError
from edge.gateway.negotiation import Asking
from edge.gateway.settings import GatewaySettings, ScannerSettings
from edge.gateway.tls import PeerCertificate
from edge.gateway.waiting import MAX_WAITING, MAX_WAITING_PER_ADDRESS
from tests.edge.gateway.conftest import Gateway, StartGateway
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE, associate_rq, small_data_set

NOT_RECOGNIZED, CALLED_WRONG, PUT_OFF = (1, 1, 3), (1, 1, 7), (2, 3, 2)


def scanner(ae_title: str = "CT1", **more: object) -> ScannerSettings:
    return ScannerSettings.model_validate({"ae_title": ae_title, **more})


def admission(*configured: ScannerSettings, file: Path | None = None, **settings: object) -> Admission:
    return Admission(
        GatewaySettings.model_validate(settings), configured, file=ApprovedFile(file) if file else None
    )


def ask(
    admission: Admission,
    calling: str = "CT1",
    address: str = "10.0.0.5",
    called: str = "DICOMNET",
    certificate: PeerCertificate | None = None,
) -> tuple[int, int, int] | None:
    """None if it is let in, else what the A-ASSOCIATE-RJ says."""
    try:
        admission.admit(Asking(calling, called, "1.2.3", "V1"), Caller(address, certificate))
    except RejectedError as error:
        return (error.result, error.source, error.reason) if error.calling_ae_title == calling else (0, 0, 0)
    return None


def reason(admission: Admission, **asked: str) -> str:
    with pytest.raises(RejectedError) as caught:
        admission.admit(
            Asking(asked.get("calling", "CT1"), asked.get("called", "DICOMNET"), "", ""),
            Caller(asked.get("address", "10.0.0.5")),
        )
    return str(caught.value)


# What an unknown scanner gets --------------------------------------------------------------------------------


def test_auto_accepts_everybody_until_there_is_a_first_scanner() -> None:
    assert ask(admission()) is None
    assert ask(admission(scanner("MR1"))) == NOT_RECOGNIZED
    approving = admission()
    approving.approve("MR1", "10.0.0.6")
    assert ask(approving) == NOT_RECOGNIZED
    assert ask(approving, "MR1", "10.0.0.6") is None
    approving.remove("MR1")
    assert ask(approving) is None


@pytest.mark.parametrize(
    ("policy", "answer"), [("accept", None), ("refuse", NOT_RECOGNIZED), ("hold", PUT_OFF)]
)
def test_the_other_policies_hold_with_and_without_scanners(
    policy: str, answer: tuple[int, int, int] | None
) -> None:
    assert ask(admission(unknown_scanners=policy)) == answer
    assert ask(admission(scanner("MR1"), unknown_scanners=policy)) == answer


def test_a_refusal_says_what_to_do_and_notices_capitals() -> None:
    strict = admission(scanner("CT_ROOM2"))
    assert "CT9 is not known here: add it in dicomnet-tui or under [[scanners]]" in reason(
        strict, calling="CT9"
    )
    assert "CT_ROOM2 is, and capitals count" in reason(strict, calling="ct_room2")


# What an entry allows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "address", "allowed"),
    [
        ([], "10.0.0.5", True),
        (["10.0.0.5"], "10.0.0.5", True),
        (["10.0.0.5"], "10.0.0.50", False),
        (["10.0.0.0/29", "192.168.1.7"], "10.0.0.5", True),
        (["10.0.0.0/29", "192.168.1.7"], "192.168.1.7", True),
        (["10.0.0.0/30"], "10.0.0.5", False),
        (["2001:db8::/32"], "2001:db8:1::5", True),
        (["2001:db8::/32"], "10.0.0.5", False),
    ],
)
def test_addresses(addresses: list[str], address: str, allowed: bool) -> None:
    one = admission(scanner(addresses=addresses))
    assert ask(one, address=address) == (None if allowed else NOT_RECOGNIZED)
    if not allowed:
        assert "if it moved, change its entry" in reason(one, address=address)


@pytest.mark.parametrize(
    ("allowed", "called", "answer"),
    [
        ([], "DICOMNET", None),
        ([], "OTHER", CALLED_WRONG),
        (["OTHER", "THIRD"], "THIRD", None),
        (["OTHER"], "DICOMNET", CALLED_WRONG),
    ],
)
def test_called_ae_titles(allowed: list[str], called: str, answer: tuple[int, int, int] | None) -> None:
    assert ask(admission(scanner(called_ae_titles=allowed)), called=called) == answer


def test_unknown_scanners_may_call_anything_unless_the_setting_says_no() -> None:
    assert ask(admission(), called="ANYTHING") is None
    assert ask(admission(require_called_ae_title=True), called="ANYTHING") == CALLED_WRONG


CERTIFICATE = PeerCertificate("a" * 64, "CN=ct1", ("DNS:ct1.test",))


@pytest.mark.parametrize(
    ("entry", "certificate", "answer"),
    [
        ({"tls": "required"}, None, NOT_RECOGNIZED),
        ({"tls": "required"}, CERTIFICATE, None),
        ({"tls": "off"}, CERTIFICATE, NOT_RECOGNIZED),
        ({"tls": "off"}, None, None),
        ({}, None, None),
        ({}, CERTIFICATE, None),
        ({"tls": "required", "certificate_sha256": "AA:" * 31 + "AA"}, CERTIFICATE, None),
        ({"tls": "required", "certificate_sha256": "b" * 64}, CERTIFICATE, NOT_RECOGNIZED),
        ({"tls": "required", "certificate_sha256": "b" * 64}, None, NOT_RECOGNIZED),
    ],
)
def test_tls_and_the_pinned_certificate(
    entry: dict[str, object],
    certificate: PeerCertificate | None,
    answer: tuple[int, int, int] | None,
) -> None:
    assert ask(admission(scanner(**entry)), certificate=certificate) == answer


@pytest.mark.parametrize(
    "wrong",
    [
        {"addresses": ["10.0.0.300"]},
        {"addresses": ["ct1.hospital"]},
        {"certificate_sha256": "b" * 64},
        {"certificate_sha256": "12", "tls": "required"},
        {"called_ae_titles": ["A\\B"]},
        {"ae_title": ""},
        {"adress": "10.0.0.1"},
    ],
)
def test_a_wrong_entry_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        scanner(**wrong)


# Approval ----------------------------------------------------------------------------------------------------


def test_a_scanner_is_held_approved_with_one_call_and_lets_its_images_in(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = start_gateway(unknown_scanners="hold", approved=tmp_path / "scanners.json")

    def attempt() -> int | tuple[int, ...]:
        with gateway.connect() as scu:
            scu.send(associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])], called=b"OLDBOX"))
            kind, body = scu.read_pdu()
            if kind == 3:
                return tuple(body[1:])
            return scu.store(small_data_set(), "1.2.3.1").status

    assert attempt() == PUT_OFF
    assert attempt() == PUT_OFF
    (waiting,) = gateway.admission.waiting()
    assert (waiting.ae_title, waiting.address, waiting.attempts) == ("CT1", "127.0.0.1", 2)
    assert waiting.called_ae_title == "OLDBOX"
    assert gateway.rows() == []
    assert "press y" in (gateway.last_error() or "")

    gateway.admission.approve("CT1", "127.0.0.1")
    assert gateway.admission.waiting() == []
    assert attempt() == 0


@pytest.mark.parametrize("settings", [{}, {"unknown_scanners": "accept"}, {"unknown_scanners": "refuse"}])
def test_who_is_approved_may_go_on_calling_the_box_what_it_called_it(settings: dict[str, object]) -> None:
    one = admission(**settings)
    ask(one, called="PACS")
    assert one.called_by("CT1", "10.0.0.5") == "PACS"

    one.approve("CT1", "10.0.0.5")

    assert ask(one, called="PACS") is None
    assert ask(one, called="DICOMNET") is None
    assert ask(one, called="OTHER") == CALLED_WRONG


def test_an_approved_scanner_that_moved_may_go_on_calling_what_it_calls() -> None:
    one = admission()
    one.approve("CT1", "10.0.0.5")
    assert ask(one, address="10.0.0.6", called="PACS") == NOT_RECOGNIZED

    one.approve("CT1", "10.0.0.6")

    assert ask(one, address="10.0.0.6", called="PACS") is None


def test_what_was_called_before_the_start_counts() -> None:
    one = Admission(GatewaySettings(), called={("CT1", "10.0.0.5"): "PACS"})
    one.approve("CT1", "10.0.0.5")
    assert ask(one, called="PACS") is None


def test_what_was_decided_survives_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "state" / "scanners.json"
    first = admission(file=file, unknown_scanners="hold")
    ask(first, "CT1", "10.0.0.5")
    ask(first, "BAD", "10.0.0.66")
    first.approve("CT1", "10.0.0.5")
    first.refuse("BAD", "10.0.0.66")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    second = admission(file=file, unknown_scanners="hold")
    assert ask(second, "CT1", "10.0.0.5") is None
    assert ask(second, "BAD", "10.0.0.66") == NOT_RECOGNIZED
    assert "refused by a technician" in reason(second, calling="BAD", address="10.0.0.66")
    assert ask(second, "CT1", "10.0.0.99") == PUT_OFF, "the same name from elsewhere is asked about again"
    second.approve("CT1", "10.0.0.99")
    second.approve("BAD", "10.0.0.66")

    third = admission(file=file, unknown_scanners="refuse")
    assert [
        ask(third, *who) for who in (("CT1", "10.0.0.5"), ("CT1", "10.0.0.99"), ("BAD", "10.0.0.66"))
    ] == [None] * 3
    assert third.refused() == []
    assert ask(third, "CT1", "10.0.0.77") == NOT_RECOGNIZED


def test_a_scanner_is_added_edited_and_removed(tmp_path: Path) -> None:
    one = admission(file=tmp_path / "scanners.json")
    one.save(scanner("CT1", addresses=["10.0.0.0/24"]))
    one.save(scanner("CT1", addresses=["10.0.1.0/24"], host="10.0.1.9", quirks="lossless"))
    (listed,) = one.listed()
    assert (listed.scanner.addresses, listed.configured) == (["10.0.1.0/24"], False)
    assert one.find("CT1") == listed.scanner
    assert ask(one) == NOT_RECOGNIZED
    with pytest.raises(AdmissionError, match="no profile fancy; there are any-called-ae-title, "):
        one.save(scanner("CT1", quirks="fancy"))
    one.remove("CT1")
    assert one.listed() == []


def test_the_configuration_file_wins_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "scanners.json"
    admission(file=file).save(scanner("CT1", addresses=["10.0.0.5"]))
    configured = admission(scanner("CT1", addresses=["10.0.0.6"]), file=file)
    assert ask(configured, address="10.0.0.5") == NOT_RECOGNIZED
    assert ask(configured, address="10.0.0.6") is None
    (listed,) = configured.listed()
    assert listed.configured
    assert "the configuration file holds" in listed.note
    for change in (
        lambda: configured.save(scanner("CT1")),
        lambda: configured.approve("CT1", "10.0.0.5"),
        lambda: configured.remove("CT1"),
    ):
        with pytest.raises(AdmissionError, match="is in the configuration file"):
            change()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"scanners": [{"ae_title": "A\\\\B"}]}', b"\xff" * 100, b"{} {}"]
)
def test_a_damaged_file_never_opens_the_box(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "scanners.json"
    file.write_bytes(content)
    damaged = admission(file=file)
    assert damaged.unknown_scanners == "hold"
    assert "is damaged" in damaged.damage
    assert ask(damaged) == PUT_OFF
    assert admission(file=file).unknown_scanners == "hold", "not after another restart, either"

    damaged.approve("CT1", "10.0.0.5")
    assert damaged.damage == ""
    assert (tmp_path / "scanners.json.damaged").read_bytes() == content
    assert ask(admission(file=file)) is None


def test_a_list_that_cannot_be_saved_changes_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.write_text("a file where the directory should be")
    one = Admission(GatewaySettings(unknown_scanners="refuse"))
    one._file = ApprovedFile(directory / "scanners.json")
    with pytest.raises(AdmissionNotSavedError, match="nothing was changed"):
        one.approve("CT1", "10.0.0.5")
    assert ask(one) == NOT_RECOGNIZED


def test_the_file_is_what_the_model_says(tmp_path: Path) -> None:
    file = tmp_path / "scanners.json"
    admission(file=file).approve("CT1", "10.0.0.5")
    held = json.loads(file.read_bytes())
    assert held["format"] == "dicomnet-scanners-1"
    assert Approved.model_validate(held).scanners[0].host == "10.0.0.5"
    assert [path.name for path in tmp_path.iterdir()] == ["scanners.json"]


# Bounds ------------------------------------------------------------------------------------------------------


def test_one_address_cannot_push_others_out_of_the_waiting_list() -> None:
    held = admission(unknown_scanners="hold")
    ask(held, "REAL", "10.0.0.5")
    for number in range(1000):
        ask(held, f"FAKE{number}", "10.6.6.6")
    waiting = held.waiting()
    assert len(waiting) == 1 + MAX_WAITING_PER_ADDRESS
    assert "REAL" in [one.ae_title for one in waiting]


def test_the_waiting_list_is_bounded_and_keeps_the_latest() -> None:
    held = admission(unknown_scanners="hold")
    for number in range(MAX_WAITING * 2):
        ask(held, "CT1", f"10.1.{number >> 8}.{number & 255}")
    waiting = held.waiting()
    assert len(waiting) == MAX_WAITING
    assert waiting[0].address == f"10.1.0.{MAX_WAITING * 2 - 1}"


def test_what_callers_called_is_bounded_and_the_latest_kept() -> None:
    one = admission()
    for number in range(MAX_CALLED):
        ask(one, f"CT{number}", called="PACS")
    ask(one, "CT0", called="ARCHIVE")
    ask(one, "NEW", called="PACS")
    assert [one.called_by(name, "10.0.0.5") for name in ("CT0", "CT1", "NEW")] == ["ARCHIVE", "", "PACS"]


def test_approvals_and_associations_at_the_same_time(tmp_path: Path) -> None:
    held = admission(file=tmp_path / "scanners.json", unknown_scanners="hold")
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(10):
                ask(held, f"CT{number}", f"10.0.{number}.{turn}")
                held.approve(f"CT{number}", f"10.0.{number}.{turn}")
                assert ask(held, f"CT{number}", f"10.0.{number}.{turn}") is None
        except BaseException as error:  # handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    assert len(admission(file=tmp_path / "scanners.json").listed()) == 4


def test_rejections_are_by_the_book_on_the_wire(start_gateway: StartGateway) -> None:
    gateway: Gateway = start_gateway(
        scanners=[{"ae_title": "CT1", "addresses": ["10.0.0.5"]}, {"ae_title": "MR1"}]
    )
    for changes, numbers in (
        ({"calling": b"WHO"}, NOT_RECOGNIZED),
        ({"calling": b"CT1"}, NOT_RECOGNIZED),
        ({"calling": b"MR1", "called": b"WRONG"}, CALLED_WRONG),
    ):
        with gateway.connect() as scu:
            scu.send(associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])], **changes))  # type: ignore[arg-type]
            kind, body = scu.read_pdu()
            assert (kind, tuple(body[1:])) == (3, numbers)
    reasons = {seen.calling_ae_title: seen.last_error or "" for seen in gateway.spool.scanners.all()}
    assert "is not known here" in reasons["WHO"]
    assert "may call from 10.0.0.5 only" in reasons["CT1"]
    assert "it called WRONG, and this box is DICOMNET" in reasons["MR1"]
