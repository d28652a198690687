"""Performed procedure steps as modalities reported them: durable before they are answered, on their way to central.

Every accepted message (one N-CREATE, then N-SETs) is one row of `services.sqlite3`, its data set sealed under the
device key. Always true: a step changes by the table below and no other way; messages leave in the order in which
they came; a message is deleted here only after central has it, so a crash costs a repetition, which central
recognizes by step and number.

| message          | from        | to                                   |
|------------------|-------------|--------------------------------------|
| create           | (unknown)   | IN PROGRESS                          |
| set              | IN PROGRESS | IN PROGRESS, COMPLETED, DISCONTINUED |
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntFlag
from typing import Final

from peewee import fn

from contract.workflow import Operation, StepStatus
from edge.buffer.device_key import DeviceKey, NotSealedHereError
from edge.buffer.errors import PermanentSpoolError, TransientSpoolError
from edge.buffer.procedure_rows import MessageState, ProcedureMessage, ProcedureStep
from edge.buffer.service_database import ServiceDatabase
from edge.buffer.tables import utc_from_text, utc_text

MAX_WAITING_MESSAGES: Final = 10_000
MAX_WAITING_BYTES: Final = 256 << 20
KEPT_AFTER_END: Final = timedelta(days=30)
"""How long an ended step is remembered, so that a modality that repeats itself is told so."""

KEPT_WITHOUT_END: Final = timedelta(days=90)
"""For steps whose modality was switched off in the middle, and for messages that central refused."""

_PRUNE_EVERY_S: Final = 86_400.0


class FinalAttribute(IntFlag):
    """What a step must have said by the time it ends (PS3.4 Table F.7.2-1, final state), by whichever message."""

    END_DATE = 1
    END_TIME = 2
    SERIES = 4


_NEEDED: Final = {
    StepStatus.IN_PROGRESS: FinalAttribute(0),
    StepStatus.COMPLETED: FinalAttribute.END_DATE | FinalAttribute.END_TIME | FinalAttribute.SERIES,
    # Whatever was broken off need not have come as far as a series.
    StepStatus.DISCONTINUED: FinalAttribute.END_DATE | FinalAttribute.END_TIME,
}


class DuplicateStepError(PermanentSpoolError):
    """There is a step of this SOP Instance UID already."""


class UnknownStepError(PermanentSpoolError):
    """There is no step of this SOP Instance UID."""


class StepEndedError(PermanentSpoolError):
    """The step was completed or discontinued and may no longer be updated."""


class IncompleteStepError(PermanentSpoolError):
    """The step cannot end like this.

    Attributes
    ----------
    missing : what no message of it has said.
    """

    def __init__(self, missing: FinalAttribute) -> None:
        super().__init__("the procedure step ends without all that its final state needs")
        self.missing = missing


class TooManyMessagesError(TransientSpoolError):
    """More waits for central than this box keeps."""


@dataclass(frozen=True)
class WaitingMessage:
    """The oldest message that central does not have, opened.

    Attributes
    ----------
    number : 0 for the N-CREATE, counting up by step.
    """

    sequence: int
    sop_instance_uid: str
    number: int
    operation: Operation
    transfer_syntax_uid: str
    calling_ae_title: str
    received_at_utc: datetime
    data_set: bytes


@dataclass(frozen=True)
class ProceduresState:
    """For the technician: messages that wait, those that central refused, and since when the oldest waits."""

    waiting: int
    refused: int
    oldest_at_utc: datetime | None
    last_reason: str


class PerformedProcedures:
    """Safe from any thread."""

    def __init__(self, database: ServiceDatabase, key: DeviceKey) -> None:
        database.declare([ProcedureStep, ProcedureMessage])
        self._database = database
        self._key = key
        self._changed = threading.Condition()
        self._news = 0
        self._prune_at_s = time.monotonic()

    def create(
        self,
        sop_instance_uid: str,
        data_set: bytes,
        *,
        supplies: FinalAttribute,
        transfer_syntax_uid: str,
        calling_ae_title: str,
    ) -> None:
        """Accept an N-CREATE; it survives a power cut when this returns.

        Raises
        ------
        DuplicateStepError, TooManyMessagesError
        DiskFullError, StorageFailedError, SpoolClosedError : nothing was accepted.
        """
        now = utc_text(datetime.now(UTC))
        sealed = self._seal(sop_instance_uid, 0, data_set)
        with self._database.transaction():
            self._prune()
            if self._find(sop_instance_uid) is not None:
                raise DuplicateStepError(f"there is a procedure step {sop_instance_uid} already")
            self._check_room(len(sealed))
            ProcedureStep.insert(
                sop_instance_uid=sop_instance_uid,
                status=StepStatus.IN_PROGRESS,
                supplied=supplies,
                messages=1,
                calling_ae_title=calling_ae_title,
                changed_at_utc=now,
            ).execute(self._database.db)
            self._insert(
                sop_instance_uid, 0, Operation.CREATE, sealed, transfer_syntax_uid, calling_ae_title, now
            )
        self._tell()

    def set(
        self,
        sop_instance_uid: str,
        data_set: bytes,
        *,
        status: StepStatus | None,
        supplies: FinalAttribute,
        transfer_syntax_uid: str,
        calling_ae_title: str,
    ) -> None:
        """Accept an N-SET; `status` is what it changes the step to, None if it leaves it.

        Raises
        ------
        UnknownStepError, StepEndedError, IncompleteStepError, TooManyMessagesError
        DiskFullError, StorageFailedError, SpoolClosedError : nothing was accepted.
        """
        now = utc_text(datetime.now(UTC))
        with self._database.transaction():
            step = self._find(sop_instance_uid)
            if step is None:
                raise UnknownStepError(f"there is no procedure step {sop_instance_uid}")
            if step.status != StepStatus.IN_PROGRESS:
                raise StepEndedError(f"the procedure step {sop_instance_uid} is {step.status}")
            supplied = supplies | step.supplied
            missing = _NEEDED[status or StepStatus.IN_PROGRESS] & ~supplied
            if missing:
                raise IncompleteStepError(missing)
            sealed = self._seal(sop_instance_uid, step.messages, data_set)
            self._check_room(len(sealed))
            ProcedureStep.update(
                status=status or StepStatus.IN_PROGRESS,
                supplied=supplied,
                messages=step.messages + 1,
                changed_at_utc=now,
            ).where(ProcedureStep.sop_instance_uid == sop_instance_uid).execute(self._database.db)
            self._insert(
                sop_instance_uid,
                step.messages,
                Operation.SET,
                sealed,
                transfer_syntax_uid,
                calling_ae_title,
                now,
            )
        self._tell()

    def next_waiting(self) -> WaitingMessage | None:
        """The oldest message that central does not have. One that does not open any more is put among the refused."""
        while True:
            with self._database.reading():
                row = next(
                    iter(
                        ProcedureMessage.select()
                        .where(ProcedureMessage.state == MessageState.WAITING)
                        .order_by(ProcedureMessage.sequence)
                        .limit(1)
                        .execute(self._database.db)
                    ),
                    None,
                )
            if row is None:
                return None
            try:
                data_set = self._key.open(bytes(row.sealed), _context(row.sop_instance_uid, row.number))
            except NotSealedHereError as error:
                self.refuse(row.sequence, str(error))
                continue
            return WaitingMessage(
                sequence=row.sequence,
                sop_instance_uid=row.sop_instance_uid,
                number=row.number,
                operation=Operation(row.operation),
                transfer_syntax_uid=row.transfer_syntax_uid,
                calling_ae_title=row.calling_ae_title,
                received_at_utc=utc_from_text(row.received_at_utc),
                data_set=data_set,
            )

    def delivered(self, sequence: int) -> None:
        """Central has it: it goes from here."""
        with self._database.transaction():
            ProcedureMessage.delete().where(ProcedureMessage.sequence == sequence).execute(self._database.db)

    def refuse(self, sequence: int, reason: str) -> None:
        """Central will not have it, whatever is tried. It is kept, and no longer in the way of others."""
        with self._database.transaction():
            ProcedureMessage.update(state=MessageState.REFUSED, reason=reason[:500]).where(
                ProcedureMessage.sequence == sequence
            ).execute(self._database.db)

    def wait_for_news(self, seen: int, timeout_s: float | None) -> int:
        """Block until something was accepted since `seen` (a former return value, 0 at first), or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._news != seen, timeout_s)
            return self._news

    def wake(self) -> None:
        """Let `wait_for_news` return, since the box stops or the line is back."""
        self._tell()

    def state(self) -> ProceduresState:
        with self._database.reading():
            counts = dict(
                ProcedureMessage.select(ProcedureMessage.state, fn.COUNT())
                .group_by(ProcedureMessage.state)
                .tuples()
                .execute(self._database.db)
            )
            oldest = (
                ProcedureMessage.select(fn.MIN(ProcedureMessage.received_at_utc))
                .where(ProcedureMessage.state == MessageState.WAITING)
                .scalar(self._database.db)
            )
            reason = (
                ProcedureMessage.select(ProcedureMessage.reason)
                .where(ProcedureMessage.state == MessageState.REFUSED)
                .order_by(ProcedureMessage.sequence.desc())
                .limit(1)
                .scalar(self._database.db)
            )
        return ProceduresState(
            waiting=counts.get(MessageState.WAITING, 0),
            refused=counts.get(MessageState.REFUSED, 0),
            oldest_at_utc=utc_from_text(oldest) if oldest else None,
            last_reason=reason or "",
        )

    def _seal(self, sop_instance_uid: str, number: int, data_set: bytes) -> bytes:
        return self._key.seal(data_set, _context(sop_instance_uid, number))

    def _find(self, sop_instance_uid: str) -> ProcedureStep | None:
        rows = ProcedureStep.select().where(ProcedureStep.sop_instance_uid == sop_instance_uid).limit(1)
        return next(iter(rows.execute(self._database.db)), None)

    def _check_room(self, size_bytes: int) -> None:
        count, held = next(
            iter(
                ProcedureMessage.select(fn.COUNT(), fn.COALESCE(fn.SUM(ProcedureMessage.size_bytes), 0))
                .tuples()
                .execute(self._database.db)
            )
        )
        if count >= MAX_WAITING_MESSAGES or held + size_bytes > MAX_WAITING_BYTES:
            raise TooManyMessagesError(f"{count} messages about procedure steps wait for central already")

    def _insert(
        self,
        sop_instance_uid: str,
        number: int,
        operation: Operation,
        sealed: bytes,
        transfer_syntax_uid: str,
        calling_ae_title: str,
        now: str,
    ) -> None:
        ProcedureMessage.insert(
            sop_instance_uid=sop_instance_uid,
            number=number,
            operation=operation,
            state=MessageState.WAITING,
            transfer_syntax_uid=transfer_syntax_uid,
            calling_ae_title=calling_ae_title,
            received_at_utc=now,
            sealed=sealed,
            size_bytes=len(sealed),
        ).execute(self._database.db)

    def _tell(self) -> None:
        with self._changed:
            self._news += 1
            self._changed.notify_all()

    def _prune(self) -> None:
        """Once a day, forget steps that are over for long, and what central refused long ago."""
        if time.monotonic() < self._prune_at_s:
            return
        self._prune_at_s = time.monotonic() + _PRUNE_EVERY_S
        now = datetime.now(UTC)
        abandoned_before = utc_text(now - KEPT_WITHOUT_END)
        ProcedureMessage.delete().where(
            ProcedureMessage.state == MessageState.REFUSED,
            ProcedureMessage.received_at_utc < abandoned_before,
        ).execute(self._database.db)
        ended = (ProcedureStep.status != StepStatus.IN_PROGRESS) & (
            ProcedureStep.changed_at_utc < utc_text(now - KEPT_AFTER_END)
        )
        abandoned = ProcedureStep.changed_at_utc < abandoned_before
        held = ProcedureMessage.select(ProcedureMessage.sop_instance_uid)
        ProcedureStep.delete().where(ended | abandoned, ProcedureStep.sop_instance_uid.not_in(held)).execute(
            self._database.db
        )


def _context(sop_instance_uid: str, number: int) -> str:
    return f"mpps {sop_instance_uid} {number}"
