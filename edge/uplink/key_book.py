"""Whom this box seals for: the newest key set it ever believed, and the former keys its objects still need.

    identity/keys.json

Always true: a set is in here only if the root that was pinned at enrolment signed it, and its number goes down
only when a person enrols the box anew; nothing is sealed for a key before the set that names it is durable here. A
former key is dropped only after a look at the headers of everything in the spool. A crash leaves the old book or the
new one.
"""

from __future__ import annotations

import base64
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import BaseModel, ConfigDict, ValidationError

from contract.key_set import MAX_KEYS, KeySet, KeySetError, check_successor, verify_key_set
from contract.sealing import RecipientPublicKey
from contract.standing import StandingReport
from edge.buffer.durable_file import replace_file
from edge.uplink.errors import IdentityError

SETTLED_S: Final = 86_400.0
"""After a change of key an association that began before may go on sealing; not for a day."""
_log = logging.getLogger(__name__)


class _Page(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    root_key: str
    key_set: str
    former_key_ids: tuple[str, ...] = ()
    ticket: str | None = None


class KeyBook:
    """Used by one thread at a time.

    Parameters
    ----------
    path : its file.
    keys_in_spool : key ids of everything that lies on this box, or None if there is too much to look at.
    """

    def __init__(
        self,
        path: Path,
        keys_in_spool: Callable[[], set[str] | None],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._keys_in_spool = keys_in_spool
        self._monotonic = monotonic
        self._page: _Page | None = None
        self._changed_at_s = float("-inf")

    def open(self, root_key: str, enrolled_with: str, *, anew: bool) -> KeySet:
        """The set in use for the identity whose root is `root_key`; the one it was enrolled with at first.

        Parameters
        ----------
        anew : the box was enrolled just now: what central knows of its ticket is void.

        Raises
        ------
        KeySetError : a set does not verify.
        """
        offered = verify_key_set(enrolled_with, _root(root_key))
        page = self._read()
        if page is None or page.root_key != root_key:
            self._write(_Page(root_key=root_key, key_set=enrolled_with))
            return offered
        held = verify_key_set(page.key_set, _root(root_key))
        if anew:
            # A person vouches for this central as it is now, even if it was restored from an older backup.
            self._adopt(page.model_copy(update={"ticket": None}), held, offered, enrolled_with)
        elif offered.version > held.version:
            self._adopt(page, held, offered, enrolled_with)
        else:
            self._page = page
        return self.key_set()

    def key_set(self) -> KeySet:
        assert self._page is not None, "open comes first"
        return verify_key_set(self._page.key_set, _root(self._page.root_key))

    def recipient(self) -> RecipientPublicKey:
        """Whom to seal for from now on."""
        return self.key_set().newest.recipient()

    def report(self) -> StandingReport:
        """What central is to know: which set is in use, and which keys are needed for what lies here."""
        assert self._page is not None, "open comes first"
        page, held = self._page, self.key_set()
        if page.former_key_ids and self._monotonic() - self._changed_at_s > SETTLED_S:
            found = self._keys_in_spool()
            if found is not None:
                needed = tuple(key_id for key_id in page.former_key_ids if key_id in found)
                if needed != page.former_key_ids:
                    page = page.model_copy(update={"former_key_ids": needed})
                    self._write(page)
        return StandingReport(
            key_set_version=held.version,
            needed_key_ids=(held.newest.key_id, *page.former_key_ids),
            ticket=page.ticket,
        )

    def take(self, token: str, ticket: str) -> bool:
        """Believe central's answer; True if there is a new key to seal for.

        Raises
        ------
        KeySetError : the set is not the root's, or a step back; the one in use stays. The ticket is kept.
        """
        assert self._page is not None, "open comes first"
        held = self.key_set()
        self._write(self._page.model_copy(update={"ticket": ticket}))
        offered = verify_key_set(token, _root(self._page.root_key))
        if not check_successor(held, offered):
            return False
        self._adopt(self._page, held, offered, token)
        _log.info("key set in use", extra={"version": offered.version, "key_id": offered.newest.key_id})
        return offered.newest != held.newest

    def _adopt(self, page: _Page, held: KeySet, offered: KeySet, token: str) -> None:
        former = page.former_key_ids
        if offered.newest.key_id != held.newest.key_id:
            former = (*(key_id for key_id in former if key_id != held.newest.key_id), held.newest.key_id)
            self._changed_at_s = self._monotonic()
        kept = tuple(key_id for key_id in former if key_id != offered.newest.key_id)[-(MAX_KEYS - 1) :]
        self._write(page.model_copy(update={"key_set": token, "former_key_ids": kept}))

    def _read(self) -> _Page | None:
        try:
            return _Page.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise IdentityError(
                f"{self._path} is damaged: remove it and enrol the box again with a new pairing string"
            ) from error

    def _write(self, page: _Page) -> None:
        replace_file(self._path, page.model_dump_json(indent=2).encode())
        self._page = page


def known_key_ids(path: Path) -> frozenset[str]:
    """Ids of every key of the set that a book holds, former and retired ones too; none where there is no sound book."""
    try:
        page = _Page.model_validate_json(path.read_bytes())
        return ids_of(verify_key_set(page.key_set, _root(page.root_key)))
    except (OSError, ValidationError, KeySetError):
        return frozenset()


def ids_of(key_set: KeySet) -> frozenset[str]:
    return frozenset(entry.key_id for entry in key_set.keys)


def _root(text: str) -> Ed25519PublicKey:
    try:
        return Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
    except ValueError as error:
        raise KeySetError("the root key is not an Ed25519 key") from error
