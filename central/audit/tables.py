"""The audit record's tables, which the database itself keeps from being changed, and where its delivery stands.

Always true: in records, checkpoints and words of pruning, UPDATE and DELETE are refused by triggers, for this program
as for any other that comes with the rights of this program; who has more rights than that breaks the chain
(`central.audit.chain`). `unlocked` alone takes two of them away, inside a transaction that puts them back: nobody else
ever finds a table without.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import peewee

from central.audit.chain import GENESIS, link
from central.database import Database, Sqlite, make_tables
from central.institution import DEFAULT_INSTITUTION
from central.prepared import Prepared, given


class AuditRecord(peewee.Model):
    """Table ``audit_record``. `at_utc` is ISO 8601 text, always in UTC."""

    id = peewee.AutoField()
    at_utc = peewee.TextField()
    actor = peewee.TextField()
    actor_role = peewee.TextField()
    action = peewee.TextField()
    outcome = peewee.TextField()
    source_address = peewee.TextField()
    study_instance_uid = peewee.TextField(null=True, index=True)
    series_instance_uid = peewee.TextField(null=True)
    sop_instance_uid = peewee.TextField(null=True)
    detail = peewee.TextField()
    chain = peewee.TextField(null=True)  # null only between the two steps of taking over an older file

    class Meta:
        table_name = "audit_record"


class AuditConcern(peewee.Model):
    """Table ``audit_concern``: the institutions whose auditors a record is for. Apart from the record and its chain: a
    record is what it is, whoever may read it."""

    institution = peewee.TextField()
    record_id = peewee.BigIntegerField(index=True)

    class Meta:
        table_name = "audit_concern"
        primary_key = peewee.CompositeKey("institution", "record_id")


class AuditCheckpoint(peewee.Model):
    """Table ``audit_checkpoint``: signed words, in the order in which they were made."""

    id = peewee.AutoField()
    last_id = peewee.IntegerField(index=True)
    word = peewee.TextField()

    class Meta:
        table_name = "audit_checkpoint"


class AuditPruned(peewee.Model):
    """Table ``audit_pruned``: signed words on what was removed, in the order in which they were made."""

    id = peewee.AutoField()
    through_id = peewee.IntegerField()
    word = peewee.TextField()

    class Meta:
        table_name = "audit_pruned"


class AuditDelivery(peewee.Model):
    """Table ``audit_delivery``: up to which record a receiver has everything, and which process sends to it now.

    `held_until_s` is in seconds since 1970; who holds it sends, until then.
    """

    receiver = peewee.TextField(primary_key=True)
    last_id = peewee.BigIntegerField()
    holder = peewee.TextField()
    held_until_s = peewee.DoubleField()

    class Meta:
        table_name = "audit_delivery"


_TABLES: Final = (AuditRecord, AuditConcern, AuditCheckpoint, AuditPruned, AuditDelivery)
_APPEND_ONLY: Final = ("audit_record", "audit_concern", "audit_checkpoint", "audit_pruned")
_PRUNED: Final = ("audit_record", "audit_concern", "audit_checkpoint")
_REFUSAL: Final = "the audit record is append-only"


def prepare(db: Database) -> int:
    """Tables, chain and triggers; how many records of an older version were chained. One transaction."""
    with db.writing():
        columns = {column.name for column in db.get_columns("audit_record")}
        older = bool(columns) and "chain" not in columns
        without_concerns = bool(columns) and not db.table_exists("audit_concern")
        if older:
            _run(db, "DROP TRIGGER IF EXISTS audit_record_no_update")
            _run(db, "ALTER TABLE audit_record ADD COLUMN chain TEXT")
        make_tables(db, _TABLES)
        taken_over = _chain_all(db) if older else 0
        if without_concerns:  # what was recorded when there was one institution is that one's
            all_ids = AuditRecord.select(peewee.Value(DEFAULT_INSTITUTION), AuditRecord.id)
            AuditConcern.insert_from(all_ids, [AuditConcern.institution, AuditConcern.record_id]).execute(db)
        _lock(db)
    return taken_over


@contextmanager
def unlocked(db: Database) -> Iterator[None]:
    """Inside a transaction of `writing`: records and checkpoints can be deleted until the block ends."""
    for table in _PRUNED:
        sqlite = isinstance(db, Sqlite)
        _run(
            db,
            f"DROP TRIGGER {table}_no_delete" if sqlite else f"DROP TRIGGER {table}_append_only ON {table}",
        )
    yield
    _lock(db)


def _lock(db: Database) -> None:
    for statement in _SQLITE_TRIGGERS if isinstance(db, Sqlite) else _POSTGRES_TRIGGERS:
        _run(db, statement)


def end_of_chain(db: Database) -> tuple[int, str]:
    """Id and chain value of the last record."""
    row = _LAST.first(db)
    return (row["id"], row["chain"]) if row else (0, GENESIS)


def last_signed(db: Database) -> int:
    """Id of the last record that a checkpoint is for; 0 if there is none."""
    row = _LAST_SIGNED.first(db)
    return row["last_id"] if row else 0


_LAST: Final = Prepared(
    AuditRecord.select(AuditRecord.id, AuditRecord.chain).order_by(AuditRecord.id.desc()).limit(1)
)
_LAST_SIGNED: Final = Prepared(
    AuditCheckpoint.select(AuditCheckpoint.last_id).order_by(AuditCheckpoint.last_id.desc()).limit(1)
)
ADD: Final = Prepared(
    AuditRecord.insert({field: given(name) for name, field in AuditRecord._meta.fields.items()})
)
"""One record; the caller gives its id, too."""

CONCERN: Final = Prepared(
    AuditConcern.insert(
        {AuditConcern.institution: given("institution"), AuditConcern.record_id: given("record_id")}
    )
)

_SQLITE_TRIGGERS: Final = tuple(
    f"CREATE TRIGGER IF NOT EXISTS {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
    f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    for table in _APPEND_ONLY
    for verb in ("UPDATE", "DELETE")
)
_POSTGRES_TRIGGERS: Final = (
    "CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
    *(
        f"CREATE OR REPLACE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"
        for table in _APPEND_ONLY
    ),
)


def _chain_all(db: Database) -> int:
    """Give every record its place in the chain. Ids of an older version may have gaps: they close here."""
    chain, count = GENESIS, 0
    row: dict[str, Any]
    for row in list(AuditRecord.select().order_by(AuditRecord.id).dicts().execute(db)):
        count += 1
        here = AuditRecord.id == row["id"]
        row["id"] = count
        chain = link(chain, row)
        AuditRecord.update(id=count, chain=chain).where(here).execute(db)
    return count


def _run(db: Database, statement: str) -> None:
    db.execute(peewee.SQL(statement))  # type: ignore[no-untyped-call]  # the stubs leave it untyped
