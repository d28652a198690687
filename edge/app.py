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
from collections.abc import Collection
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Final

from contract.errors import ContractError
from contract.settings import load_settings, print_default_config, settings_table
from edge import commands
from edge.buffer.errors import SpoolError
from edge.buffer.label import Label
from edge.buffer.processors import Processors
from edge.buffer.scrub import Scrub
from edge.buffer.spool import Spool
from edge.buffer.upkeep import Upkeep
from edge.centrals import CentralKeys, Centrals, folder_of
from edge.config import Settings
from edge.control import ControlError, ControlServer
from edge.destination_settings import CENTRAL
from edge.destinations import Destinations
from edge.gateway.admission import Admission
from edge.gateway.approved import ApprovedFile
from edge.gateway.errors import GatewayError
from edge.gateway.query import Doorkeeper
from edge.gateway.quirks import profiles
from edge.gateway.server import GatewayServer
from edge.gateway.workers import Workers
from edge.logs import log_to_stderr
from edge.memory import share_heaps
from edge.operations import Operations
from edge.orders import Orders
from edge.reporting import Reporting
from edge.routing import Routing
from edge.services import Services
from edge.uplink.client import go_through
from edge.uplink.equipment import ConfiguredScanner, Echoed
from edge.uplink.identity import Identity
from edge.version import VERSION
from edge.workflow import Workflow

_log = logging.getLogger(__name__)

_SENDING_GRACE_S: Final = 5.0
_JOIN_S: Final = 2.0
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Box:
    """One running box: `start`, then `stop`.

    Attributes
    ----------
    operations : what the control socket offers, once the box has started.
    """

    def __init__(self, settings: Settings, workers: Workers | None = None) -> None:
        self._settings = settings
        self._workers = workers or Workers()
        self._started_at_utc = datetime.now(UTC)
        self._running = ExitStack()

    def start(self) -> None:
        """Begin to serve. What was started is stopped again if something cannot start.

        Raises
        ------
        SpoolError, ControlError, OSError : with a sentence that says what is in the way.
        """
        settings = self._settings
        orders = Orders()
        keys = CentralKeys(settings)
        self._routing = Routing(settings.destinations, settings.routing, orders)
        with ExitStack() as started:
            settings.box.state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._spool = Spool.open(
                settings.spool_directory,
                reserve_bytes=settings.buffer.reserve_bytes,
                quarantine_max_bytes=settings.buffer.quarantine_max_bytes,
                coding=settings.buffer.coding,
                keys=None,
                on_stored=self._note_stored,
                low_water_bytes=settings.buffer.low_water_bytes,
                retain=timedelta(hours=settings.buffer.retain_hours),
                on_low_water=self._free_soon,
                route=lambda label: (*keys.owed(label), *self._routing.route(label)),
                rank=self._routing.rank,
                complete=self._routing.complete,
                copies=keys.copies,
            )
            self._spool.entrance.pace.processors_are_busy = Processors().are_busy
            self._upkeep = Upkeep(self._spool.room, self._spool.retained, self._spool.queue.catch_up)
            self._scrub = self._make_scrub()
            self._centrals = Centrals(settings, self._spool, keys, on_receipt=self._report_soon)
            self._centrals.start()
            joining = started.enter_context(ExitStack())
            joining.callback(self._centrals.join, _JOIN_S)
            started.callback(self._spool.close)
            self._reporting = self._make_reporting()
            started.callback(self._reporting.stop)
            started.callback(self._centrals.stop, _SENDING_GRACE_S)
            doorkeeper = Doorkeeper(settings.query.destinations if settings.query.enabled else ())
            self._admission = Admission(
                settings.gateway,
                settings.scanners,
                profiles=profiles(settings.quirks),
                file=ApprovedFile(settings.box.state_directory / "scanners.json"),
                may_ask=doorkeeper.knows,
                called=self._spool.scanners.called(),
            )
            self._services = Services(
                settings, self._spool.holdings, doorkeeper, find_scanner=self._admission.find
            )
            started.callback(self._services.stop)
            self._services.start()
            # Joined after the spool has closed, which is what wakes an idle courier.
            self._destinations = Destinations(
                settings,
                self._spool,
                self._services.local_recipient,
                on_delivered=self._report_soon,
                centrals=self._centrals.troubles,
                try_central=self._centrals.try_now,
            )
            joining.callback(self._destinations.join, _JOIN_S)
            started.callback(self._destinations.stop, _SENDING_GRACE_S)
            self._destinations.start()
            self._workflow = Workflow(
                settings,
                self._services.database,
                on_worklist=lambda items: self._rank_again(orders.learn(items)),
            )
            self._workflow.studies.restore(
                self._spool.holdings.received_since(self._workflow.studies.restore_from_utc())
            )
            started.callback(self._workflow.stop)
            self._workflow.start()
            self._gateway = GatewayServer(
                settings.gateway,
                self._spool.entrance,
                [*self._services.installed, *self._workflow.installed],
                admission=self._admission,
                on_association_end=self._workflow.studies.association_ended,
                workers=self._workers,
            )
            self.operations = Operations(
                settings,
                self._spool,
                started_at_utc=self._started_at_utc,
                admission=self._admission,
                centrals=self._centrals,
                destinations=self._destinations,
                gateway=self._gateway,
                reporting=self._reporting,
                scrub=self._scrub,
                services=self._services,
                workers=self._workers,
                workflow=self._workflow,
            )
            started.callback(self._centrals.leave)
            self._centrals.begin(
                own_recipients=self._services.recipients,
                take_up=self._assume,
                tell_set_back=self._reporting.tell_set_back,
                keys=commands.key_maker(settings),
            )
            self._gateway.start()
            self._reporting.start()
            started.callback(self._gateway.stop)
            self._workers.watch(self._reporting.tell_receiver)
            started.callback(self._workers.stop_watching)
            self._upkeep.start()
            started.callback(self._upkeep.stop, _JOIN_S)
            self._scrub.start()
            started.callback(self._scrub.stop, _JOIN_S)
            control = ControlServer(settings.control_socket_path, self.operations.handlers())
            control.start()
            started.callback(control.stop)
            self._running = started.pop_all()
        _log.info("started", extra={"box": settings.box.name, "port": self._gateway.port, "version": VERSION})

    def stop(self) -> None:
        self._running.close()
        _log.info("stopped")

    def listening(self) -> dict[str, object]:
        """What the LISTENING line says."""
        return {
            "dicom": {
                "host": self._settings.gateway.host,
                "port": self._gateway.port,
                "tls_port": self._gateway.tls_port,
            },
            "control_socket": str(self._settings.control_socket_path),
        }

    def _assume(self, central: str, identity: Identity) -> None:
        if central == CENTRAL:
            self._workflow.use(identity)
        self._reporting.assume(central, identity)
        _log.info(
            "identity in use",
            extra={"as": central, "gateway_id": identity.gateway_id, "central": identity.central_url},
        )

    def _make_scrub(self) -> Scrub:
        buffer = self._settings.buffer
        return Scrub(
            self._spool.inspection,
            self._settings.spool_directory / "scrub.json",
            quiet_s=self._spool.entrance.quiet_s,
            unverified_from=self._spool.recovery.unverified_from,
            bytes_per_s=buffer.scrub_bytes_per_s,
            interval=timedelta(days=buffer.scrub_days),
            on_damage=lambda damage: self._reporting.tell_damage(damage),
        )

    def _make_reporting(self) -> Reporting:
        settings = self._settings
        return Reporting(
            {name: folder_of(settings, name) / "heartbeat" for name in self._centrals.links},
            self._spool,
            self._centrals,
            self._centrals.links,
            started_at_utc=self._started_at_utc,
            ae_title=settings.gateway.ae_title,
            dicom_port=lambda: self._gateway.port,
            configured=lambda: [
                ConfiguredScanner(one.scanner.ae_title, one.scanner.host, one.scanner.port)
                for one in self._admission.listed()
                if one.scanner.host
            ],
            echo=self._echo_scanner,
            bundle_parts=lambda: {"status": self.operations.status(), "queue": self.operations.queue()},
            prioritise=self._spool.queue.prioritise,
            destinations=lambda: self._destinations.status(),
            log_level=settings.box.log_level,
            echo_interval_s=settings.heartbeat.echo_interval_s,
            https_after_s=settings.heartbeat.https_after_s,
            enabled=settings.heartbeat.enabled,
        )

    def _echo_scanner(self, scanner: ConfiguredScanner) -> Echoed:
        result = self.operations.echo_scanner(scanner.host, scanner.port, scanner.ae_title)
        return Echoed(result.ok, result.round_trip_ms, result.detail)

    def _rank_again(self, studies: Collection[str]) -> None:
        """The worklist has changed; what waits of its studies may be more urgent now, or less."""
        moved = self._spool.queue.rank_again(self._routing.rank_again, studies)
        if moved:
            _log.info("priorities follow the worklist", extra={"objects": moved})

    def _free_soon(self) -> None:
        self._upkeep.soon()

    def _note_stored(self, label: Label) -> None:
        if label.identity is not None:
            self._workflow.studies.note_instance(
                label.origin.calling_ae_title,
                label.identity.study_instance_uid,
                label.identity.series_instance_uid,
                label.identity.sop_instance_uid,
            )
        self._report_soon()

    def _report_soon(self) -> None:
        self._services.instances_changed()
        self._reporting.soon()


def run(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT."""
    workers = Workers.fork(settings.gateway.receiving_processes)  # before any thread
    # Blocked in every thread that starts from here on, so that sigwait alone gets them.
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    box = Box(settings, workers)
    try:
        box.start()
    except BaseException:
        workers.stop()
        raise
    try:
        print("LISTENING", json.dumps(box.listening()), flush=True)
        signal.sigwait(_STOP_SIGNALS)
    finally:
        box.stop()
        workers.stop()
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
        go_through(settings.uplink.proxy)
        if options.command == "run":
            share_heaps()
            return run(settings)
        commands.carry_out(settings, options)
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
