"""The people side of central for tests: real accounts, audit, archive and routes in a folder, served on loopback."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

import argon2
import httpx
import pytest
import uvicorn
from pydicom import Dataset, dcmread
from pydicom.data import get_testdata_file
from starlette.applications import Starlette
from starlette.middleware import Middleware

import central.viewer
from central.access.accounts import Accounts
from central.access.doorkeeper import Doorkeeper
from central.access.hashes import SecretHashes
from central.access.onlookers import HousePeer
from central.access.policy import PatientKey, Role
from central.access.sign_in import sign_in_routes
from central.access.web import RequireSignIn
from central.archive.archive import Archive
from central.archive.erasure_requests import ErasureRequests
from central.archive.indexing import ObjectOrigin
from central.archive.readmissions import Readmissions
from central.audit.events import Action, AuditEvent
from central.audit.record import Audit
from central.database import Database
from central.dicomweb import DepositLimits, Renderer, at_once
from central.dicomweb import routes as dicomweb_routes
from central.identity.authority import CertificateAuthority
from central.identity.gateways import Gateways
from central.identity.pairings import Pairings
from central.portal import routes as portal_routes
from central.portal.accounts import routes as accounts_routes
from central.portal.assignments import routes as assignment_routes
from central.portal.emergencies import EmergencyTerms
from central.portal.emergencies import routes as emergency_routes
from central.portal.enrolments import routes as enrolment_routes
from central.portal.erasures import routes as erasure_routes
from central.portal.gateway_moves import routes as gateway_move_routes
from central.portal.guests import routes as guest_routes
from central.portal.institutions import routes as institution_routes
from central.portal.looks import routes as looks_routes
from central.portal.readmissions import routes as readmission_routes
from central.portal.single_sign_on import SignOn
from central.portal.station import routes as station_routes
from central.portal.study_access import routes as study_access_routes
from central.portal.study_onlookers import routes as study_onlooker_routes
from central.portal.tokens import routes as token_routes
from central.viewer.delivery import routes as viewer_routes
from central.workflow.worklist import WorklistStore
from contract.enrolment import Pairing, new_token
from tests.central.databases import open_archive_in, open_index, open_record, put_in
from tests.central.drawing import shared_renderer

CHEAP = SecretHashes(argon2.profiles.CHEAPEST)  # what passwords cost is tested elsewhere
PASSWORD = "a password for tests only"
FACTOR_KEY = b"a key for tests only, 32 bytes.."
STUDY = "1.2.826.0.1.3680043.8.498.1"
OTHER_STUDY = "1.2.826.0.1.3680043.8.498.2"
ROOMY = DepositLimits(max_object_bytes=64 << 20, has_room=lambda: True)
ORIGIN = ObjectOrigin("gw-test", "0" * 32, datetime.now(UTC))


@dataclass
class House:
    """Everything opened; `base_url` once it is served. `boxes` is what the fleet page shows."""

    root: Path
    db: Database
    doorkeeper: Doorkeeper
    audit: Audit
    archive: Archive
    renderer: Renderer
    app: Starlette
    boxes: list[object]
    gateways: Gateways
    pairings: Pairings
    base_url: str = ""
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def accounts(self) -> Accounts:
        return self.doorkeeper.accounts

    def put(self, content: bytes, origin: ObjectOrigin = ORIGIN) -> None:
        """Archive a Part 10 file."""
        put_in(self.archive, content, origin)

    def token(self, username: str) -> str:
        """A bearer token; the account is made by `add_people`."""
        if username not in self.tokens:
            admitted = self.accounts.passwords.verify(username, PASSWORD, "127.0.0.1")
            assert admitted is not None
            self.tokens[username] = self.accounts.sessions.start(admitted.principal, "bearer", 3600)
        return self.tokens[username]

    def client(self, username: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.token(username)}"} if username else {}
        return httpx.Client(base_url=self.base_url, headers=headers, timeout=60)


def people_in(accounts: Accounts) -> None:
    """One of each role, and for doctor, technician and patient also one who has nothing to do with `STUDY`; those
    called north- are of another institution and would reach it if they were of this one."""
    accounts.create_user("admin", PASSWORD, Role.ADMIN)
    accounts.create_user("radiologist", PASSWORD, Role.RADIOLOGIST)
    accounts.create_user("service", PASSWORD, Role.SERVICE)
    accounts.create_user("doctor", PASSWORD, Role.DOCTOR, referring_physician_names=["House^Gregory"])
    accounts.create_user("doctor-other", PASSWORD, Role.DOCTOR, referring_physician_names=["Wilson^James"])
    accounts.create_user("technician", PASSWORD, Role.TECHNICIAN, gateway_ids=["gw-test"])
    accounts.create_user("technician-other", PASSWORD, Role.TECHNICIAN, gateway_ids=["gw-other"])
    accounts.create_user("north-admin", PASSWORD, Role.ADMIN, institution="north")
    accounts.create_user("north-radiologist", PASSWORD, Role.RADIOLOGIST, institution="north")
    accounts.create_user(
        "north-doctor",
        PASSWORD,
        Role.DOCTOR,
        institution="north",
        referring_physician_names=["House^Gregory"],
    )
    accounts.create_user("patient", PASSWORD, Role.PATIENT, patient_ids=[PatientKey("HOSP", "P1")])
    accounts.create_user("patient-other", PASSWORD, Role.PATIENT, patient_ids=[PatientKey("HOSP", "P2")])


def pydicom_file(name: str, **changes: object) -> bytes:
    """One of pydicom's test files, moved to `STUDY` of patient P1 unless `changes` say otherwise."""
    path = get_testdata_file(name, download=False)
    assert isinstance(path, str), name
    dataset = dcmread(path)
    values: dict[str, object] = {
        "StudyInstanceUID": STUDY,
        "PatientID": "P1",
        "IssuerOfPatientID": "HOSP",
        "PatientName": "Doe^Jané",
        "ReferringPhysicianName": "HOUSE^GREGORY",
        "StudyDate": "20260102",
        "StudyTime": "101112",
        "SpecificCharacterSet": "ISO_IR 192",
        **changes,
    }
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return part10(dataset)


def part10(dataset: Dataset) -> bytes:
    out = BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


@contextmanager
def open_house(
    root: Path,
    limits: DepositLimits = ROOMY,
    *,
    emergency: bool = True,
    port: int = 0,
    sign_ons: Sequence[SignOn] = (),
    second_factor_roles: frozenset[Role] = frozenset(),
    public_url: str = "",
    clock: Callable[[], float] = time.time,
    peers: Sequence[HousePeer] = (),
    renderer: Renderer | None = None,
) -> Iterator[House]:
    """A house in `root`, with its people, served on a loopback port; without a `renderer` it has the one of all."""
    db = open_index(root)
    doorkeeper = Doorkeeper.open(
        db,
        clock,
        CHEAP,
        factor_key=FACTOR_KEY,
        factors_required_of=second_factor_roles,
        public_url=public_url,
    )
    audit = open_record(root)
    accounts = doorkeeper.accounts
    archive = open_archive_in(root, db)
    boxes: list[object] = []

    gateways = Gateways(db, CertificateAuthority.open(root))
    pairings = Pairings(db, gateways)

    def pair(name: str, institution: str | None) -> Pairing:
        return Pairing("127.0.0.1", 8443, "ab" * 32, new_token())

    def replace(gateway_id: str) -> Pairing | None:
        ticket = pairings.new_pairing(replaces=gateway_id)
        return Pairing("127.0.0.1", 8443, "ab" * 32, ticket.token) if ticket else None

    def revoke(gateway_id: str) -> str | None:
        return "" if gateways.revoke(gateway_id) else None

    worklist = WorklistStore(db)
    erasure_requests = ErasureRequests(db, archive.erasures, clock)
    readmissions = Readmissions(db, archive.erasures, clock)
    reading = archive.reading
    renderer = renderer or shared_renderer()
    dicomweb = dicomweb_routes(archive, audit, renderer, limits)
    app = Starlette(
        routes=[
            *sign_in_routes(accounts, audit),
            *portal_routes(
                doorkeeper, audit, lambda institution, gateway_ids: boxes, pair, sign_ons=sign_ons
            ),  # type: ignore[arg-type, return-value]
            *looks_routes(reading, audit, "St. Elsewhere", lambda: None, "central-of-tests"),
            *enrolment_routes(audit, pairings, gateways.is_known, gateways.institution_of, replace, revoke),
            *study_access_routes(doorkeeper, reading, audit),
            *assignment_routes(doorkeeper, reading, audit),
            *accounts_routes(doorkeeper, audit, gateways.is_known),
            *institution_routes(doorkeeper, audit),
            *gateway_move_routes(doorkeeper.institutions, gateways, audit),
            *erasure_routes(erasure_requests, readmissions, archive, audit),
            *readmission_routes(readmissions, archive.erasures, audit),
            *study_onlooker_routes(doorkeeper, reading, audit, erasure_requests.extent, lambda: peers),
            *station_routes(worklist.entries, reading, audit),
            *token_routes(doorkeeper, audit),
            *guest_routes(doorkeeper, reading, audit),
            *emergency_routes(doorkeeper, reading, audit, EmergencyTerms(emergency, 3600)),
            *viewer_routes(Path(central.viewer.__file__).parent / "dist"),
            *dicomweb,
        ],
        middleware=[Middleware(RequireSignIn, doorkeeper=doorkeeper, audit=audit, at_once=at_once(dicomweb))],
    )
    people_in(accounts)
    house = House(root, db, doorkeeper, audit, archive, renderer, app, boxes, gateways, pairings)
    with served(app, port) as base_url:
        house.base_url = base_url
        yield house
    audit.close()
    db.close()


@contextmanager
def served(app: object, port: int = 0, *, send_buffer_bytes: int = 0) -> Iterator[str]:
    """`app` on a loopback port (0: one of its own), in a thread; ends with the block. With `send_buffer_bytes` little
    of an answer leaves ahead of who reads it."""
    ready = threading.Event()

    class Server(uvicorn.Server):
        """Ends when it is told to: uvicorn looks every tenth of a second, and gives idle connections another."""

        async def startup(self, sockets: object = None) -> None:
            self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
            await super().startup(sockets)  # type: ignore[arg-type]
            ready.set()

        async def main_loop(self) -> None:
            ticking = asyncio.create_task(super().main_loop())  # of the Date in answers
            await self.ended.wait()
            ticking.cancel()

        async def shutdown(self, sockets: object = None) -> None:
            for listening in self.servers:
                listening.close()
            for connection in list(self.server_state.connections):
                connection.shutdown()
            while self.server_state.connections or self.server_state.tasks:
                await asyncio.sleep(0.002)

        def end(self) -> None:
            self.loop.call_soon_threadsafe(self.ended.set)

    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="off")  # type: ignore[arg-type]
    server = Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert ready.wait(60), "the server did not start"
        if send_buffer_bytes:  # connections inherit it
            listening = server.servers[0].sockets[0]
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.end()
        thread.join()


@contextmanager
def meanwhile(house: House, action: Action, do: Callable[[], object]) -> Iterator[None]:
    """Once, `do` happens when an `action` has just been recorded, and not yet been done."""
    record, waiting = house.audit.record, [do]

    def record_and_do(event: AuditEvent) -> None:
        record(event)
        if event.action is action and waiting:
            waiting.pop()()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(house.audit, "record", record_and_do)
        yield
    assert not waiting, f"no {action} was recorded"


@contextmanager
def house_of_two_patients(root: Path) -> Iterator[House]:
    """`open_house` with `STUDY` of patient P1, and `OTHER_STUDY` of patient P2."""
    with open_house(root) as house:
        house.put(pydicom_file("CT_small.dcm"))
        house.put(
            pydicom_file(
                "MR_small.dcm", StudyInstanceUID=OTHER_STUDY, PatientID="P2", SeriesInstanceUID="1.9"
            )
        )
        yield house


def sees(house: House, username: str) -> set[str]:
    """What a search finds, which has to be what can be opened."""
    with house.client(username) as client:
        answer = client.get("/dicom-web/studies")
        found = {row["0020000D"]["Value"][0] for row in (answer.json() if answer.content else [])}
        opened = {
            uid
            for uid in (STUDY, OTHER_STUDY)
            if client.get(f"/dicom-web/studies/{uid}/metadata").status_code == 200
        }
    assert found == opened
    return found
