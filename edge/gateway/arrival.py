"""A connection to the TLS port: what it begins with, the handshake, and then the association inside it.

Always true: from the connection to the end of the handshake no more than the guard's deadline passes, however the bytes
trickle; who does not speak TLS, or shows no good certificate, is refused with a reason that names the case.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from edge.gateway.association import Association
from edge.gateway.errors import (
    GatewayError,
    PeerGoneError,
    PeerTooSlowError,
    RejectedError,
)
from edge.gateway.guard import explain_foreign, read_associate_rq, read_exactly
from edge.gateway.negotiation import ae_titles
from edge.gateway.pdu import PduType, associate_rj
from edge.gateway.tls import PeerCertificate, TlsIdentity, TlsRefusedError, TlsSocket, peer_certificate

_LOG = logging.getLogger(__name__)
_TLS_HANDSHAKE = 0x16  # content type of the record that a client hello comes in (RFC 8446 section 5.1)
_NO_REASON = (1, 1, 1)
_LINGER_S = 1.0

Associate = Callable[[socket.socket, PeerCertificate], Association]


class TlsArrival:
    """Runs on the thread that calls `run`; `stop` and `kill` may be called from any other.

    Parameters
    ----------
    associate : makes the association once the peer has proved who it is.
    note_refusal : takes calling AE title, address and reason.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer_address: str,
        identity: TlsIdentity,
        *,
        timeout_s: float,
        associate: Associate,
        note_refusal: Callable[[str, str, str], None],
    ) -> None:
        self._peer_address = peer_address
        self._identity = identity
        self._timeout_s = timeout_s
        self._associate = associate
        self._note_refusal = note_refusal
        self._state = threading.Lock()  # guards the three below
        self._socket = sock
        self._association: Association | None = None
        self._stopping = False

    def run(self) -> None:
        """Serve the peer to the end and close the socket."""
        try:
            association = self._secure()
        except RejectedError as error:
            self._note_refusal(error.calling_ae_title, self._peer_address, str(error))
            self._send_rejection(error)
        except GatewayError as error:
            self._note_refusal("", self._peer_address, str(error))
        else:
            if association is not None:
                association.run()
        finally:
            with contextlib.suppress(OSError):
                self._socket.close()

    def stop(self) -> None:
        """End at the next message boundary; a handshake in progress ends at once."""
        with self._state:
            self._stopping = True
            association = self._association
            if association is None:
                _cut(self._socket)
        if association is not None:
            association.stop()

    def kill(self) -> None:
        """Cut the line now."""
        with self._state:
            _cut(self._socket)

    def _secure(self) -> Association | None:
        """The association, or None where the peer left without a byte (a port check)."""
        deadline_s = time.monotonic() + self._timeout_s
        if not self._peek(deadline_s):
            return None
        try:
            with self._state:
                wrapped = self._socket = self._identity.wrap(self._socket)
            return self._shake_hands(wrapped, deadline_s)
        except TimeoutError as error:
            raise PeerTooSlowError("the TLS handshake was not complete in time") from error
        except ssl.SSLEOFError as error:
            raise PeerGoneError(
                "the scanner hung up in the TLS handshake: does it trust the CA of this box's certificate?"
            ) from error
        except ssl.SSLError as error:
            raise TlsRefusedError(self._identity.explain(error, datetime.now(UTC))) from error
        except OSError as error:
            raise PeerGoneError("the connection broke in the TLS handshake") from error

    def _shake_hands(self, wrapped: TlsSocket, deadline_s: float) -> Association | None:
        wrapped.settimeout(max(0.001, deadline_s - time.monotonic()))
        wrapped.do_handshake()  # its time-out is for the handshake as a whole
        certificate = peer_certificate(wrapped)
        _LOG.info(
            "secured by TLS",
            extra={
                "peer_address": self._peer_address,
                "version": wrapped.version(),
                "cipher": (wrapped.cipher() or ("",))[0],
                "subject": certificate.subject,
                "names": ",".join(certificate.names),
                "certificate_sha256": certificate.sha256,
            },
        )
        association = self._associate(wrapped, certificate)
        with self._state:
            if self._stopping:
                return None
            self._association = association
        return association

    def _peek(self, deadline_s: float) -> bool:
        """True if a TLS handshake begins; False if nothing came. Raises, with the case named, if anything else does."""
        self._socket.settimeout(max(0.001, deadline_s - time.monotonic()))
        try:
            first = self._socket.recv(1, socket.MSG_PEEK)
        except TimeoutError as error:
            raise PeerTooSlowError("nothing was sent on the TLS port in time") from error
        except OSError:
            return False
        if first == bytes((PduType.A_ASSOCIATE_RQ,)):
            self._refuse_plain(deadline_s)
        if first and first[0] != _TLS_HANDSHAKE:
            head = read_exactly(self._socket, 6, deadline_s)
            raise TlsRefusedError(
                explain_foreign(head) or "what came on the TLS port is neither TLS nor DICOM"
            )
        return bool(first)

    def _refuse_plain(self, deadline_s: float) -> None:
        request = read_associate_rq(self._socket, timeout_s=max(0.001, deadline_s - time.monotonic()))
        calling, _ = ae_titles(request or b"")
        raise RejectedError(
            "plain DICOM on the TLS port: switch TLS on in the scanner, or set it to the plain port",
            _NO_REASON,
            calling_ae_title=calling,
        )

    def _send_rejection(self, error: RejectedError) -> None:
        with contextlib.suppress(OSError):
            self._socket.settimeout(_LINGER_S)
            self._socket.sendall(associate_rj(error.result, error.source, error.reason))
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.recv(1)


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
