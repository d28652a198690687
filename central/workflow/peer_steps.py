"""Performed procedure steps of modalities that speak to central itself, kept beside those that boxes relay.

Always true: a step is created once and changed while it is in progress, one message after the other. A crash leaves
whole messages.
"""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Final, Literal

from central.workflow.data_sets import step_facts
from central.workflow.errors import UnusableMessageError
from central.workflow.procedures import ProcedureStore
from contract.workflow import Operation, PerformedProcedureMessage, StepStatus

Verdict = Literal["kept", "known", "unknown", "ended", "unusable"]
_FIRST: Final = 0


class PeerSteps:
    """What central's MPPS SCP keeps its messages with. Safe from any thread; `source` is ``ae:`` and the AE title."""

    def __init__(self, store: ProcedureStore) -> None:
        self._store = store
        self._lock = threading.Lock()  # a message's number is one more than the last

    def create(
        self, source: str, ae_title: str, sop_instance_uid: str, transfer_syntax_uid: str, data_set: bytes
    ) -> Verdict:
        with self._lock:
            if self._store.standing(source, sop_instance_uid) is not None:
                return "known"
            return self._keep(
                source, ae_title, sop_instance_uid, transfer_syntax_uid, data_set, Operation.CREATE, _FIRST
            )

    def change(
        self, source: str, ae_title: str, sop_instance_uid: str, transfer_syntax_uid: str, data_set: bytes
    ) -> Verdict:
        with self._lock:
            standing = self._store.standing(source, sop_instance_uid)
            if standing is None:
                return "unknown"
            status, last_number = standing
            if status is not StepStatus.IN_PROGRESS:
                return "ended"
            return self._keep(
                source,
                ae_title,
                sop_instance_uid,
                transfer_syntax_uid,
                data_set,
                Operation.SET,
                last_number + 1,
            )

    def messages(self, source: str, sop_instance_uid: str) -> list[tuple[str, bytes]]:
        """Transfer syntax and data set of each message of a step, the first first."""
        return self._store.messages(source, sop_instance_uid)

    def _keep(
        self,
        source: str,
        ae_title: str,
        sop_instance_uid: str,
        transfer_syntax_uid: str,
        data_set: bytes,
        operation: Operation,
        number: int,
    ) -> Verdict:
        try:
            facts = step_facts(data_set, transfer_syntax_uid, operation)
            # Checked by hand where a box's message would be checked as JSON: the data set stays bytes.
            message = PerformedProcedureMessage.model_construct(
                format=1,
                sop_instance_uid=sop_instance_uid,
                number=number,
                operation=operation,
                calling_ae_title=ae_title,
                received_at_utc=datetime.now(UTC),
                transfer_syntax_uid=transfer_syntax_uid,
                data_set=data_set,
            )
            self._store.keep(source, message, facts)
        except UnusableMessageError:
            return "unusable"
        return "kept"
