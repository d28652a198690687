"""What the server and the commands beside it both stand on: the data folder, the database, keys, accounts.

Always true: everything here may be opened by several processes at once (SQLite in WAL with synchronous FULL,
key files that are made once), so ``dicomnet-central pair`` works beside a running server. The server itself
holds the folder's lock: two servers on one folder would both sweep what the other is writing.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import peewee

from central.access.accounts import Accounts
from central.access.doorkeeper import Doorkeeper
from central.audit.chain import Notary
from central.audit.errors import AuditUnavailableError
from central.audit.record import Audit
from central.config import EVERYWHERE, Settings
from central.errors import StartError
from central.identity.errors import KeyFileError
from central.identity.gateways import Gateways
from central.identity.identity import Identity
from central.identity.keyfiles import make_private_folder
from central.identity.pairings import Pairings
from central.identity.standings import Standings

_PRAGMAS: Final = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 10_000}
_ALWAYS_CALLED: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Foundation:
    """Opened; `close` when done."""

    settings: Settings
    db: peewee.SqliteDatabase
    audit: Audit
    identity: Identity
    gateways: Gateways
    pairings: Pairings
    standings: Standings
    doorkeeper: Doorkeeper

    @classmethod
    def open(cls, settings: Settings) -> Foundation:
        """Open the data folder, or make it.

        Raises
        ------
        StartError : one sentence that says what is wrong with it.
        """
        root = settings.storage.root
        try:
            make_private_folder(root)
            identity = Identity.open(root / "keys", _server_hosts(settings))
            db = open_database(root / "central.sqlite3")
            audit = Audit.open(root / "audit.sqlite3", Notary(identity.central_id, identity.receipt_key))
            gateways = Gateways(db, identity.authority)
            pairings = Pairings(db, gateways, accept_at_once=settings.gateways.acceptance == "pairing-string")
            standings = Standings(db, gateways)
            doorkeeper = Doorkeeper.open(db)
        except KeyFileError as error:
            raise StartError(str(error)) from error
        except OSError as error:
            raise StartError(
                f"the data folder {root} (storage.root) cannot be used: {error.strerror or error}"
            ) from error
        except (peewee.PeeweeException, AuditUnavailableError) as error:
            raise StartError(f"a database in {root} cannot be used: {error}") from error
        return cls(settings, db, audit, identity, gateways, pairings, standings, doorkeeper)

    @property
    def accounts(self) -> Accounts:
        return self.doorkeeper.accounts

    def close(self) -> None:
        self.audit.close()
        self.db.close()


def open_database(path: Path) -> peewee.SqliteDatabase:
    """The index database at `path`, made with mode 0600 if it is not there. A connection a thread."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    db = peewee.SqliteDatabase(str(path), pragmas=_PRAGMAS)
    db.connect()
    return db


def lock_folder(root: Path) -> int:
    """Take the data folder for this process until the descriptor is closed or the process ends.

    Raises
    ------
    StartError : another server has it.
    """
    descriptor = os.open(root / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StartError(f"another dicomnet-central is running on the data folder {root}") from error
    return descriptor


def _server_hosts(settings: Settings) -> list[str]:
    """Every name the gateways' listener and the broker are called by."""
    named = [settings.gateways.called_host, settings.gateways.host, settings.mqtt.called_host]
    return list(dict.fromkeys(host for host in (*named, *_ALWAYS_CALLED) if host not in EVERYWHERE))
