"""What is old leaves the record by one way only: exported, verified, removed to a checkpoint, with a signed word."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import peewee
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from central.audit import pruning as pruning_module
from central.audit import record as record_module
from central.audit.chain import Pruned
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent
from central.audit.pruning import PruningError, Removal, cutoff, prune, remove
from central.audit.record import Audit
from central.foundation import open_record_beside
from tests.central.audit.notary import NOTARY
from tests.central.audit.test_chain import run_script
from tests.central.databases import open_record, storage

KEY = NOTARY.key.public_key()
STATEMENTS = (
    "DELETE FROM audit_record",
    "DELETE FROM audit_checkpoint",
    "DELETE FROM audit_pruned",
    "UPDATE audit_record SET actor = 'eve'",
    "UPDATE audit_pruned SET through_id = 99",
)


@pytest.fixture
def audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Audit]:
    """Twelve records, a checkpoint with each fourth, and one with the first."""
    monkeypatch.setattr(record_module, "CHECKPOINT_RECORDS", 4)
    with closing(open_record(tmp_path)) as opened:
        for number in range(1, 13):
            opened.record(look(number))
        yield opened


def look(number: int) -> AuditEvent:
    return AuditEvent(f"user{number}", "doctor", Action.VIEW, "success", "::1", "1.2.3", detail="é")


def time_of(audit: Audit, number: int) -> str:
    return next(row["at_utc"] for row in audit.rows() if row["id"] == number)


def ids(audit: Audit) -> list[int]:
    return [row["id"] for row in audit.rows()]


def removed(
    audit: Audit,
    export: Path,
    before_utc: str,
    delivered_id: int | None = None,
    announce: Callable[[int], None] = lambda _: None,
) -> Removal | None:
    return prune(audit, before_utc=before_utc, delivered_id=delivered_id, export=export, announce=announce)


def script_on(lines: list[object], folder: Path) -> tuple[int, str]:
    (folder / "now.ndjson").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "key.pem").write_bytes(KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return run_script(folder / "now.ndjson", folder / "key.pem")


def whole(audit: Audit) -> list[object]:
    """An export of all that is left."""
    audit.sign()
    return [
        *({"pruned": word} for word in audit.pruned()),
        *audit.rows(),
        *({"checkpoint": word} for _, word in audit.checkpoints()),
    ]


def test_what_is_old_goes_up_to_a_checkpoint_and_all_still_verifies(audit: Audit, tmp_path: Path) -> None:
    witnessed = [("box ct1", word) for _, word in audit.checkpoints()]
    announced: list[int] = []
    removal = removed(audit, tmp_path / "old.ndjson", time_of(audit, 11), announce=announced.append)
    assert removal == Removal(9, 9, tmp_path / "old.ndjson"), "the checkpoint before record 11"
    assert announced == [9]
    assert ids(audit) == [10, 11, 12]
    verdict = audit.verify(witnessed)
    assert (verdict.problems, verdict.records, verdict.witnessed) == ([], 3, len(witnessed))
    assert audit.contradicted([word for _, word in witnessed]) == []
    assert verdict.pruned is not None
    content = (tmp_path / "old.ndjson").read_bytes()
    assert verdict.pruned.export_sha256 == hashlib.sha256(content).hexdigest()
    assert stat.S_IMODE((tmp_path / "old.ndjson").stat().st_mode) == 0o600

    assert script_on(whole(audit), tmp_path) == (0, "nothing was changed\n")
    assert run_script(tmp_path / "old.ndjson", tmp_path / "key.pem") == (0, "nothing was changed\n")
    audit.record(look(13))
    assert ids(audit) == [10, 11, 12, 13], "numbers go on"
    assert audit.verify().problems == []

    again = removed(audit, tmp_path / "older.ndjson", time_of(audit, 13))
    assert again is not None
    assert run_script(tmp_path / "older.ndjson", tmp_path / "key.pem") == (0, "nothing was changed\n")
    assert audit.verify(witnessed).problems == []


def test_the_tables_refuse_everybody_else_afterwards(audit: Audit, tmp_path: Path) -> None:
    removed(audit, tmp_path / "old.ndjson", time_of(audit, 11))
    audit.sign()  # so that there is a checkpoint to delete
    require_refused(tmp_path, STATEMENTS)


def require_refused(root: Path, statements: Sequence[str]) -> None:
    other = open_record_beside(storage(root))
    for statement in statements:
        with pytest.raises(peewee.PeeweeException, match="append-only"):
            other.execute_sql(statement)
    other.end()


def test_a_removal_that_fails_removes_nothing_and_locks_again(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AuditUnavailableError, match="no record 99"):
        remove(audit, 99, time_of(audit, 11), "0" * 64)

    def fail() -> None:
        raise peewee.OperationalError("the disk is full")

    monkeypatch.setattr(pruning_module.AuditCheckpoint, "delete", fail)
    with pytest.raises(AuditUnavailableError):
        remove(audit, 9, time_of(audit, 11), "0" * 64)
    monkeypatch.undo()
    assert ids(audit) == list(range(1, 13))
    assert audit.pruned() == []
    require_refused(tmp_path, [statement for statement in STATEMENTS if "pruned" not in statement])


def test_nothing_old_is_nothing_done(audit: Audit, tmp_path: Path) -> None:
    assert removed(audit, tmp_path / "old.ndjson", "2020-01-01T00:00:00.000000+00:00") is None
    assert not (tmp_path / "old.ndjson").exists()


def test_an_export_never_replaces_a_file(audit: Audit, tmp_path: Path) -> None:
    (tmp_path / "old.ndjson").write_text("something else")
    with pytest.raises(PruningError, match="is there already"):
        removed(audit, tmp_path / "old.ndjson", time_of(audit, 11))
    with pytest.raises(PruningError, match="cannot be written"):
        removed(audit, tmp_path / "nowhere" / "old.ndjson", time_of(audit, 11))
    assert (tmp_path / "old.ndjson").read_text() == "something else"
    assert len(ids(audit)) == 12


def test_an_export_that_lies_otherwise_on_the_disk_removes_nothing(
    audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = pruning_module._write

    def torn(path: Path, lines: Iterator[dict[str, object]]) -> None:
        write(path, lines)
        path.write_bytes(path.read_bytes().replace(b"user5", b"user6"))

    monkeypatch.setattr(pruning_module, "_write", torn)
    with pytest.raises(PruningError, match="record 5 does not continue the chain"):
        removed(audit, tmp_path / "old.ndjson", time_of(audit, 11))
    assert len(ids(audit)) == 12


def test_what_the_repository_does_not_have_yet_stays(audit: Audit, tmp_path: Path) -> None:
    with pytest.raises(PruningError, match="has records up to 8"):
        removed(audit, tmp_path / "old.ndjson", time_of(audit, 11), delivered_id=8)
    assert removed(audit, tmp_path / "old.ndjson", time_of(audit, 11), delivered_id=9) is not None


def test_a_removal_that_cannot_be_put_on_record_is_none(audit: Audit, tmp_path: Path) -> None:
    def refuse(_: int) -> None:
        raise AuditUnavailableError("away")

    with pytest.raises(AuditUnavailableError):
        removed(audit, tmp_path / "old.ndjson", time_of(audit, 11), announce=refuse)
    assert len(ids(audit)) == 12
    assert not (tmp_path / "old.ndjson").exists()


def test_a_forged_word_and_a_cut_behind_a_true_one_are_found(audit: Audit, tmp_path: Path) -> None:
    removed(audit, tmp_path / "old.ndjson", time_of(audit, 11))
    lines = whole(audit)
    forged = json.loads(json.dumps(lines[0]))
    forged["pruned"] = forged["pruned"][:-9] + "AAAAAAAAA"
    assert script_on([forged, *lines[1:]], tmp_path)[0] == 1
    assert script_on(lines[1:], tmp_path)[0] == 1, "without the word records are missing"
    code, said = script_on([lines[0], *lines[2:]], tmp_path)
    assert (code, "records 10 to 10 are missing" in said) == (1, True)


def test_what_was_to_be_kept_cannot_be_explained_away(audit: Audit, tmp_path: Path) -> None:
    """Who has the key signs that old records were pruned, up to a number that a box has witnessed lately."""
    witnessed = [("box ct1", word) for _, word in audit.checkpoints()]
    long_ago = (datetime.now(UTC) - timedelta(days=3650)).isoformat()
    remove(audit, 9, long_ago, "0" * 64)
    assert audit.verify().problems == [], "the record alone does not tell"
    problems = audit.verify(witnessed).problems
    assert "were removed as if from before" in problems[0]
    assert audit.contradicted([word for _, word in witnessed])


def test_ten_years_before_the_29th_of_february() -> None:
    leap = datetime(2028, 2, 29, 12, tzinfo=UTC)
    assert cutoff(leap, 10) == "2018-02-28T12:00:00.000000+00:00"
    assert cutoff(leap, 4) == "2024-02-29T12:00:00.000000+00:00"
    assert Pruned.model_fields.keys() >= {"through_id", "chain", "before_utc", "export_sha256"}
