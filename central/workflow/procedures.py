"""Performed procedure steps as the boxes relay them.

Always true: a message is kept once, under gateway, step and number, in the modality's own bytes; a repetition is
recognized; a step that ended stays ended whatever comes later. A crash leaves whole messages.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import peewee

from central.database import Database
from central.workflow.data_sets import StepFacts
from central.workflow.errors import UnusableMessageError
from central.workflow.tables import (
    PerformedProcedure,
    PerformedProcedureEntry,
    PerformedProcedureStudy,
    make_workflow_tables,
)
from contract.workflow import PerformedProcedureMessage, StepStatus


@dataclass(frozen=True)
class Procedure:
    """A step as central knows it. `messages` are (number, operation, bytes as the modality sent them)."""

    gateway_id: str
    sop_instance_uid: str
    status: StepStatus
    study_instance_uids: tuple[str, ...]
    first_at_utc: datetime
    changed_at_utc: datetime
    messages: tuple[tuple[int, str, bytes], ...]


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
            for study in facts.study_instance_uids:
                PerformedProcedureStudy.insert(
                    procedure=step_id, study_instance_uid=study
                ).on_conflict_ignore().execute(self._db)
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

    def of_study(self, study_instance_uid: str) -> list[Procedure]:
        """Every step of a study, the first begun first."""
        query = (
            PerformedProcedure.select()
            .join(PerformedProcedureStudy)
            .where(PerformedProcedureStudy.study_instance_uid == study_instance_uid)
            .order_by(PerformedProcedure.id)
        )
        return [self._procedure(row) for row in query.dicts().execute(self._db)]

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

    def _procedure(self, row: dict[str, Any]) -> Procedure:
        studies = PerformedProcedureStudy.select(PerformedProcedureStudy.study_instance_uid).where(
            PerformedProcedureStudy.procedure == row["id"]
        )
        entries = (
            PerformedProcedureEntry.select(
                PerformedProcedureEntry.number,
                PerformedProcedureEntry.operation,
                PerformedProcedureEntry.data_set,
            )
            .where(PerformedProcedureEntry.procedure == row["id"])
            .order_by(PerformedProcedureEntry.number)
        )
        return Procedure(
            gateway_id=row["gateway_id"],
            sop_instance_uid=row["sop_instance_uid"],
            status=StepStatus(row["status"]),
            study_instance_uids=tuple(uid for (uid,) in studies.tuples().execute(self._db)),
            first_at_utc=datetime.fromisoformat(row["first_at_utc"]),
            changed_at_utc=datetime.fromisoformat(row["changed_at_utc"]),
            messages=tuple(
                (number, operation, bytes(data_set))
                for number, operation, data_set in entries.tuples().execute(self._db)
            ),
        )

    def _first(self, query: Any) -> dict[str, Any] | None:
        rows: list[dict[str, Any]] = list(query.limit(1).dicts().execute(self._db))
        return rows[0] if rows else None
