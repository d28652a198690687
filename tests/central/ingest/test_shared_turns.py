"""Turns among central processes: as many `Turns` on one folder as there would be processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from central.ingest.errors import TryAgainError
from central.ingest.shared_turns import SharedTurns
from central.ingest.turns import Turns

KEY = f"gw-1/{'a' * 32}"
HOLDS = """
import asyncio, sys
from pathlib import Path
from central.ingest.shared_turns import SharedTurns
async def hold():
    async with SharedTurns(Path(sys.argv[1])).turn(sys.argv[2], asyncio.Event(), 1.0):
        print("held", flush=True)
        await asyncio.Event().wait()
asyncio.run(hold())
"""


def process(folder: Path, patience_s: float = 60.0) -> Turns:
    return Turns(patience_s, SharedTurns(folder))


async def test_the_holder_hears_that_somebody_waits_at_another_process(tmp_path: Path) -> None:
    one, two = process(tmp_path), process(tmp_path)
    has_two = asyncio.Event()

    async def come() -> None:
        async with two.turn(KEY) as give_way:
            has_two.set()
            assert not give_way.is_set()

    async with one.turn(KEY) as give_way:
        coming = asyncio.ensure_future(come())
        await asyncio.wait_for(give_way.wait(), 60)
        assert not has_two.is_set()
        async with two.turn(f"gw-2/{'a' * 32}"):  # another box's is another
            pass
    await asyncio.wait_for(coming, 60)
    assert list(tmp_path.iterdir()) == []


async def test_a_turn_is_kept_beyond_its_end_for_who_is_still_at_work(tmp_path: Path) -> None:
    one, two = process(tmp_path), process(tmp_path, 0.1)
    async with one.turn(KEY):
        leave = one.keep(KEY)
    with pytest.raises(TryAgainError, match="another process"):
        async with two.turn(KEY):
            pass
    async with one.turn(KEY):  # its own process knows that work, and looks after it
        leave()
        with pytest.raises(TryAgainError):
            async with two.turn(KEY):
                pass
    async with two.turn(KEY):
        pass
    assert list(tmp_path.iterdir()) == []


async def test_many_take_turns_and_each_has_it_alone(tmp_path: Path) -> None:
    inside, most = 0, 0

    async def work(turns: Turns) -> None:
        nonlocal inside, most
        for _ in range(5):
            async with turns.turn(KEY):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

    await asyncio.gather(*(work(process(tmp_path)) for _ in range(4)))
    assert most == 1
    assert list(tmp_path.iterdir()) == []


async def test_what_a_killed_process_held_is_free(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path), KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == b"held\n"
        with pytest.raises(TryAgainError):
            async with process(tmp_path, 0.1).turn(KEY):
                pass
        killed.kill()
    async with process(tmp_path).turn(KEY) as give_way:
        assert not give_way.is_set()
