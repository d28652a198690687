"""Removing what is older than the record is kept: exported first, verified as it lies on the disk, then taken out.

Always true: nothing is removed of which no export was read back and followed link by link, nothing behind the last
checkpoint that is old enough, and nothing of a record that does not verify. An export never replaces a file. A crash
leaves the export without a removal, or both; the word on the removal names the export by its hash.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from central.audit.chain import check
from central.audit.errors import AuditUnavailableError
from central.audit.record import Audit
from central.audit.tables import AuditCheckpoint, AuditConcern, AuditPruned, AuditRecord, unlocked


class PruningError(Exception):
    """Nothing was removed; the sentence says why, and what to do."""


@dataclass(frozen=True)
class Removal:
    """What was removed; `export` holds it."""

    through_id: int
    records: int
    export: Path


def cutoff(now: datetime, years: int) -> str:
    """The time before which records are old, as the record writes times."""
    try:
        then = now.replace(year=now.year - years)
    except ValueError:  # 29 February
        then = now.replace(year=now.year - years, day=28)
    return then.astimezone(UTC).isoformat(timespec="microseconds")


def prune(
    audit: Audit,
    *,
    before_utc: str,
    delivered_id: int | None,
    export: Path,
    announce: Callable[[int], None],
) -> Removal | None:
    """Remove what is older than `before_utc`, up to a checkpoint; None if there is nothing.

    Parameters
    ----------
    delivered_id : up to which record messages have reached a repository; None where they go nowhere.
    export : a file that is not there yet.
    announce : puts the removal, up to a record, on record; raises if it cannot.

    Raises
    ------
    PruningError, AuditUnavailableError : nothing was removed.
    """
    through_id = audit.last_checkpoint_before(before_utc)
    if through_id == 0:
        return None
    if delivered_id is not None and delivered_id < through_id:
        raise PruningError(
            f"the audit record repository has records up to {delivered_id}, and those up to {through_id} are old: "
            "wait until it has them"
        )
    problems = audit.verify().problems
    if problems:
        raise PruningError(f"the record does not verify, so all of it stays: {problems[0]}")
    announce(through_id)
    _write(export, _lines(audit, through_id))
    sha256, records = _verified(export, audit.notary.key.public_key(), through_id)
    remove(audit, through_id, before_utc, sha256)
    return Removal(through_id, records, export)


def remove(audit: Audit, through_id: int, before_utc: str, export_sha256: str) -> None:
    """Take out every record and checkpoint up to `through_id`, and leave a signed word; all in one transaction.

    Parameters
    ----------
    through_id : of a checkpoint; what is removed was exported and verified.
    before_utc : what is removed is older.

    Raises
    ------
    AuditUnavailableError : nothing was removed.
    """
    with audit.writing() as db:
        chain = AuditRecord.select(AuditRecord.chain).where(AuditRecord.id == through_id).scalar(db)
        if chain is None:
            raise AuditUnavailableError(f"there is no record {through_id} to prune up to")
        word = audit.notary.pruned(through_id, chain, before_utc, export_sha256)
        AuditPruned.insert(through_id=through_id, word=word).execute(db)
        with unlocked(db):
            AuditRecord.delete().where(AuditRecord.id <= through_id).execute(db)
            AuditConcern.delete().where(AuditConcern.record_id <= through_id).execute(db)
            AuditCheckpoint.delete().where(AuditCheckpoint.last_id <= through_id).execute(db)


def _lines(audit: Audit, through_id: int) -> Iterator[dict[str, Any]]:
    """As docs/formats/audit.md has an export."""
    for word in audit.pruned():
        yield {"pruned": word}
    for row in audit.rows():
        if row["id"] > through_id:
            break
        yield row
    for last_id, word in audit.checkpoints():
        if last_id <= through_id:
            yield {"checkpoint": word}


def _write(path: Path, lines: Iterator[dict[str, Any]]) -> None:
    try:
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            for line in lines:
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError as error:
        raise PruningError(f"{path} is there already; name a file that is not") from error
    except OSError as error:
        raise PruningError(f"the export {path} cannot be written: {error.strerror or error}") from error


def _verified(path: Path, key: Ed25519PublicKey, through_id: int) -> tuple[str, int]:
    """SHA-256 of the file and how many records it holds, after all of it was read back."""
    words: dict[str, list[str]] = {"pruned": [], "checkpoint": []}
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        for line in _parsed(file):
            for kind, found in words.items():
                if kind in line:
                    found.append(line[kind])
        rows = (line for line in _parsed(file) if "id" in line)
        verdict = check(rows, words["checkpoint"], key, pruned=words["pruned"])
    if verdict.problems or (verdict.last_id, verdict.signed_upto_id) != (through_id, through_id):
        why = verdict.problems[0] if verdict.problems else f"it ends with record {verdict.last_id}"
        raise PruningError(f"the export {path} is not what the record holds, so all of it stays: {why}")
    return sha256, verdict.records


def _parsed(file: BinaryIO) -> Iterator[dict[str, Any]]:
    file.seek(0)
    for line in file:
        yield json.loads(line)
