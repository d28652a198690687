"""TLS towards central: its own CA alone, host name checked, dates judged by the box's clock, not the system's.

OpenSSL compares a certificate's dates with the system's clock, which on a box without a battery may say 1970. So
it is told not to (X509_V_FLAG_NO_CHECK_TIME), and the dates are compared here, inside the handshake, with what
central said the time is: before the first byte of a request, and before a client library holds the socket.

Why that is safe: all else is verified by OpenSSL as ever (chain to the pinned CA, purpose, host name, possession of
the key). What the dates add is that a key of central's which leaked and has expired is of no use; that
holds here too, because the time comes signed with another key than TLS's. Until the time is known in this life,
dates are judged by the floor of an earlier one; only the question for the time itself goes without.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import datetime
from typing import Final

from cryptography import x509

NO_CHECK_TIME: Final = ssl.VerifyFlags(0x200000)
"""X509_V_FLAG_NO_CHECK_TIME of openssl/x509_vfy.h; Python's ssl module has no name for it."""


class CertificateDatesError(ssl.SSLCertVerificationError):
    """The server's certificate is from another time than this box lives in."""

    def __init__(self, sentence: str) -> None:
        super().__init__(1, sentence)
        self.verify_code = 0
        self.verify_message = sentence


def pinned_context(ca_pem: str, now: Callable[[], datetime] | None) -> ssl.SSLContext:
    """Client-side TLS that trusts `ca_pem` and nothing else, and checks the host name.

    `now` None: dates do not count; for asking central for the time, and nothing else.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=ca_pem)
    context.verify_flags |= NO_CHECK_TIME
    if now is not None:
        clock = now
        ca = x509.load_pem_x509_certificate(ca_pem.encode())

        class DatedSocket(ssl.SSLSocket):
            def do_handshake(self, block: bool = False) -> None:
                super().do_handshake(block)
                check_dates(self.getpeercert(binary_form=True), ca, clock())

        context.sslsocket_class = DatedSocket
    return context


def check_dates(certificate_der: bytes | None, ca: x509.Certificate, now: datetime) -> None:
    """Raise CertificateDatesError unless `now` lies within the certificate's and the CA's dates."""
    if certificate_der is None:
        raise CertificateDatesError("the server showed no certificate")
    for certificate in (x509.load_der_x509_certificate(certificate_der), ca):
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if now < begins:
            raise CertificateDatesError(
                f"clock: this box has {now:%Y-%m-%d} and central's certificate begins on {begins:%Y-%m-%d}"
            )
        if now > ends:
            raise CertificateDatesError(
                f"clock: this box has {now:%Y-%m-%d} and central's certificate ended on {ends:%Y-%m-%d}"
            )
