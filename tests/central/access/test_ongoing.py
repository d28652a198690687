"""Downloads that go on while access ends: over real sockets, to a client that has read the beginning only."""

from __future__ import annotations

import asyncio
import http.client
import random
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from io import BytesIO
from urllib.parse import urlsplit

import pytest
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, HTJ2KLossless, ImplicitVRLittleEndian
from starlette.types import Message

from central.access import ongoing
from central.access.doorkeeper import guest_user_id
from central.access.ongoing import Ongoing
from central.access.policy import Action, PatientKey, Principal, Role
from central.access.study_rules import Kind
from central.audit.errors import AuditUnavailableError
from central.audit.events import AuditEvent
from central.audit.reading import Wanted
from tests.central.access.conftest import Clock
from tests.central.access.house import STUDY, House, open_house, part10, pydicom_file, served

GONE = f"{STUDY}.9"
FRAMES, INSTANCES = 12, 3
ALL_FRAMES = ",".join(str(number) for number in range(1, FRAMES + 1))
NOISE = random.Random(1).randbytes(512 * 512 * 2)  # which no ZIP makes smaller
SENT_AHEAD = 3 << 20  # a piece that leaves, one that waits for that, and what the sockets hold
BUFFER_BYTES = 64 << 10
IN_PARTS = 'multipart/related; type="application/dicom"; transfer-syntax=*'
NATIVE = f'multipart/related; type="application/dicom"; transfer-syntax={ExplicitVRLittleEndian}'
OCTETS = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
CODED = f'multipart/related; type="image/jphc"; transfer-syntax={HTJ2KLossless}'


def image(study: str, number: int) -> bytes:
    """A multi-frame instance of 6 MiB, with much text in its metadata."""
    ds = dcmread(
        BytesIO(
            pydicom_file(
                "MR_small_implicit.dcm",
                StudyInstanceUID=study,
                SeriesInstanceUID=f"{study}.1",
                SOPInstanceUID=f"{study}.1.{number}",
                InstanceNumber=number,
            )
        )
    )
    assert ds.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    ds.TextValue = "words " * 250_000
    ds.Rows = ds.Columns = 512
    ds.NumberOfFrames = FRAMES
    ds.PixelData = NOISE * FRAMES
    return part10(ds)


@dataclass
class Stand:
    """A house, and where a client reaches it that reads slowly."""

    house: House
    url: str

    def user_id(self, username: str) -> str:
        listed = self.house.accounts.named(username)
        assert listed is not None
        return listed.user_id

    def session(self, username: str) -> str:
        return self.session_of(self.user_id(username))

    def session_of(self, user_id: str) -> str:
        principal = self.house.doorkeeper.principal(user_id)
        assert principal is not None
        return self.house.accounts.sessions.start(principal, "bearer", 10**6)

    def rule(self, kind: Kind, username: str) -> str:
        doorkeeper = self.house.doorkeeper
        tomorrow = int(doorkeeper.clock()) + 86400
        rule = doorkeeper.rules.add(
            kind, STUDY, username, until_utc=tomorrow, reason="a neighbour", made_by="admin"
        )
        return rule.rule_id

    def read(self, path: str, token: str, accept: str, then: Callable[[], object]) -> tuple[bytes, bool]:
        """What comes of an answer of which the first bytes are read before `then`; whether it came to its end."""
        place = urlsplit(self.url)
        assert place.hostname is not None
        with closing(http.client.HTTPConnection(place.hostname, place.port, timeout=60)) as connection:
            connection.sock = socket.socket()
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
            connection.sock.settimeout(60)
            connection.sock.connect((place.hostname, place.port))
            headers = {"Authorization": f"Bearer {token}", "Accept": accept, "Accept-Encoding": "identity"}
            connection.request("GET", f"/dicom-web/studies/{path}", headers=headers)
            answer = connection.getresponse()
            begun = answer.read(1000)
            assert answer.status == 200, begun
            then()
            try:
                return begun + answer.read(), True
            except http.client.IncompleteRead as cut:
                return begun + cut.partial, False


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """`STUDY`, three instances of it, and `GONE` of one."""
    with open_house(tmp_path_factory.mktemp("house"), clock=Clock()) as house:
        for number in range(INSTANCES):
            house.put(image(STUDY, number))
        house.put(image(GONE, 1))
        with served(house.app, send_buffer_bytes=BUFFER_BYTES) as url:
            yield Stand(house, url)


@pytest.fixture(autouse=True)
def _every_decision_is_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ongoing, "STANDS_S", 0.0)


def later(stand: Stand, seconds: int) -> None:
    clock = stand.house.doorkeeper.clock
    assert isinstance(clock, Clock)
    clock.now += seconds


Ending = Iterator[str | None]
"""Gives a token; access ends when it is asked on, and what others would feel of it is undone when it is asked again."""


def session_ended(stand: Stand) -> Ending:
    token = stand.session("radiologist")
    yield token
    stand.house.accounts.sessions.end(token)
    yield None


def account_blocked(stand: Stand) -> Ending:
    yield stand.session("radiologist")
    stand.house.accounts.block("radiologist")
    yield None
    stand.house.accounts.unblock("radiologist")


def api_token_ended(stand: Stand) -> Ending:
    tokens = stand.house.doorkeeper.tokens
    token, secret = tokens.make(stand.user_id("radiologist"), "a program", frozenset({Action.VIEW}), 1)
    yield secret
    tokens.end(token.token_id)
    yield None


def refused(stand: Stand) -> Ending:
    yield stand.session("radiologist")
    rule = stand.rule("refusal", "radiologist")
    yield None
    stand.house.doorkeeper.rules.end(rule)


def grant_ended(stand: Stand) -> Ending:
    rule = stand.rule("grant", "doctor-other")
    yield stand.session("doctor-other")
    stand.house.doorkeeper.rules.end(rule)
    yield None


def assignment_over(stand: Stand) -> Ending:
    until_utc = int(stand.house.doorkeeper.clock()) + 60
    stand.house.doorkeeper.assignments.assign(
        STUDY, "doctor-other", institution="default", until_utc=until_utc, made_by="radiologist"
    )
    yield stand.session("doctor-other")
    later(stand, 61)
    yield None


def consent_withdrawn(stand: Stand) -> Ending:
    consents = stand.house.doorkeeper.consents
    yield stand.session("doctor")
    withdrawal_id = consents.withdraw(PatientKey("HOSP", "P1"), "admin")
    yield None
    consents.end(withdrawal_id)


def guest_link_ended(stand: Stand) -> Ending:
    guests = stand.house.doorkeeper.guests
    link, _ = guests.make(STUDY, stand.user_id("doctor"))
    yield stand.session_of(guest_user_id(link.link_id))
    guests.end(link.link_id)
    yield None


def guests_host_refused(stand: Stand) -> Ending:
    link, _ = stand.house.doorkeeper.guests.make(STUDY, stand.user_id("radiologist"))
    yield stand.session_of(guest_user_id(link.link_id))
    rule = stand.rule("refusal", "radiologist")
    yield None
    stand.house.doorkeeper.rules.end(rule)


def emergency_over(stand: Stand) -> Ending:
    doctor = stand.user_id("doctor-other")
    stand.house.doorkeeper.emergencies.open_study(STUDY, doctor, "unconscious, no referral", 3600)
    yield stand.session("doctor-other")
    later(stand, 3601)
    yield None


def study_erased(stand: Stand) -> Ending:
    yield stand.session("radiologist")
    stand.house.archive.erasures.erase(GONE, "admin, admin-two", lambda _: None)
    yield None


@pytest.mark.parametrize(
    ("ending", "why"),
    [
        (session_ended, "the session has ended"),
        (account_blocked, "the account is blocked"),
        (api_token_ended, "the API token has ended"),
        (refused, "refused"),
        (grant_ended, "not-in-scope"),
        (assignment_over, "not-in-scope"),
        (consent_withdrawn, "consent-withdrawn"),
        (guest_link_ended, "the link has ended"),
        (guests_host_refused, "refused"),
        (emergency_over, "not-in-scope"),
        (study_erased, "not here"),
    ],
)
def test_an_answer_ends_early_when_access_does(
    stand: Stand, ending: Callable[[Stand], Ending], why: str
) -> None:
    study, steps = GONE if ending is study_erased else STUDY, ending(stand)
    token = next(steps)
    assert token is not None
    path = f"{study}/series/{study}.1/instances/{study}.1.1/frames/{ALL_FRAMES}"
    came, is_whole = stand.read(path, token, OCTETS, lambda: next(steps))
    next(steps, None)
    assert not is_whole
    assert len(came) < SENT_AHEAD
    newest = stand.house.audit.newest(Wanted(), limit=1)[0].event
    assert (newest.action, newest.outcome, newest.study_instance_uid) == (Action.VIEW, "refused", study)
    assert "WADO-RS frames" in newest.detail
    assert newest.detail.endswith(f": ended while it ran: {why}")


INSTANCE = f"{STUDY}/series/{STUDY}.1/instances/{STUDY}.1.1"


@pytest.mark.parametrize(
    ("path", "accept"),
    [
        (STUDY, IN_PARTS),
        (STUDY, NATIVE),
        (STUDY, "application/zip"),
        (f"{STUDY}/series/{STUDY}.1", IN_PARTS),
        (INSTANCE, "application/dicom; transfer-syntax=*"),
        (INSTANCE, f"application/dicom; transfer-syntax={ExplicitVRLittleEndian}"),
        (f"{INSTANCE}/frames/{ALL_FRAMES}", CODED),
        (f"{INSTANCE}/bulkdata/7FE00010", OCTETS),
        (f"{STUDY}/bulkdata", OCTETS),
        (f"{STUDY}/metadata", "application/dicom+json"),
        (f"{STUDY}/series/{STUDY}.1/metadata", "application/dicom+json"),
    ],
)
def test_every_answer_of_some_length_ends_so(stand: Stand, path: str, accept: str) -> None:
    token = stand.session("radiologist")
    whole, is_whole = stand.read(path, token, accept, lambda: None)
    assert is_whole
    came, is_whole = stand.read(path, token, accept, lambda: stand.house.accounts.sessions.end(token))
    assert not is_whole
    assert len(came) < min(len(whole), SENT_AHEAD)
    ended = stand.house.audit.newest(Wanted(), limit=1)[0].event
    assert ended.outcome == "refused"
    assert ended.detail.endswith(": ended while it ran: the session has ended")


SEEN = AuditEvent("ann", "radiologist", Action.EXPORT, "success", "::1", STUDY, detail="WADO-RS ZIP")
ANN = Principal("ann", "ann", Role.RADIOLOGIST)


def test_it_is_asked_once_in_a_while_and_not_for_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    clock, asked, sent = Clock(), list[float](), list[Message]()

    async def send(message: Message) -> None:
        sent.append(message)
        clock.now += 0.25

    def caller() -> Principal:
        asked.append(clock.now)
        return ANN

    answer = Ongoing(caller, lambda _: None, clock)

    async def pieces(number: int) -> None:
        sending = answer.sending(send)
        for _ in range(number):
            await sending({"type": "http.response.body", "body": b"piece", "more_body": True})

    asyncio.run(pieces(40))
    assert (len(sent), asked) == (40, []), "nothing that anybody could withdraw"
    answer.gives_out(SEEN, lambda _: None)
    asyncio.run(pieces(40))
    assert len(sent) == 80
    assert len(asked) == 5  # in ten seconds


def test_an_answer_ends_though_that_cannot_be_recorded(caplog: pytest.LogCaptureFixture) -> None:
    def record(_: AuditEvent) -> None:
        raise AuditUnavailableError("the disk is full")

    answer = Ongoing(lambda: ANN, record)
    answer.gives_out(SEEN, lambda _: "refused")
    assert answer.has_ended()
    assert "not-recorded" in caplog.text


def test_each_that_has_ended_is_on_record_and_no_other() -> None:
    recorded: list[AuditEvent] = []
    answer = Ongoing(lambda: ANN, recorded.append)
    answer.gives_out(SEEN, lambda _: None)
    answer.gives_out(replace(SEEN, study_instance_uid=GONE), lambda _: "not here")
    assert answer.has_ended()
    said = "WADO-RS ZIP: ended while it ran: not here"
    assert recorded == [replace(SEEN, study_instance_uid=GONE, outcome="refused", detail=said)]


@pytest.mark.parametrize("kind", ["csv", "ndjson", "fhir"])
def test_an_auditors_export_ends_with_the_session(stand: Stand, kind: str) -> None:
    token, came = stand.session("admin"), list[Message]()
    asking = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def send(message: Message) -> None:
        came.append(message)
        if message["type"] == "http.response.start":
            await asyncio.to_thread(stand.house.accounts.sessions.end, token)

    async def receive() -> Message:
        for message in asking:
            return message
        return await asyncio.Future[Message]()  # who asked stays

    asked = {
        "type": "http",
        "method": "POST",
        "path": f"/api/audit/records.{kind}",
        "query_string": b"",
        "headers": [
            (b"authorization", f"Bearer {token}".encode()),
            (b"content-type", b"application/x-www-form-urlencoded"),
        ],
    }
    asyncio.run(stand.house.app(asked, receive, send))
    assert [message["type"] for message in came] == ["http.response.start"]
    assert came[0]["status"] == 200
    ended = stand.house.audit.newest(Wanted(), limit=1)[0].event
    said = f"audit record, {kind}: ended while it ran: the session has ended"
    assert (ended.action, ended.outcome, ended.detail) == (Action.EXPORT, "refused", said)
