"""TLS for DIMSE (PS3.15 Annex B.12 and B.13): the context, what a peer's certificate says, and what went wrong.

Always true: no peer without a certificate of the client CA gets past the handshake; the box's key and certificate fit
together, or it does not start to listen. A renewed certificate is taken up at the next start.
"""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from edge.gateway.errors import CannotListenError, PermanentGatewayError
from edge.gateway.settings import TlsSettings

# TLS 1.2 suites by OpenSSL's names; those of TLS 1.3 are the library's, all of which both profiles allow.
RFC_9325: Final = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
)
_MODIFIED = (
    *RFC_9325,
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES256-CCM",
    "ECDHE-ECDSA-AES128-CCM",
    "ECDHE-ECDSA-AES256-CCM8",
    "ECDHE-ECDSA-AES128-CCM8",
)
_SUITES: Final = {"bcp195": RFC_9325, "modified-bcp195": _MODIFIED}
SECURITY_LEVEL: Final = "@SECLEVEL=2"
"""Refuses RSA below 2048 bits, curves below 224, and SHA-1 signatures, in both profiles."""


class TlsRefusedError(PermanentGatewayError):
    """The handshake failed; the text tells a technician where to look."""


@dataclass(frozen=True)
class PeerCertificate:
    """What a peer's certificate says, once the client CA vouched for it.

    Attributes
    ----------
    sha256 : fingerprint of the whole certificate, 64 hexadecimal digits.
    subject : such as ``CN=ct1,O=Hospital``.
    names : Subject Alternative Names, such as ``DNS:ct1.hospital.example``.
    """

    sha256: str
    subject: str
    names: tuple[str, ...]


class TlsSocket(ssl.SSLSocket):
    """An SSLSocket that can be shut down like a plain one.

    The library's `shutdown` drops the TLS layer, after which the next answer would leave in the clear, and a thread
    that is shut down while it reads gets an error that spoils the layer for writing.
    """

    _reading_ended = False  # set by another thread; SSLSocket's __init__ never runs

    def shutdown(self, how: int) -> None:
        """SHUT_RD and SHUT_RDWR from any thread; SHUT_WR from the one that uses it, which says goodbye first."""
        if how == socket.SHUT_WR:
            self._send_close_notify()
        else:
            self._reading_ended = True
        socket.socket.shutdown(self, how)

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0) -> int:
        """As `socket.recv_into`, but for at most one TLS record; 0 at the peer's goodbye and after SHUT_RD."""
        if not self.pending():
            poll = select.poll()
            poll.register(self, select.POLLIN)
            timeout_s = self.gettimeout()
            if not poll.poll(None if timeout_s is None else timeout_s * 1000):
                raise TimeoutError("timed out")
        if self._reading_ended:
            return 0
        return super().recv_into(buffer, nbytes, flags)

    def _send_close_notify(self) -> None:
        timeout_s = self.gettimeout()
        with contextlib.suppress(OSError, ValueError):  # the peer is gone, or its goodbye is not here yet
            self.settimeout(0)
            self.unwrap()
        self.settimeout(timeout_s)


class TlsIdentity:
    """The box's side of every handshake on the TLS port.

    Raises
    ------
    CannotListenError : a file is missing, unreadable, or does not fit the others.
    """

    def __init__(self, settings: TlsSettings) -> None:
        if settings.certificate is None or settings.key is None or settings.client_ca is None:
            raise ValueError("TLS is not configured")
        self._certificate = _load_certificate(settings.certificate)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.sslsocket_class = TlsSocket
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.set_ciphers(":".join((*_SUITES[settings.profile], SECURITY_LEVEL)))
        # No resumption: each association proves its certificate anew. No renegotiation: RFC 9325 section 3.5.
        self._context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        self._context.num_tickets = 0
        self._context.verify_mode = ssl.CERT_REQUIRED
        _load(self._context, settings.certificate, settings.key, settings.client_ca)

    @property
    def expires_at_utc(self) -> datetime:
        return self._certificate.not_valid_after_utc

    def wrap(self, sock: socket.socket) -> TlsSocket:
        """`sock` with TLS around it and no handshake yet; `sock` itself is detached. OSError if the peer left."""
        wrapped = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        assert isinstance(wrapped, TlsSocket)
        return wrapped

    def explain(self, error: ssl.SSLError, now_utc: datetime) -> str:
        """One sentence on why a handshake failed."""
        if isinstance(error, ssl.SSLCertVerificationError):
            return self._explain_certificate(error, now_utc)
        reason = error.reason or ""
        for part, sentence in _REASONS.items():
            if part in reason:
                return sentence
        return f"the TLS handshake failed ({reason or 'no reason given'})"

    def _explain_certificate(self, error: ssl.SSLCertVerificationError, now_utc: datetime) -> str:
        said = f"{now_utc:%Y-%m-%d %H:%M} UTC"
        ours = self._certificate
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            if now_utc < ours.not_valid_before_utc:
                return (
                    f"the clock of this box is wrong: it says {said}, before this box's own certificate was made "
                    f"({ours.not_valid_before_utc:%Y-%m-%d}): set the clock; the scanner's certificate may be good"
                )
            if error.verify_code == _NOT_YET_VALID:
                return (
                    f"the scanner's certificate is not valid yet at {said}, by the clock of this box: "
                    "compare the clock of the box with the true time, then the certificate"
                )
            if now_utc > ours.not_valid_after_utc:
                return (
                    f"the scanner's certificate has expired at {said}, and so has this box's own "
                    f"({ours.not_valid_after_utc:%Y-%m-%d}): check the clock of this box, then renew both"
                )
            return f"the scanner's certificate has expired (it is {said} here): renew it on the scanner"
        if error.verify_code in _UNKNOWN_CA:
            return (
                "the scanner's certificate comes from a CA that this box does not know: add that CA to "
                "gateway.tls.client_ca, or give the scanner a certificate of a CA that is there"
            )
        return f"the scanner's certificate is refused: {error.verify_message}"


_NOT_YET_VALID, _EXPIRED = 9, 10  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_UNKNOWN_CA = (18, 19, 20, 21)  # self-signed, self-signed in chain, no issuer, no issuer for the leaf

# OpenSSL's reasons, of errors found here and of alerts that the peer sent.
_REASONS: Final[Mapping[str, str]] = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the scanner showed no certificate: give it one, and switch on client "
    "authentication in its TLS settings",
    "UNSUPPORTED_PROTOCOL": "the scanner speaks TLS below 1.2, which is not safe any more: update it, or let it use "
    "the plain port on a network of its own",
    "VERSION_TOO_LOW": "the scanner speaks TLS below 1.2, which is not safe any more: update it, or let it use the "
    "plain port on a network of its own",
    "NO_SHARED_CIPHER": "the scanner offers no cipher suite of this profile: try gateway.tls.profile = "
    '"modified-bcp195", or update the scanner',
    "ALERT_UNKNOWN_CA": "the scanner does not trust this box's certificate: give the scanner the CA that issued it",
    "ALERT_CERTIFICATE_EXPIRED": "the scanner takes this box's certificate for expired: renew it, or set the "
    "scanner's clock",
    "ALERT_BAD_CERTIFICATE": "the scanner refuses this box's certificate: give the scanner the CA that issued it, "
    "and check that the name in it is the one the scanner uses",
    "ALERT_CERTIFICATE_UNKNOWN": "the scanner refuses this box's certificate: give the scanner the CA that issued "
    "it, and check that the name in it is the one the scanner uses",
    "ALERT_PROTOCOL_VERSION": "the scanner wants another version of TLS than 1.2 or 1.3: update it",
    "ALERT_HANDSHAKE_FAILURE": "the scanner found no cipher suite it shares with this box: update it",
}


def peer_certificate(sock: ssl.SSLSocket) -> PeerCertificate:
    """What the peer proved to be, after the handshake. TlsRefusedError if its certificate cannot be read."""
    der = sock.getpeercert(binary_form=True)
    if der is None:
        raise TlsRefusedError(_REASONS["PEER_DID_NOT_RETURN_A_CERTIFICATE"])
    try:
        subject = x509.load_der_x509_certificate(der).subject.rfc4514_string()
        told = sock.getpeercert() or {}
    except ValueError as error:  # OpenSSL is more forgiving than cryptography
        raise TlsRefusedError("the scanner's certificate is malformed: give it another one") from error
    names = [f"{kind}:{value}" for kind, value in _pairs(told.get("subjectAltName", ()))]
    return PeerCertificate(
        sha256=hashlib.sha256(der).hexdigest(),
        subject=subject[:_MAX_NAME],
        names=tuple(name[:_MAX_NAME] for name in names[:_MAX_NAMES]),
    )


_MAX_NAME, _MAX_NAMES = 256, 8  # of what goes into log and list


def _pairs(value: Any) -> list[tuple[str, str]]:
    return [(str(kind), str(name)) for kind, name in value]


def _load_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise CannotListenError(f"gateway.tls.certificate: {path}: {error.strerror}") from error
    except ValueError as error:
        raise CannotListenError(f"gateway.tls.certificate: {path} holds no PEM certificate") from error


def _load(context: ssl.SSLContext, certificate: Path, key: Path, client_ca: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=no_password)
    except ssl.SSLError as error:
        why = "is not the key of the certificate" if "MISMATCH" in (error.reason or "") else "cannot be used"
        raise CannotListenError(
            f"gateway.tls.key: {key} {why}; it must be the PEM key, not encrypted, of {certificate}"
        ) from error
    except OSError as error:
        raise CannotListenError(f"gateway.tls.key: {key}: {error.strerror or error}") from error
    try:
        context.load_verify_locations(cafile=client_ca)
    except ssl.SSLError as error:
        raise CannotListenError(f"gateway.tls.client_ca: {client_ca} holds no PEM certificates") from error
    except OSError as error:
        raise CannotListenError(f"gateway.tls.client_ca: {client_ca}: {error.strerror}") from error


def no_password() -> str:
    """Instead of OpenSSL asking for one on the terminal."""
    return ""
