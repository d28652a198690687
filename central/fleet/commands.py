"""What administrators told the boxes to do, and what became of it.

    waiting ──given to the box──▶ sent ──its event──▶ done | failed | refused
        └────────────── nothing by `expires_at_utc` ──────────────▶ expired

Always true: a command is on record before it leaves, with who gave it; it is given again to a box that comes online
before it expires (the box absorbs repetitions); its answer counts once, and only from the box it was for. What a
crash leaves: commands as they were; one that was not yet given is given when the box speaks next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import peewee

from central.database import Database, make_tables
from contract.command import MAX_COMMAND_LIFE_S, Command, CommandKind, new_command_id
from contract.heartbeat import CommandAnswer

LIFE: Final = timedelta(seconds=300)
KEPT_FOR: Final = timedelta(days=90)
assert timedelta(seconds=MAX_COMMAND_LIFE_S) >= LIFE


class BoxCommand(peewee.Model):
    """One command. `outcome` null: not answered."""

    id = peewee.TextField(primary_key=True)
    gateway_id = peewee.TextField(index=True)
    kind = peewee.TextField()
    params = peewee.TextField()
    issued_by = peewee.TextField()
    issued_at_utc = peewee.TextField()
    expires_at_utc = peewee.TextField()
    sent_at_utc = peewee.TextField(null=True)
    answered_at_utc = peewee.TextField(null=True)
    outcome = peewee.TextField(null=True)
    detail = peewee.TextField(default="")

    class Meta:
        table_name = "box_command"


@dataclass(frozen=True)
class GivenCommand:
    """`state`: waiting, sent, done, failed, refused or expired."""

    id: str
    kind: str
    params: Mapping[str, str]
    issued_by: str
    issued_at_utc: datetime
    state: str
    detail: str


class Commands:
    """The book of them. Safe to call from many threads."""

    def __init__(self, db: Database, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._db = db
        self._clock = clock
        make_tables(db, [BoxCommand])

    def issue(self, gateway_id: str, kind: CommandKind, params: Mapping[str, str], issued_by: str) -> Command:
        """Put a new command on record."""
        now = self._clock()
        command = Command(
            id=new_command_id(),
            kind=kind.value,
            issued_at_utc=now,
            expires_at_utc=now + LIFE,
            params=dict(params),
        )
        with self._db.writing():
            BoxCommand.delete().where(BoxCommand.issued_at_utc < (now - KEPT_FOR).isoformat()).execute(
                self._db
            )
            BoxCommand.insert(
                id=command.id,
                gateway_id=gateway_id,
                kind=command.kind,
                params=json.dumps(command.params),
                issued_by=issued_by,
                issued_at_utc=now.isoformat(),
                expires_at_utc=command.expires_at_utc.isoformat(),
            ).execute(self._db)
        return command

    def waiting(self, gateway_id: str) -> list[Command]:
        """What the box should have: not answered, not expired; the oldest first."""
        query = (
            BoxCommand.select()
            .where(
                (BoxCommand.gateway_id == gateway_id)
                & BoxCommand.outcome.is_null()
                & (BoxCommand.expires_at_utc > self._clock().isoformat())
            )
            .order_by(BoxCommand.issued_at_utc)
            .limit(16)
        )
        return [
            Command(
                id=row["id"],
                kind=row["kind"],
                issued_at_utc=datetime.fromisoformat(row["issued_at_utc"]),
                expires_at_utc=datetime.fromisoformat(row["expires_at_utc"]),
                params=json.loads(row["params"]),
            )
            for row in query.dicts().execute(self._db)
        ]

    def note_sent(self, command_id: str) -> None:
        """It was handed to the line."""
        BoxCommand.update(sent_at_utc=self._clock().isoformat()).where(
            (BoxCommand.id == command_id) & BoxCommand.sent_at_utc.is_null()
        ).execute(self._db)

    def note_answer(self, gateway_id: str, answer: CommandAnswer, detail: str) -> bool:
        """Keep a box's answer; False when it is to nothing it was asked, or not the first."""
        changed = (
            BoxCommand.update(
                outcome=answer.outcome.value, detail=detail, answered_at_utc=self._clock().isoformat()
            )
            .where(
                (BoxCommand.id == answer.command_id)
                & (BoxCommand.gateway_id == gateway_id)
                & BoxCommand.outcome.is_null()
            )
            .execute(self._db)
        )
        return bool(changed)

    def is_open(self, gateway_id: str, command_id: str, kind: CommandKind) -> bool:
        """Whether this box was told this and may still answer, within an hour of the command."""
        row = self._row(command_id)
        return (
            row is not None
            and (row["gateway_id"], row["kind"]) == (gateway_id, kind.value)
            and self._clock() - datetime.fromisoformat(row["issued_at_utc"]) < timedelta(hours=1)
        )

    def last(self, gateway_id: str, limit: int) -> list[GivenCommand]:
        """The newest first."""
        query = (
            BoxCommand.select()
            .where(BoxCommand.gateway_id == gateway_id)
            .order_by(BoxCommand.issued_at_utc.desc())
            .limit(limit)
        )
        return [self._given(row) for row in query.dicts().execute(self._db)]

    def _given(self, row: dict[str, Any]) -> GivenCommand:
        state, detail = row["outcome"], row["detail"]
        if state is None:
            state = "sent" if row["sent_at_utc"] else "waiting"
            if row["expires_at_utc"] <= self._clock().isoformat():
                state, detail = "expired", "the box did not answer in time; give the command again"
        return GivenCommand(
            row["id"],
            row["kind"],
            json.loads(row["params"]),
            row["issued_by"],
            datetime.fromisoformat(row["issued_at_utc"]),
            state,
            detail,
        )

    def _row(self, command_id: str) -> dict[str, Any] | None:
        query = BoxCommand.select().where(BoxCommand.id == command_id)
        return next(iter(query.dicts().execute(self._db)), None)
