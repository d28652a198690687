"""A spool on a small file system of its own, which fills up: ``python -m … MOUNTPOINT TMPFS_OPTIONS SCENARIO``.

To be run in a mount namespace of its own. What happened is said as one JSON object on standard output.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from contract.identifiers import ObjectId
from edge.buffer.errors import DiskFullError
from edge.buffer.records import Origin
from edge.buffer.spool import Spool
from edge.buffer.states import State
from edge.buffer.upkeep import Upkeep
from tests.edge.buffer.instances import Central, held_files, identity

JPEG = Origin(
    "CT1", "DICOMNET", "192.0.2.7", "1.2.840.10008.1.2.4.70"
)  # kept as it comes: sizes are what is sent
IMAGE_BYTES = 500_000
MB = 1_000_000
_CENTRAL = Central()


class Log(logging.Handler):
    """What was said of a full disk, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        logging.getLogger("edge.buffer.room").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def open_spool(root: Path, *, retain_hours: int, on_low_water: Callable[[], None] = lambda: None) -> Spool:
    return Spool.open(
        root / "spool",
        reserve_bytes=4 * MB,
        low_water_bytes=8 * MB,
        retain=timedelta(hours=retain_hours),
        quarantine_max_bytes=MB,
        keys=_CENTRAL.ring(),
        on_low_water=on_low_water,
    )


def store(spool: Spool, number: int, size_bytes: int = IMAGE_BYTES) -> ObjectId:
    with spool.entrance.receive(JPEG) as reception:
        reception.write(content(number, size_bytes))
        return reception.commit(identity(number)).object_id


def content(number: int, size_bytes: int = IMAGE_BYTES) -> bytes:
    return number.to_bytes(4, "big") * (size_bytes // 4)


def acknowledge_next(spool: Spool) -> None:
    claimed = spool.queue.claim(lease_s=60)
    assert claimed is not None
    spool.queue.acknowledge(claimed.object_id, "a receipt")


def store_until_refused(spool: Spool, first: int, size_bytes: int = IMAGE_BYTES) -> dict[int, ObjectId]:
    stored: dict[int, ObjectId] = {}
    try:
        for number in range(first, first + 10_000):
            stored[number] = store(spool, number, size_bytes)
    except DiskFullError:
        return stored
    raise AssertionError("the disk never filled up")


def is_refused(spool: Spool, number: int) -> bool:
    try:
        store(spool, number)
    except DiskFullError:
        return True
    return False


def counted(spool: Spool, state: State) -> int:
    return spool.holdings.depth().by_state[state].objects


def fills(root: Path) -> dict[str, object]:
    """Retained objects give way, oldest first; then scanners are refused; then central takes something."""
    log = Log()
    spool = open_spool(root, retain_hours=24)
    for number in range(10):
        store(spool, number)
        acknowledge_next(spool)
    retained = counted(spool, State.RETAINED)
    unsent: dict[int, ObjectId] = {}
    left: list[int] = []
    for number in range(100, 200):
        unsent[number] = store(spool, number)  # not refused while anything is left to free
        rows = spool.holdings.list_objects(states=[State.RETAINED], limit=99)
        left.append(len(rows))
        oldest_first = [row.sop_instance_uid for row in rows] == [
            f"1.2.3.{n}" for n in range(10 - len(rows), 10)
        ]
        assert oldest_first
        if not rows:
            break
    unsent |= store_until_refused(spool, 200)
    refused = [is_refused(spool, 1000 + number) for number in range(20)]
    while_full = spool.room.disk()
    intact = all(_CENTRAL.unseal(spool, object_id) == content(number) for number, object_id in unsent.items())
    for _ in range(12):
        acknowledge_next(spool)
    taken_again = not is_refused(spool, 2000)
    spool.close()
    again = open_spool(root, retain_hours=24)
    return {
        "retained": retained,
        "left": left,
        "refused": refused,
        "accepting_while_full": while_full.accepting,
        "hours_while_full": while_full.hours_to_full,
        "free_while_full": while_full.free_bytes,
        "intact": intact,
        "unsent": len(unsent),
        "taken_again": taken_again,
        "unsent_after": counted(again, State.READY),
        "repaired": vars(again.recovery),
        "said": log.said,
    }


def somebody_else(root: Path) -> dict[str, object]:
    """Something that is not the spool's fills the disk, and goes away."""
    log = Log()
    spool = open_spool(root, retain_hours=0)
    store(spool, 1)
    ballast = root / "ballast"
    ballast.write_bytes(bytes(spool.room.disk().free_bytes - 3 * MB))
    refused = [is_refused(spool, number) for number in range(2, 5)]
    ballast.unlink()
    taken = not is_refused(spool, 5)
    return {"refused": refused, "taken": taken, "ready": counted(spool, State.READY), "said": log.said}


def grows(root: Path) -> dict[str, object]:
    """One image that is larger than what is left, beside others that fit: it fails, they do not."""
    spool = open_spool(root, retain_hours=0)
    failed = False
    try:
        store(spool, 1, size_bytes=200 * MB)
    except DiskFullError:
        failed = True
    left = [path.name for path in held_files(root)]
    return {"failed": failed, "left": left, "taken": not is_refused(spool, 2)}


def files_run_out(root: Path) -> dict[str, object]:
    """Room for bytes, none for names; the files of what central has are given up for it."""
    spool = open_spool(root, retain_hours=24)
    for number in range(40):
        store(spool, number, size_bytes=400)
        acknowledge_next(spool)
    retained = counted(spool, State.RETAINED)
    stored = store_until_refused(spool, 100, size_bytes=400)
    disk = spool.room.disk()
    retained_after = counted(spool, State.RETAINED)
    for _ in range(150):
        acknowledge_next(spool)
    return {
        "retained": retained,
        "retained_after": retained_after,
        "stored": len(stored),
        "accepting": disk.accepting,
        "free_bytes": disk.free_bytes,
        "taken": not is_refused(spool, 5000),
        "ready": counted(spool, State.READY),
    }


def low_water(root: Path) -> dict[str, object]:
    """Below the mark, the upkeep frees in the background, and scanners notice nothing."""
    upkeep: list[Upkeep] = []
    spool = open_spool(root, retain_hours=24, on_low_water=lambda: upkeep[0].soon())
    upkeep.append(Upkeep(spool.room, spool.retained, spool.queue.catch_up))
    number = 0
    while spool.room.disk().free_bytes >= 10 * MB:
        store(spool, number)
        acknowledge_next(spool)
        number += 1
    retained = counted(spool, State.RETAINED)
    for more in range(1000, 1008):
        store(spool, more)
    below = spool.room.disk().low_by_bytes
    upkeep[0].start()
    upkeep[0].stop(30)
    return {
        "retained": retained,
        "below": below,
        "above": spool.room.disk().low_by_bytes,
        "retained_after": counted(spool, State.RETAINED),
        "ready": counted(spool, State.READY),
    }


SCENARIOS = {scene.__name__: scene for scene in (fills, somebody_else, grows, files_run_out, low_water)}


def main() -> None:
    root, options, scenario = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "spool-test", root], check=True)
    print("MOUNTED", flush=True)
    print(json.dumps(SCENARIOS[scenario](root)), flush=True)
    os._exit(0)  # the namespace and all that lies in it goes with this process


if __name__ == "__main__":
    main()
