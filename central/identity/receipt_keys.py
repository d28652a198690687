"""Central's receipt keys: the first, and those that took its place, listed for boxes and signed by the root.

    keys/receipt.key             the first one (Ed25519). It also signs the audit record's checkpoints, and marks
                                 the boxes' tickets; both stay with it, whatever signs receipts
    keys/receipt-<key id>.key    each further one
    keys/receipt-keys.jws        the list that boxes are given (contract.receipt_keys); none before the first rotation

Always true: a private key is durable before a list names it; a list that is published is signed by the root and has a
higher number than every one before; nothing is signed with a key before its time, so that boxes know it by then. The
first rotation needs the root, which may be offline, and until then all is as it was. Who changes something holds the
lock of `SealingKeys.changing`. A crash leaves the old list or the new one, and at worst a key that no list names.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from central.identity.errors import KeyFileError, KeySetChangeError
from central.identity.keyfiles import private_pem, read_private, write_whole
from contract.key_set import KeySetError, check_successor
from contract.receipt import Receipt, receipt_key_id, sign_receipt, verify_receipt
from contract.receipt_keys import (
    MAX_RECEIPT_KEYS,
    ReceiptKeyEntry,
    ReceiptKeyList,
    verify_receipt_keys,
)
from contract.signed import named
from contract.signed_time import SignedTime, sign_time

RECEIPT_KEYS: Final = "receipt-keys.jws"
LEAD: Final = timedelta(days=14)
"""How long boxes are told of a key before it signs: longer than most are off. One that is off for longer learns of it
before it asks for the time, and what was receipted meanwhile is receipted to it again."""


class ReceiptKeys:
    """The keys in a folder; a running central takes up what a command changed. Safe to call from many threads."""

    def __init__(
        self,
        folder: Path,
        central_id: str,
        first: Ed25519PrivateKey,
        root_public: Callable[[], Ed25519PublicKey],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder = folder
        self._central_id = central_id
        self._first = first
        self._root_public = root_public
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: tuple[tuple[int, int, int], str, ReceiptKeyList] | None = None
        self._opened = {key_id_of(first): first}

    @classmethod
    def open(
        cls,
        folder: Path,
        central_id: str,
        first: Ed25519PrivateKey,
        root_public: Callable[[], Ed25519PublicKey],
    ) -> ReceiptKeys:
        """KeyFileError: something is missing or damaged; the text says what to restore."""
        keys = cls(folder, central_id, first, root_public)
        held = keys.current_list()
        for entry in held.keys if held else ():
            keys._private(
                entry.key_id
            )  # a retired one, too: what it signed is signed anew where it is wanted
        return keys

    def signed_list(self) -> str | None:
        """The list that boxes are given; None if there was never a second key."""
        found = self._read()
        return found[0] if found else None

    def current_list(self) -> ReceiptKeyList | None:
        found = self._read()
        return found[1] if found else None

    def verifying(self) -> dict[str, Ed25519PublicKey]:
        """The keys that count, those that do not sign yet among them, the oldest first."""
        held = self.current_list()
        return dict(held.verifying()) if held else {key_id_of(self._first): self._first.public_key()}

    def sign_receipt(self, receipt: Receipt) -> str:
        return sign_receipt(receipt, self._signing())

    def sign_time(self, time: SignedTime) -> str:
        return sign_time(time, self._signing())

    def in_force(self, token: str) -> str:
        """A receipt that was signed once, as boxes believe it now: signed anew where its key was retired since."""
        held = self.current_list()
        if held is None:
            return token
        by = named(token, "kid")
        if by in held.verifying():
            return token
        return self.sign_receipt(verify_receipt(token, {by: self._private(by).public_key()}))

    # Changes: the caller holds `SealingKeys.changing()` ------------------------------------------------

    def rotated(self, lead: timedelta = LEAD) -> ReceiptKeyList:
        """The next list, with a new key that signs after `lead`, durable here already. Not yet published."""
        now = self._clock()
        keys = self._listed(now)
        if keys[-1].signs_from_utc > now:
            raise KeySetChangeError(
                f"the newest receipt key signs from {keys[-1].signs_from_utc:%Y-%m-%d %H:%M} UTC on: wait until then"
            )
        if len(keys) >= MAX_RECEIPT_KEYS:
            raise KeySetChangeError(f"a list has at most {MAX_RECEIPT_KEYS} receipt keys: retire the oldest")
        private = Ed25519PrivateKey.generate()
        write_whole(self._path_of(key_id_of(private)), private_pem(private))
        return self._next((*keys, _entry(private.public_key(), now, now + lead)), now)

    def retired(self, key_id: str) -> ReceiptKeyList:
        """The next list, in which nothing counts that this key signed. Not yet published."""
        now = self._clock()
        keys = self._all_listed(now)
        found = next((entry for entry in keys if entry.key_id == key_id), None)
        if found is None:
            raise KeySetChangeError(f"there is no receipt key {key_id}; keys list shows them")
        if found.retired_at_utc is not None:
            raise KeySetChangeError(f"the key was retired on {found.retired_at_utc:%Y-%m-%d}")
        if key_id == key_id_of(self._signing()):
            raise KeySetChangeError(
                "this is the key that signs now: rotate-receipts first, and wait until its day"
            )
        if found == keys[-1]:
            raise KeySetChangeError("this is the newest receipt key: rotate-receipts first")
        gone = found.model_copy(update={"public_key": None, "retired_at_utc": now})
        return self._next(tuple(gone if entry == found else entry for entry in keys), now)

    def publish(self, token: str) -> ReceiptKeyList:
        """Give boxes this signed list from now on.

        Raises
        ------
        KeySetChangeError : the root did not sign it, it is not newer, or a private key for it is not here.
        """
        try:
            offered = verify_receipt_keys(token, self._root_public())
            held = self.current_list()
            news = held is None or check_successor(held, offered)
        except KeySetError as error:
            raise KeySetChangeError(f"this list cannot be published: {error}") from error
        if offered.central_id != self._central_id:
            raise KeySetChangeError("this list is another central's: nothing was changed")
        if not news:
            raise KeySetChangeError("this list is published already")
        for entry in offered.keys:
            if entry.public_key is not None:
                try:
                    self._private(entry.key_id)
                except KeyFileError as error:
                    raise KeySetChangeError(
                        f"the private half of {entry.key_id} is not here: nothing was changed"
                    ) from error
        write_whole(self._folder / RECEIPT_KEYS, token.encode("ascii"), mode=0o644)
        return offered

    def _signing(self) -> Ed25519PrivateKey:
        held = self.current_list()
        return self._private(held.signing_at(self._clock()).key_id) if held else self._first

    def _all_listed(self, now: datetime) -> tuple[ReceiptKeyEntry, ...]:
        held = self.current_list()
        return held.keys if held else (_entry(self._first.public_key(), now, now),)

    def _listed(self, now: datetime) -> tuple[ReceiptKeyEntry, ...]:
        """Without the oldest retired ones, where room is wanted; their private halves stay for `in_force`."""
        keys = list(self._all_listed(now))
        while len(keys) >= MAX_RECEIPT_KEYS and keys[0].public_key is None:
            del keys[0]
        return tuple(keys)

    def _next(self, keys: tuple[ReceiptKeyEntry, ...], now: datetime) -> ReceiptKeyList:
        held = self.current_list()
        version = held.version + 1 if held else 1
        return ReceiptKeyList(central_id=self._central_id, version=version, issued_at_utc=now, keys=keys)

    def _read(self) -> tuple[str, ReceiptKeyList] | None:
        """The list on the disk; read again when its file was replaced."""
        path = self._folder / RECEIPT_KEYS
        with self._lock:
            try:
                found = path.stat()
                mark = (found.st_mtime_ns, found.st_ino, found.st_size)
                if self._seen is None or self._seen[0] != mark:
                    token = path.read_text("ascii").strip()
                    self._seen = mark, token, verify_receipt_keys(token, self._root_public())
                return self._seen[1], self._seen[2]
            except FileNotFoundError:
                return None
            except (OSError, ValueError, KeySetError) as error:
                raise KeyFileError(f"{path} is damaged: restore it from the backup ({error})") from error

    def _private(self, key_id: str) -> Ed25519PrivateKey:
        with self._lock:
            if key_id not in self._opened:
                self._opened[key_id] = self._load(self._path_of(key_id))
            return self._opened[key_id]

    def _path_of(self, key_id: str) -> Path:
        return self._folder / f"receipt-{key_id}.key"

    def _load(self, path: Path) -> Ed25519PrivateKey:
        pem = read_private(path)
        if pem is None:
            raise KeyFileError(f"{path} is missing: restore it from the backup")
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as error:
            raise KeyFileError(f"{path} is damaged: restore it from the backup") from error
        if not isinstance(key, Ed25519PrivateKey) or key_id_of(key) != _id_in(path):
            raise KeyFileError(f"{path} holds another key: restore it from the backup")
        return key


def _entry(public: Ed25519PublicKey, created: datetime, signs_from: datetime) -> ReceiptKeyEntry:
    return ReceiptKeyEntry(
        key_id=receipt_key_id(public),
        created_at_utc=created,
        signs_from_utc=signs_from,
        public_key=base64.b64encode(public.public_bytes_raw()).decode("ascii"),
    )


def key_id_of(key: Ed25519PrivateKey) -> str:
    return receipt_key_id(key.public_key())


def _id_in(path: Path) -> str:
    return path.stem.removeprefix("receipt-")
