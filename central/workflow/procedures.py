"""Performed procedure steps as the boxes relay them.

Always true: a message is kept once, under gateway, step and number, in the modality's own bytes; a repetition is
recognized; a step that ended stays ended whatever comes later. A crash leaves whole messages.
"""

from __future__ import annotations

import hashlib
from typing import Any

import peewee

from central.database import Database
from central.workflow.data_sets import StepFacts
from central.workflow.errors import UnusableMessageError
from central.workflow.tables import (
    PerformedProcedure,
    PerformedProcedureEntry,
    make_workflow_tables,
)
from contract.workflow import PerformedProcedureMessage, StepStatus


class ProcedureStore:
    """Over central's index database; makes its tables there if they are missing. Safe from any thread."""

    def __init__(self, db: Database) -> None:
        make_workflow_tables(db)
        self._db = db

    def keep(self, gateway_id: str, message: PerformedProcedureMessage, facts: StepFacts) -> bool:
        """Make a message durable; False if it is here already.

        Raises
        ------
        UnusableMessageError : another message is here under this step and number.
        """
        digest = hashlib.sha256(message.data_set).hexdigest()
        at = message.received_at_utc.isoformat()
        with self._db.writing():
            step = self._first(
                PerformedProcedure.select().where(
                    PerformedProcedure.gateway_id == gateway_id,
                    PerformedProcedure.sop_instance_uid == message.sop_instance_uid,
                )
            )
            step_id = step["id"] if step else self._begin(gateway_id, message, at)
            known = self._first(
                PerformedProcedureEntry.select(PerformedProcedureEntry.sha256).where(
                    PerformedProcedureEntry.procedure == step_id,
                    PerformedProcedureEntry.number == message.number,
                )
            )
            if known is not None:
                if known["sha256"] != digest:
                    raise UnusableMessageError("another message is here under this step and number")
                return False
            PerformedProcedureEntry.insert(
                procedure=step_id,
                number=message.number,
                operation=message.operation.value,
                received_at_utc=at,
                transfer_syntax_uid=message.transfer_syntax_uid,
                data_set=message.data_set,
                sha256=digest,
            ).execute(self._db)
            changes: dict[str, str] = {"changed_at_utc": at}
            if facts.status and (step is None or step["status"] == StepStatus.IN_PROGRESS):
                changes["status"] = facts.status.value
            PerformedProcedure.update(**changes).where(PerformedProcedure.id == step_id).execute(self._db)
        return True

    def standing(self, gateway_id: str, sop_instance_uid: str) -> tuple[StepStatus, int] | None:
        """How a step stands and the number of its last message; None if there is no such step."""
        step = self._first(
            PerformedProcedure.select().where(
                PerformedProcedure.gateway_id == gateway_id,
                PerformedProcedure.sop_instance_uid == sop_instance_uid,
            )
        )
        if step is None:
            return None
        last = PerformedProcedureEntry.select(peewee.fn.MAX(PerformedProcedureEntry.number)).where(
            PerformedProcedureEntry.procedure == step["id"]
        )
        return StepStatus(step["status"]), int(last.scalar(self._db) or 0)

    def messages(self, gateway_id: str, sop_instance_uid: str) -> list[tuple[str, bytes]]:
        """Transfer syntax and data set of each message of a step, the first first."""
        query = (
            PerformedProcedureEntry.select(
                PerformedProcedureEntry.transfer_syntax_uid, PerformedProcedureEntry.data_set
            )
            .join(PerformedProcedure)
            .where(
                PerformedProcedure.gateway_id == gateway_id,
                PerformedProcedure.sop_instance_uid == sop_instance_uid,
            )
            .order_by(PerformedProcedureEntry.number)
        )
        return [(syntax, bytes(data_set)) for syntax, data_set in query.tuples().execute(self._db)]

    def _begin(self, gateway_id: str, message: PerformedProcedureMessage, at: str) -> int:
        step_id: int = PerformedProcedure.insert(
            gateway_id=gateway_id,
            sop_instance_uid=message.sop_instance_uid,
            status=StepStatus.IN_PROGRESS.value,
            calling_ae_title=message.calling_ae_title,
            first_at_utc=at,
            changed_at_utc=at,
        ).execute(self._db)
        return step_id

    def _first(self, query: Any) -> dict[str, Any] | None:
        rows: list[dict[str, Any]] = list(query.limit(1).dicts().execute(self._db))
        return rows[0] if rows else None
