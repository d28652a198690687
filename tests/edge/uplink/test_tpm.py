"""Keys in real software TPMs: what they sign, what power cuts do to them, what is said where none is to be had."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID

from edge.uplink.box_key import FileKey
from edge.uplink.enrolment import enrol
from edge.uplink.errors import KeyLostError, KeyUnavailableError
from edge.uplink.identity import IdentityStore
from edge.uplink.key_maker import KeyMaker
from edge.uplink.tpm import Tpm
from tests.edge.scripted_central import ScriptedCentral
from tests.edge.uplink_box import Box
from tests.soft_tpm import SoftTpm

needs_tpm = pytest.mark.needs("swtpm")
NAME = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ct-room-2")])


@needs_tpm
def test_a_key_signs_over_more_power_cuts_than_a_tpm_forgives_wrong_guesses(chip: SoftTpm) -> None:
    keys = KeyMaker("tpm", Tpm(chip.tcti))
    key = keys.make()
    assert key.place == "tpm"
    for _ in range(5):  # a key under protection against guessing is locked after three of this TPM's
        again = keys.load(key.text)
        again.public_key().verify(again.sign(b"hello"), b"hello", ec.ECDSA(SHA256()))
        chip.cut_power()
    request = key.request(NAME)
    assert request.is_signature_valid
    assert request.subject == NAME
    assert chip.tool("tpm2_getcap", "handles-transient") == "", "nothing is left behind in the TPM"
    assert keys.make().public_key() != key.public_key()


@needs_tpm
def test_a_key_in_a_file_stays_until_its_certificate_is_renewed(
    chip: SoftTpm, central: ScriptedCentral, tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    Box(tmp_path / "box").start().stop()
    central.certificate_life = timedelta(hours=12)  # begun two days ago: two thirds are over
    IdentityStore(tmp_path / "box" / "identity").save(*enrol(central.pairing))
    central.certificate_life = timedelta(days=60)
    box = Box(tmp_path / "box", keys=KeyMaker("auto", Tpm(chip.tcti))).start()
    try:
        eventually(lambda: box.link.status().key_place == "tpm")
        assert [identity.key.place for identity in box.identities] == ["file", "tpm"]
        object_id = box.store()
        eventually(lambda: object_id in central.archived)
    finally:
        box.stop()


@needs_tpm
def test_a_key_is_of_no_use_to_another_tpm_or_once_its_own_was_cleared(chip: SoftTpm, chips: Path) -> None:
    text = Tpm(chip.tcti).make().text
    other = SoftTpm(chips / "other").start()
    try:
        with pytest.raises(KeyLostError, match=r"another machine.*enrol it again"):
            Tpm(other.tcti).load(text).sign(b"hello")
    finally:
        other.stop()
    key = Tpm(chip.tcti).load(text)
    key.sign(b"hello")
    chip.tool("tpm2_clear")
    with pytest.raises(KeyLostError, match="was cleared"):
        key.sign(b"hello")


@needs_tpm
def test_a_tpm_that_fails_is_never_replaced_by_a_file(chip: SoftTpm) -> None:
    keys = KeyMaker("auto", Tpm(chip.tcti))
    key = keys.make()
    chip.tool("tpm2_changeauth", "-c", "owner", "secret")
    with pytest.raises(KeyUnavailableError, match="owner password"):
        keys.make()
    with pytest.raises(KeyUnavailableError, match="owner password"):
        key.sign(b"hello")
    chip.stop()
    with pytest.raises(KeyUnavailableError, match=r"the TPM of this box .* fails"):
        key.sign(b"hello")
    with pytest.raises(KeyUnavailableError):
        keys.make()


def test_where_there_is_no_tpm_auto_makes_a_file_and_tpm_says_so(tmp_path: Path) -> None:
    absent = Tpm(f"device:{tmp_path / 'tpmrm0'}")
    made = KeyMaker("auto", absent).make()
    assert isinstance(made, FileKey)
    assert KeyMaker("tpm", absent).load(made.text).public_key() == made.public_key(), (
        "a key stays where it is"
    )
    with pytest.raises(KeyUnavailableError, match=r"no TPM 2\.0 at .*tpmrm0"):
        KeyMaker("tpm", absent).make()


def test_a_tpm_without_debians_tools_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tpmrm0").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    tpm = Tpm(f"device:{tmp_path / 'tpmrm0'}")
    assert "tpm2-tools and tpm2-openssl" in tpm.why_not()
    assert KeyMaker("auto", tpm).make().place == "file"


@pytest.mark.parametrize("damage", ["", "-----BEGIN TSS2 PRIVATE KEY-----\nMIHwBgZn", "nonsense"])
def test_a_damaged_key_is_no_key(damage: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        KeyMaker().load(damage)


def test_a_request_is_what_central_takes() -> None:
    key = FileKey.make()
    request = key.request(NAME)
    assert request.public_key() == key.public_key()
    assert list(request.extensions) == []
