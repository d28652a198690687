"""Keys and certificates on disk: made once, kept, closed to others, renewed where that is harmless."""

from __future__ import annotations

import hashlib
import time
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from central.identity import authority, identity
from central.identity.authority import CertificateAuthority
from central.identity.errors import KeyFileError, PairingRefusedError
from central.identity.gateways import Gateways
from central.identity.identity import Identity
from central.identity.pairings import Enrolment, Pairings
from contract.enrolment import PAIRING_LIFE_S
from tests.central.app.house import new_key_and_request
from tests.central.databases import open_index, written_in

HOSTS = ["central.example.org", "127.0.0.1"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_start_finds_the_same_keys(tmp_path: Path) -> None:
    first, again = Identity.open(tmp_path / "keys", HOSTS), Identity.open(tmp_path / "keys", HOSTS)
    assert first.central_id == again.central_id
    assert list(first.sealing_keys) == list(again.sealing_keys)
    assert first.receipt_key.public_key() == again.receipt_key.public_key()
    assert first.server.certificate.read_bytes() == again.server.certificate.read_bytes()


def test_other_names_make_a_new_server_certificate_and_nothing_else(tmp_path: Path) -> None:
    first = Identity.open(tmp_path / "keys", HOSTS)
    before = contents(tmp_path / "keys")
    Identity.open(tmp_path / "keys", [*HOSTS, "10.0.0.1"])
    after = contents(tmp_path / "keys")
    assert {name for name in after if after[name] != before[name]} == {"server.pem"}
    certificate = x509.load_pem_x509_certificate(first.server.certificate.read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(name.value) for name in names} == {*HOSTS, "10.0.0.1"}


def test_certificates_from_the_future_are_made_anew_when_the_clock_is_right_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else no box would speak with central until that day has come."""
    Identity.open(tmp_path / "keys", HOSTS)

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(days=1000)

    with monkeypatch.context() as patched:
        for module in (authority, identity):
            patched.setattr(module, "datetime", Ahead)
        ahead = Identity.open(tmp_path / "keys", HOSTS)
        for pair in (ahead.server, ahead.broker_client):
            made = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
            assert made.not_valid_before_utc > datetime.now(UTC)
    right = Identity.open(tmp_path / "keys", HOSTS)
    for pair in (right.server, right.broker_client):
        made = x509.load_pem_x509_certificate(pair.certificate.read_bytes())
        assert made.not_valid_before_utc < datetime.now(UTC)


@pytest.mark.parametrize(
    "name", ["ca.key", "server.key", "sealing/????????*.key", "receipt.key", "broker-client.key"]
)
def test_a_damaged_or_open_key_stops_the_start_and_is_left_alone(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "keys"
    Identity.open(folder, HOSTS)
    (path,) = folder.glob(name)
    good = path.read_bytes()
    path.write_bytes(b"damaged")
    with pytest.raises(KeyFileError, match=path.name):
        Identity.open(folder, HOSTS)
    assert path.read_bytes() == b"damaged"
    path.write_bytes(good)
    path.chmod(0o640)
    with pytest.raises(KeyFileError, match="chmod"):
        Identity.open(folder, HOSTS)


def test_a_ca_that_lost_its_key_is_not_replaced(tmp_path: Path) -> None:
    Identity.open(tmp_path / "keys", HOSTS)
    (tmp_path / "keys" / "ca.key").unlink()
    with pytest.raises(KeyFileError, match="lock out"):
        Identity.open(tmp_path / "keys", HOSTS)


def test_a_crash_between_key_and_certificate_of_the_ca_is_repaired(tmp_path: Path) -> None:
    first = CertificateAuthority.open(tmp_path)
    (tmp_path / "ca.pem").unlink()
    again = CertificateAuthority.open(tmp_path)
    assert again.certificate.public_key() == first.certificate.public_key()


def test_the_revocation_list_does_not_expire_before_the_ca(tmp_path: Path) -> None:
    authority = CertificateAuthority.open(tmp_path)
    revocations = authority.revocation_list([0x1234])
    assert revocations.next_update_utc == authority.certificate.not_valid_after_utc
    assert revocations.get_revoked_certificate_by_serial_number(0x1234) is not None
    key = authority.certificate.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert revocations.is_signature_valid(key)


def test_a_pairing_lives_fifteen_minutes_and_its_token_is_not_kept(tmp_path: Path) -> None:
    now = time.time()
    db = open_index(tmp_path)
    gateways = Gateways(db, CertificateAuthority.open(tmp_path), lambda: now)
    pairings = Pairings(db, gateways, lambda: now, accept_at_once=True)
    ticket = pairings.new_pairing("ct")
    assert ticket is not None
    assert ticket.token not in repr(ticket)
    content = written_in(tmp_path)
    assert hashlib.sha256(ticket.token.encode()).hexdigest().encode() in content
    assert ticket.token.encode() not in content
    now += PAIRING_LIFE_S + 1
    with pytest.raises(PairingRefusedError, match="expired"):
        pairings.enrol(ticket.token, new_key_and_request()[1])
    db.close()


def test_a_revoked_gateway_cannot_use_its_pairing_again(tmp_path: Path) -> None:
    db = open_index(tmp_path)
    gateways = Gateways(db, CertificateAuthority.open(tmp_path))
    pairings = Pairings(db, gateways, accept_at_once=True)
    ticket, (_, request) = pairings.new_pairing("ct"), new_key_and_request()
    assert ticket is not None
    pairings.enrol(ticket.token, request)
    pairings.enrol(ticket.token, request)
    assert gateways.revoke("ct")
    assert len(gateways.revoked_serials()) == 1, "it was given the same certificate again"
    with pytest.raises(PairingRefusedError, match="revoked"):
        pairings.enrol(ticket.token, request)
    db.close()


@pytest.mark.parametrize(
    ("name", "gateway_id"),
    [
        ("CT Räum 2!", "ct-raum-2"),
        ("../../x", "x"),
        ("+/#", None),
        ("日本", None),
        ("a" * 80, "a" * 24),
    ],
)
def test_names_become_ids_that_are_safe_everywhere(tmp_path: Path, name: str, gateway_id: str | None) -> None:
    db = open_index(tmp_path)
    gateways = Gateways(db, CertificateAuthority.open(tmp_path))
    pairings = Pairings(db, gateways, accept_at_once=True)
    ticket = pairings.new_pairing(name)
    assert ticket is not None
    outcome = pairings.enrol(ticket.token, new_key_and_request()[1])
    assert isinstance(outcome, Enrolment)
    enrolled = outcome.gateway_id
    assert enrolled == gateway_id if gateway_id else enrolled.startswith("gw-")
    db.close()
