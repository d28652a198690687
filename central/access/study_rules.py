"""Rules for one person and one study: access that was given until a time, and access that is refused.

What is always true: a rule names an account and a study as one institution holds it, says who made it and why, and ends
by its time or by hand; rows are kept when it ended. An account has at most `MAX_RULES` rules that hold, so that a
search stays one query.

What a crash leaves: whole rules.
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
from central.access.policy import Role, StudyKey
from central.database import Database, grow_table, make_tables
from central.institution import DEFAULT_INSTITUTION
from central.prepared import Prepared, given

Kind = Literal["grant", "refusal"]
MAX_RULES: Final = 500
MAX_REASON_CHARACTERS: Final = 500
_GRANTABLE: Final = {Role.DOCTOR.value, Role.PATIENT.value}


class StudyRule(peewee.Model):
    """Table ``study_rule``. Times are seconds since 1970; `until_utc` null: until it is ended by hand."""

    rule_id = peewee.CharField(primary_key=True)
    kind = peewee.CharField()
    study_instance_uid = peewee.CharField()
    user_id = peewee.CharField(index=True)
    until_utc = peewee.BigIntegerField(null=True)
    reason = peewee.TextField()
    made_by = peewee.TextField()
    made_at_utc = peewee.BigIntegerField()
    ended_at_utc = peewee.BigIntegerField(null=True)
    institution = peewee.TextField(default=DEFAULT_INSTITUTION)

    class Meta:
        table_name = "study_rule"


def _holds(now: Any) -> peewee.Expression:
    unending = StudyRule.until_utc.is_null() | (StudyRule.until_utc > now)
    holds: peewee.Expression = StudyRule.ended_at_utc.is_null() & unending
    return holds


_HOLDING_FOR: Final = Prepared(
    StudyRule.select(StudyRule.kind, StudyRule.study_instance_uid, StudyRule.institution).where(
        _holds(given("now")), StudyRule.user_id == given("user_id")
    )
)


@dataclass(frozen=True)
class Rule:
    """A rule that holds. `username` is whom it is for, `made_by` the username of who made it."""

    rule_id: str
    kind: str
    study_instance_uid: str
    username: str
    until_utc: int | None
    reason: str
    made_by: str
    made_at_utc: int
    institution: str


class StudyRules:
    """Rules in `db`; safe to call from every thread."""

    def __init__(self, db: Database, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock

    @classmethod
    def open(cls, db: Database, clock: Callable[[], float] = time.time) -> StudyRules:
        """Make the table if it is missing. `clock` gives UTC seconds since 1970."""
        grow_table(db, "study_rule", {"institution": f"TEXT NOT NULL DEFAULT '{DEFAULT_INSTITUTION}'"})
        make_tables(db, [StudyRule])
        return cls(db, clock)

    def add(
        self,
        kind: Kind,
        study_instance_uid: str,
        username: str,
        *,
        until_utc: int | None,
        reason: str,
        made_by: str,
        institution: str = DEFAULT_INSTITUTION,
    ) -> Rule:
        """Make a rule that holds from now on. `institution`: whose study it is.

        Raises
        ------
        AccessRuleError : no such account, one that cannot be given access to images, an end that is past or (for a
            grant) missing, no reason, or too many rules.
        """
        now = int(self._clock())
        if not reason or len(reason) > MAX_REASON_CHARACTERS:
            raise AccessRuleError(f"say why, in 1 to {MAX_REASON_CHARACTERS} characters")
        if kind == "grant" and until_utc is None:
            raise AccessRuleError("access is given until a time")
        if until_utc is not None and until_utc <= now:
            raise AccessRuleError("the end is past already")
        with self._db.writing():
            named = UserAccount.select().where(UserAccount.username == username.lower())
            account = next(iter(named.dicts().execute(self._db)), None)
            if account is None:
                raise AccessRuleError(f"there is no user {username.lower()}")
            if kind == "grant" and account["role"] not in _GRANTABLE:
                raise AccessRuleError("access to a study is given to doctors and patients")
            if self._holding(StudyRule.user_id == account["user_id"]).count(self._db) >= MAX_RULES:
                raise AccessRuleError(f"{account['username']} has {MAX_RULES} rules; end some first")
            row: dict[str, Any] = {
                "rule_id": uuid.uuid4().hex,
                "kind": kind,
                "study_instance_uid": study_instance_uid,
                "until_utc": until_utc,
                "reason": reason,
                "made_by": made_by,
                "made_at_utc": now,
                "institution": institution,
            }
            StudyRule.insert(user_id=account["user_id"], **row).execute(self._db)
        return Rule(username=account["username"], **row)

    def get(self, rule_id: str) -> Rule | None:
        """The rule, if it holds."""
        return next(iter(self._listed(StudyRule.rule_id == rule_id)), None)

    def end(self, rule_id: str) -> bool:
        """False if there is no such rule that holds."""
        update = StudyRule.update(ended_at_utc=int(self._clock())).where(
            StudyRule.rule_id == rule_id, StudyRule.ended_at_utc.is_null()
        )
        return bool(update.execute(self._db))

    def listed(self, made_by: str | None = None, institution: str | None = None) -> list[Rule]:
        """What holds now, the newest first: all, or what one person made, or about studies of one institution."""
        conditions = []
        if made_by is not None:
            conditions.append(StudyRule.made_by == made_by)
        if institution is not None:
            conditions.append(StudyRule.institution == institution)
        return self._listed(*conditions)

    def about(self, study: StudyKey) -> list[Rule]:
        """What holds now for one study, the newest first."""
        return self._listed(
            StudyRule.study_instance_uid == study.study_instance_uid,
            StudyRule.institution == study.institution,
        )

    def of(self, user_id: str) -> tuple[frozenset[StudyKey], frozenset[StudyKey]]:
        """Studies that are granted to this account, and those that are refused."""
        rows = _HOLDING_FOR.rows(self._db, user_id=user_id, now=int(self._clock()))

        def of_kind(kind: Kind) -> frozenset[StudyKey]:
            return frozenset(
                StudyKey(row["institution"], row["study_instance_uid"]) for row in rows if row["kind"] == kind
            )

        return of_kind("grant"), of_kind("refusal")

    def _holding(self, *conditions: peewee.Expression) -> peewee.ModelSelect[StudyRule]:
        return StudyRule.select().where(_holds(int(self._clock())), *conditions)

    def _listed(self, *conditions: peewee.Expression) -> list[Rule]:
        query = (
            self._holding(*conditions)
            .select(
                StudyRule.rule_id,
                StudyRule.kind,
                StudyRule.study_instance_uid,
                UserAccount.username,
                StudyRule.until_utc,
                StudyRule.reason,
                StudyRule.made_by,
                StudyRule.made_at_utc,
                StudyRule.institution,
            )
            .join(UserAccount, on=UserAccount.user_id == StudyRule.user_id)
            .order_by(StudyRule.made_at_utc.desc(), StudyRule.rule_id)
        )
        return [Rule(**row) for row in query.dicts().execute(self._db)]
