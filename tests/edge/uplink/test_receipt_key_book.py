"""Whose receipts count: only forward, only what the pinned root signed for this central."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contract.key_set import KeySetError
from contract.receipt import receipt_key_id
from contract.receipt_keys import ReceiptKeyEntry, ReceiptKeyList, sign_receipt_keys
from edge.uplink.receipt_key_book import ReceiptKeyBook

ROOT = Ed25519PrivateKey.generate()
KEYS = [Ed25519PrivateKey.generate().public_key() for _ in range(2)]
IDS = [receipt_key_id(key) for key in KEYS]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def token(version: int, count: int = 2, *, central_id: str = "c", root: Ed25519PrivateKey = ROOT) -> str:
    entries = tuple(
        ReceiptKeyEntry(
            key_id=receipt_key_id(key),
            created_at_utc=NOW,
            signs_from_utc=NOW + timedelta(days=number),
            public_key=base64.b64encode(key.public_bytes_raw()).decode(),
        )
        for number, key in enumerate(KEYS[:count])
    )
    made = ReceiptKeyList(central_id=central_id, version=version, issued_at_utc=NOW, keys=entries)
    return sign_receipt_keys(made, root)


def known(book: ReceiptKeyBook, root: Ed25519PrivateKey = ROOT) -> list[str]:
    return list(book.keys(root.public_key()) or ())


def test_a_newer_list_is_taken_and_kept_over_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "receipt_keys.json"
    book = ReceiptKeyBook(path)
    assert known(book) == []
    assert book.take(token(1, 1), ROOT.public_key(), "c")
    assert book.take(token(2), ROOT.public_key(), "c")
    assert not book.take(token(2), ROOT.public_key(), "c"), "no news"
    assert known(book) == IDS
    assert known(ReceiptKeyBook(path)) == IDS
    another_root = Ed25519PrivateKey.generate()
    assert known(ReceiptKeyBook(path), another_root) == [], "the box was enrolled at another central"
    assert book.take(token(1, root=another_root), another_root.public_key(), "c")
    assert known(ReceiptKeyBook(path), another_root) == IDS


def test_no_step_back_no_other_root_no_other_central(tmp_path: Path) -> None:
    book = ReceiptKeyBook(tmp_path / "receipt_keys.json")
    book.take(token(2), ROOT.public_key(), "c")
    for bad, why in (
        (token(1), "older than they were"),
        (token(2, 1), "another list of receipt keys 2 .* keys rotate-receipts"),
        (token(3, central_id="d"), "another central's"),
        (token(3, root=Ed25519PrivateKey.generate()), "not central's"),
        ("nonsense", "malformed"),
    ):
        with pytest.raises(KeySetError, match=why):
            book.take(bad, ROOT.public_key(), "c")
    assert known(book) == IDS


def test_a_person_who_enrols_the_box_anew_may_take_it_back(tmp_path: Path) -> None:
    book = ReceiptKeyBook(tmp_path / "receipt_keys.json")
    book.take(token(2), ROOT.public_key(), "c")
    book.forget()
    assert known(book) == []
    assert book.take(token(1, 1), ROOT.public_key(), "c")
    assert known(book) == IDS[:1]


def test_without_a_list_the_keys_of_the_enrolment_count_and_with_a_damaged_one_none(tmp_path: Path) -> None:
    """One of them may have been retired since, because it was stolen."""
    path = tmp_path / "receipt_keys.json"
    assert ReceiptKeyBook(path).keys(ROOT.public_key()) is None
    path.write_bytes(b"{")
    book = ReceiptKeyBook(path)
    assert book.keys(ROOT.public_key()) == {}
    assert book.take(token(2), ROOT.public_key(), "c")
    assert known(ReceiptKeyBook(path)) == IDS
