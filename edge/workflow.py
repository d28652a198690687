"""Worklist, procedure steps and studies' completeness, wired together for one box.

The program makes one of these after the services' database is open, and stops it before that closes. `installed`
goes to the gateway; `studies` is told of every stored instance and every ended association. A crash leaves the
database and the sealed worklist, from which all of it goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from contract.control import StudyEntry, StudyList, WorkflowStatus
from edge.buffer.completeness import Studies
from edge.buffer.completeness_rows import CompletenessRows
from edge.buffer.device_key import DeviceKey
from edge.buffer.pace import Pace
from edge.buffer.performed_procedures import PerformedProcedures
from edge.buffer.service_database import ServiceDatabase
from edge.buffer.study_standing import StudyStanding
from edge.buffer.worklist_cache import WorklistCache, WorklistItem
from edge.buffer.worklist_refresh import Fetch, WorklistRefresher
from edge.config import Settings
from edge.gateway.addresses import address_of
from edge.gateway.performed_procedure import PerformedProcedureService
from edge.gateway.service import Service
from edge.gateway.worklist import WorklistService
from edge.gateway.worklist_source import UpstreamWorklist
from edge.uplink.identity import Identity
from edge.uplink.workflow import CentralWorkflow, ProcedureRelay

_log = logging.getLogger(__name__)

LISTED_STUDIES: Final = 200
_STOP_S: Final = 2.0


class Workflow:
    """See the module.

    Parameters
    ----------
    on_worklist : told of the worklist's items whenever they are other ones.

    Raises
    ------
    SpoolError, OSError : the device key or the database cannot be used; the text says why.
    """

    def __init__(
        self,
        settings: Settings,
        database: ServiceDatabase,
        *,
        on_worklist: Callable[[Sequence[WorklistItem]], None] = lambda _: None,
    ) -> None:
        key = DeviceKey.load(settings.identity_directory / "device.key")
        pace = Pace(
            default_s=settings.studies.default_idle_s,
            least_s=settings.studies.least_idle_s,
            longest_s=settings.studies.longest_idle_s,
        )
        self.studies = Studies(CompletenessRows(database, pace), pace, on_change=_log_study)
        self._cache_is_centrals = settings.worklist.source == "central"
        self._central = CentralWorkflow(
            horizon_days=settings.worklist.horizon_days, timeout_s=settings.uplink.timeout_s
        )
        self._procedures = PerformedProcedures(database, key)
        self._relay = ProcedureRelay(
            self._procedures, self._central.send, ceiling_s=settings.uplink.backoff_ceiling_s
        )
        installed: list[Service] = [PerformedProcedureService(self._procedures, self.studies.note_procedure)]
        self._refresher: WorklistRefresher | None = None
        if settings.worklist.enabled:
            upstream = settings.worklist.upstream
            self._cache = WorklistCache(
                settings.box.state_directory / "worklist.sealed",
                key,
                source=settings.worklist.source,
                owner=None
                if self._cache_is_centrals
                else f"{upstream.ae_title}@{upstream.host}:{upstream.port}",
                on_items=on_worklist,
            )
            self._refresher = WorklistRefresher(
                self._cache, self._source(settings), interval_s=settings.worklist.refresh_s
            )
            installed.append(WorklistService(self._cache))
        self.installed: Sequence[Service] = tuple(installed)

    def start(self) -> None:
        self.studies.start()
        self._relay.start()
        if self._refresher is not None:
            self._refresher.start()

    def stop(self) -> None:
        """After the gateway has stopped, so that nobody asks any more."""
        if self._refresher is not None:
            self._refresher.stop(_STOP_S)
        self._relay.stop(_STOP_S)
        self._central.close()
        self.studies.stop()

    def use(self, identity: Identity) -> None:
        """Speak with central as `identity` from now on."""
        if self._refresher is not None and self._cache_is_centrals:
            self._cache.belong_to(identity.ca_fingerprint)
        self._central.use(identity)
        self.line_is_back()

    def line_is_back(self) -> None:
        """Something got through to central's side: wait no longer."""
        self._relay.try_now()
        if self._refresher is not None:
            self._refresher.soon()

    def status(self) -> WorkflowStatus:
        procedures = self._procedures.state()
        shown = WorkflowStatus(
            procedures_waiting=procedures.waiting,
            procedures_refused=procedures.refused,
            procedures_oldest_at_utc=procedures.oldest_at_utc,
            procedures_error=procedures.last_reason,
        )
        if self._refresher is None:
            return shown
        worklist = self._refresher.state()
        return shown.model_copy(
            update={
                "worklist_source": worklist.source,
                "worklist_items": worklist.items,
                "worklist_refreshed_at_utc": worklist.refreshed_at_utc,
                "worklist_error": worklist.last_error,
            }
        )

    def list_studies(self) -> StudyList:
        return StudyList(studies=[_entry(study) for study in self.studies.list_studies(LISTED_STUDIES)])

    def _source(self, settings: Settings) -> Fetch:
        worklist = settings.worklist
        if worklist.source == "central":
            return self._central.fetch
        upstream = worklist.upstream
        return UpstreamWorklist(
            address_of(upstream.host, upstream.port, settings.gateway.tls, over_tls=upstream.tls),
            ae_title=upstream.ae_title,
            calling_ae_title=settings.gateway.ae_title,
            horizon_days=worklist.horizon_days,
        ).fetch


def _log_study(study: StudyStanding) -> None:
    _log.info(
        "study " + study.state.value,
        extra={
            "study_instance_uid": study.study_instance_uid,
            "calling_ae_title": study.calling_ae_title,
            "evidence": study.evidence or "-",
            "received": study.received,
            "expected": "-" if study.expected is None else study.expected,
            "late": study.late,
        },
    )


def _entry(study: StudyStanding) -> StudyEntry:
    return StudyEntry(
        study_instance_uid=study.study_instance_uid,
        calling_ae_title=study.calling_ae_title,
        state=study.state.value,
        evidence=study.evidence.value if study.evidence else "",
        expected=study.expected,
        received=study.received,
        late=study.late,
        first_at_utc=study.first_at_utc,
        last_at_utc=study.last_at_utc,
        completed_at_utc=study.completed_at_utc,
    )
