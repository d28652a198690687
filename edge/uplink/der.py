"""Two structures in DER (ITU-T X.690) that `cryptography` cannot write, because it does not have the private key.

A PKCS #10 request whose signature is made elsewhere, and the TSS2 PRIVATE KEY that OpenSSL's provider for TPMs reads.
"""

from __future__ import annotations

import base64
import textwrap
from collections.abc import Callable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_INTEGER, _BIT_STRING, _OCTET_STRING, _SEQUENCE, _CONTEXT_0 = 0x02, 0x03, 0x04, 0x30, 0xA0
_ECDSA_WITH_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
"""AlgorithmIdentifier 1.2.840.10045.4.3.2, without parameters (RFC 5758 section 3.2)."""
_LOADABLE_KEY: Final = bytes.fromhex("06066781050a0103")
"""OBJECT IDENTIFIER 2.23.133.10.1.3, id-loadablekey."""
_NO_PASSWORD: Final = bytes.fromhex("0101ff")
_OWNER: Final = bytes.fromhex("40000001")
"""TPM_RH_OWNER: the parent is the storage primary key of the owner hierarchy, made anew each time."""


def certificate_request(
    subject: x509.Name, public_key: EllipticCurvePublicKey, sign: Callable[[bytes], bytes]
) -> x509.CertificateSigningRequest:
    """A PKCS #10 request (RFC 2986) for `public_key`.

    Parameters
    ----------
    sign : ECDSA with SHA-256 over the bytes it is given, as DER; what it raises comes out as it is.

    Raises
    ------
    ValueError : the signature does not verify.
    """
    spki = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    info = _element(_SEQUENCE, b"\x02\x01\x00", subject.public_bytes(), spki, _element(_CONTEXT_0))
    signature = _element(_BIT_STRING, b"\x00", sign(info))
    request = x509.load_der_x509_csr(_element(_SEQUENCE, info, _ECDSA_WITH_SHA256, signature))
    if not request.is_signature_valid:
        raise ValueError("the signature does not verify")
    return request


def tss2_private_key(public: bytes, private: bytes) -> str:
    """The PEM of a key that its TPM has wrapped: a TPM2B_PUBLIC and a TPM2B_PRIVATE, as `tpm2_create` writes them."""
    der = _element(
        _SEQUENCE,
        _LOADABLE_KEY,
        _element(_CONTEXT_0, _NO_PASSWORD),
        _element(_INTEGER, _OWNER),
        _element(_OCTET_STRING, public),
        _element(_OCTET_STRING, private),
    )
    lines = textwrap.wrap(base64.b64encode(der).decode("ascii"), 64)
    return "\n".join(["-----BEGIN TSS2 PRIVATE KEY-----", *lines, "-----END TSS2 PRIVATE KEY-----", ""])


def _element(tag: int, *contents: bytes) -> bytes:
    content = b"".join(contents)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content
