"""The disk fails at every step in turn: full, broken once, broken for good, and taking half of what it is given.

A day in the life of a spool is acted with the fault at the first write, fsync, rename, …, then at the second, until
a day passes without meeting it. After each: what its sender was told is true, also behind a power cut at that
moment; nothing is half there; and the same process works again as soon as the disk does.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

import pytest

from edge.buffer.spool import Spool
from tests.edge.buffer.instances import Central
from tests.rigs.fuse import why_not
from tests.rigs.mounted import OnVolume
from tests.rigs.promises import Promises
from tests.rigs.volume import SHORT, Step, Tree, Volume, write_tree

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(1800 if SOAK else 600),
]

SAMPLE = 5
"""Outside the soak so many steps for each kind of fault."""

TAKES_ROOM = {"create", "write", "truncate", "mkdir", "rename"}


@dataclass
class Fault:
    """At the `at`-th step under `folder` that it is `about`, and from there on if it `lasts`.

    Attributes
    ----------
    met : where it struck first; None if the day never came so far.
    """

    folder: str
    at: int
    number: int
    lasts: bool
    about: Callable[[Step], bool]
    met: Step | None = None
    seen: int = 0

    def __call__(self, step: Step) -> int | None:
        if not step.path.startswith(self.folder) or not self.about(step):
            return None
        self.seen += 1
        if self.seen < self.at or (self.seen > self.at and not self.lasts):
            return None
        self.met = self.met or step
        if self.number == SHORT and self.seen > self.at:
            return errno.ENOSPC  # a write that was cut short was the last for which there was room
        return self.number if self.number != SHORT or step.name == "write" else errno.ENOSPC


KINDS: dict[str, tuple[int, bool, Callable[[Step], bool]]] = {
    "full": (errno.ENOSPC, True, lambda step: step.name in TAKES_ROOM),
    "broken-once": (errno.EIO, False, lambda step: True),
    "broken-for-good": (errno.EIO, True, lambda step: True),
    "short-write": (SHORT, False, lambda step: step.name == "write"),
    "short-write-then-full": (SHORT, True, lambda step: step.name == "write"),
}


class Stage:
    """The process that acts the days, on a volume whose faults the test sets."""

    def __init__(self, mountpoint: Path, central: Central) -> None:
        self.volume = Volume()
        key = central.private.public_key().raw.hex()
        self.running = OnVolume(self.volume, mountpoint, "tests.rigs.day", key)
        self._mountpoint = mountpoint

    def order(self, what: str, folder: str) -> list[bytes]:
        """Have it done; what it said meanwhile."""
        process = self.running.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{what}: {self._mountpoint}{folder}\n".encode())
        process.stdin.flush()
        said: list[bytes] = []
        while True:
            line = process.stdout.readline()
            assert line, f"it ended: {said}"
            if json.loads(line) == {"finished": what}:
                return said
            said.append(line)


@pytest.fixture
def stage(tmp_path: Path, receiving_central: Central) -> Iterator[Stage]:
    acting = Stage(tmp_path / "mount", receiving_central)
    with acting.running:
        yield acting


@pytest.mark.parametrize("kind", KINDS)
def test_every_step_may_fail(kind: str, stage: Stage, tmp_path: Path, receiving_central: Central) -> None:
    number, lasts, about = KINDS[kind]
    seed = int(os.environ.get("DICOMNET_SEED", SystemRandom().randrange(1 << 32)))
    past = stage.order("prepare", "/past")
    stage.order("close", "/past")
    before = stage.volume.survivors(folder="past")
    days = functools.partial(_act, stage, before, past, tmp_path / "survivors", receiving_central)
    well = Fault("/well/", 1 << 62, number, lasts, about)
    days(well)
    # In turn, up to a day that meets nothing; outside the soak, some of them.
    steps = range(1, well.seen + 1)
    turns = range(1, well.seen + 2) if SOAK else sorted(Random(seed).sample(steps, min(SAMPLE, len(steps))))
    met: Counter[str] = Counter()
    wrong: list[str] = []
    for at in turns:
        fault = Fault(f"/{at}/", at, number, lasts, about)
        try:
            days(fault)
        except AssertionError as error:
            wrong.append(f"at step {at}, {fault.met}: {error}")
        met[fault.met.name if fault.met else "none"] += 1
    print(f"{kind}: {well.seen} steps in a day; failed: {dict(met)}; DICOMNET_SEED={seed}")
    assert not wrong, "\n".join(wrong)


def _act(
    stage: Stage, before: Tree, past: list[bytes], survivors: Path, central: Central, fault: Fault
) -> None:
    """One day with one fault, and the days after it: with the power gone at once, and with work going on first."""
    folder = fault.folder.rstrip("/")
    stage.volume.put(folder.strip("/"), before)
    promises = Promises()
    promises.hear_all(past)
    stage.volume.fault = fault
    said = stage.order("work", folder)
    at_once = stage.volume.survivors(folder=folder.strip("/"))
    stage.volume.fault = lambda step: None
    promises.hear_all(said)
    _check(promises, at_once, survivors, central)
    said = stage.order("go on", folder)
    later = stage.volume.survivors(folder=folder.strip("/"))
    stage.order("close", folder)
    stage.volume.drop(folder.strip("/"))
    promises.hear_all(said)
    assert [line for line in said if b'"acknowledged"' in line], "nothing goes on after the fault"
    _check(promises, later, survivors, central)
    again = [path for path in stage.volume.resynced if f"{folder}/" in path and "/index.sqlite3" not in path]
    assert again == [], "a failed fsync was tried again on its descriptor"


def _check(promises: Promises, tree: Tree, folder: Path, central: Central) -> None:
    write_tree(tree, folder)
    try:
        spool = Spool.open(folder, reserve_bytes=0, quarantine_max_bytes=1 << 30, keys=None)
        try:
            promises.check(spool, folder, central)
        finally:
            spool.close()
    finally:
        shutil.rmtree(folder)
