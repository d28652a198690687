"""How the box buys its certificate: look at the CA, compare it with the pin, and only then say the token.

The first request goes to a server nobody has vouched for yet; it carries no secret and its answer is believed
only if it is the certificate that the pairing string pins. Every later byte goes through TLS pinned to it.
Nothing is written here: a crash in the middle leaves a used token and no identity, and the technician asks
central for another pairing string.
"""

from __future__ import annotations

import ssl
from typing import Final

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from contract.enrolment import (
    CA_PATH,
    ENROL_PATH,
    EnrolmentAnswer,
    EnrolmentRequest,
    Pairing,
    PairingError,
    ca_fingerprint,
)
from edge.uplink.client import line_errors, open_client, read_bounded
from edge.uplink.errors import CentralFailedError, EnrolmentRefusedError
from edge.uplink.identity import Enrolment, check_answer, pinned_context
from edge.uplink.refusals import Remedy, read_refusal

TIMEOUT_S: Final = 15.0


def enrol(pairing: Pairing, *, timeout_s: float = TIMEOUT_S) -> tuple[ec.EllipticCurvePrivateKey, Enrolment]:
    """Ask central for an identity; return the new key and what came back, checked against each other.

    Raises
    ------
    contract.enrolment.PairingError : the server is not the one the pairing string pins; no token was sent.
    EnrolmentRefusedError : central does not take the token (wrong, used or older than 15 minutes).
    IdentityError : central's answer does not fit together.
    UplinkTransientError : central cannot be reached, or failed.
    """
    host = f"[{pairing.host}]" if ":" in pairing.host else pairing.host
    url = f"https://{host}:{pairing.port}"
    ca_pem = _fetch_ca(url, pairing, timeout_s)
    key = ec.generate_private_key(ec.SECP256R1())
    answer = _ask(url, ca_pem, pairing, key, timeout_s)
    check_answer(answer, key)
    if ca_fingerprint(x509.load_pem_x509_certificate(answer.ca_pem.encode())) != pairing.ca_fingerprint:
        raise PairingError("central's answer names another CA than the pairing string pins")
    return key, Enrolment(central_host=pairing.host, central_port=pairing.port, answer=answer)


def _fetch_ca(url: str, pairing: Pairing, timeout_s: float) -> str:
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE  # the pin, not the handshake, decides whether the answer is believed
    with open_client(url, blind, timeout_s=timeout_s, connections=1) as client, line_errors(url):
        status, body = _exchange(client, client.build_request("GET", CA_PATH))
    if status != 200:
        raise CentralFailedError(f"{url} does not hand out its CA: it answered {status}", status)
    try:
        ca = x509.load_pem_x509_certificate(body)
    except ValueError as error:
        raise CentralFailedError(f"{url} answered something that is no certificate") from error
    pairing.check_ca(ca)
    return ca.public_bytes(Encoding.PEM).decode("ascii")


def _ask(
    url: str, ca_pem: str, pairing: Pairing, key: ec.EllipticCurvePrivateKey, timeout_s: float
) -> EnrolmentAnswer:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dicomnet box")])  # central ignores it
    csr = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    request = EnrolmentRequest(token=pairing.token, csr_pem=csr.public_bytes(Encoding.PEM).decode("ascii"))
    pinned = pinned_context(ca_pem)
    with open_client(url, pinned, timeout_s=timeout_s, connections=1) as client, line_errors(url):
        status, body = _exchange(
            client,
            client.build_request(
                "POST",
                ENROL_PATH,
                content=request.model_dump_json(),
                headers={"Content-Type": "application/json"},
            ),
        )
    if status not in (200, 201):
        refusal = read_refusal(status, body)
        if refusal.remedy is Remedy.NEW_CERTIFICATE:
            raise EnrolmentRefusedError(
                "central does not take this pairing string: it is wrong, used, or older than 15 minutes. "
                "Ask central for a new one."
            )
        raise CentralFailedError(refusal.sentence, status)
    try:
        return EnrolmentAnswer.model_validate_json(body)
    except ValidationError as error:
        raise CentralFailedError("central's enrolment answer is not one this box understands") from error


def _exchange(client: httpx.Client, request: httpx.Request) -> tuple[int, bytes]:
    response = client.send(request, stream=True)
    try:
        return response.status_code, read_bounded(response)
    finally:
        response.close()
