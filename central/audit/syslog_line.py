"""One connection to an audit record repository: syslog over TLS (RFC 5425), as IHE ATNA (ITI-20) and PS3.15 A.6 use it.

Always true: a message is framed by its length in octets, the peer's certificate and name have verified before the first
byte, and a write that does not get through within `TIMEOUT_S` ends the connection. Syslog answers nothing: what the
other machine has acknowledged is asked of TCP, and only an end in order says that the program there has read all.
"""

from __future__ import annotations

import array
import fcntl
import socket
import ssl
import struct
import termios
from datetime import datetime
from typing import Final

from central.audit.settings import AuditSettings

TIMEOUT_S: Final = 20.0
MSG_ID: Final = "DICOM+RFC3881"  # PS3.15 A.6
PRIORITY: Final = 10 * 8 + 5  # facility 10 (security), severity 5 (notice)
_APP_NAME: Final = "dicomnet-central"
_BOM: Final = b"\xef\xbb\xbf"  # says that the text is UTF-8 (RFC 5424 section 6.4)
_MAX_HOST_CHARACTERS: Final = 255
_KEEP_ALIVE_S: Final = 30
_END_S: Final = 3.0
_TCP_INFO_BYTES: Final = 192
_BYTES_ACKED_AT: Final = 120  # tcpi_bytes_acked of Linux's struct tcp_info, since 4.1


class SyslogUnfitError(Exception):
    """A file named in [audit] cannot be used; the sentence says which."""


def syslog_message(xml: bytes, *, at: datetime, host: str) -> bytes:
    """`xml` in an RFC 5424 message; without process id, so that the same record gives the same bytes again."""
    plain = "".join(char for char in host if "!" <= char <= "~")[:_MAX_HOST_CHARACTERS] or "-"
    head = f"<{PRIORITY}>1 {at.isoformat(timespec='microseconds')} {plain} {_APP_NAME} - {MSG_ID} - "
    return head.encode("ascii") + _BOM + xml


def framed(message: bytes) -> bytes:
    """RFC 5425 section 4.3: length in octets, a space, the message."""
    return b"%d %b" % (len(message), message)


def tls_context(settings: AuditSettings) -> ssl.SSLContext:
    """TLS 1.2 or newer that verifies the receiver, and shows central's certificate where there is one.

    Raises
    ------
    SyslogUnfitError
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.syslog_ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(settings.syslog_ca)
        except OSError as error:
            raise SyslogUnfitError(
                f"audit.syslog_ca: {settings.syslog_ca} holds no PEM certificates"
            ) from error
    if settings.syslog_certificate is not None and settings.syslog_key is not None:
        try:
            context.load_cert_chain(settings.syslog_certificate, settings.syslog_key, password=lambda: "")
        except OSError as error:
            raise SyslogUnfitError(
                f"audit.syslog_key: {settings.syslog_key} must be the PEM key, not encrypted, of "
                f"{settings.syslog_certificate}"
            ) from error
    return context


class SyslogLine:
    """An open connection, used by one thread. Every method raises OSError once it is broken."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        plain = socket.create_connection((host, port), timeout=TIMEOUT_S)
        try:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE_S)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_ALIVE_S)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(2 * TIMEOUT_S * 1000))
            self._socket = context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise

    def send(self, message: bytes) -> None:
        self._socket.sendall(framed(message))

    def check(self) -> None:
        """Raise ConnectionError if the other side has ended the connection: nobody answers here, so it is looked at."""
        self._socket.settimeout(0)
        try:
            if not self._socket.recv(1024):
                raise ConnectionResetError("the receiver has ended the connection")
        except ssl.SSLWantReadError:
            pass  # it stands, and has nothing to say
        finally:
            self._socket.settimeout(TIMEOUT_S)

    def acknowledged_bytes(self) -> int:
        """How much the other machine has acknowledged; whether a program there has read it, TCP does not know."""
        info = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        return int(struct.unpack_from("=Q", info, _BYTES_ACKED_AT)[0])

    def written_bytes(self) -> int:
        """All that was sent, in the count of `acknowledged_bytes`."""
        waiting = array.array("i", [0])
        acknowledged = self.acknowledged_bytes()
        while True:
            fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, waiting)
            before, acknowledged = acknowledged, self.acknowledged_bytes()
            if before == acknowledged:  # else what was acknowledged between the two looks would count twice
                return waiting[0] + acknowledged

    def end(self) -> bool:
        """Close in order; True if the receiver answered with its own close_notify, having read all before."""
        try:
            self._socket.settimeout(_END_S)  # central is stopping: not every receiver answers
            self._socket.unwrap().close()
        except (OSError, ValueError):
            return False
        else:
            return True
        finally:
            self._socket.close()

    def abandon(self) -> None:
        self._socket.close()
