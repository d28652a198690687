"""Receipt keys: made ahead of their day, signed by the root, followed by every receipt that is still wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from central.identity.errors import KeyFileError, KeySetChangeError
from central.identity.keyfiles import make_private_folder, private_pem, write_whole
from central.identity.receipt_keys import LEAD, ReceiptKeys, key_id_of
from contract.identifiers import ObjectId
from contract.receipt import Outcome, Receipt, ReceiptError, verify_receipt
from contract.receipt_keys import ReceiptKeyList, sign_receipt_keys

RECEIPT = Receipt(
    central_id="c",
    gateway_id="g",
    object_id=ObjectId("0" * 32),
    sha256="a" * 64,
    size_bytes=5,
    stored_bytes=9,
    outcome=Outcome.ARCHIVED,
    archived_at_utc=datetime(2026, 1, 2, tzinfo=UTC),
)


@dataclass
class Cabinet:
    """A folder of keys; `now` is the test's."""

    folder: Path
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    first: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    root: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    def __post_init__(self) -> None:
        make_private_folder(self.folder)
        self.keys = self.another_process()

    def another_process(self) -> ReceiptKeys:
        return ReceiptKeys(self.folder, "c", self.first, self.root.public_key, lambda: self.now)

    def publish(self, offered: ReceiptKeyList) -> ReceiptKeyList:
        return self.keys.publish(sign_receipt_keys(offered, self.root))

    def signs(self, keys: ReceiptKeys | None = None) -> str:
        """The id of the key that signs now."""
        token = (keys or self.keys).sign_receipt(RECEIPT)
        (found,) = [key_id for key_id, key in self.keys.verifying().items() if _verifies(token, key_id, key)]
        return found


def _verifies(token: str, key_id: str, key: object) -> bool:
    try:
        return verify_receipt(token, {key_id: key}) == RECEIPT  # type: ignore[dict-item]
    except ReceiptError:
        return False


@pytest.fixture
def cabinet(tmp_path: Path) -> Cabinet:
    return Cabinet(tmp_path / "keys")


def test_a_new_key_signs_when_boxes_have_had_their_time_and_old_receipts_still_count(
    cabinet: Cabinet,
) -> None:
    assert cabinet.keys.signed_list() is None
    old, running = cabinet.keys.sign_receipt(RECEIPT), cabinet.another_process()
    offered = cabinet.publish(cabinet.keys.rotated())
    first, new = key_id_of(cabinet.first), offered.newest.key_id
    assert list(cabinet.keys.verifying()) == [first, new]
    cabinet.now += LEAD - timedelta(seconds=1)
    assert cabinet.signs(running) == first
    with pytest.raises(KeySetChangeError, match="wait until then"):
        cabinet.keys.rotated()
    cabinet.now += timedelta(seconds=1)
    assert cabinet.signs(running) == new
    assert verify_receipt(old, cabinet.keys.verifying()) == RECEIPT
    assert cabinet.keys.in_force(old) == old


def test_what_a_retired_key_signed_is_signed_anew_where_it_is_wanted(cabinet: Cabinet) -> None:
    old = cabinet.keys.sign_receipt(RECEIPT)
    first = key_id_of(cabinet.first)
    with pytest.raises(KeySetChangeError, match="signs now"):
        cabinet.keys.retired(first)
    offered = cabinet.publish(cabinet.keys.rotated())
    for key_id, why in (
        (first, "signs now"),
        (offered.newest.key_id, "newest"),
        ("0" * 32, "no receipt key"),
    ):
        with pytest.raises(KeySetChangeError, match=why):
            cabinet.keys.retired(key_id)
    cabinet.now += LEAD
    cabinet.publish(cabinet.keys.retired(first))
    with pytest.raises(ReceiptError):
        verify_receipt(old, cabinet.keys.verifying())
    assert verify_receipt(cabinet.keys.in_force(old), cabinet.keys.verifying()) == RECEIPT
    with pytest.raises(KeySetChangeError, match="was retired"):
        cabinet.keys.retired(first)


def test_only_the_roots_newer_list_of_keys_that_are_here_is_published(cabinet: Cabinet) -> None:
    offered = cabinet.keys.rotated(timedelta(0))
    with pytest.raises(KeySetChangeError, match="not central's"):
        cabinet.keys.publish(sign_receipt_keys(offered, Ed25519PrivateKey.generate()))
    with pytest.raises(KeySetChangeError, match="another central's"):
        cabinet.publish(offered.model_copy(update={"central_id": "d"}))
    cabinet.publish(offered)
    with pytest.raises(KeySetChangeError, match="published already"):
        cabinet.publish(offered)
    later = cabinet.keys.rotated(timedelta(0))
    (cabinet.folder / f"receipt-{later.newest.key_id}.key").unlink()
    with pytest.raises(KeySetChangeError, match="not here"):
        cabinet.publish(later)
    assert cabinet.keys.current_list() == offered


def test_a_missing_or_swapped_key_or_a_damaged_list_keeps_central_from_starting(cabinet: Cabinet) -> None:
    newest = cabinet.publish(cabinet.keys.rotated()).newest.key_id
    path, jws = cabinet.folder / f"receipt-{newest}.key", cabinet.folder / "receipt-keys.jws"
    good, whole = path.read_bytes(), jws.read_bytes()

    def start() -> None:
        ReceiptKeys.open(cabinet.folder, "c", cabinet.first, cabinet.root.public_key)

    start()
    path.unlink()
    with pytest.raises(KeyFileError, match="missing"):
        start()
    path.write_bytes(good)
    with pytest.raises(KeyFileError, match="read by others"):
        start()
    path.chmod(0o600)
    write_whole(path, private_pem(Ed25519PrivateKey.generate()))
    with pytest.raises(KeyFileError, match="another key"):
        start()
    write_whole(path, good)
    jws.write_bytes(whole[:-4] + b"AAAA")
    with pytest.raises(KeyFileError, match="restore it from the backup"):
        start()


def test_a_list_does_not_grow_without_end_and_the_oldest_retired_make_room(cabinet: Cabinet) -> None:
    for _ in range(7):
        cabinet.publish(cabinet.keys.rotated(timedelta(0)))
        cabinet.now += timedelta(seconds=1)
    with pytest.raises(KeySetChangeError, match="at most 8"):
        cabinet.keys.rotated()
    first = key_id_of(cabinet.first)
    cabinet.publish(cabinet.keys.retired(first))
    offered = cabinet.publish(cabinet.keys.rotated())
    assert len(offered.keys) == 8
    assert first not in {entry.key_id for entry in offered.keys}
