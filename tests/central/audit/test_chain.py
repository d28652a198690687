"""Who changes the record past the program is found out, by the program and by an outside script."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from central.audit import record as record_module
from central.audit.chain import FIELDS, GENESIS, Notary, link
from central.audit.events import Action, AuditEvent
from central.audit.reading import Wanted
from central.audit.record import Audit
from tests.central.audit.notary import NOTARY

REPOSITORY = Path(__file__).parents[3]
VECTORS = Path(__file__).parent / "vectors"


def event(number: int) -> AuditEvent:
    detail = f'über "all" \\ {number}\n\x01'
    return AuditEvent(f"user{number}", "doctor", Action.VIEW, "success", "::1", "1.2.3", detail=detail)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve records, a checkpoint with each fourth."""
    monkeypatch.setattr(record_module, "CHECKPOINT_RECORDS", 4)
    audit = Audit.open(tmp_path / "audit.sqlite3", NOTARY)
    for number in range(1, 13):
        audit.record(event(number))
    audit.close()
    return tmp_path / "audit.sqlite3"


def verdict_of(path: Path) -> list[str]:
    audit = Audit.open(path, NOTARY)
    try:
        return audit.verify().problems
    finally:
        audit.close()


def tamper(path: Path, work: Callable[[sqlite3.Connection], object]) -> None:
    """As somebody does who has the file: triggers are no hindrance to them."""
    with sqlite3.connect(path) as db:
        for table in ("audit_record", "audit_checkpoint"):
            for verb in ("update", "delete"):
                db.execute(f"DROP TRIGGER {table}_no_{verb}")
        work(db)


def chain_anew(db: sqlite3.Connection, from_id: int) -> None:
    """The clever one computes the chain again behind what was changed."""
    db.row_factory = sqlite3.Row
    chain = db.execute("SELECT chain FROM audit_record WHERE id = ?", (from_id - 1,)).fetchone()[0]
    for row in db.execute("SELECT * FROM audit_record WHERE id >= ? ORDER BY id", (from_id,)).fetchall():
        chain = link(chain, dict(row))
        db.execute("UPDATE audit_record SET chain = ? WHERE id = ?", (chain, row["id"]))


def outside(path: Path, tmp_path: Path) -> tuple[int, str]:
    """The verdict of the script that anybody can read, on an export."""
    audit = Audit.open(path, NOTARY)
    lines = [json.dumps(row) for row in audit.rows()]
    lines += [json.dumps({"checkpoint": word}) for _, word in audit.checkpoints()]
    audit.close()
    (tmp_path / "export.ndjson").write_text("\n".join(lines) + "\n", encoding="utf-8")
    key = NOTARY.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(key)
    return run_script(tmp_path / "export.ndjson", tmp_path / "key.pem")


def run_script(export: Path, key: Path) -> tuple[int, str]:
    command = [sys.executable, str(REPOSITORY / "tools" / "verify_audit.py"), str(export), str(key)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout


def test_an_honest_record_verifies(path: Path, tmp_path: Path) -> None:
    audit = Audit.open(path, NOTARY)
    verdict = audit.verify()
    audit.close()
    assert (verdict.problems, verdict.records, verdict.signed_upto_id) == ([], 12, 12)
    assert verdict.checkpoints >= 3
    assert outside(path, tmp_path) == (0, "nothing was changed\n")


TAMPERINGS: dict[str, tuple[Callable[[sqlite3.Connection], object], str]] = {
    "changed": (
        lambda db: db.execute("UPDATE audit_record SET actor = 'nobody' WHERE id = 5"),
        "record 5 does not continue the chain",
    ),
    "taken out": (
        lambda db: db.execute("DELETE FROM audit_record WHERE id = 6"),
        "records 6 to 6 are missing",
    ),
    "put in": (
        lambda db: db.execute("UPDATE audit_record SET detail = 'new', at_utc = '2020' WHERE id = 12"),
        "record 12 does not continue the chain",
    ),
    "changed, and the chain computed anew": (
        lambda db: (db.execute("UPDATE audit_record SET actor = 'nobody' WHERE id = 5"), chain_anew(db, 5)),
        "up to 5",
    ),
    "cut off": (lambda db: db.execute("DELETE FROM audit_record WHERE id > 9"), "up to 12"),
    "checkpoints forged": (
        lambda db: db.execute(
            "UPDATE audit_checkpoint SET word = substr(word, 1, length(word) - 9) || 'AAAAAAAAA'"
        ),
        "checkpoint",
    ),
}


@pytest.mark.parametrize("kind", TAMPERINGS)
def test_a_change_is_found_and_named(path: Path, tmp_path: Path, kind: str) -> None:
    work, sentence = TAMPERINGS[kind]
    tamper(path, work)
    problems = verdict_of(path)
    assert problems
    assert sentence in problems[0]
    status, said = outside(path, tmp_path)
    assert status == 1
    assert sentence in said


def test_two_records_in_each_others_place_are_found(path: Path) -> None:
    def swap(db: sqlite3.Connection) -> None:
        db.execute("UPDATE audit_record SET id = 99 WHERE id = 3")
        db.execute("UPDATE audit_record SET id = 3 WHERE id = 4")
        db.execute("UPDATE audit_record SET id = 4 WHERE id = 99")

    tamper(path, swap)
    assert "record 3 does not continue the chain" in verdict_of(path)[0]


def test_two_programs_continue_one_chain(tmp_path: Path) -> None:
    """The server and a command beside it."""
    path = tmp_path / "audit.sqlite3"
    server, command = Audit.open(path, NOTARY), Audit.open(path, NOTARY)
    for number in range(20):
        (server if number % 3 else command).record(event(number))
    command.close()
    server.record(event(20))
    verdict = server.verify()
    assert (verdict.problems, verdict.records) == ([], 21)
    server.close()


def test_a_record_of_an_older_version_is_taken_into_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.sqlite3"
    columns = ", ".join(f"{name} TEXT" for name in FIELDS[1:])
    with sqlite3.connect(path) as db:
        db.execute(f"CREATE TABLE audit_record (id INTEGER NOT NULL PRIMARY KEY, {columns})")
        for number in (1, 2, 4):  # a transaction that failed left a gap
            values = (number, "2026-01-01T00:00:00+00:00", f"u{number}", "doctor", "view", "success", "::1")
            db.execute("INSERT INTO audit_record VALUES (?, ?, ?, ?, ?, ?, ?, '1.2', NULL, NULL, '')", values)
        db.execute(
            "CREATE TRIGGER audit_record_no_update BEFORE UPDATE ON audit_record BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    audit = Audit.open(path, NOTARY)
    assert [row.event.actor for row in audit.newest(Wanted(), limit=9)] == ["central", "u4", "u2", "u1"]
    assert "3 records of an older version" in audit.newest(Wanted(), limit=1)[0].event.detail
    assert audit.verify().problems == []
    audit.close()
    again = Audit.open(path, NOTARY)
    assert again.verify().records == 4
    again.close()


def test_the_committed_example_verifies() -> None:
    assert run_script(VECTORS / "audit-1.ndjson", VECTORS / "audit-1.pem") == (0, "nothing was changed\n")
    first = json.loads((VECTORS / "audit-1.ndjson").read_text(encoding="utf-8").splitlines()[0])
    assert first["chain"] == link(GENESIS, first)


def words_of(path: Path) -> list[tuple[str, str]]:
    """What a box witnessed: every checkpoint that there was."""
    audit = Audit.open(path, NOTARY)
    found = [("box ct1", word) for _, word in audit.checkpoints()]
    audit.close()
    return found


def test_what_boxes_witnessed_fits_an_honest_record(path: Path) -> None:
    words = words_of(path)
    audit = Audit.open(path, NOTARY)
    verdict = audit.verify(words)
    assert (verdict.problems, verdict.remarks) == ([], [])
    assert (verdict.witnessed, verdict.witnessed_upto_id) == (len(words), 12)
    assert audit.contradicted([word for _, word in words]) == []
    assert audit.newest_checkpoint() == words[-1][1]
    audit.close()


def test_an_end_cut_off_with_its_checkpoints_is_found_by_a_witness(path: Path) -> None:
    words = words_of(path)

    def cut(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM audit_record WHERE id > 5")
        db.execute("DELETE FROM audit_checkpoint WHERE last_id > 5")

    tamper(path, cut)
    audit = Audit.open(path, NOTARY)
    assert audit.verify().problems == [], "the record alone does not tell"
    problems = audit.verify(words).problems
    assert "box ct1 has witnessed records up to" in problems[0]
    assert "the end was cut off, with its checkpoints" in problems[0]
    assert set(audit.contradicted([word for _, word in words])) == {words[-1][1], words[-2][1]}
    audit.close()


def test_a_history_rewritten_with_centrals_key_is_found_by_a_witness(path: Path) -> None:
    words = words_of(path)

    def rewrite(db: sqlite3.Connection) -> None:
        db.execute("UPDATE audit_record SET actor = 'nobody' WHERE id = 5")
        chain_anew(db, 5)
        db.execute("DELETE FROM audit_checkpoint")
        for number in (4, 8, 12):
            chain = db.execute("SELECT chain FROM audit_record WHERE id = ?", (number,)).fetchone()[0]
            word = NOTARY.checkpoint(number, chain)
            db.execute("INSERT INTO audit_checkpoint (last_id, word) VALUES (?, ?)", (number, word))

    tamper(path, rewrite)
    audit = Audit.open(path, NOTARY)
    assert audit.verify().problems == [], "the record alone does not tell"
    problems = audit.verify(words).problems
    assert "box ct1 has witnessed another record up to" in problems[0]
    assert audit.contradicted([word for _, word in words])
    audit.close()


@pytest.mark.parametrize("token", ["a.b.c", "", "x" * 5000])
def test_a_box_that_makes_words_up_proves_nothing(path: Path, token: str) -> None:
    other = Notary("central-test", Ed25519PrivateKey.generate()).checkpoint(999, "0" * 64)
    audit = Audit.open(path, NOTARY)
    verdict = audit.verify([("box bad", token), ("box bad", other)])
    assert (verdict.problems, verdict.witnessed) == ([], 0)
    assert "did not sign" in verdict.remarks[0]
    assert audit.contradicted([token, other]) == []
    audit.close()
