"""Where a test of central keeps its index and its objects: SQLite and files, or real servers.

With DICOMNET_TEST_DATABASE=postgresql a PostgreSQL, with DICOMNET_TEST_OBJECTS=s3 an S3 server, and with
DICOMNET_TEST_AT_REST=encrypted objects are encrypted. So the same tests run on both; `make test` does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import obstore

from central.archive.archive import Archive
from central.archive.indexing import ObjectOrigin
from central.archive.sealed_file import SealedFile
from central.archive.settings import StorageSettings
from central.archive.study_keys import StudyKeys
from central.archive.tables import Instance, SealedContent, StudyKey
from central.audit.record import Audit
from central.database import Database
from central.foundation import open_archive, open_audit, open_database
from central.identity.storage_keys import StorageKeys
from contract.receipt import Outcome
from tests.central.audit.notary import NOTARY
from tests.peers_installed import program
from tests.postgres import PostgresServer, postgres_server
from tests.seaweed import S3Server, s3_server

_closing = ExitStack()


def storage(root: Path, **settings: object) -> StorageSettings:
    """`[storage]` for a central in `root`; the same database and the same objects for the same folder."""
    return StorageSettings.model_validate({**storage_keys(root), **settings})


def storage_keys(root: Path) -> dict[str, Any]:
    """As `storage`, as it stands in a configuration."""
    keys: dict[str, Any] = {"root": str(root), "database": ""}
    if encrypts():
        keys["encrypt"] = True
    if _wanted("DICOMNET_TEST_DATABASE", "sqlite", "postgresql"):
        keys["database"] = _postgres().database_for(root)
    if _wanted("DICOMNET_TEST_OBJECTS", "files", "s3"):
        server = _s3()
        keys["s3"] = {
            "endpoint": server.endpoint,
            "prefix": hashlib.sha256(str(root).encode()).hexdigest()[:16] + "/",
            "credentials": str(server.credentials),
        }
    return keys


def encrypts() -> bool:
    """Whether the tests' centrals encrypt what comes."""
    return _wanted("DICOMNET_TEST_AT_REST", "plain", "encrypted")


def open_archive_in(root: Path, db: Database) -> Archive:
    """The archive of a central in `root`, opened once more."""
    return open_archive(storage(root), db)


def put_in(archive: Archive, content: bytes, origin: ObjectOrigin) -> Outcome:
    """Archive a Part 10 file, as ingest does with one that a box sent."""
    with archive.receiving.new_object() as sink:
        sink.write(content)
        indexable = archive.receiving.read(sink.commit(), origin)
    (outcome,) = archive.receiving.index_all([indexable])
    return outcome


def open_index(root: Path) -> Database:
    """The index of a central in `root`, opened once more."""
    return open_database(storage(root, database_connections=4))


def open_record(root: Path) -> Audit:
    """The audit record of a central in `root`, opened once more."""
    return open_audit(storage(root), NOTARY)


def contents_in(root: Path) -> list[bytes]:
    """Every content that the object store of a central in `root` keeps, indexed or not; one that nothing opens as it
    lies."""
    opened = _opened_in(root)
    kept = {hashlib.sha256(content).hexdigest(): content for content in _kept_in(root)}
    return [opened.get(name, content) for name, content in kept.items()]


def _opened_in(root: Path) -> dict[str, bytes]:
    """The encrypted contents of a central, by the names of their objects."""
    db = open_index(root)
    if "sealed_content" not in db.get_tables():
        return {}
    query = SealedContent.select(
        SealedContent,
        Instance.size_bytes,
        StudyKey.storage_key_id,
        StudyKey.wrapped_key.alias("wrapped_study_key"),
    ).join(Instance, on=(Instance.sha256 == SealedContent.sha256))
    query = query.join_from(
        SealedContent, StudyKey, on=(StudyKey.study_instance_uid == SealedContent.study_instance_uid)
    )
    keys = StudyKeys(db, StorageKeys(storage(root).keys_folder))
    found = {}
    kept = {hashlib.sha256(content).hexdigest(): content for content in _kept_in(root)}
    for row in query.dicts().execute(db):
        if row["address"] not in kept:  # lost, which a test may have done
            continue
        path = root / "opened"
        path.write_bytes(kept[row["address"]])
        sealed = SealedFile(path, row["address"], row["size_bytes"], keys.unwrap(row).key)
        found[row["address"]] = sealed.read_bytes()
        path.unlink()
    db.end()
    return found


def _kept_in(root: Path) -> list[bytes]:
    s3 = storage(root).s3
    if not s3.endpoint:
        return [path.read_bytes() for path in (root / "objects").rglob("*.dcm")]
    bucket = _s3().bucket(s3.bucket)
    names = [entry["path"] for page in obstore.list(bucket, prefix=s3.prefix) for entry in page]
    return [bytes(obstore.get(bucket, name).bytes()) for name in names]


def change_object(root: Path, name: str, change: Callable[[bytes], bytes | None]) -> None:
    """What a disk may do to the object of this name, behind central's back: other bytes, or with None no file."""
    s3 = storage(root).s3
    key = f"{name[:2]}/{name[2:4]}/{name}.dcm"
    if not s3.endpoint:
        path = root / "objects" / name[:2] / f"{name}.dcm"
        changed = change(path.read_bytes())
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)
        return
    bucket = _s3().bucket(s3.bucket)
    changed = change(bytes(obstore.get(bucket, s3.prefix + key).bytes()))
    if changed is None:
        obstore.delete(bucket, s3.prefix + key)
    else:
        obstore.put(bucket, s3.prefix + key, changed)
    for copy in (root / "objects-at-hand").glob(f"??/{name}.dcm"):
        copy.unlink()


def arriving_in(root: Path) -> list[Path]:
    """Files that are being written, or that a crash left; names kept ready are empty, and any may go meanwhile."""
    folder = "objects-at-hand" if storage(root).s3.endpoint else "objects"
    found = []
    for path in (root / folder / "incoming").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size:
                found.append(path)
    return found


def written_in(root: Path) -> bytes:
    """Everything that is on the disk of a central in `root`: its files, and what is in its database."""
    content = b"".join(path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file())
    if database := storage(root).database:
        dump = program("pg_dump")
        assert dump is not None
        content += subprocess.run([dump, "--inserts", database], capture_output=True, check=True).stdout
    return content


def drop_what_is_gone() -> None:
    """After a test: databases of folders that went with it."""
    if _postgres.cache_info().currsize:
        _postgres().drop_what_is_gone()


def stop_servers() -> None:
    """At the end of the session."""
    _closing.close()
    _postgres.cache_clear()
    _s3.cache_clear()


def _wanted(variable: str, usual: str, other: str) -> bool:
    kind = os.environ.get(variable, usual)
    assert kind in (usual, other), f"{variable} is {usual} or {other}"
    return kind == other


@functools.cache
def _postgres() -> PostgresServer:
    return _closing.enter_context(postgres_server())


@functools.cache
def _s3() -> S3Server:
    return _closing.enter_context(s3_server())
