"""TLS on associations that this box opens: to destinations, and to scanners and workstations that want it.

Always true: no byte of DICOM leaves before the other side has shown a certificate that holds.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import ssl
from pathlib import Path

from edge.gateway.errors import CannotCallError
from edge.gateway.tls import RFC_9325, SECURITY_LEVEL, TlsRefusedError, TlsSocket, no_password


class CallingTls:
    """This box's side of associations that it opens: the other side's certificate is checked, by chain and name.

    Parameters
    ----------
    ca : PEM file with the CAs whose certificates the other side may show.
    name : the name or address that must be in its certificate.
    certificate, key : PEM files of this box's own, where the other side wants one.
    certificate_sha256 : fingerprint of the one certificate that it may show, whatever names are in that; empty: any.

    Raises
    ------
    CannotCallError : a file is missing, unreadable, or does not fit the others.
    """

    def __init__(
        self,
        *,
        ca: Path,
        name: str,
        certificate: Path | None,
        key: Path | None,
        certificate_sha256: str = "",
    ) -> None:
        self._name = name
        self._pinned = certificate_sha256
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.sslsocket_class = TlsSocket
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._context.set_ciphers(":".join((*RFC_9325, SECURITY_LEVEL)))
        self._context.check_hostname = not certificate_sha256
        try:
            self._context.load_verify_locations(cafile=ca)
            if certificate is not None:
                self._context.load_cert_chain(certificate, key, password=no_password)
        except OSError as error:  # ssl.SSLError is one
            files = ", ".join(str(path) for path in (ca, certificate, key) if path is not None)
            raise CannotCallError(
                f"TLS to {name}: {error.strerror or error}; one of {files} is not there or holds no PEM that fits"
            ) from error

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        """Shake hands. TlsRefusedError says what is wrong with the certificate; OSError of anything else."""
        try:
            wrapped = self._context.wrap_socket(sock, server_hostname=self._name)
        except ssl.SSLCertVerificationError as error:
            raise TlsRefusedError(
                f"its certificate is not accepted ({error.verify_message}): check the CA, the name in it and the clocks"
            ) from error
        except ssl.SSLError as error:
            raise TlsRefusedError(ended(error)) from error
        shown = hashlib.sha256(wrapped.getpeercert(binary_form=True) or b"").hexdigest()
        if self._pinned and not hmac.compare_digest(shown, self._pinned):
            wrapped.close()
            raise TlsRefusedError(
                "it shows another certificate than the one pinned in its entry: if it was renewed, pin the new "
                f"one ({shown})"
            )
        return wrapped


def ended(error: ssl.SSLError) -> str:
    """One sentence on why the other side did not go on."""
    return f"no TLS came about ({error.reason}): is this its TLS port, and does it want a certificate of this box?"
