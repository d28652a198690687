"""A full disk: what central has goes first, then scanners are told to wait, and nothing else is ever lost.

Each on a real file system of a few megabytes that only a process of its own can see.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from contract.control import LinkStatus
from edge.box_status import not_accepting_because
from edge.buffer.errors import DiskFullError
from edge.buffer.records import Disk, Tally
from edge.buffer.spool import Spool
from edge.status_text import full_text
from tests.edge.buffer.conftest import OpenSpool
from tests.edge.buffer.instances import ORIGIN, store

REPOSITORY = Path(__file__).parents[3]
FULL, ROOM_AGAIN = (
    "the disk is full: scanners are told to send later",
    "there is room again: images are taken in",
)


def on_a_small_disk(scenario: str, folder: Path, options: str = "size=32m") -> dict[str, Any]:
    """Run one of `small_disk`'s scenarios; skips where this user may not mount anything."""
    command = ["unshare", "--map-root-user", "--mount", "--propagation", "private", sys.executable, "-m"]
    ended = subprocess.run(
        [*command, "tests.edge.buffer.small_disk", str(folder), options, scenario],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "MOUNTED" not in ended.stdout:
        pytest.skip(f"no file system of one's own here: {ended.stderr.strip()[-200:]}")
    assert ended.returncode == 0, ended.stderr
    happened: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return happened


def test_retained_objects_give_way_then_scanners_wait_then_it_goes_on_by_itself(tmp_path: Path) -> None:
    happened = on_a_small_disk("fills", tmp_path)

    assert happened["retained"] == 10
    assert happened["left"] == sorted(happened["left"], reverse=True)
    assert (happened["left"][0], happened["left"][-1]) == (10, 0)
    assert happened["refused"] == [True] * 20
    assert not happened["accepting_while_full"]
    assert happened["hours_while_full"] == 0.0
    assert 0 < happened["free_while_full"] < 4_000_000
    assert happened["unsent"] > 40
    assert happened["intact"]
    assert happened["taken_again"]
    assert happened["unsent_after"] == happened["unsent"] - 12 + 1
    assert not any(happened["repaired"].values())
    assert happened["said"] == [FULL, ROOM_AGAIN]


def test_a_disk_that_somebody_else_fills(tmp_path: Path) -> None:
    happened = on_a_small_disk("somebody_else", tmp_path)
    assert happened == {"refused": [True] * 3, "taken": True, "ready": 2, "said": [FULL, ROOM_AGAIN]}


def test_an_image_that_is_larger_than_the_disk_leaves_nothing(tmp_path: Path) -> None:
    assert on_a_small_disk("grows", tmp_path) == {"failed": True, "left": [], "taken": True}


def test_names_are_room_as_well(tmp_path: Path) -> None:
    happened = on_a_small_disk("files_run_out", tmp_path, "size=256m,nr_inodes=900")

    assert happened["retained"] == 40
    assert happened["retained_after"] == 0
    assert happened["stored"] > 200
    assert not happened["accepting"]
    assert happened["free_bytes"] > 100_000_000
    assert happened["taken"]
    assert happened["ready"] == happened["stored"] - 150 + 1


def test_below_the_low_water_mark_room_is_made_in_the_background(tmp_path: Path) -> None:
    happened = on_a_small_disk("low_water", tmp_path)

    assert happened["retained"] > 20
    assert happened["below"] > 1_000_000
    assert happened["above"] == 0
    assert 0 < happened["retained_after"] < happened["retained"] - 2
    assert happened["ready"] == 8


def test_the_mark_is_never_below_the_reserve() -> None:
    assert Disk(100, free_bytes=30, reserve_bytes=40, low_water_bytes=20).low_by_bytes == 10
    assert Disk(100, free_bytes=30, reserve_bytes=10, low_water_bytes=40).low_by_bytes == 10
    assert Disk(100, free_bytes=50, reserve_bytes=10, low_water_bytes=40).low_by_bytes == 0


def test_each_reception_below_the_mark_asks_for_room(open_spool: OpenSpool) -> None:
    asked: list[bool] = []
    spool = open_spool(low_water_bytes=1 << 62, on_low_water=lambda: asked.append(True))
    store(spool, 1)
    store(spool, 2)
    assert asked == [True, True]


def test_a_file_system_without_a_bound_for_files_has_room_for_them(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = spool._files.room()
    monkeypatch.setattr(spool._files, "room", lambda: room._replace(total_files=0, free_files=0))
    assert spool.room.disk().accepting
    assert store(spool, 1).outcome == "stored"


def test_what_is_short_is_said(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    link = LinkStatus(state="connected")
    room = spool._files.room()
    monkeypatch.setattr(spool._files, "room", lambda: room._replace(total_files=10_000, free_files=7))
    assert "7 more files fit" in not_accepting_because(link, spool.room.disk(), Tally(0, 0))
    with pytest.raises(DiskFullError, match="only 7 files more fit"):
        spool.entrance.receive(ORIGIN)

    full = Disk(100 << 30, free_bytes=1 << 30, reserve_bytes=2 << 30)
    because = not_accepting_because(link, full, Tally(0, 0))
    assert because.startswith("The disk is full: 1.00 GiB are free and 2.00 GiB are kept in reserve.")


@pytest.mark.parametrize(
    ("hours", "text"),
    [
        (None, ""),
        (0.0, "; full"),
        (0.4, "; full within the hour"),
        (14.2, "; full in about 14 hours"),
    ],
)
def test_the_forecast_as_a_technician_reads_it(hours: float | None, text: str) -> None:
    assert full_text(hours) == text
