"""Lives that end badly. What was said to be stored must be there, whole, in the next life; nothing else may be left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edge.buffer.records import RecoveryReport
from edge.buffer.spool import Spool
from edge.buffer.states import State
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import Central, content_of, store, taken_files
from tests.edge.buffer.lives import POINTS

REPOSITORY = Path(__file__).parents[3]

pytestmark = pytest.mark.disk


def live(root: Path, central: Central, *how: str) -> subprocess.Popen[bytes]:
    key = central.private.public_key().raw.hex()
    command = [sys.executable, "-m", "tests.edge.buffer.lives", str(root), key, *how]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE)


def check_files_match_rows(spool: Spool, root: Path) -> None:
    live_rows = spool.holdings.list_objects(
        states=[state for state in State if state is not State.FREED], limit=10_000
    )
    wanted = {
        (row.object_id, "quarantine" if row.state is State.QUARANTINED else "objects") for row in live_rows
    }
    found = {(path.stem, path.relative_to(root).parts[0]) for path in taken_files(spool, root)}
    assert found == wanted


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at(point: str, tmp_path: Path, open_spool: OpenSpool, receiving_central: Central) -> None:
    root = tmp_path / "spool"
    process = live(root, receiving_central, point)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 9
    stored = {line.split()[1].decode(): int(line.split()[0]) for line in said.splitlines()}

    spool = open_spool()

    rows = {row.object_id: row for row in spool.holdings.list_objects(states=list(State), limit=10)}
    freed = {object_id for object_id, row in rows.items() if row.state is State.FREED}
    for object_id, number in stored.items():
        if object_id in freed:
            assert point in {"after acknowledge", "before unlink"}
            assert rows[object_id].has_receipt
        else:
            assert receiving_central.unseal(spool, object_id) == content_of(number)
    unanswered = [row for row in rows.values() if row.object_id not in stored]
    # "before sync": the process is gone, not the power, so all that was written is there.
    untold = point in {"before sync", "after sync", "before it is told to the index", "before success"}
    assert spool.recovery.files_adopted == (untold or point == "inside the rows' transaction")
    assert spool.recovery.torn_files == (point == "in the middle of the bytes")
    if untold:
        # Durable, but its sender was not told: it goes on to central, and the resend is a duplicate.
        (row,) = unanswered
        assert (row.state, row.sop_instance_uid) == (State.READY, "1.2.3.2")
        assert receiving_central.unseal(spool, row.object_id) == content_of(2)
        assert store(spool, 2).outcome == "duplicate"
    else:
        assert not unanswered
    if point in {"inside the rows' transaction", "after the rows"}:
        assert sorted(stored.values()) == [1, 2]
        assert store(spool, 2).outcome == "duplicate"
    assert not [row for row in rows.values() if row.state in (State.SENDING, State.ACKNOWLEDGED)]
    check_files_match_rows(spool, root)
    spool.close()
    assert open_spool().recovery == RecoveryReport()


def test_kill_9_in_a_storm_loses_nothing_that_was_acknowledged(
    tmp_path: Path, open_spool: OpenSpool, receiving_central: Central
) -> None:
    root = tmp_path / "spool"
    stored: dict[str, int] = {}
    for cycle in range(20):
        process = live(root, receiving_central, "storm", str(1000 * cycle))
        assert process.stdout is not None
        # Let a different number of instances through each time, then end it wherever it happens to be.
        lines = [process.stdout.readline() for _ in range(1 + cycle)]
        process.kill()
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        stored |= {
            line.split()[1].decode(): int(line.split()[0]) for line in lines if line.endswith(b"\n") and line
        }

    spool = open_spool()

    check_files_match_rows(spool, root)
    for object_id, number in stored.items():
        assert receiving_central.unseal(spool, object_id) == content_of(number)
    assert len(stored) >= 20 * 10
    assert spool.recovery.files_missing == 0
