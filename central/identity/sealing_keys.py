"""Central's sealing keys: made, signed into the key set, kept for as long as any box may need them.

    keys/root.key                signs key sets (Ed25519); may be taken away and kept offline
    keys/root.pub                its public half, 32 raw bytes: boxes pin it when they enrol
    keys/sealing/<key id>.key    opens what was sealed for that key (contract.sealing: 96 raw bytes)
    keys/sealing/<key id>.gone   that key was destroyed on purpose
    keys/key-set.jws             the set that boxes are given (contract.key_set)

Always true: a private key is durable before a set names it; a set that is published is signed by the root and
has a higher number than every one before; a key that the set lists is here or was destroyed on purpose, else central
does not start, because boxes would be told that what they hold cannot be opened. Several processes may look at
once; who changes something holds the folder's lock. A crash leaves the old set or the new one, and at worst a key
that no set names yet, which the next change takes up.
"""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from central.identity.errors import KeyFileError, KeySetChangeError
from central.identity.keyfiles import make_private_folder, private_pem, read_private, write_whole
from contract.key_set import (
    MAX_KEYS,
    KeySet,
    KeySetError,
    SealingKeyEntry,
    check_successor,
    sign_key_set,
    verify_key_set,
)
from contract.sealing import RecipientPrivateKey, SealingKeyError

ROOT_KEY: Final = "root.key"
ROOT_PUBLIC: Final = "root.pub"
KEY_SET: Final = "key-set.jws"
SEALING: Final = "sealing"
_FIRST_FORM: Final = "sealing.key"  # where the one key was before there were sets
_MADE_LAST: Final = "receipt.key"  # of a first start; where it is, nothing here is made up again


class SealingKeys(Mapping[bytes, RecipientPrivateKey]):
    """The keys in a folder, read anew at every look, so a running central takes up what a command changed.

    As a mapping: private keys by key id, as `contract.sealing.Unwrapper` wants them.
    """

    def __init__(self, folder: Path, central_id: str) -> None:
        self._folder = folder
        self._central_id = central_id

    @classmethod
    def open(cls, folder: Path, central_id: str) -> SealingKeys:
        """The keys in `folder`, made there at the first start.

        Raises
        ------
        KeyFileError : something is missing or damaged; the text says what to restore.
        """
        keys = cls(folder, central_id)
        make_private_folder(folder / SEALING)
        with keys.changing():
            keys._make_first()
        keys.check_whole()
        return keys

    def __getitem__(self, key_id: bytes) -> RecipientPrivateKey:
        path = self.path_of(key_id.hex())
        raw = read_private(path)
        if raw is None:
            raise KeyError(key_id.hex())
        return _private(path, raw)

    def __iter__(self) -> Iterator[bytes]:
        return iter(sorted(bytes.fromhex(path.stem) for path in (self._folder / SEALING).glob("*.key")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def path_of(self, key_id: str) -> Path:
        """Where the private key is, if it is here."""
        return self._folder / SEALING / f"{key_id}.key"

    def is_destroyed(self, key_id: str) -> bool:
        return self.path_of(key_id).with_suffix(".gone").exists()

    def root_public(self) -> Ed25519PublicKey:
        try:
            return Ed25519PublicKey.from_public_bytes((self._folder / ROOT_PUBLIC).read_bytes())
        except (OSError, ValueError) as error:
            raise KeyFileError(
                f"{self._folder / ROOT_PUBLIC} is missing or damaged: restore it from the backup"
            ) from error

    def signed_set(self) -> str:
        """The key set that boxes are given."""
        try:
            return (self._folder / KEY_SET).read_text("ascii").strip()
        except (OSError, ValueError) as error:
            raise KeyFileError(
                f"{self._folder / KEY_SET} is missing or damaged: restore it from the backup"
            ) from error

    def current_set(self) -> KeySet:
        try:
            return verify_key_set(self.signed_set(), self.root_public())
        except KeySetError as error:
            raise KeyFileError(f"{self._folder / KEY_SET}: {error}; restore it from the backup") from error

    def check_whole(self) -> None:
        """Raise KeyFileError unless every key of the set is here, readable, and the one it says it is."""
        for entry in self.current_set().keys:
            if self.is_destroyed(entry.key_id):
                continue
            path = self.path_of(entry.key_id)
            raw = read_private(path)
            if raw is None:
                raise KeyFileError(
                    f"{path} is missing: restore it from the backup, or boxes hold objects that nobody can open"
                )
            if _private(path, raw).public_key().key_id.hex() != entry.key_id:
                raise KeyFileError(f"{path} holds another key: restore it from the backup")

    # Changes: the caller holds `changing()` ------------------------------------------------------------

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Nobody else changes keys meanwhile."""
        descriptor = os.open(self._folder / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def rotated(self, seen_version: int = 0) -> KeySet:
        """The next set, with a new newest key whose private half is already durable here. Not yet published.

        Parameters
        ----------
        seen_version : the newest set that a box has; its number is passed, too, where keys came from an older backup.
        """
        held = self.current_set()
        listed = {entry.key_id for entry in held.keys}
        keys = tuple(
            entry
            for entry in held.keys
            if entry.retired_at_utc is None or not self.is_destroyed(entry.key_id)
        )
        if len(keys) >= MAX_KEYS:
            raise KeySetChangeError(
                f"a set has at most {MAX_KEYS} keys: retire and destroy keys that nothing needs any more"
            )
        unlisted = [key_id for key_id in self if key_id.hex() not in listed]
        private = self[unlisted[0]] if unlisted else self._new_key()
        return self._next(held, (*keys, _entry(private)), seen_version)

    def retired(self, key_id: str, seen_version: int = 0) -> KeySet:
        """The next set, with that key marked as one that nobody seals for any more; as `rotated`."""
        held, found = self.current_set(), self._listed(key_id)
        if found == held.newest:
            raise KeySetChangeError("this is the newest key, the one that boxes seal for: rotate first")
        if found.retired_at_utc is not None:
            raise KeySetChangeError(f"the key was retired on {found.retired_at_utc:%Y-%m-%d}")
        gone = SealingKeyEntry(
            key_id=key_id, created_at_utc=found.created_at_utc, retired_at_utc=datetime.now(UTC)
        )
        keys = tuple(gone if entry == found else entry for entry in held.keys)
        return self._next(held, keys, seen_version)

    def publish(self, token: str) -> KeySet:
        """Give boxes this signed set from now on.

        Raises
        ------
        KeySetChangeError : the root did not sign it, it is not newer, or a private key for it is not here.
        """
        try:
            offered = verify_key_set(token, self.root_public())
            news = check_successor(self.current_set(), offered)
        except KeySetError as error:
            raise KeySetChangeError(f"this set cannot be published: {error}") from error
        if not news:
            raise KeySetChangeError("this set is published already")
        for entry in offered.keys:
            if not self.path_of(entry.key_id).exists() and not self.is_destroyed(entry.key_id):
                raise KeySetChangeError(
                    f"the private half of {entry.key_id} is not here: nothing was changed"
                )
        write_whole(self._folder / KEY_SET, token.encode("ascii"), mode=0o644)
        return offered

    def require_retired(self, key_id: str) -> None:
        """Raise KeySetChangeError unless it is a retired key of the set."""
        if self._listed(key_id).retired_at_utc is None:
            raise KeySetChangeError("only a retired key can be destroyed: keys retire comes first")

    def destroy(self, key_id: str) -> None:
        """Erase a retired private key for good. Whether anything needs it is for the caller to know."""
        self.require_retired(key_id)
        path = self.path_of(key_id)
        write_whole(path.with_suffix(".gone"), b"")
        path.unlink(missing_ok=True)

    def _listed(self, key_id: str) -> SealingKeyEntry:
        found = next((entry for entry in self.current_set().keys if entry.key_id == key_id), None)
        if found is None:
            raise KeySetChangeError(f"there is no sealing key {key_id}; keys list shows them")
        return found

    def _next(self, held: KeySet, keys: tuple[SealingKeyEntry, ...], seen_version: int) -> KeySet:
        version = max(held.version, seen_version) + 1
        return KeySet(
            central_id=self._central_id, version=version, issued_at_utc=datetime.now(UTC), keys=keys
        )

    def _new_key(self) -> RecipientPrivateKey:
        private = RecipientPrivateKey.generate()
        write_whole(self.path_of(private.public_key().key_id.hex()), private.raw)
        return private

    def _make_first(self) -> None:
        """Root, key and set, as far as they were never made; in an order that a crash may cut anywhere."""
        first_form = self._folder / _FIRST_FORM
        if (self._folder / KEY_SET).exists():
            first_form.unlink(missing_ok=True)
            return
        if (self._folder / _MADE_LAST).exists() and not first_form.exists():
            raise KeyFileError(f"{self._folder / KEY_SET} is missing: restore it from the backup")
        if not (self._folder / ROOT_PUBLIC).exists():
            root = read_root(self._folder / ROOT_KEY)
            if root is None:
                root = Ed25519PrivateKey.generate()
                write_whole(self._folder / ROOT_KEY, private_pem(root))
            write_whole(self._folder / ROOT_PUBLIC, root.public_key().public_bytes_raw(), mode=0o644)
        root = read_root(self._folder / ROOT_KEY)
        if root is None or len(self) > 1:
            raise KeyFileError(f"{self._folder / KEY_SET} is missing: restore it from the backup")
        raw = read_private(first_form)
        if raw is not None:
            key_id = _private(first_form, raw).public_key().key_id.hex()
            write_whole(self.path_of(key_id), raw)
        private = self[next(iter(self))] if len(self) else self._new_key()
        first = KeySet(
            central_id=self._central_id, version=1, issued_at_utc=datetime.now(UTC), keys=(_entry(private),)
        )
        write_whole(self._folder / KEY_SET, sign_key_set(first, root).encode("ascii"), mode=0o644)
        first_form.unlink(missing_ok=True)


def read_root(path: Path) -> Ed25519PrivateKey | None:
    """The root key in `path`; None if it is not there.

    Raises
    ------
    KeyFileError : it is damaged, open to others, or another kind of key.
    """
    pem = read_private(path)
    if pem is None:
        return None
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise KeyFileError(f"{path} is damaged: restore it from the backup") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an Ed25519 key: restore it from the backup")
    return key


def _entry(private: RecipientPrivateKey) -> SealingKeyEntry:
    public = private.public_key()
    return SealingKeyEntry(
        key_id=public.key_id.hex(),
        created_at_utc=datetime.now(UTC),
        public_key=base64.b64encode(public.raw).decode("ascii"),
    )


def _private(path: Path, raw: bytes) -> RecipientPrivateKey:
    try:
        return RecipientPrivateKey(raw)
    except SealingKeyError as error:
        raise KeyFileError(f"{path} is damaged: restore it from the backup ({error})") from error
