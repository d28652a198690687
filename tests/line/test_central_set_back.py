"""Central set back to a backup by copying files, before a box that holds receipts for what is gone.

The peers are real: a whole central over TLS on a copied folder, a real spool and forwarder.
"""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from contract.standing import STANDING_PATH, StandingAnswer, StandingReport
from edge.buffer.states import State
from edge.uplink.client import exchange, open_client
from tests.central.app.house import everything_in
from tests.central.databases import contents_in
from tests.line.conftest import Scene

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        any(os.environ.get(name) for name in ("DICOMNET_TEST_DATABASE", "DICOMNET_TEST_OBJECTS")),
        reason="a copied folder holds neither a PostgreSQL nor a bucket",
    ),
]
KEPT = timedelta(hours=1)
GONE = timedelta(0)


class Backup:
    """Central's folder as it is now, taken while central stands still."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._root = scene.house.root
        self._copy = scene.folder / "backup"
        scene.stop_central()
        shutil.copytree(self._root, self._copy)
        self._scene.start_central()

    def restore(self, *, objects: bool) -> None:
        """Copy the files back: the databases alone, or all there is."""
        self._scene.stop_central()
        if objects:
            shutil.rmtree(self._root)
            shutil.copytree(self._copy, self._root)
        else:
            for path in self._root.glob("*.sqlite3*"):
                path.unlink()
            for path in self._copy.glob("*.sqlite3*"):
                shutil.copy2(path, self._root)
        self._scene.start_central()


def store(scene: Scene, objects: int, retain: timedelta = GONE) -> None:
    """Receipted, and kept for a while or freed."""
    scene.spool.retained.period = retain
    for _ in range(objects):
        scene.store()
    wait(scene)


def wait(scene: Scene) -> None:
    scene.wait(lambda: set(scene.states()) <= {State.FREED, State.RETAINED, State.LOST})


def indexed(root: Path) -> list[bytes]:
    return sorted(found.content for found in everything_in(root))


@pytest.mark.parametrize("objects", [False, True], ids=["database", "database and objects"])
def test_what_is_still_here_is_sent_again_and_the_rest_is_said_once(scene: Scene, objects: bool) -> None:
    scene.forward(connections=2)
    store(scene, 3)
    scene.check_receipts()
    backup = Backup(scene)
    store(scene, 4, KEPT)
    store(scene, 2, GONE)
    scene.check_receipts()
    assert scene.told == []
    contents = list(scene.stored.values())
    lost = contents[7:]
    backup.restore(objects=objects)
    assert indexed(scene.house.root) == sorted(contents[:3])

    scene.spool.retained.period = KEPT
    scene.check_receipts()
    wait(scene)
    assert indexed(scene.house.root) == sorted(contents[:7])
    assert not any(found.row.flagged for found in everything_in(scene.house.root))
    # The files of what was lost are still there where the database alone was set back; they are nobody's.
    assert len(contents_in(scene.house.root)) == (7 if objects else 9)
    ((sent_again, (study,)),) = scene.told
    assert sent_again == 4
    assert (study.calling_ae_title, study.instances) == ("CT1", 2)
    assert scene.states().count(State.LOST) == 2
    uids = list(scene.stored)
    assert scene.spool.holdings.standing(uids[:7]).keys() == set(uids[:7])
    assert scene.spool.holdings.standing(uids[7:]) == {}  # Storage Commitment vouches for them no more

    for _ in range(2):
        scene.check_receipts()
    assert len(scene.told) == 1
    assert scene.spool.receipts.lost() == [study]
    assert scene.house.refusals()[-1][0] == "receipts-unknown"

    scene.store_content(uids[7], lost[0])  # the technician sends the study again
    scene.store_content(uids[8], lost[1])
    wait(scene)
    assert scene.spool.receipts.lost() == []
    assert State.LOST not in scene.states()
    scene.check()
    scene.check_receipts()
    assert len(scene.told) == 1


def test_a_loss_between_two_checks_is_found_behind_newer_receipts(scene: Scene) -> None:
    """Nothing of it was ever shown, and thirty newer receipts are all known."""
    scene.forward(connections=2)
    store(scene, 2)
    scene.check_receipts()
    backup = Backup(scene)
    store(scene, 3, KEPT)
    backup.restore(objects=True)
    store(scene, 30, KEPT)
    scene.check_receipts()
    wait(scene)
    assert [sent_again for sent_again, _ in scene.told] == [3]
    scene.check()


def test_a_box_that_restarts_in_the_middle_sends_all_of_it(scene: Scene) -> None:
    forwarder = scene.forward()
    backup = Backup(scene)
    store(scene, 6, KEPT)
    backup.restore(objects=True)
    forwarder.pause()
    scene.check_receipts()
    assert scene.states() == [State.READY] * 6
    scene.restart_box()
    assert scene.states() == [State.READY] * 6
    scene.check_receipts()
    scene.spool.retained.period = KEPT
    scene.forward()
    wait(scene)
    assert [sent_again for sent_again, _ in scene.told] == [6]
    scene.check()


def test_a_restored_central_does_not_take_a_box_for_two(scene: Scene) -> None:
    """It knows an older ticket than the box; a copied disk has an older one than central."""
    copied = report(scene, None)
    backup = Backup(scene)
    last = copied
    for _ in range(4):
        last = report(scene, last.ticket)
    backup.restore(objects=True)
    last = report(scene, last.ticket)
    assert not last.seen_twice
    last = report(scene, last.ticket)
    assert not last.seen_twice
    assert report(scene, copied.ticket).seen_twice
    assert report(scene, last.ticket).seen_twice


def report(scene: Scene, ticket: str | None) -> StandingAnswer:
    key_id = scene.identity.recipients[0].key_id.hex()
    said = StandingReport(key_set_version=1, needed_key_ids=(key_id,), ticket=ticket)
    url = scene.identity.central_url
    with open_client(url, scene.identity.tls_context(), timeout_s=30, connections=1) as client:
        status, _, body = exchange(client, "POST", STANDING_PATH, 1 << 17, content=said.model_dump_json())
    assert status == 200, body
    return StandingAnswer.model_validate_json(body)
