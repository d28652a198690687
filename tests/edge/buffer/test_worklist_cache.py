"""The worklist on the disk: sealed, whole, written only when it changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.buffer.device_key import DeviceKey
from edge.buffer.worklist_cache import (
    MAX_ITEM_BYTES,
    MAX_ITEMS,
    MAX_TOTAL_BYTES,
    WorklistCache,
    WorklistItem,
    WorklistTooLargeError,
)

EXPLICIT = "1.2.840.10008.1.2.1"
ITEMS = [WorklistItem(b"CANARY^PATIENT %d" % number, EXPLICIT) for number in range(3)]


@pytest.fixture
def key(tmp_path: Path) -> DeviceKey:
    return DeviceKey.load(tmp_path / "device.key")


def test_the_next_life_goes_on_with_what_was_kept(tmp_path: Path, key: DeviceKey) -> None:
    path = tmp_path / "worklist.sealed"
    WorklistCache(path, key, source="central", owner="one").replace(ITEMS, version="v1")
    again = WorklistCache(path, key, source="central", owner="one").snapshot()
    assert (list(again.items), again.version) == (ITEMS, "v1")
    assert again.refreshed_at_utc is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"CANARY" not in path.read_bytes()


def test_an_unchanged_worklist_writes_nothing(tmp_path: Path, key: DeviceKey) -> None:
    path = tmp_path / "worklist.sealed"
    cache = WorklistCache(path, key, source="central", owner="one")
    cache.replace(ITEMS)
    before, first = path.stat(), cache.snapshot()
    cache.replace(list(ITEMS))
    cache.confirm()
    now = cache.snapshot()
    assert path.stat().st_ino == before.st_ino
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert now.items is first.items
    assert first.refreshed_at_utc is not None
    assert now.refreshed_at_utc is not None
    assert now.refreshed_at_utc > first.refreshed_at_utc


def test_another_source_does_not_inherit(tmp_path: Path, key: DeviceKey) -> None:
    path = tmp_path / "worklist.sealed"
    WorklistCache(path, key, source="central", owner="one").replace(ITEMS)
    assert WorklistCache(path, key, source="upstream", owner="one").snapshot().refreshed_at_utc is None


def test_another_hospital_does_not_inherit(tmp_path: Path, key: DeviceKey) -> None:
    path = tmp_path / "worklist.sealed"
    cache = WorklistCache(path, key, source="central", owner="one")
    cache.replace(ITEMS)
    cache.belong_to("one")
    assert len(cache.snapshot().items) == 3
    cache.belong_to("two")
    assert (cache.snapshot().items, cache.snapshot().refreshed_at_utc) == ((), None)
    # Before it is known whose it is, it is nobody's.
    assert WorklistCache(path, key, source="central").snapshot().items == ()


@pytest.mark.parametrize("damage", ["other key", "cut", "empty", "json"])
def test_what_does_not_open_is_no_worklist_and_no_obstacle(
    tmp_path: Path, key: DeviceKey, damage: str
) -> None:
    path = tmp_path / "worklist.sealed"
    WorklistCache(path, key, source="central", owner="one").replace(ITEMS)
    if damage == "other key":
        key = DeviceKey.load(tmp_path / "other.key")
    elif damage == "json":
        path.write_bytes(key.seal(b'{"items": 1}', "worklist"))
    else:
        path.write_bytes(path.read_bytes()[:50] if damage == "cut" else b"")
    cache = WorklistCache(path, key, source="central", owner="one")
    assert cache.snapshot().refreshed_at_utc is None
    cache.replace(ITEMS)
    assert len(WorklistCache(path, key, source="central", owner="one").snapshot().items) == 3


@pytest.mark.parametrize(
    "items",
    [
        [WorklistItem(b"x", EXPLICIT)] * (MAX_ITEMS + 1),
        [WorklistItem(b"x" * (MAX_ITEM_BYTES + 1), EXPLICIT)],
        [WorklistItem(b"x" * MAX_ITEM_BYTES, EXPLICIT)] * (MAX_TOTAL_BYTES // MAX_ITEM_BYTES + 1),
    ],
    ids=["items", "item", "total"],
)
def test_more_than_the_box_keeps_changes_nothing(
    tmp_path: Path, key: DeviceKey, items: list[WorklistItem]
) -> None:
    cache = WorklistCache(tmp_path / "worklist.sealed", key, source="central", owner="one")
    cache.replace(ITEMS)
    with pytest.raises(WorklistTooLargeError, match="horizon_days"):
        cache.replace(items)
    assert list(cache.snapshot().items) == ITEMS
