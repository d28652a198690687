"""Wires central together: what is started and stopped in which order, and with what; the applications of its two
listeners are put together in `central.people_app` and `central.gateway_app`.

Starting: lock the data folder, bind the sockets, open the rooms, listen to the broker, accept connections.
Stopping: no new connections, answers under way finish (ten seconds), then the rooms in reverse order.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import BinaryIO

from central.archive.archive import Archive
from central.archive.rows import StoredInstance
from central.archive.scrub import Scrub
from central.audit.delivery import DeliveryBook, SyslogDelivery, receiver_of
from central.audit.dicom_message import PatientObject
from central.audit.events import Action
from central.audit.refusals import Refusals
from central.audit.syslog_line import SyslogUnfitError
from central.commands import run_command
from central.config import Settings
from central.dicomweb.errors import DicomwebError
from central.dicomweb.render import Renderer
from central.dimse.commitment import Commitments
from central.dimse.errors import CannotListenError, NotConvertibleError
from central.dimse.opening import Rooms, routes_for
from central.dimse.peers import Peers
from central.dimse.retrieve import Convert
from central.dimse.server import DimseServer
from central.errors import StartError
from central.fleet.fleet import Fleet
from central.fleet.opening import BrokerPlace, FleetRooms
from central.fleet.witnesses import Witnesses
from central.foundation import Foundation, has_room, lock_folder, open_archive, open_record_beside
from central.gateway_app import gateway_app
from central.ingest.partial import begun_bytes
from central.ingest.quota import DayQuota
from central.memory import share_heaps
from central.own_certificates import OwnCertificates
from central.people_app import people_app
from central.quietness import quiet_libraries
from central.serving import Listener, bind, gateway_tls, people_tls, reason, serve
from central.workflow.mllp import MllpServer, OrderDesk
from central.workflow.ordering import Ordering
from central.workflow.peer_steps import PeerSteps
from central.workflow.procedures import ProcedureStore
from central.workflow.worklist import WorklistStore


@dataclass(frozen=True)
class Central:
    """Central, opened and bound, not yet accepting."""

    foundation: Foundation
    people: Listener
    gateways: Listener
    certificates: OwnCertificates
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
        archive = open_archive(settings.storage, foundation.db, sweeps=True)
        quota = _quota(settings, archive)
        rooms = _fleet_rooms(foundation, quota, closing)
        renderer = Renderer(settings.limits.render_workers)
        closing.callback(renderer.close)
        refusals = Refusals(foundation.audit)
        syslog = _syslog(foundation, archive, closing)
        gateways = gateway_app(foundation, archive, rooms, quota, refusals, closing)
        _scrub(foundation, archive, closing)
        gateway_port = settings.gateways.public_port or gateway_socket.getsockname()[1]
        tls = gateway_tls(
            foundation.identity.server,
            foundation.identity.authority.pem.decode("ascii"),
            lambda why: refusals.record(
                Action.UPLOAD_REFUSED, "", "", f"client certificate does not verify: {why}"
            ),
        )
        return cls(
            foundation=foundation,
            people=Listener(
                people_socket,
                people_app(foundation, archive, rooms, renderer, gateway_port, syslog),
                _people_tls(settings),
                settings.people.behind_proxy,
            ),
            gateways=Listener(gateway_socket, gateways, tls),
            certificates=OwnCertificates(foundation.identity, tls, settings.mqtt.directory),
            dicom=_dicom(foundation, archive, renderer, closing),
            hl7=_hl7(foundation, archive, closing),
            fleet_rooms=rooms,
        )

    @property
    def fleet(self) -> Fleet:
        return self.fleet_rooms.fleet

    async def serve(self, stop: asyncio.Event, ready: Callable[[], None]) -> None:
        """Answer until `stop` is set."""
        keeping = asyncio.ensure_future(self.certificates.keep())
        try:
            await serve([self.people, self.gateways], stop, ready)
        finally:
            keeping.cancel()


def _quota(settings: Settings, archive: Archive) -> DayQuota:
    unfinished = (settings.storage.uploads_folder, settings.storage.packs_folder)

    def brought(gateway_id: str, since: datetime) -> int:
        archived = archive.receiving.brought_by(gateway_id, since)
        return archived + sum(begun_bytes(folder, gateway_id, since) for folder in unfinished)

    return DayQuota(
        brought,
        day_bytes=settings.limits.gateway_day_bytes,
        day_bytes_of={name: limits.day_bytes for name, limits in settings.limits.gateway.items()},
    )


def _syslog(foundation: Foundation, archive: Archive, closing: ExitStack) -> SyslogDelivery | None:
    """What sends the audit record on, running; None where no repository is named."""
    settings = foundation.settings.audit
    if not settings.syslog_host:
        return None

    def patient_of(study_instance_uid: str) -> PatientObject | None:
        facts = archive.reading.facts(study_instance_uid)
        held = (facts, *facts.elsewhere) if facts else ()
        patients = {PatientObject(one.patient_id, one.issuer_of_patient_id) for one in held}
        # Where institutions hold it for different patients, a message names none rather than a wrong one.
        return patients.pop() if len(patients) == 1 else None

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


def _scrub(foundation: Foundation, archive: Archive, closing: ExitStack) -> None:
    """What reads the objects in the background, running."""
    storage = foundation.settings.storage
    scrub = Scrub(
        foundation.db,
        archive.faults,
        archive.removal,
        archive.comparison,
        archive.renditions.compare,
        bytes_per_s=storage.scrub_bytes_per_s,
        interval=timedelta(days=storage.scrub_days),
        tell=lambda fault: foundation.audit.record(fault.event()),
    )
    scrub.start()
    closing.callback(scrub.stop)


def _fleet_rooms(foundation: Foundation, quota: DayQuota, closing: ExitStack) -> FleetRooms:
    mqtt = foundation.settings.mqtt
    broker = BrokerPlace(mqtt.host, mqtt.port, mqtt.tls) if mqtt.host else None
    audit = foundation.audit
    witnesses = Witnesses(audit.newest_checkpoint, audit.contradicted)
    return FleetRooms.open(
        foundation.db,
        foundation.gateways,
        foundation.identity,
        witnesses,
        quota.is_spent,
        broker,
        closing,
    )


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
        has_room(settings.storage),
        WorklistStore(foundation.db),
        PeerSteps(ProcedureStore(foundation.db)),
        commitments,
    )
    server = DimseServer(
        dicom,
        routes_for(dicom, rooms),
        foundation.audit,
        archive.receiving.new_object,
        max_object_bytes=settings.limits.max_object_bytes,
        agreements_of=foundation.doorkeeper.institutions.opened_to,
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


def _hl7(foundation: Foundation, archive: Archive, closing: ExitStack) -> MllpServer | None:
    """The listener for orders, accepting."""
    settings = foundation.settings.hl7
    if not settings.enabled:
        return None
    ordering = Ordering(foundation.doorkeeper.assignments, archive.receiving)
    desk = OrderDesk(WorklistStore(foundation.db), foundation.audit, ordering, settings)
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


def run(settings: Settings) -> None:
    """Run central until SIGTERM or SIGINT.

    Raises
    ------
    StartError : it cannot start; nothing is left running.
    """
    share_heaps()
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


def main(arguments: Sequence[str] | None = None) -> int:
    """``dicomnet-central``: exit code 0 when done, 2 with one sentence on stderr when it cannot be done."""
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    quiet_libraries()
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return run_command(arguments, run)
