"""Whom the box seals for: only forward, only what the root signed, and former keys while anything needs them."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.enrolment import new_token
from contract.key_set import KeySetError, KeySetRollbackError
from edge.uplink.errors import IdentityError
from edge.uplink.key_book import SETTLED_S, KeyBook
from tests.edge.scripted_central import ScriptedCentral


@dataclass
class Shelf:
    """Lives of one book; the spool and the monotonic clock are the test's."""

    path: Path
    central: ScriptedCentral
    in_spool: set[str] | None = field(default_factory=set)
    monotonic_s: float = 0.0
    looked: int = 0

    def __post_init__(self) -> None:
        self.book = self.open()

    @property
    def root_key(self) -> str:
        return base64.b64encode(self.central.root_key.public_key().public_bytes_raw()).decode()

    def open(self, *, anew: bool = False) -> KeyBook:
        self.book = KeyBook(self.path, self._look, lambda: self.monotonic_s)
        self.book.open(
            self.root_key, self.first_set if hasattr(self, "first_set") else self._first(), anew=anew
        )
        return self.book

    def _first(self) -> str:
        self.first_set = self.central.key_set()
        return self.first_set

    def _look(self) -> set[str] | None:
        self.looked += 1
        return self.in_spool

    def key_ids(self) -> list[str]:
        return [key.public_key().key_id.hex() for key in self.central.sealing_keys]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    central = ScriptedCentral(tmp_path)
    return Shelf(tmp_path / "identity" / "keys.json", central)


def test_a_newer_set_is_taken_and_kept_over_a_restart(shelf: Shelf) -> None:
    newest = shelf.central.rotate()
    assert shelf.book.take(shelf.central.key_set(), new_token())
    assert shelf.book.recipient() == newest.public_key()
    assert shelf.open().recipient() == newest.public_key()  # although it was enrolled with the first one
    assert not shelf.book.take(shelf.central.key_set(), new_token())  # no news


def test_no_step_back_no_other_root_no_other_central(shelf: Shelf) -> None:
    old = shelf.central.key_set()
    shelf.central.rotate()
    shelf.book.take(shelf.central.key_set(), new_token())
    with pytest.raises(KeySetRollbackError, match="older than they were"):
        shelf.book.take(old, new_token())
    shelf.central.sealing_keys.pop()
    shelf.central.sealing_keys.append(ScriptedCentral(shelf.path.parent).sealing_key)
    with pytest.raises(KeySetRollbackError, match="another key set 2"):
        shelf.book.take(shelf.central.key_set(), new_token())
    shelf.central.key_set_version = 9
    shelf.central.central_id = "another"
    with pytest.raises(KeySetError, match="another central"):
        shelf.book.take(shelf.central.key_set(), new_token())
    shelf.central.central_id = "central-test"
    shelf.central.root_key = Ed25519PrivateKey.generate()
    with pytest.raises(KeySetError, match="not central's"):
        shelf.book.take(shelf.central.key_set(), new_token())
    assert shelf.book.report().key_set_version == 2


def test_a_person_who_enrols_the_box_anew_may_take_it_back(shelf: Shelf) -> None:
    shelf.central.rotate()
    shelf.book.take(shelf.central.key_set(), new_token())
    shelf.open(anew=True)  # central was restored from a backup of before
    report = shelf.book.report()
    first, second = shelf.key_ids()
    assert (report.key_set_version, report.needed_key_ids) == (1, (first, second))
    assert report.ticket is None


def test_a_former_key_is_needed_until_a_look_says_otherwise(shelf: Shelf) -> None:
    first = shelf.key_ids()[0]
    shelf.central.rotate()
    shelf.book.take(shelf.central.key_set(), new_token())
    second = shelf.key_ids()[1]
    assert shelf.book.report().needed_key_ids == (second, first)
    assert shelf.looked == 0  # an association that began before may still be sealing
    shelf.monotonic_s += SETTLED_S + 1
    shelf.in_spool = {first}
    assert shelf.book.report().needed_key_ids == (second, first)
    shelf.in_spool = None  # too much to look at
    assert shelf.book.report().needed_key_ids == (second, first)
    shelf.in_spool = {second}
    assert shelf.book.report().needed_key_ids == (second,)
    looked = shelf.looked
    assert shelf.book.report().needed_key_ids == (second,)
    assert shelf.looked == looked  # nothing to look for any more


def test_a_restart_ends_every_association_so_the_look_counts_at_once(shelf: Shelf) -> None:
    shelf.central.rotate()
    shelf.book.take(shelf.central.key_set(), new_token())
    assert shelf.open().report().needed_key_ids == (shelf.key_ids()[1],)


def test_the_ticket_is_kept_even_if_the_set_is_refused(shelf: Shelf) -> None:
    ticket = new_token()
    with pytest.raises(KeySetError):
        shelf.book.take("nonsense", ticket)
    assert shelf.open().report().ticket == ticket


def test_a_damaged_book_says_what_to_do(shelf: Shelf) -> None:
    shelf.path.write_bytes(b"{")
    with pytest.raises(IdentityError, match="new pairing string"):
        shelf.open()
