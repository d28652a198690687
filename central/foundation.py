"""What the server and the commands beside it both stand on: the data folder, the database, keys, accounts.

Always true: everything here may be opened by several processes at once (SQLite in WAL with synchronous FULL, or
PostgreSQL; key files that are made once), so ``dicomnet-central pair`` works beside a running server. The server
itself holds the folder's lock: two servers on one folder would both sweep what the other is writing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import peewee

from central.access.accounts import Accounts
from central.access.doorkeeper import Doorkeeper
from central.access.policy import Role
from central.archive.archive import Archive
from central.archive.errors import StorageError
from central.archive.object_files import ObjectFiles
from central.archive.objects import INCOMING, ObjectStore
from central.archive.renditions import RenditionSpace
from central.archive.settings import S3Settings, StorageSettings
from central.archive.unsynced_files import UnsyncedFiles
from central.audit.chain import Notary
from central.audit.errors import AuditUnavailableError
from central.audit.record import Audit
from central.config import Settings
from central.database import Database, open_sqlite
from central.errors import StartError
from central.hosts import EVERYWHERE
from central.identity.errors import KeyFileError
from central.identity.gateways import Gateways, any_enrolled
from central.identity.identity import Identity, holds_keys
from central.identity.keyfiles import make_private_folder
from central.identity.pairings import Pairings
from central.identity.standings import Standings
from central.identity.storage_keys import StorageKeys
from central.postgres import AUDIT_LOCK, DatabaseUnfitError, Postgres

_ALWAYS_CALLED: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Foundation:
    """Opened; `close` when done."""

    settings: Settings
    db: Database
    audit: Audit
    identity: Identity
    gateways: Gateways
    pairings: Pairings
    standings: Standings
    doorkeeper: Doorkeeper

    @classmethod
    def open(cls, settings: Settings, *, starts_over: bool = False) -> Foundation:
        """Open the data folder, or make it.

        Parameters
        ----------
        starts_over : make keys also where boxes are enrolled with others, which are lost.

        Raises
        ------
        StartError : one sentence that says what is wrong with it.
        """
        root = settings.storage.root
        try:
            make_private_folder(root)
            db = open_database(settings.storage)
            if not starts_over:
                _require_keys(settings.storage.keys_folder, db)
            identity = Identity.open(settings.storage.keys_folder, _server_hosts(settings))
            audit = open_audit(settings.storage, Notary(identity.central_id, identity.receipt_key))
            gateways = Gateways(db, identity.authority)
            pairings = Pairings(db, gateways, accept_at_once=settings.gateways.acceptance == "pairing-string")
            standings = Standings(db, gateways, identity.ticket_key)
            doorkeeper = Doorkeeper.open(
                db,
                factor_key=identity.factor_key,
                factors_required_of=frozenset(map(Role, settings.access.second_factor_roles)),
                public_url=settings.people.public_url,
            )
        except KeyFileError as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(
                f"the data folder {root} (storage.root) cannot be used: {error.strerror or error}"
            ) from error
        except (peewee.PeeweeException, AuditUnavailableError, DatabaseUnfitError) as error:
            where = "PostgreSQL (storage.database)" if settings.storage.database else f"a database in {root}"
            raise StartError(f"{where} cannot be used: {error}") from error
        return cls(settings, db, audit, identity, gateways, pairings, standings, doorkeeper)

    @property
    def accounts(self) -> Accounts:
        return self.doorkeeper.accounts

    def close(self) -> None:
        self.audit.close()
        self.db.end()


def _require_keys(folder: Path, db: Database) -> None:
    """KeyFileError where others would be made in place of lost ones, which would shut every box out without a word."""
    if not holds_keys(folder) and any_enrolled(db):
        raise KeyFileError(
            f"{folder} holds no keys, and boxes are enrolled with some: is it mounted, and the right one? Else put "
            "them back with keys restore; without a backup keys start-over makes others, and boxes are enrolled anew"
        )


def open_database(settings: StorageSettings) -> Database:
    """The index database: PostgreSQL where one is named, else a file in the data folder."""
    if not settings.database:
        path = settings.root / "central.sqlite3"
        try:
            return open_sqlite(path)
        except peewee.PeeweeException as error:
            raise DatabaseUnfitError(f"{path}: {error}; put it back from a backup") from error
    db = Postgres(settings.database, connections=settings.database_connections)
    db.require_fit()
    return db


def open_audit(settings: StorageSettings, notary: Notary) -> Audit:
    """The audit record, apart from the index: a file of its own, or connections and a writer's lock of its own."""
    if not settings.database:
        return Audit.open(settings.root / "audit.sqlite3", notary)
    return Audit.over(open_record_beside(settings), notary)


def open_record_beside(settings: StorageSettings) -> Database:
    """The audit record's database once more, for who reads it and must not keep a look waiting."""
    if not settings.database:
        return open_sqlite(settings.root / "audit.sqlite3")
    return Postgres(settings.database, connections=2, writer_lock=AUDIT_LOCK)


def open_archive(
    settings: StorageSettings, db: Database, incoming: str = INCOMING, *, sweeps: bool = False
) -> Archive:
    """The archive: its index in `db`, its objects on S3 where an endpoint is named, else in the data folder.

    Parameters
    ----------
    incoming : folder for what is being written. The server's own is for the server alone.
    sweeps : what a crash left half done there is ended; for who has the folder to themselves.

    Raises
    ------
    StartError : one sentence that says what keeps it from being opened.
    """
    try:
        keys, objects = StorageKeys(settings.keys_folder), open_objects(settings, incoming)
        space = RenditionSpace(
            open_renditions(settings, incoming), settings.renditions_bytes, has_room(settings)
        )
        archive = Archive.open(settings.root, db, keys, objects, space, encrypts=settings.encrypt)
        if sweeps:
            archive.sweep()
    except StorageError as error:
        raise StartError(f"the object store (storage.s3) cannot be used: {error}") from error
    except KeyFileError as error:
        raise StartError(str(error)) from error
    except (OSError, peewee.PeeweeException) as error:
        why = getattr(error, "strerror", None) or error
        raise StartError(f"the archive in {settings.root} cannot be opened: {why}") from error
    return archive


def open_objects(settings: StorageSettings, incoming: str) -> ObjectStore:
    """Where the contents are, for who writes them and has no index."""
    s3 = settings.s3
    if not s3.endpoint:
        # What the server has not in its place after a crash, its next start puts there, with the index.
        return ObjectFiles.open(settings.root / "objects", incoming, relies_on_sweep=incoming == INCOMING)
    return _on_s3(s3, s3.prefix, s3.cache_bytes, settings.root / "objects-at-hand", incoming)


def open_renditions(settings: StorageSettings, incoming: str) -> ObjectStore:
    """Where what is made from the contents is kept, apart from them."""
    s3 = settings.s3
    if not s3.endpoint:
        return UnsyncedFiles.open(settings.root / "renditions", incoming)
    at_hand_bytes = min(s3.cache_bytes, settings.renditions_bytes)
    return _on_s3(
        s3, f"renditions/{s3.prefix}", at_hand_bytes, settings.root / "renditions-at-hand", incoming
    )


def _on_s3(s3: S3Settings, prefix: str, cache_bytes: int, at_hand: Path, incoming: str) -> ObjectStore:
    # Its library is 4 MB of memory, which a house without S3 need not give.
    from central.archive.s3 import S3Objects, S3Place

    place = S3Place(s3.endpoint, s3.bucket, prefix, s3.region, s3.credentials, cache_bytes)
    return S3Objects.open(place, at_hand, incoming)


def has_room(settings: StorageSettings) -> Callable[[], bool]:
    """Whether the archive may take more, for the ways in that are not put off by ingest."""
    return lambda: shutil.disk_usage(settings.root).free > settings.reserve_bytes


def lock_folder(root: Path, name: str = "lock", holder: str = "dicomnet-central") -> int:
    """Take the data folder for this process until the descriptor is closed or the process ends.

    Parameters
    ----------
    name : file of the lock; the server's is ``lock``.
    holder : what has it, for the error.

    Raises
    ------
    StartError : another process has it.
    """
    descriptor = os.open(root / name, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StartError(f"another {holder} is running on the data folder {root}") from error
    return descriptor


def _server_hosts(settings: Settings) -> list[str]:
    """Every name the gateways' listener and the broker are called by."""
    named = [settings.gateways.called_host, settings.gateways.host, settings.mqtt.called_host]
    return list(dict.fromkeys(host for host in (*named, *_ALWAYS_CALLED) if host not in EVERYWHERE))
