"""Whose receipts count: the newest list of receipt keys that the pinned root signed.

    identity/receipt_keys.json

Always true: a list is in here only if the root that was pinned at enrolment signed it for this very central, and its
number goes down only when a person enrols the box anew. Where there never was a list, the keys that central named at
enrolment count; where it is damaged none does until it comes again, for one of them may have been retired since. That
costs a delay: what no receipt is believed for stays here. A crash leaves the old list or the new one.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contract.key_set import KeySetError, check_successor
from contract.receipt_keys import (
    MAX_RECEIPT_KEYS_CHARACTERS,
    RECEIPT_KEYS_PATH,
    ReceiptKeyList,
    verify_receipt_keys,
)
from edge.buffer.durable_file import replace_file
from edge.uplink.client import exchange
from edge.uplink.errors import CentralFailedError

_NONE_YET: Final = (204, 404, 405)
"""Central never changed its key, or is of a version that cannot."""
_log = logging.getLogger(__name__)


class _Page(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    root_key: str = Field(max_length=64)
    receipt_keys: str = Field(max_length=MAX_RECEIPT_KEYS_CHARACTERS)


class ReceiptKeyBook:
    """Thread-safe. `path` None: kept in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._is_read = path is None
        self._root: Ed25519PublicKey | None = None
        self._held: ReceiptKeyList | None = None
        self._keys: Mapping[str, Ed25519PublicKey] = {}
        self._is_damaged = False

    def keys(self, root: Ed25519PublicKey) -> Mapping[str, Ed25519PublicKey] | None:
        """The keys that count, by key id; None if no list of this root was ever here."""
        with self._lock:
            self._read()
            if self._is_damaged:
                return {}
            return self._keys if self._root == root else None

    def take(self, token: str, root: Ed25519PublicKey, central_id: str) -> bool:
        """Believe central's list; True if it is news, which is durable then.

        Raises
        ------
        KeySetError : it is not the root's, another central's, or a step back; the one in use stays.
        OSError : it is not durable.
        """
        offered = verify_receipt_keys(token, root)
        if offered.central_id != central_id:
            raise KeySetError("the list of receipt keys is another central's")
        with self._lock:
            self._read()
            if self._held is not None and self._root == root and not check_successor(self._held, offered):
                return False
            if self._path is not None:
                raw = base64.b64encode(root.public_bytes_raw()).decode("ascii")
                replace_file(self._path, _Page(root_key=raw, receipt_keys=token).model_dump_json().encode())
            self._use(root, offered)
        _log.info("receipt keys in use", extra={"version": offered.version, "key_ids": sorted(self._keys)})
        return True

    def forget(self) -> None:
        """A person enrolled the box anew: what central names as its own just now counts, even if it is older."""
        with self._lock:
            self._root, self._held, self._keys, self._is_read = None, None, {}, True
            self._is_damaged = False
            if self._path is not None:
                self._path.unlink(missing_ok=True)

    def _use(self, root: Ed25519PublicKey, held: ReceiptKeyList) -> None:
        self._root, self._held, self._keys = root, held, held.verifying()
        self._is_damaged = False

    def _read(self) -> None:
        if self._is_read or self._path is None:
            return
        self._is_read = True
        try:
            page = _Page.model_validate_json(self._path.read_bytes())
            root = Ed25519PublicKey.from_public_bytes(base64.b64decode(page.root_key, validate=True))
            self._use(root, verify_receipt_keys(page.receipt_keys, root))
        except FileNotFoundError:
            return
        except (OSError, ValueError, ValidationError, KeySetError) as error:
            self._is_damaged = True
            _log.error(
                "receipt keys unreadable: no receipt counts until the list comes again, with the next round",
                extra={"path": str(self._path), "detail": error},
            )


def ask_receipt_keys(client: httpx.Client) -> str | None:
    """Central's list of receipt keys, not yet verified; None if it has none.

    Raises
    ------
    CentralFailedError : central fails, or answers something else.
    """
    status, _, body = exchange(client, "GET", RECEIPT_KEYS_PATH, MAX_RECEIPT_KEYS_CHARACTERS + 1)
    if status in _NONE_YET:
        return None
    if status != 200:
        # No certificate was shown, so whatever this says of one is not about this box.
        raise CentralFailedError(
            f"central does not give its list of receipt keys: it answered {status}", status
        )
    try:
        return body.decode("ascii")
    except UnicodeDecodeError as error:
        raise CentralFailedError("central's list of receipt keys is not one") from error
