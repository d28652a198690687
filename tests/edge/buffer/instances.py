"""What the spool's tests store, and how they look inside what was stored: with central's private key."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from contract.identifiers import ObjectId
from contract.sealed_object import Content, read_sealed
from contract.sealing import DataKeyRing, RecipientPrivateKey, Unwrapper
from edge.buffer.records import Claimed, InstanceIdentity, Origin, Stored
from edge.buffer.spool import Spool
from edge.buffer.states import State

EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
ORIGIN = Origin("CT1", "DICOMNET", "192.0.2.7", EXPLICIT_LITTLE)


def identity(number: int) -> InstanceIdentity:
    return InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{number}", "1.2.9", "1.2.9.1", "CT")


def store(spool: Spool, number: int, content: bytes | None = None, origin: Origin = ORIGIN) -> Stored:
    with spool.entrance.receive(origin) as reception:
        reception.write(content_of(number) if content is None else content)
        return reception.commit(identity(number))


def content_of(number: int) -> bytes:
    """Some bytes that belong to an instance number: longer than one write buffer however they are coded."""
    return f"instance {number} ".encode() * 100 + random.Random(number).randbytes(1_300_000)


def taken_files(spool: Spool, root: Path) -> list[Path]:
    """Every sealed file below `root` but the empty names the spool keeps ready."""
    deadline_s = time.monotonic() + 60
    while spool._files._making_names:  # files that are no names yet
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.01)
    paths = list(root.rglob("*.sealed"))  # before the names: one that is taken meanwhile counts as taken
    ready = set(spool._files._names)
    return [path for path in paths if path.stem not in ready]


def leftovers(spool: Spool) -> list[str]:
    """Their names."""
    return [path.name for path in taken_files(spool, spool._files.root)]


def held_files(root: Path) -> list[Path]:
    """Every sealed file below `root` that holds something: names made ahead are empty, and any may go meanwhile."""
    found = []
    for path in root.rglob("*.sealed"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size:
                found.append(path)
    return found


def contents(root: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below `root`, of a box that may run: what goes meanwhile is left out."""
    for path in root.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                yield path, path.read_bytes()


def claim(spool: Spool, lease_s: float = 60) -> Claimed:
    claimed = spool.queue.claim(lease_s=lease_s)
    assert claimed is not None
    return claimed


def state_of(spool: Spool, object_id: ObjectId) -> State:
    (row,) = [
        row
        for row in spool.holdings.list_objects(states=list(State), limit=999)
        if row.object_id == object_id
    ]
    return row.state


def quarantine(spool: Spool, size_bytes: int) -> ObjectId:
    """An instance nobody could identify, of incompressible bytes."""
    with spool.entrance.receive(
        Origin("US1", "DICOMNET", "192.0.2.9", "1.2.840.10008.1.2.4.50")
    ) as reception:
        reception.write(os.urandom(size_bytes))
        reception.quarantine("no SOP Instance UID")
    return reception.object_id


class Central:
    """Holds the private key; opens what the box sealed."""

    def __init__(self) -> None:
        self.private = RecipientPrivateKey.generate()
        self._unwrap = Unwrapper({self.private.public_key().key_id: self.private})

    def ring(self) -> DataKeyRing:
        return DataKeyRing((self.private.public_key(),))

    def unseal(self, spool: Spool, object_id: ObjectId) -> bytes:
        """The Part 10 file; raises if it is not whole and unchanged."""
        with spool.holdings.open_object(object_id) as sealed:
            *pieces, last = read_sealed(sealed, self._unwrap, expected_object_id=object_id)
        assert isinstance(last, Content)
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))
