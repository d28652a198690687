"""Links that let somebody without an account look at one study.

Why it exists: a colleague elsewhere, or a relative, gets to see one study without an account that somebody would
have to end again.

What is always true
-------------------
- The token is in the link and nowhere else: here is its SHA-256, and of the PIN argon2id.
- A link ends by its time, by its number of uses, by hand, or after `MAX_WRONG_PINS` wrong PINs; a session that came by
  it ends with its time or by hand, too. A PIN's try counts before it is looked at.
- What a guest sees is the policy's to say, from who made the link (`policy.Invitation`).

What a crash leaves: whole rows; a use that was counted without a session may be lost, never the reverse.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import peewee

from central.access.account_directory import people_of
from central.access.errors import AccessRuleError
from central.access.hashes import SecretHashes, digest
from central.access.throttle import SignInThrottle
from central.database import Database, make_tables

DEFAULT_DAYS: Final = 7
MAX_DAYS: Final = 30
DEFAULT_USES: Final = 5
MAX_USES: Final = 100
MAX_WRONG_PINS: Final = 10
MAX_LINKS: Final = 200
MAX_NOTE_CHARACTERS: Final = 200
_PIN: Final = re.compile(r"[0-9]{6,12}")
_MAX_TOKEN_CHARACTERS: Final = 64


class GuestLink(peewee.Model):
    """Table ``guest_link``. Times are seconds since 1970; `pin_hash` "" when there is no PIN."""

    link_id = peewee.CharField(primary_key=True)
    token_sha256 = peewee.CharField(unique=True)
    pin_hash = peewee.CharField()
    study_instance_uid = peewee.CharField()
    host_user_id = peewee.CharField(index=True)
    note = peewee.TextField()
    made_at_utc = peewee.BigIntegerField()
    ends_at_utc = peewee.BigIntegerField()
    uses = peewee.BigIntegerField()
    max_uses = peewee.BigIntegerField()
    wrong_pins = peewee.BigIntegerField()
    ended_at_utc = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "guest_link"


@dataclass(frozen=True)
class Link:
    """A link that has not ended by time or by hand."""

    link_id: str
    study_instance_uid: str
    host_user_id: str
    note: str
    made_at_utc: int
    ends_at_utc: int
    uses: int
    max_uses: int
    wrong_pins: int
    has_pin: bool


@dataclass(frozen=True)
class Shut:
    """Why a link does not open; for the audit record only."""

    why: str
    link_id: str = ""


class GuestLinks:
    """Links in `db`; safe to call from every thread."""

    def __init__(self, db: Database, hashes: SecretHashes, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._hashes = hashes
        self._clock = clock
        self._throttle = SignInThrottle()

    @classmethod
    def open(cls, db: Database, hashes: SecretHashes, clock: Callable[[], float] = time.time) -> GuestLinks:
        """Make the table if it is missing. `clock` gives UTC seconds since 1970."""
        make_tables(db, [GuestLink])
        return cls(db, hashes, clock)

    def make(
        self,
        study_instance_uid: str,
        host_user_id: str,
        *,
        days: int = DEFAULT_DAYS,
        max_uses: int = DEFAULT_USES,
        pin: str = "",
        note: str = "",
    ) -> tuple[Link, str]:
        """A new link and its token (256 random bits), which is told this once.

        Raises
        ------
        AccessRuleError : days, uses, PIN or note out of bounds, or too many links of this host.
        """
        if not 1 <= days <= MAX_DAYS:
            raise AccessRuleError(f"a link lives 1 to {MAX_DAYS} days")
        if not 1 <= max_uses <= MAX_USES:
            raise AccessRuleError(f"a link is used 1 to {MAX_USES} times")
        if pin and not _PIN.fullmatch(pin):
            raise AccessRuleError("a PIN has 6 to 12 digits")
        if len(note) > MAX_NOTE_CHARACTERS:
            raise AccessRuleError(f"a note has at most {MAX_NOTE_CHARACTERS} characters")
        token, now = secrets.token_urlsafe(32), int(self._clock())
        row: dict[str, Any] = {
            "link_id": secrets.token_hex(8),
            "token_sha256": digest(token),
            "pin_hash": self._hashes.hash(pin) if pin else "",
            "study_instance_uid": study_instance_uid,
            "host_user_id": host_user_id,
            "note": note,
            "made_at_utc": now,
            "ends_at_utc": now + days * 86400,
            "uses": 0,
            "max_uses": max_uses,
            "wrong_pins": 0,
        }
        with self._db.writing():
            if self._live(GuestLink.host_user_id == host_user_id).count(self._db) >= MAX_LINKS:
                raise AccessRuleError(f"you have {MAX_LINKS} links; end some first")
            GuestLink.insert(**row).execute(self._db)
        return _link(row), token

    def knock(self, token: str, pin: str, address: str) -> Link | Shut:
        """The link of `token` if it opens with `pin`. It is not used up by that: see `use`.

        Raises
        ------
        ThrottledError : too many tries of this link or from this address.
        """
        token_sha256 = digest(token[: _MAX_TOKEN_CHARACTERS + 1])
        self._throttle.begin(token_sha256, address)
        row = self._one(self._live(GuestLink.token_sha256 == token_sha256))
        if row is None:
            return Shut("no such link, or it has ended")
        link = _link(row)
        if link.uses >= link.max_uses:
            return Shut("used up", link.link_id)
        if link.has_pin and not self._pin_is_right(link.link_id, row["pin_hash"], pin):
            return Shut("wrong PIN, or too many of them", link.link_id)
        self._throttle.succeed(token_sha256, address)
        return link

    def use(self, link_id: str) -> bool:
        """Count one use; False if none is left."""
        here = (GuestLink.link_id == link_id) & (GuestLink.uses < GuestLink.max_uses) & self._is_live()
        return bool(GuestLink.update(uses=GuestLink.uses + 1).where(here).execute(self._db))

    def live(self, link_id: str) -> Link | None:
        """The link, unless it has ended by time or by hand."""
        row = self._one(self._live(GuestLink.link_id == link_id))
        return _link(row) if row is not None else None

    def listed(self, host_user_id: str | None = None, institution: str | None = None) -> list[Link]:
        """What has not ended, the newest first: all, or those of one host, or of an institution's hosts."""
        mine = [GuestLink.host_user_id == host_user_id] if host_user_id is not None else []
        if institution is not None:
            mine.append(GuestLink.host_user_id.in_(people_of(institution)))
        query = self._live(*mine).order_by(GuestLink.made_at_utc.desc(), GuestLink.link_id)
        return [_link(row) for row in query.dicts().execute(self._db)]

    def to(self, study_instance_uid: str) -> list[Link]:
        """What has not ended and leads to this study, the newest first."""
        query = self._live(GuestLink.study_instance_uid == study_instance_uid)
        query = query.order_by(GuestLink.made_at_utc.desc(), GuestLink.link_id)
        return [_link(row) for row in query.dicts().execute(self._db)]

    def end(self, link_id: str) -> bool:
        """End a link and what came by it; False if it had ended."""
        update = GuestLink.update(ended_at_utc=int(self._clock()))
        return bool(update.where(GuestLink.link_id == link_id, self._is_live()).execute(self._db))

    def _pin_is_right(self, link_id: str, pin_hash: str, pin: str) -> bool:
        here = GuestLink.link_id == link_id
        counted = GuestLink.update(wrong_pins=GuestLink.wrong_pins + 1).where(
            here, GuestLink.wrong_pins < MAX_WRONG_PINS
        )
        if not counted.execute(self._db) or not self._hashes.matches(pin_hash, pin):
            return False
        GuestLink.update(wrong_pins=GuestLink.wrong_pins - 1).where(here).execute(self._db)
        return True

    def _is_live(self) -> Any:
        return GuestLink.ended_at_utc.is_null() & (GuestLink.ends_at_utc > int(self._clock()))

    def _live(self, *conditions: peewee.Expression) -> peewee.ModelSelect[GuestLink]:
        return GuestLink.select().where(self._is_live(), *conditions)

    def _one(self, query: peewee.ModelSelect[GuestLink]) -> dict[str, Any] | None:
        return next(iter(query.dicts().execute(self._db)), None)


def _link(row: dict[str, Any]) -> Link:
    return Link(
        link_id=row["link_id"],
        study_instance_uid=row["study_instance_uid"],
        host_user_id=row["host_user_id"],
        note=row["note"],
        made_at_utc=row["made_at_utc"],
        ends_at_utc=row["ends_at_utc"],
        uses=row["uses"],
        max_uses=row["max_uses"],
        wrong_pins=row["wrong_pins"],
        has_pin=bool(row["pin_hash"]),
    )
