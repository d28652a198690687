"""How each box stands: which key set it has, which keys it still needs, and whether it is one box.

Each exchange gives the box a new ticket. Central keeps the last one it gave and the one that was shown for it, because
an answer may be lost: the box then shows the former once more. Whoever shows neither has another box's identity,
or a copy of its disk: both are told, and it is seen at central until one of them is enrolled anew.

A ticket is a moment and a mark that only central can make for that gateway. So a ticket of this central that is *later*
than the last on record says something else: central was set back to a backup and has forgotten giving it. A copied box
never has one, for whatever its twin was given is on record.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import peewee

from central.database import Database, make_tables, put
from central.identity.gateways import Gateways
from contract.standing import StandingReport

SEEN_TWICE_FOR: Final = timedelta(days=1)
_MOMENT_DIGITS: Final = 12  # milliseconds since 1970, in hex; 80 bits of mark follow
_TICKET_DIGITS: Final = 32
_log = logging.getLogger(__name__)


class GatewayStanding(peewee.Model):
    """The last exchange with a gateway. `shown_ticket` null: it was the first."""

    gateway_id = peewee.TextField(primary_key=True)
    reported_at_utc = peewee.TextField()
    key_set_version = peewee.BigIntegerField()
    needed_key_ids = peewee.TextField()  # JSON
    given_ticket = peewee.TextField()
    shown_ticket = peewee.TextField(null=True)
    seen_twice_at_utc = peewee.TextField(null=True)

    class Meta:
        table_name = "gateway_standing"


@dataclass(frozen=True)
class Standing:
    """What is known of a box. `reported_at_utc` None: it never said anything."""

    gateway_id: str
    revoked: bool
    reported_at_utc: datetime | None = None
    key_set_version: int = 0
    needed_key_ids: frozenset[str] = frozenset()
    seen_twice: bool = False


class Standings:
    """Safe to call from many threads and beside other processes on the same database.

    Parameters
    ----------
    ticket_key : secret, and the same for as long as central is; not in the database, which may be set back.
    """

    def __init__(
        self, db: Database, gateways: Gateways, ticket_key: bytes, clock: Callable[[], float] = time.time
    ) -> None:
        self._db = db
        self._gateways = gateways
        self._ticket_key = ticket_key
        self._clock = clock
        make_tables(db, [GatewayStanding])

    def exchange(self, gateway_id: str, report: StandingReport) -> tuple[str, bool, bool]:
        """Keep the report; returns the box's next ticket, whether its identity was seen twice, and whether that
        is news."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        with self._db.writing():
            held = self._row(gateway_id)
            on_record = (held["given_ticket"], held["shown_ticket"]) if held else ()
            shown_ms = self._moment_ms(gateway_id, report.ticket)
            given_ms = max((self._moment_ms(gateway_id, ticket) for ticket in on_record), default=0)
            ticket = self._ticket(gateway_id, max(int(now.timestamp() * 1000), shown_ms + 1, given_ms + 1))
            since = held and held["seen_twice_at_utc"]
            recent = bool(since and now - datetime.fromisoformat(since) < SEEN_TWICE_FOR)
            forgotten = held is not None and report.ticket not in on_record
            set_back = forgotten and shown_ms > given_ms
            strange = forgotten and not set_back
            row = {
                "gateway_id": gateway_id,
                "reported_at_utc": now.isoformat(),
                "key_set_version": report.key_set_version,
                "needed_key_ids": json.dumps(sorted(report.needed_key_ids)),
                "given_ticket": ticket,
                "shown_ticket": report.ticket,
                "seen_twice_at_utc": now.isoformat() if strange else since,
            }
            put(self._db, GatewayStanding, row)
        if set_back:
            _log.warning("central was set back: a box has a later ticket gateway_id=%s", gateway_id)
        return ticket, strange or recent, strange and not recent

    def _ticket(self, gateway_id: str, moment_ms: int) -> str:
        moment = f"{moment_ms:0{_MOMENT_DIGITS}x}"
        mark = hmac.new(self._ticket_key, f"{gateway_id}/{moment}".encode(), hashlib.sha256)
        return moment + mark.hexdigest()[: _TICKET_DIGITS - _MOMENT_DIGITS]

    def _moment_ms(self, gateway_id: str, ticket: str | None) -> int:
        """When this central gave a ticket to this gateway; 0 if it did not, or by a former version."""
        if ticket is None:
            return 0
        moment_ms = int(ticket[:_MOMENT_DIGITS], 16)
        return moment_ms if hmac.compare_digest(self._ticket(gateway_id, moment_ms), ticket) else 0

    def forget(self, gateway_id: str) -> None:
        """The gateway's box was enrolled anew: its next report is the first."""
        GatewayStanding.delete().where(GatewayStanding.gateway_id == gateway_id).execute(self._db)

    def all(self) -> list[Standing]:
        """Every gateway by id, also those that never reported."""
        now = datetime.fromtimestamp(self._clock(), UTC)
        return [self._standing(record.gateway_id, record.revoked_at_utc is not None, now)
                for record in self._gateways.listed()]  # fmt: skip

    def who_may_need(self, key_id: str, retired_in_version: int) -> dict[str, str]:
        """Gateways that may hold objects sealed for this key, each with the reason, as far as central can know.

        A box says with every exchange which keys its objects need. So the key is out of use at a box that has
        a set in which the key is retired, and does not name it any more. A box that never reported may have it.
        """
        reasons: dict[str, str] = {}
        for standing in self.all():
            if standing.reported_at_utc is None:
                reasons[standing.gateway_id] = "never said which keys it needs"
            elif key_id in standing.needed_key_ids:
                reasons[standing.gateway_id] = (
                    f"needs it, as of {standing.reported_at_utc:%Y-%m-%d %H:%M} UTC"
                )
            elif standing.key_set_version < retired_in_version:
                reasons[standing.gateway_id] = (
                    f"has key set {standing.key_set_version}, in which the key is in use, "
                    f"as of {standing.reported_at_utc:%Y-%m-%d %H:%M} UTC"
                )
        return reasons

    def _standing(self, gateway_id: str, revoked: bool, now: datetime) -> Standing:
        row = self._row(gateway_id)
        if row is None:
            return Standing(gateway_id, revoked)
        since = row["seen_twice_at_utc"]
        return Standing(
            gateway_id,
            revoked,
            datetime.fromisoformat(row["reported_at_utc"]),
            row["key_set_version"],
            frozenset(json.loads(row["needed_key_ids"])),
            bool(since and now - datetime.fromisoformat(since) < SEEN_TWICE_FOR),
        )

    def _row(self, gateway_id: str) -> dict[str, Any] | None:
        query = GatewayStanding.select().where(GatewayStanding.gateway_id == gateway_id).limit(1)
        return next(iter(query.dicts().execute(self._db)), None)
