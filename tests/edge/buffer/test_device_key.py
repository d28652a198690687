"""The key that stays on the box: made once, closed to others, and what it seals opens nowhere else."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from edge.buffer.device_key import OVERHEAD_BYTES, DeviceKey, DeviceKeyError, NotSealedHereError

NAME = "山田^太郎".encode()


def test_a_record_opens_in_the_next_life_and_shows_nothing_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "identity" / "device.key"
    sealed = DeviceKey.load(path).seal(NAME, "worklist")
    assert NAME not in sealed
    assert len(sealed) == len(NAME) + OVERHEAD_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [child.name for child in path.parent.iterdir()] == ["device.key"]
    assert DeviceKey.load(path).open(sealed, "worklist") == NAME


def test_no_two_seals_are_alike(tmp_path: Path) -> None:
    key = DeviceKey.load(tmp_path / "key")
    assert len({key.seal(NAME, "worklist") for _ in range(100)}) == 100


@pytest.mark.parametrize("place", [0, 1, 33, -1])
def test_a_changed_byte_is_noticed(tmp_path: Path, place: int) -> None:
    key = DeviceKey.load(tmp_path / "key")
    sealed = bytearray(key.seal(NAME, "worklist"))
    sealed[place] ^= 1
    with pytest.raises(NotSealedHereError):
        key.open(bytes(sealed), "worklist")


def test_another_context_another_key_and_a_short_record_do_not_open(tmp_path: Path) -> None:
    key = DeviceKey.load(tmp_path / "key")
    sealed = key.seal(NAME, "mpps 1.2.3")
    with pytest.raises(NotSealedHereError, match=r"mpps 1\.2\.4"):
        key.open(sealed, "mpps 1.2.4")
    with pytest.raises(NotSealedHereError):
        DeviceKey.load(tmp_path / "other").open(sealed, "mpps 1.2.3")
    with pytest.raises(NotSealedHereError):
        key.open(sealed[:20], "mpps 1.2.3")


def test_a_damaged_key_file_is_said_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"half a k")
    with pytest.raises(DeviceKeyError, match="restore it"):
        DeviceKey.load(path)
    assert path.read_bytes() == b"half a k"


def test_makers_that_race_agree(tmp_path: Path) -> None:
    path, start, made = tmp_path / "key", threading.Barrier(8), []

    def make() -> None:
        start.wait()
        made.append(DeviceKey.load(path))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sealed = made[0].seal(NAME, "worklist")
    assert all(key.open(sealed, "worklist") == NAME for key in made)
