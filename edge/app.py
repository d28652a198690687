"""The edge box's program: wires the rooms together, and is the only place that knows them all.

Start: spool (repairs what the last life left) → uplink → gateway → control socket → identity, if there is
one → LISTENING. Stop, the other way round: the gateway finishes the instance in progress, the uplink lets go
of what it is sending, the heartbeat says goodbye, the spool is closed last. A crash at any point leaves what
the next start repairs; nothing here holds state of its own.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Final

from contract.control import (
    BoxStatus,
    EchoAnswer,
    EchoParams,
    EnrolParams,
    QueueList,
    RequeueParams,
    ScannerList,
)
from contract.enrolment import Pairing
from contract.errors import ContractError
from contract.identifiers import check_ae_title, check_object_id
from contract.sealing import DataKeyRing
from contract.settings import load_settings, print_default_config, settings_table
from edge import commands, report
from edge.buffer.errors import SpoolError
from edge.buffer.spool import Spool
from edge.config import Settings
from edge.control import ControlError, ControlServer
from edge.gateway.echo import echo
from edge.gateway.errors import GatewayError
from edge.gateway.server import GatewayServer
from edge.logs import log_to_stderr
from edge.uplink.enrolment import enrol
from edge.uplink.errors import EnrolmentRefusedError, IdentityError
from edge.uplink.forwarder import Forwarder
from edge.uplink.heartbeat import Heartbeat
from edge.uplink.identity import Identity, IdentityStore
from edge.uplink.link import Link

_log = logging.getLogger(__name__)

_SENDING_GRACE_S: Final = 5.0
_JOIN_S: Final = 2.0
_ECHO_TIMEOUT_S: Final = 10.0


class Box:
    """One running box: `start`, then `stop`. Its public methods are what the control socket offers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._started_at_utc = datetime.now(UTC)
        self._link = Link()
        self._identities = IdentityStore(settings.identity_directory)
        self._identity: Identity | None = None
        self._heartbeat: Heartbeat | None = None
        self._enrolling = threading.Lock()
        self._running = ExitStack()

    def start(self) -> None:
        """Begin to serve. What was started is stopped again if something cannot start.

        Raises
        ------
        SpoolError, ControlError, OSError : with a sentence that says what is in the way.
        """
        settings = self._settings
        with ExitStack() as started:
            settings.box.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._spool = Spool.open(
                settings.spool_directory,
                reserve_bytes=settings.buffer.reserve_bytes,
                quarantine_max_bytes=settings.buffer.quarantine_max_bytes,
                keys=None,
                on_stored=self._report_soon,
            )
            self._forwarder = Forwarder(
                self._spool,
                self._link,
                connections=settings.uplink.connections,
                lease_s=settings.uplink.lease_s,
                backoff_ceiling_s=settings.uplink.backoff_ceiling_s,
                timeout_s=settings.uplink.timeout_s,
                on_receipt=self._report_soon,
            )
            self._forwarder.start()
            started.callback(self._forwarder.join, _JOIN_S)
            started.callback(self._spool.close)
            started.callback(self._stop_heartbeat)
            started.callback(self._forwarder.stop, _SENDING_GRACE_S)
            self._gateway = GatewayServer(settings.gateway, self._spool)
            self._take_up_identity()
            self._gateway.start()
            started.callback(self._gateway.stop)
            control = ControlServer(
                settings.control_socket_path,
                {
                    "status": lambda _: self.status(),
                    "queue": lambda _: self.queue(),
                    "scanners": lambda _: self.scanners(),
                    "echo": lambda params: self.echo(EchoParams.model_validate(params)),
                    "enrol": lambda params: self.enrol(EnrolParams.model_validate(params)),
                    "requeue": lambda params: self.requeue(RequeueParams.model_validate(params)),
                },
            )
            control.start()
            started.callback(control.stop)
            self._running = started.pop_all()
        _log.info(
            "started", extra={"box": settings.box.name, "port": self._gateway.port, "version": report.VERSION}
        )

    def stop(self) -> None:
        self._running.close()
        _log.info("stopped")

    def listening(self) -> dict[str, object]:
        """What the LISTENING line says."""
        return {
            "dicom": {"host": self._settings.gateway.host, "port": self._gateway.port},
            "control_socket": str(self._settings.control_socket_path),
        }

    def status(self) -> BoxStatus:
        return report.box_status(
            self._spool,
            self._link.status(),
            gateway_id=self._identity.gateway_id if self._identity else None,
            ae_title=self._settings.gateway.ae_title,
            host=self._settings.gateway.host,
            port=self._gateway.port,
            started_at_utc=self._started_at_utc,
        )

    def queue(self) -> QueueList:
        return report.queue(self._spool)

    def scanners(self) -> ScannerList:
        return report.scanners(self._spool, self._settings.scanners)

    def echo(self, params: EchoParams) -> EchoAnswer:
        result = echo(
            params.host,
            params.port,
            check_ae_title(params.ae_title),
            self._settings.gateway.ae_title,
            _ECHO_TIMEOUT_S,
        )
        return EchoAnswer(ok=result.ok, round_trip_ms=result.round_trip_ms, detail=result.detail)

    def requeue(self, params: RequeueParams) -> QueueList:
        self._spool.requeue(check_object_id(params.object_id))
        return self.queue()

    def enrol(self, params: EnrolParams) -> BoxStatus:
        """Buy an identity and begin to use it, without a restart."""
        if not self._enrolling.acquire(blocking=False):
            raise EnrolmentRefusedError("another enrolment is under way: wait for it")
        try:
            pairing = Pairing.parse(params.pairing)
            waiting = self._spool.depth().unsent.objects
            if waiting and self._identity and self._identity.ca_fingerprint != pairing.ca_fingerprint:
                raise EnrolmentRefusedError(
                    f"this box belongs to {self._identity.central_url}, and {waiting} objects wait that only that "
                    "central can open: let them be sent before the box moves to another central"
                )
            key, enrolment = enrol(pairing)
            self._assume(self._identities.save(key, enrolment))
        finally:
            self._enrolling.release()
        return self.status()

    def _take_up_identity(self) -> None:
        try:
            identity = self._identities.load()
        except IdentityError as error:
            # The box runs on, refusing images, so that it can be enrolled anew where it stands.
            _log.critical("identity damaged", extra={"detail": error})
            self._link.not_enrolled(str(error))
            return
        if identity is not None:
            self._assume(identity)

    def _assume(self, identity: Identity) -> None:
        self._stop_heartbeat()
        self._identity = identity
        self._spool.set_keys(DataKeyRing(identity.recipients))
        self._forwarder.use(identity)
        if identity.broker is not None and self._settings.heartbeat.enabled:
            self._heartbeat = Heartbeat(
                identity,
                self._link,
                version=report.VERSION,
                telemetry=lambda: report.telemetry(
                    self._spool, self._link.status(), started_at_utc=self._started_at_utc
                ),
                equipment=lambda: report.equipment_seen(self._spool),
                on_connected=self._forwarder.try_now,
            )
            self._heartbeat.start()
        _log.info(
            "identity in use", extra={"gateway_id": identity.gateway_id, "central": identity.central_url}
        )

    def _stop_heartbeat(self) -> None:
        heartbeat, self._heartbeat = self._heartbeat, None
        if heartbeat is not None:
            heartbeat.stop()

    def _report_soon(self) -> None:
        heartbeat = self._heartbeat
        if heartbeat is not None:
            heartbeat.soon()


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    box = Box(settings)
    box.start()
    try:
        print("LISTENING", json.dumps(box.listening()), flush=True)
        stop.wait()
    finally:
        box.stop()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `dicomnet-edge`. Returns 0, or 2 after one sentence on standard error."""
    parser = commands.parser()
    options = parser.parse_args(arguments)
    if options.print_default_config:
        print(print_default_config(Settings), end="")
        return 0
    if options.command == "settings-table":
        print(settings_table(Settings), end="")
        return 0
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        settings = load_settings(Settings, options.config)
        log_to_stderr(settings.box.log_level)
        if options.command == "run":
            return run(settings)
        if options.command == "enrol":
            commands.enrol_from_shell(settings, options.pairing)
        else:
            commands.print_status(settings)
    except (ContractError, SpoolError, GatewayError, ControlError) as error:
        print(f"dicomnet-edge: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"dicomnet-edge: {_os_sentence(error)}", file=sys.stderr)
        return 2
    return 0


def _os_sentence(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}"


if __name__ == "__main__":
    sys.exit(main())
