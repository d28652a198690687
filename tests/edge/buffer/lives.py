"""A life of the spool in its own process, which ends without a goodbye: ``python -m … ROOT PUBLIC_KEY HOW``.

`HOW` is ``storm`` (store from three threads until killed) or a point at which the process ends itself. Every
instance whose commit returned is said on standard output, as its number and object id: that is the moment the
gateway would answer success.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from contract.sealing import DataKeyRing, RecipientPublicKey
from edge.buffer import files as files_module
from edge.buffer.arrivals import Arrivals
from edge.buffer.departure import Departure
from edge.buffer.entrance import Entrance
from edge.buffer.files import SpoolFiles
from edge.buffer.index import SpoolIndex
from edge.buffer.label import BLOCK_BYTES
from edge.buffer.new_rows import NewRows
from edge.buffer.sealed_file import SealedFile
from edge.buffer.spool import Spool
from edge.buffer.states import SET_ASIDE, SETTLE
from tests.edge.buffer.instances import store

POINTS = (
    "before names are durable",
    "before the first byte",
    "in the middle of the bytes",
    "before sync",
    "after sync",
    "before it is told to the index",
    "before success",
    "inside the rows' transaction",
    "after the rows",
    "after acknowledge",
    "before unlink",
    "before quarantine move",
)

DELIVERY_POINTS = ("after delivered", "after settled", "after owed")


def main() -> None:
    root, public_key, how = Path(sys.argv[1]), RecipientPublicKey(bytes.fromhex(sys.argv[2])), sys.argv[3]
    spool = Spool.open(
        root,
        reserve_bytes=0,
        quarantine_max_bytes=1 << 20,
        keys=DataKeyRing((public_key,)),
        route=lambda _: ("PACS",) if how in (*DELIVERY_POINTS, "delivering storm") else (),
    )
    if how == "storm":
        first = int(sys.argv[4])
        threads = [
            threading.Thread(target=storm, args=(spool, range(first + n, 1 << 30, 3))) for n in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return
    if how == "delivering storm":
        delivering_storm(spool, int(sys.argv[4]))
    say(spool, 1)
    spool.holdings.depth()  # its row is in the index
    if how in DELIVERY_POINTS:
        deliver(how, spool)
    told = threading.Event()
    end_at(how, spool, told)
    say(spool, 2)
    told.set()
    claimed = spool.queue.claim(lease_s=60)
    assert claimed is not None
    if how == "before quarantine move":
        spool.queue.set_aside(claimed.object_id, reason="refused for good")
    else:
        spool.queue.acknowledge(claimed.object_id, "receipt")


def deliver(point: str, spool: Spool) -> None:
    """Central has it; then the destination has it, and the process ends in between."""
    claimed, delivery = spool.queue.claim(lease_s=60), spool.deliveries.next("PACS")
    assert claimed is not None
    assert delivery is not None
    if point == "after delivered":
        spool.queue.acknowledge(claimed.object_id, "receipt")
        dies_before(Departure, "settle")
        spool.deliveries._settled = spool._departure.settle
    elif point == "after owed":
        dies_before(Departure, "_let_go")
        spool.queue.acknowledge(claimed.object_id, "receipt")
    else:
        dies_after(SpoolIndex, "step", when=lambda arguments, _: arguments[2] is SETTLE)
        spool.queue.acknowledge(claimed.object_id, "receipt")
    spool.deliveries.deliver(delivery)


def delivering_storm(spool: Spool, first: int) -> None:
    """Store, forward and deliver at once, until killed."""
    threading.Thread(target=storm, args=(spool, range(first, 1 << 30)), daemon=True).start()
    while True:
        if (claimed := spool.queue.claim(lease_s=60)) is not None:
            spool.queue.acknowledge(claimed.object_id, "receipt")
        if (delivery := spool.deliveries.next("PACS")) is not None and spool.deliveries.deliver(delivery):
            os.write(1, f"delivered {delivery.object_id}\n".encode())


def storm(spool: Spool, numbers: range) -> None:
    for number in numbers:
        say(spool, number)


def say(spool: Spool, number: int) -> None:
    stored = store(spool, number)
    os.write(1, f"{number} {stored.object_id}\n".encode())


def end_at(point: str, spool: Spool, told: threading.Event) -> None:
    """Arrange for the process to end at `point`, by the hand of the spool's own code.

    Rows are written by another thread: at the points in there it dies when the success was `told`.
    """
    if point == "before names are durable":
        spool_without_names(spool)
        dies_before(files_module, "fsync_directory")
    elif point == "before the first byte":
        dies_after(SealedFile, "__init__")
    elif point == "in the middle of the bytes":
        dies_in_the_middle_of_a_write()
    elif point == "before sync":
        dies_before(os, "fdatasync")
    elif point == "after sync":
        dies_after(SealedFile, "finish")
    elif point == "before it is told to the index":
        dies_before(Entrance, "register")
    elif point == "before success":
        dies_after(Entrance, "register")
    elif point == "inside the rows' transaction":
        dies_after(NewRows, "insert", when=lambda *_: told.wait(60))
    elif point == "after the rows":
        dies_after(Arrivals, "_flush", when=lambda _, rows: rows and told.wait(60))
    elif point == "after acknowledge":
        dies_before(Departure, "_let_go")
    elif point == "before unlink":
        dies_before(SpoolFiles, "unlink_freed")
    elif point == "before quarantine move":
        dies_after(SpoolIndex, "step", when=lambda arguments, _: arguments[2] is SET_ASIDE)


def spool_without_names(spool: Spool) -> None:
    """As after sixty-four instances: the next one makes names first."""
    for object_id in spool._files._names:
        spool._files.unlink(object_id)
    spool._files._names = []


def dies_in_the_middle_of_a_write() -> None:
    """Half of the first buffer reaches the disk, and its metadata with it: the worst a power cut leaves."""
    original = os.write

    def write(descriptor: int, data: Any) -> int:
        half = len(data) // 2 // BLOCK_BYTES * BLOCK_BYTES
        assert half
        with memoryview(data)[:half] as first:
            original(descriptor, first)
        os.fsync(descriptor)
        os._exit(9)

    os.write = write


def dies_before(owner: Any, name: str) -> None:
    setattr(owner, name, lambda *_, **__: os._exit(9))


def dies_after(owner: Any, name: str, when: Callable[[Any, Any], bool] = lambda *_: True) -> None:
    original = getattr(owner, name)

    def run(*arguments: Any, **values: Any) -> Any:
        result = original(*arguments, **values)
        if when(arguments, result):
            os._exit(9)
        return result

    setattr(owner, name, run)


if __name__ == "__main__":
    main()
