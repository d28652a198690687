"""TLS for associations in both directions (PS3.15 Annex B.12 and B.13).

Always true: below TLS 1.2 nobody is spoken to; a caller shows a certificate of the configured CAs, and so does whoever
is called. Certificates are read at start; a renewed one is taken up at the next.
"""

from __future__ import annotations

import hashlib
import ssl
from typing import Final

from central.dimse.errors import CannotListenError
from central.dimse.settings import DimseTlsSettings

# TLS 1.2 suites by OpenSSL's names; all of TLS 1.3 are within both profiles.
_RFC_9325: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
_SUITES: Final = {
    "bcp195": _RFC_9325,
    "modified-bcp195": (*_RFC_9325, "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"),
}


def server_context(settings: DimseTlsSettings) -> ssl.SSLContext:
    """For the TLS port. CannotListenError names the file that cannot be used."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, settings)
    # Each association proves its certificate anew, and none is renegotiated (RFC 9325 section 3.5).
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    return context


def client_context(settings: DimseTlsSettings) -> ssl.SSLContext:
    """For calling a destination, which must show a certificate of the same CAs in the name it is called by."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, settings)


def certificate_sha256(sock: ssl.SSLSocket) -> str:
    """SHA-256 of the certificate that the peer proved, 64 hexadecimal digits."""
    der = sock.getpeercert(binary_form=True)
    assert der is not None, "CERT_REQUIRED lets nobody in without"
    return hashlib.sha256(der).hexdigest()


def _context(protocol: int, settings: DimseTlsSettings) -> ssl.SSLContext:
    assert settings.certificate is not None
    assert settings.key is not None
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(":".join((*_SUITES[settings.profile], "@SECLEVEL=2")))
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=lambda: "")
    except OSError as error:
        raise CannotListenError(
            f"dicom.tls.key: {settings.key} must be the PEM key, not encrypted, of {settings.certificate}"
        ) from error
    try:
        context.load_verify_locations(cafile=settings.client_ca)
    except OSError as error:
        raise CannotListenError(
            f"dicom.tls.client_ca: {settings.client_ca} holds no PEM certificates"
        ) from error
    return context
