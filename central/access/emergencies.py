"""Studies that a doctor opened in an emergency, against the rules, with a reason that is looked at afterwards.

What is always true: an opening names the person, the study and the reason, ends by itself, and stays here whatever
comes of it; it is reviewed once. A person opens at most `MAX_A_DAY` studies in 24 hours: who needs more needs another
right. Whether a study may be opened so is the policy's to say (`Action.BREAK_GLASS`).

What a crash leaves: whole rows.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import peewee

from central.access.account_directory import UserAccount
from central.access.errors import AccessRuleError
from central.database import Database, make_tables
from central.prepared import Prepared, given

Verdict = Literal["justified", "not-justified"]
MIN_REASON_CHARACTERS: Final = 10
MAX_REASON_CHARACTERS: Final = 1000
MAX_A_DAY: Final = 10
_DAY_S: Final = 86400
_PAGE_ROWS: Final = 200


class EmergencyOpening(peewee.Model):
    """Table ``emergency_opening``. Times are seconds since 1970; the last four columns are null until the review."""

    opening_id = peewee.CharField(primary_key=True)
    study_instance_uid = peewee.CharField()
    user_id = peewee.CharField(index=True)
    reason = peewee.TextField()
    opened_at_utc = peewee.BigIntegerField(index=True)
    until_utc = peewee.BigIntegerField()
    verdict = peewee.CharField(null=True, index=True)
    comment = peewee.TextField(null=True)
    reviewed_by = peewee.TextField(null=True)
    reviewed_at_utc = peewee.BigIntegerField(null=True)

    class Meta:
        table_name = "emergency_opening"


_OPEN_TO: Final = Prepared(
    EmergencyOpening.select(EmergencyOpening.study_instance_uid).where(
        EmergencyOpening.user_id == given("user_id"), EmergencyOpening.until_utc > given("now")
    )
)


@dataclass(frozen=True)
class Opening:
    """One opening, and its review if there was one."""

    opening_id: str
    study_instance_uid: str
    username: str
    reason: str
    opened_at_utc: int
    until_utc: int
    verdict: Verdict | None
    comment: str | None
    reviewed_by: str | None
    reviewed_at_utc: int | None


class Emergencies:
    """Openings in `db`; safe to call from every thread."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    def open(cls, db: Database, clock: Callable[[], float] = time.time) -> Emergencies:
        """Make the table if it is missing. `clock` gives UTC seconds since 1970."""
        make_tables(db, [EmergencyOpening])
        return cls(db, clock)

    def check(self, user_id: str, reason: str) -> None:
        """Whether this person may open one more for this reason.

        Raises
        ------
        AccessRuleError : the reason is too short or too long, or there were too many today.
        """
        if not MIN_REASON_CHARACTERS <= len(reason) <= MAX_REASON_CHARACTERS:
            raise AccessRuleError(
                f"say why, in {MIN_REASON_CHARACTERS} to {MAX_REASON_CHARACTERS} characters"
            )
        today = (EmergencyOpening.user_id == user_id) & (
            EmergencyOpening.opened_at_utc > int(self._clock()) - _DAY_S
        )
        if EmergencyOpening.select().where(today).count(self._db) >= MAX_A_DAY:
            raise AccessRuleError(f"{MAX_A_DAY} studies in 24 hours is the most; ask an administrator")

    def open_study(self, study_instance_uid: str, user_id: str, reason: str, life_s: int) -> int:
        """Open the study to this person for `life_s` seconds. Raises as `check`.

        Returns
        -------
        int : when it ends, in seconds since 1970.
        """
        with self._db.writing():
            self.check(user_id, reason)
            now = int(self._clock())
            EmergencyOpening.insert(
                opening_id=uuid.uuid4().hex,
                study_instance_uid=study_instance_uid,
                user_id=user_id,
                reason=reason,
                opened_at_utc=now,
                until_utc=now + life_s,
            ).execute(self._db)
        return now + life_s

    def of(self, user_id: str) -> frozenset[str]:
        """Study Instance UIDs that are open to this person now."""
        rows = _OPEN_TO.rows(self._db, user_id=user_id, now=int(self._clock()))
        return frozenset(row["study_instance_uid"] for row in rows)

    def listed(self, user_id: str | None = None, institution: str | None = None) -> list[Opening]:
        """What is not reviewed first, then the newest first, at most 200: all, or those of one person or institution,
        which is the one whose people opened them."""
        mine = [EmergencyOpening.user_id == user_id] if user_id is not None else []
        return self._listed(*mine, *_by_people_of(institution))

    def open_now(self, user_id: str, study_instance_uid: str) -> list[Opening]:
        """By what this study is open to this person now."""
        return self._listed(
            EmergencyOpening.user_id == user_id,
            EmergencyOpening.study_instance_uid == study_instance_uid,
            EmergencyOpening.until_utc > int(self._clock()),
        )

    def get(self, opening_id: str, institution: str | None = None) -> Opening | None:
        here = EmergencyOpening.opening_id == opening_id
        return next(iter(self._listed(here, *_by_people_of(institution))), None)

    def unreviewed(self, institution: str | None = None) -> int:
        query = EmergencyOpening.select(EmergencyOpening.opening_id).join(
            UserAccount, on=UserAccount.user_id == EmergencyOpening.user_id
        )
        waiting = query.where(EmergencyOpening.verdict.is_null(), *_by_people_of(institution))
        return int(waiting.count(self._db))

    def review(self, opening_id: str, reviewed_by: str, verdict: Verdict, comment: str) -> bool:
        """Put the verdict in; False if there is no such opening without one."""
        update = EmergencyOpening.update(
            verdict=verdict,
            comment=comment,
            reviewed_by=reviewed_by,
            reviewed_at_utc=int(self._clock()),
        ).where(EmergencyOpening.opening_id == opening_id, EmergencyOpening.verdict.is_null())
        return bool(update.execute(self._db))

    def _listed(self, *conditions: Any) -> list[Opening]:
        columns = [field for name, field in EmergencyOpening._meta.fields.items() if name != "user_id"]
        query = (
            EmergencyOpening.select(*columns, UserAccount.username)
            .join(UserAccount, on=UserAccount.user_id == EmergencyOpening.user_id)
            .order_by(EmergencyOpening.verdict.is_null().desc(), EmergencyOpening.opened_at_utc.desc())
            .limit(_PAGE_ROWS)
        )
        if conditions:
            query = query.where(*conditions)
        return [Opening(**row) for row in query.dicts().execute(self._db)]


def _by_people_of(institution: str | None) -> list[peewee.Expression]:
    return [UserAccount.institution == institution] if institution is not None else []
