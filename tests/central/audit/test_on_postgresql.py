"""The audit record on PostgreSQL: what the file promises, with several programs writing at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import peewee
import psycopg
import pytest

from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent
from central.audit.reading import Wanted
from central.audit.record import Audit
from central.postgres import AUDIT_LOCK, Postgres
from tests.central.audit.notary import NOTARY
from tests.postgres import PostgresServer, postgres_server

pytestmark = pytest.mark.needs("postgresql")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


@pytest.fixture
def where(server: PostgresServer, tmp_path: Path) -> str:
    return server.database_for(tmp_path)


def record_in(where: str) -> Audit:
    return Audit.over(Postgres(where, connections=2, writer_lock=AUDIT_LOCK), NOTARY)


def event(actor: str) -> AuditEvent:
    return AuditEvent(actor, "doctor", Action.VIEW, "success", "192.0.2.1", "1.2.3", detail="a \ud800 \0 b")


def test_programs_that_write_at_once_make_one_chain(where: str) -> None:
    records = [record_in(where) for _ in range(3)]

    def write(audit: Audit, name: str) -> None:
        for at in range(30):
            audit.record(event(f"{name}-{at}"))

    threads = [
        threading.Thread(target=write, args=(audit, str(number))) for number, audit in enumerate(records * 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    rows = list(records[0].rows())
    assert [row["id"] for row in rows] == list(range(1, 181))
    assert records[1].verify().problems == []
    for audit in records:
        audit.close()


def test_rows_are_only_added(where: str) -> None:
    audit = record_in(where)
    audit.record(event("ann"))
    db = Postgres(where, connections=2)
    for statement in (
        "UPDATE audit_record SET actor = 'eve'",
        "DELETE FROM audit_record",
        "TRUNCATE audit_record",
        "DELETE FROM audit_checkpoint",
    ):
        with pytest.raises(peewee.PeeweeException, match="append-only"):
            db.execute_sql(statement)
    assert [row.event.actor for row in audit.newest(Wanted(), limit=5)] == ["ann"]
    db.end()
    audit.close()


def test_who_has_the_rights_to_change_it_is_found_out(where: str) -> None:
    audit = record_in(where)
    for name in ("ann", "bob", "cid"):
        audit.record(event(name))
    audit.sign()
    assert audit.verify().problems == []
    with psycopg.connect(where) as superuser:
        superuser.execute("SET session_replication_role = replica")  # no triggers
        superuser.execute("UPDATE audit_record SET actor = 'eve' WHERE id = 2")
    assert audit.verify().problems != []
    audit.close()


def test_when_the_server_is_away_nothing_is_recorded_and_all_is_refused(
    server: PostgresServer, where: str
) -> None:
    audit = record_in(where)
    audit.record(event("ann"))
    server.stop()
    try:
        with pytest.raises(AuditUnavailableError):
            audit.record(event("bob"))
    finally:
        server.start()
    audit.record(event("cid"))
    assert [row.event.actor for row in audit.newest(Wanted(), limit=5)] == ["cid", "ann"]
    audit.close()
    with pytest.raises(AuditUnavailableError):
        audit.record(event("too late"))
