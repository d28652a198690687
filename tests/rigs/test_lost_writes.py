"""The power goes at any moment, and the disk forgets what was not made durable: nothing acknowledged is lost.

Each volume lives through several cuts, the start-up repairs of one life included in what the next cut may hit.
After every cut the survivors are laid down as an ordinary folder and opened by a spool of this process.
`DICOMNET_SEED` repeats a run as far as threads allow.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random, SystemRandom

import pytest

from edge.buffer.spool import Spool
from tests.edge.buffer.instances import Central
from tests.rigs.fuse import why_not
from tests.rigs.mounted import OnVolume
from tests.rigs.promises import Promises
from tests.rigs.volume import Tree, Volume, write_tree

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(3600 if os.environ.get("DICOMNET_SOAK") else 600),
]

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
VOLUMES = 25 if SOAK else 2
CUTS_A_VOLUME = 8 if SOAK else 5
LEAST_STORED = 8  # by a life that does not end in its start-up; the first two of a volume do not
LIFE_S = 0.6  # the longest a life works before its cut; the shortest ends in the start-up


def live(volume: Volume, mountpoint: Path, central: Central, life: int, seed: int) -> OnVolume:
    key = central.private.public_key().raw.hex()
    arguments = [str(mountpoint / "spool"), key, str(life), str(seed)]
    return OnVolume(volume, mountpoint, "tests.rigs.life", *arguments)


@pytest.mark.parametrize("number", range(VOLUMES))
def test_what_was_acknowledged_survives_every_cut(
    number: int, tmp_path: Path, receiving_central: Central
) -> None:
    seed = int(os.environ.get("DICOMNET_SEED", SystemRandom().randrange(1 << 32))) + number
    print(f"DICOMNET_SEED={seed - number}")
    random = Random(seed)
    promises = Promises()
    disk: Tree = {}
    for cut in range(CUTS_A_VOLUME):
        with live(Volume(disk), tmp_path / "mount", receiving_central, cut, seed + cut) as running:
            _let_live(running, random, promises, in_the_start_up=cut > 1 and random.random() < 0.4)
            torn = Random(seed + cut) if random.random() < 0.5 else None
            disk = running.cut(torn)
            promises.hear_all(running.said())
        survivors = tmp_path / f"survivors {cut}"
        write_tree(disk, survivors)
        spool = Spool.open(survivors / "spool", reserve_bytes=0, quarantine_max_bytes=1 << 30, keys=None)
        try:
            promises.check(spool, survivors, receiving_central)
        finally:
            spool.close()
    assert len(promises.stored) > CUTS_A_VOLUME * 3, "too little happened to prove anything"
    assert promises.acknowledged


def _let_live(running: OnVolume, random: Random, promises: Promises, *, in_the_start_up: bool) -> None:
    """To a random moment, counted from its beginning or from when it has stored and acknowledged something."""
    if in_the_start_up:
        time.sleep(random.random() * 0.5)  # there is no event to wait for: the moment is the test's input
        return
    assert running.process.stdout is not None
    enough = len(promises.stored) + LEAST_STORED, len(promises.acknowledged) + 1
    # A slow machine gets the time it needs for something to happen.
    while len(promises.stored) < enough[0] or len(promises.acknowledged) < enough[1]:
        promises.hear(running.process.stdout.readline().strip() or b'{"failed": "it ended early"}')
    time.sleep(random.random() * LIFE_S)
