"""The keys that studies' keys are wrapped under, in ``keys/storage-<number>-<fingerprint>.key`` (0600, 32 bytes).

Always true: the newest, by number, wraps; every one that is there opens. A key is made at the first start that
encrypts and by `rotate` only; one that is missing or changed is named and never made again, since studies would be
lost with it. What a crash leaves: a key file that wraps nothing yet.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from central.identity.errors import KeyFileError
from central.identity.keyfiles import make_private_folder, read_private, write_whole

KEY_BYTES: Final = 32
_NAME: Final = re.compile(r"storage-([1-9][0-9]{0,5})-([0-9a-f]{16})\.key")


class StorageKeys:
    """Of one folder, which several processes may share. A key's id is its file's name without ``.key``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def ids(self) -> list[str]:
        """By number, so that the one in use is the last."""
        found = [_NAME.fullmatch(path.name) for path in self._folder.glob("storage-*.key")]
        named = [match for match in found if match is not None]
        return [match.string.removesuffix(".key") for match in sorted(named, key=lambda one: int(one[1]))]

    def __getitem__(self, key_id: str) -> bytes:
        """32 bytes.

        Raises
        ------
        KeyFileError : it is missing, damaged, or open to others; the text says what to restore.
        """
        path = self._folder / f"{key_id}.key"
        raw = read_private(path)
        if raw is None:
            raise KeyFileError(
                f"{path} is missing: restore it from the backup, or nobody can open the studies that it protects"
            )
        if len(raw) != KEY_BYTES or not key_id.endswith(_fingerprint(raw)):
            raise KeyFileError(f"{path} is damaged: restore it from the backup")
        return raw

    def make_first(self) -> None:
        """Make the first key, if there is none."""
        with self._changing():
            if not self.ids():
                self._make(1)

    def rotate(self) -> str:
        """Make a further key, which wraps from now on; its id."""
        with self._changing():
            ids = self.ids()
            return self._make(int(ids[-1].split("-")[1]) + 1 if ids else 1)

    def destroy(self, key_id: str) -> None:
        """Erase a former key for good; `keys restore` does not put it back. KeyFileError if it is none."""
        with self._changing():
            if key_id not in self.ids()[:-1]:
                raise KeyFileError(f"{key_id} is not a former storage key; keys list shows them")
            path = self._folder / f"{key_id}.key"
            write_whole(path.with_suffix(".gone"), b"", mode=0o644)
            path.unlink()

    def _make(self, number: int) -> str:
        raw = os.urandom(KEY_BYTES)
        key_id = f"storage-{number}-{_fingerprint(raw)}"
        write_whole(self._folder / f"{key_id}.key", raw)
        return key_id

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time, over all processes."""
        make_private_folder(self._folder)
        descriptor = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _fingerprint(raw: bytes) -> str:
    return hashlib.sha256(b"dicomnet storage key" + raw).hexdigest()[:16]
