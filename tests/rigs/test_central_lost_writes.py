"""The power goes at any step of central's disk: what a C-STORE peer was told is stored is there, byte for byte.

One sender, one association; before each step that the disk takes, what a cut at that moment would leave is kept, with
and without some of what was not made durable. `DICOMNET_SEED` repeats which of them are looked into.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom

import pytest

from central.access.policy import Action, Grant, Principal, Role, authorize
from central.archive.archive import Archive
from central.archive.object_files import ObjectFiles
from central.database import open_sqlite
from central.identity.storage_keys import StorageKeys
from contract.part10 import file_meta
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE, ScriptedScu, small_data_set
from tests.rigs.fuse import why_not
from tests.rigs.mounted import OnVolume
from tests.rigs.volume import Step, Tree, Volume, write_tree

pytestmark = [
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
    pytest.mark.timeout(3600 if os.environ.get("DICOMNET_SOAK") else 600),
]

LIVES = 2  # each begins with what a cut of the one before left
INSTANCES = 8
LOOKED_INTO = 400 if os.environ.get("DICOMNET_SOAK") else 12  # of the cuts of a life
A_CHECKPOINT = 3  # of SQLite's log, which may fall into any life
BOUND_S = 60
STUDY = "1.2.7"
WHO = Principal("u", "radiologist", Role.RADIOLOGIST)


@dataclass
class Cut:
    """What the disk would hold, and which instances had been acknowledged before."""

    step: Step
    disk: Tree
    acknowledged: int


def test_what_a_peer_was_told_is_stored_survives_a_cut_before_every_step(tmp_path: Path) -> None:
    seed = int(os.environ.get("DICOMNET_SEED", SystemRandom().randrange(1 << 32)))
    print(f"DICOMNET_SEED={seed}")
    random = Random(seed)
    disk: Tree = {}
    kept: list[tuple[str, bytes]] = []
    for life in range(LIVES):
        cuts, acknowledged = _live(disk, tmp_path / "mount", life, kept, random)
        assert {"create", "write", "fsync", "rename"} <= {cut.step.name for cut in cuts}
        assert _syncs(cuts, len(kept) + 1, len(acknowledged) - 1) <= 2 * (INSTANCES - 1) + A_CHECKPOINT
        cuts = [cut for cut in cuts if cut.acknowledged]
        for number, cut in enumerate(random.sample(cuts, min(LOOKED_INTO, len(cuts)))):
            survivors = tmp_path / f"{life}.{number}"
            write_tree(cut.disk, survivors)
            _check(survivors / "central", acknowledged[: cut.acknowledged], cut.step)
        last = random.choice(cuts)
        disk, kept = last.disk, acknowledged[: last.acknowledged]
    assert kept


def _syncs(cuts: list[Cut], first: int, last: int) -> int:
    """How many syncs there were while so many instances had been acknowledged."""
    return sum(cut.step.name.startswith("fsync") and first <= cut.acknowledged <= last for cut in cuts)


def _live(
    disk: Tree, mountpoint: Path, life: int, kept: list[tuple[str, bytes]], random: Random
) -> tuple[list[Cut], list[tuple[str, bytes]]]:
    """The cuts of a life that began with `disk`, on which `kept` had been acknowledged; and all that was by its end."""
    volume, cuts, acknowledged = Volume(disk), list[Cut](), list(kept)

    def before(step: Step) -> None:
        torn = Random(random.random()) if random.random() < 0.5 else None
        cuts.append(Cut(step, volume.survivors(torn), len(acknowledged)))

    volume.fault = before
    with OnVolume(volume, mountpoint, "tests.rigs.storing_central", str(mountpoint / "central")) as running:
        assert running.process.stdout is not None
        port = json.loads(running.process.stdout.readline())["port"]
        with ScriptedScu(port, timeout_s=BOUND_S) as scu:
            scu.associate(calling=b"PEER", called=b"DICOMNET")
            for number in range(INSTANCES):
                uid = f"{STUDY}.{life}.{number}"
                data = small_data_set(uid, study=STUDY, series=f"{STUDY}.{life}", pixels=bytes(7000))
                assert scu.store(data, uid).status == 0
                acknowledged.append((uid, file_meta(CT_STORAGE, uid, EXPLICIT_LITTLE) + data))
        cuts.append(Cut(Step("end", ""), running.cut(Random(random.random())), len(acknowledged)))
    return cuts, acknowledged


def _check(root: Path, acknowledged: list[tuple[str, bytes]], step: Step) -> None:
    """A server that starts here has everything that was acknowledged."""
    db = open_sqlite(root / "central.sqlite3")
    objects = ObjectFiles.open(root / "objects", relies_on_sweep=True)
    archive = Archive.open(root, db, StorageKeys(root / "keys"), objects, encrypts=False)
    try:
        archive.sweep()
        facts = archive.reading.facts(STUDY)
        assert facts is not None, step
        grant = authorize(WHO, Action.VIEW, facts)
        assert isinstance(grant, Grant)
        found = {one.sop_instance_uid: one.path.read_bytes() for one in archive.reading.open_instances(grant)}
    finally:
        db.close()
    for uid, content in acknowledged:
        assert found.get(uid) == content, (uid, step)
