"""How the box gets its certificate, and later a new one: EST (RFC 7030) with the CA that the pairing string pins.

    cacerts (nobody vouches; believed only if it fits the pin) → introduction → time → simpleenroll

The first request goes to a server nobody has vouched for yet; it carries no secret. Every later byte goes through
TLS pinned to that CA. Dates do not count until central has said the time, so a box without a clock enrols like any
other. Nothing is written here: the caller keeps the key of an enrolment that waits, so that a crash costs nothing.
"""

from __future__ import annotations

import base64
import ssl
from typing import Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from contract.enrolment import (
    CA_PATH,
    ENROL_PATH,
    INTRODUCTION_PATH,
    PAIRING_USER,
    PKCS10_TYPE,
    RENEW_PATH,
    EnrolmentAnswer,
    Introduction,
    Pairing,
    ca_fingerprint,
    decode_certificates,
    encode_request,
    key_fingerprint,
)
from contract.identifiers import InvalidIdentifierError, check_gateway_id
from contract.receipt import receipt_key_id
from edge.uplink.box_key import BoxKey, FileKey
from edge.uplink.client import exchange, line_errors, open_client, refused
from edge.uplink.clock import BoxClock
from edge.uplink.errors import (
    CentralFailedError,
    EnrolmentPendingError,
    EnrolmentRefusedError,
    IdentityError,
)
from edge.uplink.identity import Enrolment, Identity, check_answer
from edge.uplink.pinned_tls import pinned_context
from edge.uplink.refusals import Remedy, read_refusal
from edge.uplink.timekeeping import ask_time

TIMEOUT_S: Final = 15.0
_INTRODUCTION_MAX_BYTES: Final = 128 << 10


def enrol(
    pairing: Pairing,
    key: BoxKey | None = None,
    *,
    clock: BoxClock | None = None,
    timeout_s: float = TIMEOUT_S,
) -> tuple[BoxKey, Enrolment]:
    """Ask central for an identity; return the key and what came back, checked against each other.

    Parameters
    ----------
    key : of an enrolment that waits; None makes a new one, in a file.
    clock : learns the time from central.

    Raises
    ------
    contract.enrolment.PairingError : the server is not the one the pairing string pins; no token was sent.
    EnrolmentPendingError : an administrator has to accept the key; ask again with the same pairing and key.
    EnrolmentRefusedError : central does not take the token (wrong, used or older than 15 minutes), or said no.
    IdentityError : central's answer does not fit together.
    KeyLostError : the key is one of another TPM.
    UplinkTransientError : central cannot be reached, or failed; the TPM fails.
    """
    key = key or FileKey.make()
    clock = clock or BoxClock()
    host = f"[{pairing.host}]" if ":" in pairing.host else pairing.host
    url = f"https://{host}:{pairing.port}"
    ca = _fetch_ca(url, pairing, timeout_s)
    ca_pem = ca.public_bytes(Encoding.PEM).decode("ascii")
    timeless = pinned_context(ca_pem, None)
    with open_client(url, timeless, timeout_s=timeout_s, connections=1) as client, line_errors(url):
        introduction = _introduction(client, pairing)
        clock.begin_anew(ask_time(client, _receipt_keys(introduction), central_id=introduction.central_id))
    dated = pinned_context(ca_pem, clock.now)
    with open_client(url, dated, timeout_s=timeout_s, connections=1) as client, line_errors(url):
        certificate = _ask(client, pairing, key, ca)
    answer = EnrolmentAnswer(
        **introduction.model_dump(),
        gateway_id=_common_name(certificate),
        certificate_pem=certificate.public_bytes(Encoding.PEM).decode("ascii"),
        ca_pem=ca_pem,
    )
    check_answer(answer, key)
    return key, Enrolment(central_host=pairing.host, central_port=pairing.port, answer=answer)


def renew(identity: Identity, key: BoxKey, *, timeout_s: float = TIMEOUT_S) -> Enrolment:
    """A certificate of the same gateway for `key`, which is new, and what central says of itself now.

    Raises
    ------
    IdentityError : central's answer does not fit together, or is another central's.
    UplinkTransientError : central cannot be reached, failed, or does not take the certificate.
    """
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, identity.gateway_id)])
    ca = x509.load_pem_x509_certificate(identity.ca_pem.encode())
    url, tls = identity.central_url, identity.tls_context()
    with open_client(url, tls, timeout_s=timeout_s, connections=1) as client, line_errors(url):
        status, _, body = exchange(client, "GET", INTRODUCTION_PATH, _INTRODUCTION_MAX_BYTES)
        introduction = _read_introduction(status, body)
        status, _, body = exchange(
            client,
            "POST",
            RENEW_PATH,
            content=encode_request(key.request(name)),
            headers={"Content-Type": PKCS10_TYPE},
        )
        if status != 200:
            raise refused(status, body)
        certificate = _own_certificate(body, key, ca)
    former = identity.enrolment.answer
    if (introduction.central_id, introduction.root_key) != (former.central_id, former.root_key):
        raise IdentityError(
            "central's name or root key is another than when this box was enrolled: if that is right, enrol it again"
        )
    answer = EnrolmentAnswer(
        **introduction.model_dump(),
        gateway_id=_common_name(certificate),
        certificate_pem=certificate.public_bytes(Encoding.PEM).decode("ascii"),
        ca_pem=identity.ca_pem,
    )
    check_answer(answer, key)
    if answer.gateway_id != identity.gateway_id:
        raise IdentityError("central's new certificate carries another gateway id: enrol the box again")
    return identity.enrolment.model_copy(update={"answer": answer})


def _fetch_ca(url: str, pairing: Pairing, timeout_s: float) -> x509.Certificate:
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE  # the pin, not the handshake, decides whether the answer is believed
    with open_client(url, blind, timeout_s=timeout_s, connections=1) as client, line_errors(url):
        status, _, body = exchange(client, "GET", CA_PATH)
    if status != 200:
        raise CentralFailedError(f"{url} does not hand out its CA: it answered {status}", status)
    try:
        offered = decode_certificates(body)
    except ValueError as error:
        raise CentralFailedError(f"{url} answered something that is no certificate") from error
    for certificate in offered:
        if ca_fingerprint(certificate) == pairing.ca_fingerprint:
            return certificate
    if not offered:
        raise CentralFailedError(f"{url} answered without a certificate")
    pairing.check_ca(offered[0])
    raise AssertionError("check_ca raises")


def _introduction(client: httpx.Client, pairing: Pairing) -> Introduction:
    status, _, body = exchange(
        client, "GET", INTRODUCTION_PATH, _INTRODUCTION_MAX_BYTES, headers=_authorization(pairing)
    )
    _raise_unless_taken(status, body, (200,))
    return _read_introduction(status, body)


def _read_introduction(status: int, body: bytes) -> Introduction:
    if status != 200:
        raise refused(status, body)
    try:
        return Introduction.model_validate_json(body)
    except ValidationError as error:
        raise CentralFailedError("central introduces itself in a way this box does not understand") from error


def _ask(client: httpx.Client, pairing: Pairing, key: BoxKey, ca: x509.Certificate) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dicomnet box")])  # central ignores it
    status, headers, body = exchange(
        client,
        "POST",
        ENROL_PATH,
        content=encode_request(key.request(subject)),
        headers={"Content-Type": PKCS10_TYPE, **_authorization(pairing)},
    )
    _raise_unless_taken(status, body, (200, 202))
    if status == 202:
        raise EnrolmentPendingError(key_fingerprint(key.public_key()), _seconds(headers.get("Retry-After")))
    return _own_certificate(body, key, ca)


def _raise_unless_taken(status: int, body: bytes, good: tuple[int, ...]) -> None:
    if status in good:
        return
    refusal = read_refusal(status, body)
    if refusal.remedy is Remedy.NEW_CERTIFICATE:
        raise EnrolmentRefusedError(
            "central does not take this pairing string: it is wrong, used, or older than 15 minutes, or an "
            "administrator refused this box. Ask central for a new one."
        )
    raise CentralFailedError(refusal.sentence, status)


def _own_certificate(body: bytes, key: BoxKey, ca: x509.Certificate) -> x509.Certificate:
    """The one certificate in the answer that is for `key`."""
    try:
        found = [one for one in decode_certificates(body) if one.public_key() == key.public_key()]
        found[0].verify_directly_issued_by(ca)
        return found[0]
    except Exception as error:
        raise IdentityError("central's answer holds no certificate for this box's key") from error


def _common_name(certificate: x509.Certificate) -> str:
    names = [str(name.value) for name in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    try:
        return check_gateway_id(names[0] if len(names) == 1 else "")
    except InvalidIdentifierError as error:
        raise IdentityError("central's certificate does not name a gateway") from error


def _authorization(pairing: Pairing) -> dict[str, str]:
    word = base64.b64encode(f"{PAIRING_USER}:{pairing.token}".encode("ascii")).decode("ascii")
    return {"Authorization": f"Basic {word}"}


def _receipt_keys(introduction: Introduction) -> dict[str, Ed25519PublicKey]:
    try:
        keys = [
            Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True))
            for text in introduction.receipt_keys
        ]
    except ValueError as error:
        raise IdentityError("central hands out a receipt key that is none") from error
    return {receipt_key_id(key): key for key in keys}


def _seconds(text: str | None) -> float:
    """Retry-After in seconds, within a minute; HTTP dates do not count, for who knows the date here."""
    return (
        float(min(max(int(text), 1), 60))
        if text and text.isascii() and text.isdigit() and len(text) < 6
        else 15.0
    )
