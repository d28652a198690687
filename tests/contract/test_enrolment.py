from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from contract.enrolment import Pairing, PairingError, ca_fingerprint, new_token


def certificate() -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ca")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
    )
    return builder.sign(key, hashes.SHA256())


@pytest.mark.parametrize("host", ["127.0.0.1", "central.example.org", "2001:db8::1"])
def test_a_pairing_string_survives_being_written_down(host: str) -> None:
    pairing = Pairing(host, 8443, "a" * 64, new_token())
    assert Pairing.parse(f"  {pairing}\n") == pairing
    text = str(pairing)
    wrapped = "\r\n  ".join(text[at : at + 60] for at in range(0, len(text), 60))
    assert Pairing.parse(wrapped) == pairing, "as a terminal or a mail wraps it"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        f"dicomnet-pair:2:host:1:{'a' * 64}:{'b' * 32}",
        f"dicomnet-pair:1:host:0:{'a' * 64}:{'b' * 32}",
        f"dicomnet-pair:1:host:70000:{'a' * 64}:{'b' * 32}",
        f"dicomnet-pair:1:ho/st:1:{'a' * 64}:{'b' * 32}",
        f"dicomnet-pair:1:host:1:{'a' * 63}:{'b' * 32}",
        f"dicomnet-pair:1:host:1:{'a' * 64}:{'b' * 32}x",
    ],
)
def test_what_is_not_a_pairing_string_is_named_so(text: str) -> None:
    with pytest.raises(PairingError, match="pairing string"):
        Pairing.parse(text)


def test_only_the_pinned_ca_passes() -> None:
    ours, other = certificate(), certificate()
    pairing = Pairing("h", 1, ca_fingerprint(ours), new_token())
    pairing.check_ca(ours)
    with pytest.raises(PairingError, match="Nothing was sent"):
        pairing.check_ca(other)


def test_the_token_is_not_shown_by_accident() -> None:
    pairing = Pairing("h", 1, "a" * 64, "c0ffee" * 5 + "00")
    assert "c0ffee" not in repr(pairing)
