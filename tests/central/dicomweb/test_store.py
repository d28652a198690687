"""STOW-RS over a real socket: an outside client, and senders that mean no good."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import peewee
import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread
from starlette.routing import Mount, Route

from central.access.policy import Action as PolicyAction
from central.access.policy import Principal, Role, authorize
from central.audit.events import Action
from central.audit.reading import Wanted
from central.dicomweb import DepositLimits
from central.dicomweb.deposit import AT_ONCE, MAX_INSTANCES
from central.dicomweb.store import REQUESTS_AT_ONCE, REQUESTS_OF_ONE_SENDER, Store
from tests.central.access.house import House, open_house, pydicom_file
from tests.central.databases import arriving_in, contents_in
from tests.central.dicomweb.conftest import IMAGES

BOUNDARY = "gate-of-parts"
TYPE = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'
WHO = Principal("u", "radiologist", Role.RADIOLOGIST)
MAX_BYTES = 4 << 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    room = DepositLimits(MAX_BYTES, lambda: True)
    with open_house(tmp_path_factory.mktemp("store"), room) as opened:
        yield opened


@pytest.fixture
def study(request: pytest.FixtureRequest) -> str:
    """A study UID of this test alone."""
    return "2.25." + str(abs(hash(request.node.nodeid)))


def instance(study: str, number: int = 1, name: str = "CT_small.dcm", **changes: object) -> bytes:
    uids = {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": f"{study}.9",
        "SOPInstanceUID": f"{study}.9.{number}",
    }
    return pydicom_file(name, **{**uids, **changes})


def part(content: bytes, headers: str = "Content-Type: application/dicom") -> bytes:
    return f"--{BOUNDARY}\r\n{headers}\r\n\r\n".encode() + content + b"\r\n"


def body(*contents: bytes) -> bytes:
    return b"".join(part(content) for content in contents) + f"--{BOUNDARY}--\r\n".encode()


def send(
    house: House, content: bytes | Iterator[bytes], path: str = "", who: str = "service", **headers: str
) -> httpx.Response:
    with house.client(who) as client:
        return client.post(
            f"/dicom-web/studies{path}", content=content, headers={"Content-Type": TYPE, **headers}
        )


def archived(house: House, study: str) -> dict[str, tuple[bytes, bool]]:
    """SOP Instance UID → what reads return, and whether it is flagged."""
    facts = house.archive.reading.facts(study)
    if facts is None:
        return {}
    grant: Any = authorize(WHO, PolicyAction.VIEW, facts)
    found = {}
    for row in house.archive.reading.instances_of(grant):
        stored = house.archive.reading.open_instance(
            grant, row.series.series_instance_uid, row.sop_instance_uid
        )
        found[row.sop_instance_uid] = (stored.path.read_bytes(), row.flagged)
    return found


def reasons(answer: httpx.Response) -> list[tuple[str, int]]:
    """(SOP Instance UID, Failure Reason) of what was not stored; "" where no instance can be named."""
    module = Dataset.from_json(answer.json())
    named = [(one.ReferencedSOPInstanceUID, one.FailureReason) for one in module.get("FailedSOPSequence", [])]
    return named + [("", one.FailureReason) for one in module.get("OtherFailuresSequence", [])]


def kept(house: House) -> tuple[int, int]:
    """How many objects are kept, and how many are arriving."""
    return len(contents_in(house.root)), len(arriving_in(house.root))


# What outside clients do


@pytest.mark.parametrize("name", IMAGES)
def test_the_python_client_stores_and_gets_back(store: House, study: str, name: str) -> None:
    client = DICOMwebClient(f"{store.base_url}/dicom-web")
    client._session.headers["Authorization"] = f"Bearer {store.token('radiologist')}"
    sent = dcmread(BytesIO(instance(study, name=name)))
    answer = client.store_instances([sent], study)
    [stored] = answer.ReferencedSOPSequence
    assert stored.ReferencedSOPInstanceUID == sent.SOPInstanceUID
    assert stored.ReferencedSOPClassUID == sent.SOPClassUID
    assert "FailedSOPSequence" not in answer
    assert client.retrieve_instance(study, f"{study}.9", sent.SOPInstanceUID) == sent


def test_what_comes_in_is_archived_byte_for_byte(store: House, study: str) -> None:
    contents = [instance(study, number, PatientComments=str(number)) for number in (1, 2, 3)]
    answer = send(store, body(*contents))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/dicom+json"
    assert {content for content, _ in archived(store, study).values()} == set(contents)
    module = Dataset.from_json(answer.json())
    assert module.RetrieveURL == f"{store.base_url}/dicom-web/studies/{study}"
    with store.client("radiologist") as client:
        for one in module.ReferencedSOPSequence:
            assert client.get(one.RetrieveURL).status_code == 200


def test_however_the_bytes_are_cut(store: House, study: str) -> None:
    content = instance(study)
    whole = b"a preamble nobody needs\r\n" + body(content) + b"an epilogue"
    for size in (1, 7, 65_536) if len(content) < 60_000 else (1021, 65_536):
        pieces = (whole[at : at + size] for at in range(0, len(whole), size))
        assert send(store, pieces).status_code == 200
    assert [content for content, _ in archived(store, study).values()] == [content]


def test_the_answer_as_xml(store: House, study: str) -> None:
    answer = send(store, body(instance(study), b"nothing"), Accept="application/dicom+xml")
    assert answer.status_code == 202
    tree = ElementTree.fromstring(answer.content)
    space = {"n": "http://dicom.nema.org/PS3.19/models/NativeDICOM"}
    [uid] = tree.findall(
        ".//n:DicomAttribute[@tag='00081199']/n:Item/n:DicomAttribute[@tag='00081155']/n:Value", space
    )
    assert uid.text == f"{study}.9.1"
    assert tree.find(".//n:DicomAttribute[@keyword='FailureReason']/n:Value", space).text == str(0xC000)  # type: ignore[union-attr]
    assert send(store, body(), Accept="text/html").status_code == 406


# One instance's fault is its own


def test_each_failure_has_its_reason(store: House, study: str) -> None:
    good = instance(study)
    other = instance("1.2.3.4", number=7)
    too_large = instance(study, 2, PixelData=bytes(MAX_BYTES), Rows=2048, Columns=1024)
    class_conflict = instance(study, 3).replace(
        b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5.1.4.1.1.4\0", 1
    )
    directory = instance(study, 4, SOPClassUID="1.2.840.10008.1.3.10")
    bad_syntax = instance(study, 5).replace(b"1.2.840.10008.1.2.1\0", b"no transfer syntax.\0", 1)
    answer = send(
        store,
        body(other, good, too_large, class_conflict, directory, bad_syntax, b"not DICOM", b""),
        f"/{study}",
    )
    assert answer.status_code == 202
    assert reasons(answer) == [
        ("1.2.3.4.9.7", 0xC001),
        (f"{study}.9.3", 0xA900),
        (f"{study}.9.4", 0x0122),
        (f"{study}.9.5", 0xC122),
        ("", 0xA700),
        ("", 0xC000),
        ("", 0xC000),
    ]
    assert archived(store, study) == {f"{study}.9.1": (good, False)}
    assert store.archive.reading.facts("1.2.3.4") is None
    refused = store.audit.newest(Wanted(), limit=1)[0].event
    assert (refused.outcome, refused.action) == ("refused", Action.STORE)


def test_none_stored_is_a_conflict(store: House, study: str) -> None:
    before = kept(store)
    answer = send(store, body(instance(study)), "/1.2.3.5")
    assert answer.status_code == 409
    assert reasons(answer) == [(f"{study}.9.1", 0xC001)]
    assert kept(store) == before


def test_refusing_here_takes_nothing_from_who_stores_the_same(store: House, study: str) -> None:
    content = instance(study)
    assert send(store, body(content)).status_code == 200
    assert send(store, body(content), "/1.2.3.5").status_code == 409
    assert archived(store, study) == {f"{study}.9.1": (content, False)}


def test_who_stores_at_once_with_who_is_refused(store: House, study: str) -> None:
    """The same content to the right and to a wrong study, many times at once: what was answered for is there."""
    contents = [instance(study, number) for number in range(1, 5)]

    def try_it(number: int) -> tuple[int, int]:
        path = "/1.2.3.5" if number % 2 else ""
        return number % 2, send(store, body(contents[number // 2 % 4]), path).status_code

    with ThreadPoolExecutor(8) as senders:
        answers = set(senders.map(try_it, range(40)))
    assert answers == {(0, 200), (1, 409)}
    assert {content for content, _ in archived(store, study).values()} == set(contents)
    assert store.archive.reading.facts("1.2.3.5") is None


def test_the_same_again_is_absorbed_and_another_content_is_kept_beside_it(store: House, study: str) -> None:
    first, second = instance(study), instance(study, PatientComments="another content")
    before = len(contents_in(store.root))
    assert send(store, body(first, first)).status_code == 200
    assert send(store, body(first)).status_code == 200
    assert len(contents_in(store.root)) == before + 1
    assert send(store, body(second)).status_code == 200
    assert archived(store, study) == {f"{study}.9.1": (first, True)}
    assert second in contents_in(store.root)


def test_an_instance_without_a_study_is_filed_and_the_sender_is_told(store: House, study: str) -> None:
    dataset = dcmread(BytesIO(instance(study)))
    del dataset.StudyInstanceUID
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    answer = send(store, body(out.getvalue()))
    assert answer.status_code == 202
    [one] = Dataset.from_json(answer.json()).ReferencedSOPSequence
    assert one.WarningReason == 0xB000
    with store.client("radiologist") as client:
        got = client.get(one.RetrieveURL, headers={"Accept": "application/dicom"})
    assert got.content == out.getvalue()
    assert reasons(send(store, body(out.getvalue()), f"/{study}")) == [(f"{study}.9.1", 0xC001)]


# Senders that mean no good, and lines that break


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"Content-Type": "application/dicom"}, b"x", 415),
        ({"Content-Type": 'multipart/related; type="application/dicom+json"; boundary=x'}, b"x", 415),
        ({"Content-Type": "multipart/related"}, b"x", 400),
        ({"Content-Type": f'multipart/related; boundary="{"x" * 71}"'}, b"x", 400),
        ({"Content-Encoding": "gzip"}, body(), 415),
        ({}, b"", 400),
        ({}, body(), 400),
        ({}, b"--other\r\n\r\n", 400),
        ({}, bytes(200_000), 400),
        ({}, f"--{BOUNDARY}\r\nno colon\r\n\r\nx\r\n--{BOUNDARY}--".encode(), 400),
        ({}, f"--{BOUNDARY}\r\n".encode() + b"A: b\r\n" * 10_000, 400),
        ({}, f"--{BOUNDARY}more\r\n\r\nx\r\n--{BOUNDARY}--".encode(), 400),
    ],
)
def test_what_is_no_store_request(store: House, headers: dict[str, str], content: bytes, status: int) -> None:
    before = kept(store)
    answer = send(store, content, **headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert kept(store) == before


def test_a_body_that_ends_in_a_part(store: House, study: str) -> None:
    whole = part(instance(study, 1))
    answer = send(store, whole + part(instance(study, 2))[:-1000])
    assert answer.status_code == 202
    assert reasons(answer) == [("", 0x0110)]
    assert list(archived(store, study)) == [f"{study}.9.1"]
    alone = send(store, part(instance(study, 3))[:-1000])
    assert alone.status_code == 400
    assert "closing boundary" in alone.json()["detail"]
    assert arriving_in(store.root) == []


@pytest.mark.parametrize("length", [str(10 << 30), "5", "-1", "9" * 5000], ids=len)
def test_a_part_that_lies_about_its_length(store: House, study: str, length: str) -> None:
    head = f"Content-Type: application/dicom\r\nContent-Length: {length}"
    answer = send(store, part(instance(study), head) + body(instance(study, 2)))
    expected = {str(10 << 30): [("", 0xA700)], "5": [("", 0x0110)]}.get(length, [])
    assert answer.status_code == (202 if expected else 200)
    assert reasons(answer) == expected
    assert f"{study}.9.2" in archived(store, study)


def test_a_part_without_end_takes_no_room(store: House, study: str) -> None:
    def endless() -> Iterator[bytes]:
        yield part(instance(study))
        yield f"--{BOUNDARY}\r\n\r\n".encode()
        for _ in range(64):
            yield bytes(1 << 20)
            for path in arriving_in(store.root):
                with contextlib.suppress(FileNotFoundError):  # it may go at any moment
                    largest.append(path.stat().st_size)

    largest: list[int] = []
    answer = send(store, endless())
    assert answer.status_code == 202
    assert reasons(answer) == [("", 0xA700)]
    assert max(largest) <= MAX_BYTES


def test_instances_go_in_groups_and_a_failed_commit_fails_its_group_alone(
    store: House, study: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order in which they came: those of the first group were not stored, those of the second were."""
    db, commits = store.archive._db, []
    commit = db.commit

    def fail_the_first(*arguments: object) -> None:
        commits.append(None)
        if len(commits) == 1:
            raise peewee.OperationalError("disk I/O error")
        commit(*arguments)

    contents = [instance(study, number) for number in range(AT_ONCE + 4)]
    store.token("service")  # whose session is another commit
    monkeypatch.setattr(db, "commit", fail_the_first)
    answer = send(store, body(*contents))
    monkeypatch.undo()
    assert len(commits) == 2
    assert answer.status_code == 202
    assert reasons(answer) == [(f"{study}.9.{number}", 0xA700) for number in range(AT_ONCE)]
    assert set(archived(store, study)) == {f"{study}.9.{number}" for number in range(AT_ONCE, AT_ONCE + 4)}
    assert send(store, body(*contents)).status_code == 200
    assert len(archived(store, study)) == len(contents)


def test_too_many_instances(store: House, study: str) -> None:
    nothing = part(b"")
    answer = send(store, body(instance(study))[: -len(f"--{BOUNDARY}--\r\n")] + nothing * MAX_INSTANCES)
    assert answer.status_code == 202
    assert len(reasons(answer)) == MAX_INSTANCES
    assert send(store, nothing * (MAX_INSTANCES + 1)).status_code == 413


def test_a_sender_that_hangs_up(store: House, study: str) -> None:
    host, port = store.base_url.removeprefix("http://").split(":")
    head = (
        f"POST /dicom-web/studies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {store.token('service')}\r\n"
        f"Content-Type: {TYPE}\r\nContent-Length: 10000000\r\n\r\n"
    )
    gone = threading.Event()

    def recorded() -> bool:
        return any(
            row.event.study_instance_uid == study
            for row in store.audit.newest(Wanted(action=Action.STORE), limit=5)
        )

    with socket.create_connection((host, int(port))) as line:
        line.sendall(
            head.encode() + part(instance(study, 1)) + part(instance(study, 2))[:1000] + bytes(300_000)
        )
    for _ in range(1200):
        if recorded():
            break
        gone.wait(0.05)
    assert recorded()
    assert list(archived(store, study)) == [f"{study}.9.1"]
    assert arriving_in(store.root) == []


def desk(house: House) -> Store:
    [mount] = [route for route in house.app.routes if isinstance(route, Mount) and route.path == "/dicom-web"]
    [found] = {
        route.endpoint.__self__
        for route in mount.routes
        if isinstance(route, Route) and isinstance(getattr(route.endpoint, "__self__", None), Store)
    }
    return found


def test_a_sender_that_falls_silent(store: House, study: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk(store), "_silence_s", 0.5)
    over = threading.Event()

    def silent(*before: bytes) -> Iterator[bytes]:
        yield from before
        over.wait(3)
        yield b"x"

    assert send(store, silent(b"--")).status_code == 408
    answer = send(
        store, silent(part(instance(study)) + f"--{BOUNDARY}\r\n\r\nbegun".encode() + bytes(300_000))
    )
    assert answer.status_code == 202
    assert reasons(answer) == [("", 0x0110)]
    assert list(archived(store, study)) == [f"{study}.9.1"]


def test_as_many_requests_at_once_as_there_are_places(store: House, study: str) -> None:
    with ExitStack() as taken:
        for sender in ["service"] * REQUESTS_OF_ONE_SENDER:
            taken.enter_context(desk(store)._place(sender))
        answer = send(store, body(instance(study)))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
        assert archived(store, study) == {}
        assert (
            send(store, body(instance(study)), who="radiologist").status_code == 200
        )  # has places of his own
        for number in range(REQUESTS_AT_ONCE - REQUESTS_OF_ONE_SENDER):
            taken.enter_context(desk(store)._place(f"sender-{number}"))
        assert send(store, body(instance(study)), who="radiologist").status_code == 503
    assert send(store, body(instance(study))).status_code == 200
    assert not desk(store)._senders


# Who may, and the record


@pytest.mark.parametrize(
    ("who", "status"), [("doctor", 403), ("patient", 403), ("admin", 200), ("radiologist", 200)]
)
def test_who_may_store(store: House, study: str, who: str, status: int) -> None:
    answer = send(store, body(instance(study)), who=who)
    assert answer.status_code == status
    assert bool(archived(store, study)) == (status == 200)
    events = [row.event for row in store.audit.newest(Wanted(actor=who, action=Action.STORE), limit=5)]
    if status == 200:
        assert [(event.outcome, event.study_instance_uid) for event in events[:2]] == [
            ("success", study),
            ("success", None),
        ]
    else:
        assert [event.outcome for event in events] == ["refused"]


def test_who_stores_sees_nothing(store: House, study: str) -> None:
    assert send(store, body(instance(study))).status_code == 200
    with store.client("service") as client:
        assert client.get(f"/dicom-web/studies/{study}").status_code == 404
        assert client.get("/dicom-web/studies").status_code == 204


def test_no_record_no_storing(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.token("service")
        house.audit.close()
        answer = send(house, body(instance("1.2.3")))
        assert answer.status_code == 503
        assert house.archive.reading.facts("1.2.3") is None
        assert kept(house) == (0, 0)


def test_no_room(tmp_path: Path) -> None:
    answers = iter((True, True, False, False))
    with open_house(tmp_path, DepositLimits(MAX_BYTES, lambda: next(answers))) as house:
        answer = send(house, body(instance("1.2.3", 1), instance("1.2.3", 2)))
        assert answer.status_code == 202
        assert reasons(answer) == [("", 0xA700)]
        refused = send(house, body(instance("1.2.3", 3)))
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
    assert json.loads(refused.content)["status"] == 503


def test_of_an_erased_study_nothing_is_found_and_nothing_is_stored(store: House, study: str) -> None:
    other = f"{study}.5"
    assert send(store, body(instance(study))).status_code == 200
    store.archive.erasures.erase(study, "ann", lambda _: None)
    store.archive.removal.run()
    before = kept(store)
    answer = send(store, body(instance(study, 2), instance(other)))
    assert answer.status_code == 202
    assert reasons(answer) == [(f"{study}.9.2", 0xC002)]
    assert kept(store) == (before[0] + 1, before[1])
    with store.client("radiologist") as client:
        assert client.get(f"/dicom-web/studies?StudyInstanceUID={study}").status_code == 204
        for path in ("", "/metadata", f"/series/{study}.9/instances/{study}.9.1/frames/1"):
            assert client.get(f"/dicom-web/studies/{study}{path}").status_code == 404
