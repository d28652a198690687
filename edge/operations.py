"""What the control socket offers of a running box: to look, and to have something done.

Every method takes and gives a shape of `contract.control`. What cannot be done is raised with its sentence from the
rooms' own trees of errors; `edge.control` passes that on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from contract.control import (
    BoxStatus,
    CallerParams,
    DeliveryParams,
    DestinationList,
    EchoAnswer,
    EchoParams,
    EnrolParams,
    PriorityParams,
    QueueList,
    RequeueParams,
    ScannerEntry,
    ScannerList,
)
from contract.enrolment import Pairing
from contract.identifiers import ObjectId, check_ae_title, check_object_id, check_uid
from contract.priority import Priority
from edge import box_status
from edge.buffer.scrub import Scrub
from edge.buffer.spool import Spool
from edge.centrals import Centrals
from edge.config import Settings
from edge.control import ControlError, Handler
from edge.destination_settings import CENTRAL
from edge.destinations import Destinations
from edge.gateway.addresses import Address, scanner_address
from edge.gateway.admission import Admission
from edge.gateway.echo import EchoResult, echo
from edge.gateway.errors import CannotCallError
from edge.gateway.server import GatewayServer
from edge.gateway.workers import Workers
from edge.reporting import Reporting
from edge.scanner_list import scanner_list, settings_of
from edge.services import Services
from edge.workflow import Workflow

_log = logging.getLogger(__name__)
_ECHO_TIMEOUT_S: Final = 10.0


class Operations:
    """Over the rooms of one box, which it neither starts nor stops. Safe from any thread."""

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        *,
        started_at_utc: datetime,
        admission: Admission,
        centrals: Centrals,
        destinations: Destinations,
        gateway: GatewayServer,
        reporting: Reporting,
        scrub: Scrub,
        services: Services,
        workers: Workers,
        workflow: Workflow,
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._started_at_utc = started_at_utc
        self._admission = admission
        self._centrals = centrals
        self._destinations = destinations
        self._gateway = gateway
        self._reporting = reporting
        self._scrub = scrub
        self._services = services
        self._workers = workers
        self._workflow = workflow

    def handlers(self) -> Mapping[str, Handler]:
        """By the name of the method, as `edge.control.ControlServer` takes them."""
        return {
            "status": lambda _: self.status(),
            "queue": lambda _: self.queue(),
            "scanners": lambda _: self.scanners(),
            "echo": lambda params: self.echo(EchoParams.model_validate(params)),
            "enrol": lambda params: self.enrol(EnrolParams.model_validate(params)),
            "requeue": lambda params: self.requeue(RequeueParams.model_validate(params)),
            "approve": lambda params: self.approve(CallerParams.model_validate(params)),
            "refuse": lambda params: self.refuse(CallerParams.model_validate(params)),
            "save_scanner": lambda params: self.save_scanner(ScannerEntry.model_validate(params)),
            "remove_scanner": lambda params: self.remove_scanner(CallerParams.model_validate(params)),
            "studies": lambda _: self._workflow.list_studies(),
            "destinations": lambda _: self.destinations(),
            "try_again": lambda params: self.try_again(DeliveryParams.model_validate(params)),
            "give_up": lambda params: self.give_up(DeliveryParams.model_validate(params)),
            "pause": lambda _: self.pause(),
            "resume": lambda _: self.resume(),
            "prioritise": lambda params: self.prioritise(PriorityParams.model_validate(params)),
        }

    def status(self) -> BoxStatus:
        return box_status.status(
            self._spool,
            self._centrals.links[CENTRAL].status(),
            gateway_id=self._centrals.first.gateway_id,
            ae_title=self._settings.gateway.ae_title,
            host=self._settings.gateway.host,
            port=self._gateway.port,
            started_at_utc=self._started_at_utc,
            scrubbed=self._scrub.last_pass(),
        ).model_copy(
            update={
                "paused": self._centrals.paused,
                "workflow": self._workflow.status(),
                "commitments": self._services.commitment_status(),
                "tls_port": self._gateway.tls_port,
                "centrals": self._centrals.status(),
                "destinations": self._destinations.status(),
                "receiving_notice": self._workers.notice(),
            }
        )

    def queue(self) -> QueueList:
        return box_status.queue(self._spool)

    def scanners(self) -> ScannerList:
        return scanner_list(self._spool.scanners, self._admission)

    def approve(self, params: CallerParams) -> ScannerList:
        self._admission.approve(check_ae_title(params.ae_title), params.address)
        return self.scanners()

    def refuse(self, params: CallerParams) -> ScannerList:
        self._admission.refuse(check_ae_title(params.ae_title), params.address)
        return self.scanners()

    def save_scanner(self, entry: ScannerEntry) -> ScannerList:
        self._admission.save(settings_of(entry))
        return self.scanners()

    def remove_scanner(self, params: CallerParams) -> ScannerList:
        self._admission.remove(check_ae_title(params.ae_title), params.address)
        return self.scanners()

    def echo(self, params: EchoParams) -> EchoAnswer:
        result = self.echo_scanner(params.host, params.port, check_ae_title(params.ae_title))
        return EchoAnswer(ok=result.ok, round_trip_ms=result.round_trip_ms, detail=result.detail)

    def echo_scanner(self, host: str, port: int, ae_title: str) -> EchoResult:
        """One C-ECHO in the name of this box; blocks. A scanner's own entry says whether it is called over TLS."""
        gateway = self._settings.gateway
        address = Address(host, port)
        entry = self._admission.find(ae_title)
        if entry is not None and (entry.host, entry.port) == (host, port):
            try:
                address = scanner_address(entry, gateway.tls)
            except CannotCallError as error:
                return EchoResult(False, None, str(error))
        return echo(address, ae_title, gateway.ae_title, _ECHO_TIMEOUT_S)

    def requeue(self, params: RequeueParams) -> QueueList:
        object_id = check_object_id(params.object_id)
        if params.destination:
            self._destinations.try_again(params.destination, object_id)
        else:
            self._spool.quarantine.requeue(object_id)
        return self.queue()

    def prioritise(self, params: PriorityParams) -> QueueList:
        study = check_uid(params.study_instance_uid)
        priority = Priority.named(params.priority)
        if not self._spool.queue.prioritise(study, priority):
            raise ControlError("nothing of this study waits on this box")
        _log.info("priority changed", extra={"study_instance_uid": study, "priority": priority.word})
        return self.queue()

    def pause(self) -> BoxStatus:
        self._reporting.pause(by="a person at the box")
        return self.status()

    def resume(self) -> BoxStatus:
        self._reporting.resume(by="a person at the box")
        return self.status()

    def destinations(self) -> DestinationList:
        return DestinationList(
            destinations=self._destinations.status(), set_aside=self._destinations.set_aside()
        )

    def try_again(self, params: DeliveryParams) -> DestinationList:
        object_id = _object_id(params)
        if params.destination != CENTRAL:
            self._destinations.try_again(params.destination, object_id)
        elif object_id is not None:
            self._spool.quarantine.requeue(object_id)
        else:
            _log.info("queued again", extra={"objects": self._spool.quarantine.requeue_all()})
        return self.destinations()

    def give_up(self, params: DeliveryParams) -> DestinationList:
        self._destinations.give_up(params.destination, _object_id(params))
        return self.destinations()

    def enrol(self, params: EnrolParams) -> BoxStatus:
        """Buy an identity and begin to use it, without a restart; or begin to wait for an administrator's yes."""
        self._centrals.enrol(params.central, Pairing.parse(params.pairing))
        return self.status()


def _object_id(params: DeliveryParams) -> ObjectId | None:
    return None if params.object_id is None else check_object_id(params.object_id)
