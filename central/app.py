"""Wires central together, and only here: which room gets what, what is started and stopped in which order.

Starting: lock the data folder, bind the sockets, open the rooms, listen to the broker, accept connections.
Stopping: no new connections, answers under way finish (ten seconds), then the rooms in reverse order.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import shutil
import signal
import ssl
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import peewee
import pydicom.config
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import central.viewer
from central.access.claims import ClaimRules
from central.access.oidc import Client, Provider
from central.access.policy import Role
from central.access.sign_in import sign_in_routes
from central.access.web import RequireSignIn
from central.archive.archive import Archive
from central.archive.errors import StorageError
from central.archive.rows import StoredInstance
from central.audit.delivery import DeliveryBook, SyslogDelivery, receiver_of
from central.audit.dicom_message import PatientObject
from central.audit.record import Action
from central.audit.refusals import Refusals
from central.audit.syslog_line import SyslogUnfitError
from central.commands import run_command
from central.config import OidcSettings, Settings
from central.dicomweb.deposit import DepositLimits
from central.dicomweb.errors import DicomwebError
from central.dicomweb.render import Renderer
from central.dicomweb.service import routes as dicomweb_routes
from central.dimse.commitment import Commitments
from central.dimse.errors import CannotListenError, NotConvertibleError
from central.dimse.opening import Rooms, routes_for
from central.dimse.peers import Peers
from central.dimse.retrieve import Convert
from central.dimse.server import DimseServer
from central.errors import StartError
from central.fleet.fleet import Fleet
from central.fleet.https import GatewayDesk
from central.fleet.opening import BrokerPlace, FleetRooms
from central.fleet.support import SupportBundles
from central.fleet.witnesses import Witnesses
from central.foundation import Foundation, lock_folder, open_archive, open_record_beside
from central.ingest.acceptance import Acceptance
from central.ingest.caller import Callers
from central.ingest.enrolment import EnrolmentDesk
from central.ingest.errors import IngestError
from central.ingest.pack_acceptance import PackAcceptance
from central.ingest.packs import Packs
from central.ingest.partial import PartialUploads, UploadLimits
from central.ingest.problems import http_error, ingest_error, unexpected_error
from central.ingest.receipt_check import ReceiptDesk
from central.ingest.standing import StandingDesk
from central.ingest.uploads import Uploads
from central.portal.box_commands import routes as box_command_routes
from central.portal.emergencies import EmergencyTerms
from central.portal.emergencies import routes as emergency_routes
from central.portal.enrolments import routes as enrolment_routes
from central.portal.guests import routes as guest_routes
from central.portal.looks import routes as looks_routes
from central.portal.service import routes as portal_routes
from central.portal.single_sign_on import SignOn
from central.portal.study_access import routes as study_access_routes
from central.portal.tokens import routes as token_routes
from central.revocation import end_session, live_sessions
from central.serving import Listener, bind, gateway_tls, people_tls, reason, serve
from central.viewer.delivery import routes as viewer_routes
from central.workflow.gateway_routes import gateway_routes as workflow_routes
from central.workflow.mllp import MllpServer, OrderDesk
from central.workflow.peer_steps import PeerSteps
from central.workflow.people_routes import people_routes as worklist_routes
from central.workflow.procedures import ProcedureStore
from central.workflow.worklist import WorklistStore
from contract.enrolment import BrokerAddress, Introduction, Pairing
from contract.pack import MAX_PACK_BYTES

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Central:
    """Central, opened and bound, not yet accepting."""

    foundation: Foundation
    people: Listener
    gateways: Listener
    dicom: DimseServer | None
    hl7: MllpServer | None
    fleet_rooms: FleetRooms

    @classmethod
    def open(cls, settings: Settings, closing: ExitStack) -> Central:
        """Open every room; `closing` closes them in reverse order.

        Raises
        ------
        StartError : one sentence that says what keeps central from starting.
        """
        foundation = Foundation.open(settings)
        closing.callback(foundation.close)
        closing.callback(os.close, lock_folder(settings.storage.root))
        people_socket = bind(settings.people.host, settings.people.port, "people.port")
        closing.callback(people_socket.close)
        gateway_socket = bind(settings.gateways.host, settings.gateways.port, "gateways.port")
        closing.callback(gateway_socket.close)
        try:
            archive = open_archive(settings.storage, foundation.db)
        except StorageError as error:
            raise StartError(f"the object store (storage.s3) cannot be used: {error}") from error
        except (OSError, peewee.PeeweeException) as error:
            raise StartError(
                f"the archive in {settings.storage.root} cannot be opened: {reason(error)}"
            ) from error
        rooms = _fleet_rooms(foundation, closing)
        renderer = Renderer(settings.limits.render_workers)
        closing.callback(renderer.close)
        refusals = Refusals(foundation.audit)
        syslog = _syslog(foundation, archive, closing)
        gateway_app = _gateway_app(foundation, archive, rooms, refusals, closing)
        gateway_port = settings.gateways.public_port or gateway_socket.getsockname()[1]
        return cls(
            foundation=foundation,
            people=Listener(
                people_socket,
                _people_app(foundation, archive, rooms, renderer, gateway_port, syslog),
                _people_tls(settings),
                settings.people.behind_proxy,
            ),
            gateways=Listener(
                gateway_socket,
                gateway_app,
                gateway_tls(
                    foundation.identity.server,
                    foundation.identity.authority.pem.decode("ascii"),
                    lambda why: refusals.record(
                        Action.UPLOAD_REFUSED, "", "", f"client certificate does not verify: {why}"
                    ),
                ),
            ),
            dicom=_dicom(foundation, archive, renderer, closing),
            hl7=_hl7(foundation, closing),
            fleet_rooms=rooms,
        )

    @property
    def fleet(self) -> Fleet:
        return self.fleet_rooms.fleet

    async def serve(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Answer until `stop` is set."""
        await serve([self.people, self.gateways], stop, ready)


def _people_app(
    foundation: Foundation,
    archive: Archive,
    rooms: FleetRooms,
    renderer: Renderer,
    gateway_port: int,
    syslog: SyslogDelivery | None,
) -> Starlette:
    accounts, audit, sessions = foundation.accounts, foundation.audit, foundation.settings.sessions
    gateways_settings, access = foundation.settings.gateways, foundation.settings.access

    def pair(name: str, replaces: str | None = None) -> Pairing | None:
        ticket = foundation.pairings.new_pairing(name, replaces=replaces)
        if ticket is None:
            return None
        return Pairing(
            gateways_settings.called_host, gateway_port, foundation.identity.ca_fingerprint, ticket.token
        )

    def pair_new(name: str) -> Pairing:
        pairing = pair(name)
        assert pairing is not None, "None is for replacements alone"
        return pairing

    async def health(_request: Request) -> Response:
        audit_messages = "none" if syslog is None else syslog.word()
        return JSONResponse(
            {"status": "ok", "broker": rooms.fleet.broker_state(), "audit_messages": audit_messages}
        )

    return Starlette(
        routes=[
            Route("/healthz", health, methods=["GET"]),
            *sign_in_routes(accounts, audit, sessions.token_life_s),
            *portal_routes(
                accounts,
                audit,
                rooms.fleet.boxes,
                pair_new,
                sessions.browser_life_s,
                sign_on_of(foundation.settings.oidc),
            ),
            *looks_routes(
                archive,
                audit,
                foundation.settings.audit.institution,
                lambda: vars(syslog.state()) if syslog else None,
            ),
            *enrolment_routes(
                audit,
                foundation.pairings,
                lambda gateway_id: pair("", gateway_id),
                lambda gateway_id: _revoke(foundation, gateway_id),
            ),
            *study_access_routes(foundation.doorkeeper, archive, audit),
            *emergency_routes(
                foundation.doorkeeper,
                archive,
                audit,
                EmergencyTerms(access.emergency, access.emergency_minutes * 60),
            ),
            *token_routes(foundation.doorkeeper, audit),
            *guest_routes(foundation.doorkeeper, archive, audit, sessions.browser_life_s),
            *box_command_routes(
                audit,
                is_admitted=foundation.gateways.is_admitted,
                command=rooms.correspondence.command,
                desire=rooms.correspondence.desire,
                bundle=SupportBundles(_support_folder(foundation)).find,
            ),
            *worklist_routes(WorklistStore(foundation.db), audit),
            *dicomweb_routes(
                archive,
                audit,
                renderer,
                DepositLimits(foundation.settings.limits.max_object_bytes, _has_room(foundation.settings)),
            ),
            *viewer_routes(Path(central.viewer.__file__).parent / "dist"),
        ],
        middleware=[Middleware(RequireSignIn, doorkeeper=foundation.doorkeeper)],
    )


def sign_on_of(oidc: OidcSettings) -> SignOn | None:
    """How people sign on at the house's provider; None where there is none."""
    if not oidc.issuer:
        return None
    try:
        secret = oidc.client_secret.read_text().strip() if oidc.client_secret else ""
    except OSError as error:
        raise StartError(f"oidc.client_secret {oidc.client_secret}: {error.strerror}") from error
    public_url = oidc.public_url.rstrip("/")
    redirect_uri = public_url + "/signin/oidc/callback"
    values = {
        Role.ADMIN: oidc.admin,
        Role.RADIOLOGIST: oidc.radiologist,
        Role.DOCTOR: oidc.doctor,
        Role.PATIENT: oidc.patient,
    }
    rules = ClaimRules(
        oidc.role_claim,
        {role: frozenset(said) for role, said in values.items()},
        oidc.physician_name_claim,
        oidc.patient_id_claim,
        oidc.issuer_of_patient_id,
    )
    client = Client(oidc.issuer, oidc.client_id, secret, redirect_uri, oidc.scopes)
    return SignOn(Provider(client), rules, oidc.name, public_url)


def _gateway_app(
    foundation: Foundation, archive: Archive, rooms: FleetRooms, refusals: Refusals, closing: ExitStack
) -> Starlette:
    settings, identity = foundation.settings, foundation.identity
    limits = UploadLimits(
        max_object_bytes=settings.limits.max_object_bytes,
        max_uploads_per_gateway=settings.limits.max_uploads_per_gateway,
        reserve_bytes=settings.storage.reserve_bytes,
    )
    acceptance = Acceptance(
        foundation.db,
        archive,
        central_id=identity.central_id,
        sealing_keys=identity.sealing_keys,
        receipt_key=identity.receipt_key,
        max_object_bytes=limits.max_object_bytes,
    )
    callers = Callers(foundation.gateways, refusals)
    uploads = Uploads(
        callers,
        PartialUploads.open(settings.storage.root / "uploads", limits),
        acceptance,
        refusals,
        settings.limits.ingest_workers,
    )
    closing.callback(uploads.close)
    packs = Packs(
        callers,
        PartialUploads.open(
            settings.storage.root / "packs", replace(limits, max_object_bytes=MAX_PACK_BYTES)
        ),
        PackAcceptance(foundation.db, acceptance, refusals),
        settings.limits.ingest_workers,
    )
    closing.callback(packs.close)
    desk = EnrolmentDesk(
        foundation.gateways,
        foundation.pairings,
        foundation.standings,
        callers,
        lambda: _introduction(foundation),
        identity.authority.certificate,
        foundation.audit,
        refusals,
        lambda gateway_id: _end_session(foundation, gateway_id),
    )
    standing = StandingDesk(
        callers,
        foundation.standings,
        identity.sealing_keys.signed_set,
        refusals,
        central_id=identity.central_id,
        receipt_key=identity.receipt_key,
    )
    bundles = SupportBundles(_support_folder(foundation))
    heartbeats = GatewayDesk(callers.gateway_of, rooms.correspondence, rooms.commands, bundles)
    return Starlette(
        routes=[
            *desk.routes(),
            *standing.routes(),
            *ReceiptDesk(callers, acceptance, refusals).routes(),
            *uploads.routes(),
            *packs.routes(),
            *heartbeats.routes(),
            *workflow_routes(
                WorklistStore(foundation.db),
                ProcedureStore(foundation.db),
                foundation.audit,
                callers.gateway_of,
            ),
        ],
        exception_handlers={
            IngestError: ingest_error,
            HTTPException: http_error,
            Exception: unexpected_error,
        },
    )


def _revoke(foundation: Foundation, gateway_id: str) -> str | None:
    if not foundation.gateways.revoke(gateway_id):
        return None
    return _end_session(foundation, gateway_id)


def _end_session(foundation: Foundation, gateway_id: str) -> str:
    sessions = live_sessions(foundation.settings.mqtt, foundation.identity, foundation.gateways)
    return end_session(sessions, gateway_id)


def _introduction(foundation: Foundation) -> Introduction:
    identity, mqtt = foundation.identity, foundation.settings.mqtt
    broker = BrokerAddress(host=mqtt.called_host, port=mqtt.called_port, tls=mqtt.tls) if mqtt.host else None
    return Introduction(
        central_id=identity.central_id,
        receipt_keys=[_base64(identity.receipt_key.public_key().public_bytes_raw())],
        root_key=_base64(identity.sealing_keys.root_public().public_bytes_raw()),
        key_set=identity.sealing_keys.signed_set(),
        broker=broker,
    )


def _syslog(foundation: Foundation, archive: Archive, closing: ExitStack) -> SyslogDelivery | None:
    """What sends the audit record on, running; None where no repository is named."""
    settings = foundation.settings.audit
    if not settings.syslog_host:
        return None

    def patient_of(study_instance_uid: str) -> PatientObject | None:
        facts = archive.facts(study_instance_uid)
        return PatientObject(facts.patient_id, facts.issuer_of_patient_id) if facts else None

    db = open_record_beside(foundation.settings.storage)
    closing.callback(db.end)
    book = DeliveryBook(db, receiver_of(settings))
    try:
        delivery = SyslogDelivery(settings, book, patient_of, central_id=foundation.identity.central_id)
    except SyslogUnfitError as error:
        raise StartError(str(error)) from error
    foundation.audit.when_recorded(delivery.wake)
    delivery.start()
    closing.callback(delivery.stop)
    return delivery


def _fleet_rooms(foundation: Foundation, closing: ExitStack) -> FleetRooms:
    mqtt = foundation.settings.mqtt
    broker = BrokerPlace(mqtt.host, mqtt.port, mqtt.tls) if mqtt.host else None
    audit = foundation.audit
    witnesses = Witnesses(audit.newest_checkpoint, audit.contradicted)
    return FleetRooms.open(
        foundation.db, foundation.gateways, foundation.identity, witnesses, broker, closing
    )


def _support_folder(foundation: Foundation) -> Path:
    return foundation.settings.storage.root / "support"


def converter(renderer: Renderer) -> Convert:
    """How the DICOM service has an instance put into another transfer syntax: by the renderer's workers."""

    @contextmanager
    def convert(stored: StoredInstance, wanted: str) -> Iterator[BinaryIO]:
        try:
            with renderer.converted(stored.path, stored.transfer_syntax_uid, wanted) as part10:
                yield part10
        except DicomwebError as error:
            raise NotConvertibleError(str(error)) from error

    return convert


def _has_room(settings: Settings) -> Callable[[], bool]:
    """Whether the archive may take more, for the ways in that are not put off by ingest."""
    return lambda: shutil.disk_usage(settings.storage.root).free > settings.storage.reserve_bytes


def _dicom(
    foundation: Foundation, archive: Archive, renderer: Renderer, closing: ExitStack
) -> DimseServer | None:
    """The DICOM service, accepting. Last of all, because it begins to answer at once."""
    settings = foundation.settings
    dicom = settings.dicom
    if not dicom.enabled:
        return None

    commitments = Commitments(dicom, Peers(dicom.peers), archive, foundation.db)
    rooms = Rooms(
        archive,
        foundation.audit,
        converter(renderer),
        _has_room(settings),
        WorklistStore(foundation.db),
        PeerSteps(ProcedureStore(foundation.db)),
        commitments,
    )
    server = DimseServer(
        dicom,
        routes_for(dicom, rooms),
        foundation.audit,
        archive.new_object,
        max_object_bytes=settings.limits.max_object_bytes,
    )
    try:
        server.start()
    except OSError as error:
        raise StartError(
            f"cannot listen on {dicom.host} port {dicom.port} (dicom.port) or {dicom.tls.port} "
            f"(dicom.tls.port): {reason(error)}"
        ) from error
    except CannotListenError as error:
        raise StartError(str(error)) from error
    closing.callback(server.stop)
    commitments.start()
    closing.callback(commitments.stop)
    return server


def _hl7(foundation: Foundation, closing: ExitStack) -> MllpServer | None:
    """The listener for orders, accepting."""
    settings = foundation.settings.hl7
    if not settings.enabled:
        return None
    desk = OrderDesk(WorklistStore(foundation.db), foundation.audit, settings.character_set)
    server = MllpServer(settings, desk)
    try:
        server.start()
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.host} port {settings.port} (hl7): {reason(error)}"
        ) from error
    closing.callback(server.stop)
    return server


def _people_tls(settings: Settings) -> ssl.SSLContext | None:
    people = settings.people
    if people.tls_certificate is None or people.tls_key is None:
        return None
    return people_tls(str(people.tls_certificate), str(people.tls_key))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def run(settings: Settings) -> None:
    """Run central until SIGTERM or SIGINT.

    Raises
    ------
    StartError : it cannot start; nothing is left running.
    """
    with ExitStack() as closing:
        opened = Central.open(settings, closing)
        asyncio.run(_until_stopped(opened))


async def _until_stopped(opened: Central) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def announce() -> None:
        settings = opened.foundation.settings
        listening = {
            "people": {"host": settings.people.host, "port": opened.people.port},
            "gateways": {"host": settings.gateways.host, "port": opened.gateways.port},
        }
        if opened.dicom is not None:
            listening["dicom"] = {"host": settings.dicom.host, "port": opened.dicom.port}
            if opened.dicom.tls_port is not None:
                listening["dicom_tls"] = {"host": settings.dicom.host, "port": opened.dicom.tls_port}
        if opened.hl7 is not None:
            listening["hl7"] = {"host": settings.hl7.host, "port": opened.hl7.port}
        print(f"LISTENING {json.dumps(listening)}", flush=True)

    await opened.serve(stop, announce)


def _quiet_libraries() -> None:
    """pydicom's warnings and log lines quote the data set; nothing of a data set goes into our log."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)


def main(arguments: Sequence[str] | None = None) -> int:
    """``dicomnet-central``: exit code 0 when done, 2 with one sentence on stderr when it cannot be done."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    _quiet_libraries()
    return run_command(arguments, run)
