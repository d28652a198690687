"""Sealing keys and their root: made once, rotated, retired, taken offline, and never lost or given up by accident."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from central.identity.errors import KeyFileError, KeySetChangeError
from central.identity.keyfiles import make_private_folder, write_whole
from central.identity.sealing_keys import ROOT_KEY, SealingKeys, read_root
from contract.key_set import MAX_KEYS, KeySet, sign_key_set
from contract.sealing import RecipientPrivateKey


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    make_private_folder(path)
    return path


def publish(keys: SealingKeys, offered: KeySet, folder: Path) -> KeySet:
    root = read_root(folder / ROOT_KEY)
    assert root is not None
    return keys.publish(sign_key_set(offered, root))


def test_rotation_adds_a_key_and_every_former_one_still_opens(folder: Path) -> None:
    keys = SealingKeys.open(folder, "central-1")
    first = keys.current_set().newest
    data_key = b"d" * 32
    wrapped = first.recipient().wrap(data_key)
    with keys.changing():
        offered = publish(keys, keys.rotated(), folder)
    assert (offered.version, len(offered.keys)) == (2, 2)
    assert offered.newest != first
    assert keys.current_set() == offered
    another_process = SealingKeys.open(folder, "central-1")
    assert another_process[bytes.fromhex(first.key_id)].unwrap(wrapped) == data_key
    assert set(another_process) == {bytes.fromhex(entry.key_id) for entry in offered.keys}


def test_a_running_central_opens_with_a_key_that_another_process_made(folder: Path) -> None:
    running, command = SealingKeys.open(folder, "c"), SealingKeys.open(folder, "c")
    with command.changing():
        newest = publish(command, command.rotated(), folder).newest
    assert running.get(bytes.fromhex(newest.key_id)) is not None
    assert running.current_set().newest == newest


def test_a_crash_after_the_new_key_and_before_the_set_wastes_no_key(folder: Path) -> None:
    keys = SealingKeys.open(folder, "c")
    made = keys.rotated().newest.key_id
    again = SealingKeys.open(folder, "c")
    assert again.current_set().version == 1
    assert again.rotated().newest.key_id == made


def test_the_root_signs_elsewhere_and_another_root_does_not(folder: Path, tmp_path: Path) -> None:
    keys = SealingKeys.open(folder, "c")
    offline = tmp_path / "stick.key"
    (folder / ROOT_KEY).rename(offline)
    keys = SealingKeys.open(folder, "c")  # central starts without its root
    offered = keys.rotated()
    with pytest.raises(KeySetChangeError, match="not central's"):
        keys.publish(sign_key_set(offered, Ed25519PrivateKey.generate()))
    assert keys.current_set().version == 1
    root = read_root(offline)
    assert root is not None
    token = sign_key_set(offered, root)
    keys.publish(token)
    with pytest.raises(KeySetChangeError, match="published already"):
        keys.publish(token)


def test_a_set_that_goes_back_or_names_a_key_that_is_not_here_is_not_published(folder: Path) -> None:
    keys = SealingKeys.open(folder, "c")
    first = keys.current_set()
    publish(keys, keys.rotated(), folder)
    with pytest.raises(KeySetChangeError, match="older than they were"):
        publish(keys, first, folder)
    offered = keys.rotated()
    keys.path_of(offered.newest.key_id).unlink()
    with pytest.raises(KeySetChangeError, match="not here"):
        publish(keys, offered, folder)


def test_only_a_retired_key_is_destroyed_and_the_newest_is_never_retired(folder: Path) -> None:
    keys = SealingKeys.open(folder, "c")
    first = keys.current_set().newest.key_id
    for change in (keys.retired, keys.destroy):
        with pytest.raises(KeySetChangeError):
            change(first)
    publish(keys, keys.rotated(), folder)
    with pytest.raises(KeySetChangeError, match="retire comes first"):
        keys.destroy(first)
    retired = publish(keys, keys.retired(first), folder)
    assert retired.keys[0].public_key is None
    assert bytes.fromhex(first) in keys  # it still opens
    keys.destroy(first)
    assert bytes.fromhex(first) not in keys
    SealingKeys.open(folder, "c")  # destroyed on purpose is not missing
    assert first not in {entry.key_id for entry in keys.rotated().keys}


def test_a_key_that_is_missing_or_swapped_keeps_central_from_starting(folder: Path) -> None:
    keys = SealingKeys.open(folder, "c")
    path = keys.path_of(keys.current_set().newest.key_id)
    good = path.read_bytes()
    path.unlink()
    with pytest.raises(KeyFileError, match="nobody can open"):
        SealingKeys.open(folder, "c")
    write_whole(path, RecipientPrivateKey.generate().raw)
    with pytest.raises(KeyFileError, match="another key"):
        SealingKeys.open(folder, "c")
    write_whole(path, good)
    SealingKeys.open(folder, "c")


@pytest.mark.parametrize("name", ["key-set.jws", "root.pub"])
def test_a_lost_set_or_root_is_not_made_up(folder: Path, name: str) -> None:
    keys = SealingKeys.open(folder, "c")
    publish(keys, keys.rotated(), folder)
    (folder / ROOT_KEY).unlink()
    (folder / name).unlink()
    with pytest.raises(KeyFileError, match="restore"):
        SealingKeys.open(folder, "c")


def test_the_one_key_of_before_becomes_the_first_of_the_set(folder: Path) -> None:
    private = RecipientPrivateKey.generate()
    write_whole(folder / "sealing.key", private.raw)
    keys = SealingKeys.open(folder, "c")
    assert keys.current_set().newest.recipient() == private.public_key()
    assert not (folder / "sealing.key").exists()


def test_a_set_does_not_grow_without_end(folder: Path) -> None:
    keys = SealingKeys.open(folder, "c")
    for _ in range(MAX_KEYS - 1):
        publish(keys, keys.rotated(), folder)
    with pytest.raises(KeySetChangeError, match="retire and destroy"):
        keys.rotated()
