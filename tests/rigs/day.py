"""One short day of a spool, acted on order so that a disk can fail in the middle: ``python -m tests.rigs.day KEY``.

Orders come on standard input, one a line: ``prepare``, ``work``, ``go on`` or ``close``, and a folder. All days of
one run are this one process's: what has to work again after a fault works in the process that met it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from contract.sealing import DataKeyRing, RecipientPublicKey
from edge.buffer.errors import SpoolError
from edge.buffer.records import Origin
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.rigs.life import SYNTAXES, identity, say

ORIGIN = Origin("CT1", "DICOMNET", "192.0.2.7", SYNTAXES[1])  # not compressed: the sizes are what is written


class Day:
    """A spool in one folder, and what happens to it."""

    def __init__(self, root: Path, keys: DataKeyRing) -> None:
        self._root = root
        self._keys = keys
        self._spool: Spool | None = None

    def prepare(self) -> None:
        """A spool with a past: two objects wait, one is apart. Its folder is there for good."""
        self._root.mkdir(mode=0o700)
        descriptor = os.open(self._root.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        self._open()
        self._store("1.2.3.1", b"one" * 500)
        self._store("1.2.3.2", b"two" * 60_000)
        self._quarantine()
        self.close()

    def work(self) -> None:
        """Everything that writes, once or twice. What fails is said, and the day goes on."""
        self._attempt("open", self._open)
        if self._spool is None:
            return
        self._attempt("store", lambda: self._store("1.2.3.3", b"three" * 200))
        self._attempt("store", lambda: self._store("1.2.3.4", b"four" * 100_000))
        self._attempt("store again", lambda: self._store("1.2.3.3", b"three" * 200))
        self._attempt("store other content", lambda: self._store("1.2.3.3", b"drei" * 200))
        self._attempt("quarantine", self._quarantine)
        self._attempt("acknowledge", self._acknowledge)
        self._attempt("set aside", self._set_aside_and_back)
        self._attempt("release", self._release)
        self._attempt("close", self.close)
        self._spool = None
        self._attempt("open", self._open)
        if self._spool is not None:
            self._attempt("store", lambda: self._store("1.2.3.5", b"five" * 5_000))

    def go_on(self) -> None:
        """The fault is gone: nobody restarted anything, and all of it works."""
        if self._spool is None:
            self._open()
        self._store("1.2.3.3", b"three" * 200)
        self._store("1.2.3.6", b"six" * 5_000)
        self._acknowledge()
        self._set_aside_and_back()
        self._release()

    def close(self) -> None:
        if self._spool is not None:
            self._spool.close()

    def _attempt(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except SpoolError as error:
            say(refused=name, error=type(error).__name__)
        except OSError as error:
            if name != "open":  # the only place where the spool lets one through
                raise
            say(refused=name, error=type(error).__name__)

    @property
    def _opened(self) -> Spool:
        assert self._spool is not None
        return self._spool

    def _open(self) -> None:
        self._spool = Spool.open(self._root, reserve_bytes=0, quarantine_max_bytes=4000, keys=self._keys)

    def _store(self, uid: str, data: bytes) -> None:
        with self._opened.entrance.receive(ORIGIN) as reception:
            for at in range(0, len(data), 65_536):
                reception.write(data[at : at + 65_536])
            stored = reception.commit(identity(uid))
        say(stored=stored.object_id, uid=uid, sha256=hashlib.sha256(data).hexdigest())

    def _quarantine(self) -> None:
        with self._opened.entrance.receive(ORIGIN) as reception:
            reception.write(b"what is this" * 200)
            reception.quarantine("nobody knows")

    def _acknowledge(self) -> None:
        claimed = self._opened.queue.claim(lease_s=3600)
        if claimed is None:
            return  # what would have been here was refused
        say(acknowledging=claimed.object_id)
        self._opened.queue.acknowledge(claimed.object_id, "a receipt")
        say(acknowledged=claimed.object_id)

    def _set_aside_and_back(self) -> None:
        claimed = self._opened.queue.claim(lease_s=3600)
        if claimed is None:
            return  # what would have been here was refused
        self._opened.queue.set_aside(claimed.object_id, reason="central refused it")
        kept = self._opened.holdings.list_objects(states=[State.QUARANTINED], limit=100)
        for row in kept:
            if row.last_error == "central refused it":
                self._opened.quarantine.requeue(row.object_id)

    def _release(self) -> None:
        claimed = self._opened.queue.claim(lease_s=3600)
        if claimed is None:
            return  # what would have been here was refused
        self._opened.queue.release(claimed.object_id, error="the line broke", retry_in_s=0)


def main() -> None:
    keys = DataKeyRing((RecipientPublicKey(bytes.fromhex(sys.argv[1])),))
    days: dict[str, Day] = {}
    for line in sys.stdin:
        order, _, folder = line.strip().partition(": ")
        day = days.setdefault(folder, Day(Path(folder), keys))
        try:
            {"prepare": day.prepare, "work": day.work, "go on": day.go_on, "close": day.close}[order]()
        except Exception as error:
            say(failed=f"{order}: {type(error).__name__}: {error}")
        if order == "close":
            del days[folder]
        os.write(1, json.dumps({"finished": order}).encode() + b"\n")


if __name__ == "__main__":
    main()
