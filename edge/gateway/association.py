"""One association from its request to its end, on one thread that blocks on one socket.

Always true: whatever way the association ends (release, abort, a cut line, a broken peer, the box stopping), an
unfinished instance is discarded and a finished one is kept; and its socket is closed.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from edge.buffer.desk import Intake
from edge.gateway.errors import (
    AbortReason,
    GatewayError,
    PeerGoneError,
    PeerTooSlowError,
    ProtocolError,
    RejectedError,
)
from edge.gateway.exchange import Exchange
from edge.gateway.negotiation import Agreed
from edge.gateway.pdu import abort, associate_rj
from edge.gateway.service import Service
from edge.gateway.settings import GatewaySettings
from edge.gateway.wire import send_last

_LOG = logging.getLogger(__name__)


class Seat(Protocol):
    """A place in another process that serves an association."""

    def serve(self) -> None:
        """Answer what that process asks until the association has ended."""

    def stop(self) -> None:
        """End it at the next message boundary."""


Agree = Callable[["Association"], AbstractContextManager[Agreed | None]]


class Association:
    """Runs on the thread that calls `run`; `stop` may be called from any other.

    Parameters
    ----------
    agree : makes the association, and is left when it ends. Gives what was agreed, None where nothing is left to do
        here, or raises a GatewayError.
    services : who answers, by abstract syntax UID.
    note_refusal : takes calling AE title, address and reason; keeps log and list from being flooded.
    """

    def __init__(
        self,
        sock: socket.socket,
        peer_address: str,
        settings: GatewaySettings,
        spool: Intake,
        *,
        agree: Agree,
        services: Mapping[str, Service],
        note_refusal: Callable[[str, str, str], None],
    ) -> None:
        self._socket = sock
        self._peer_address = peer_address
        self._settings = settings
        self._spool = spool
        self._agree = agree
        self._services = services
        self._note_refusal = note_refusal
        self._state = threading.Lock()  # guards the three below, which `stop` reads
        self._exchange: Exchange | None = None
        self._stopping = False
        self._elsewhere: Seat | None = None

    def run(self) -> None:
        """Serve the peer to the end and close the socket. Raises nothing a peer could cause."""
        calling_ae_title = ""
        try:
            with self._agree(self) as agreed:
                if agreed is not None:
                    calling_ae_title = agreed.calling_ae_title
                    self._begin(agreed).run()
        except RejectedError as error:
            self._refuse(error, error.calling_ae_title)
            send_last(self._socket, associate_rj(error.result, error.source, error.reason))
        except PeerGoneError as error:
            if self._exchange is not None and self._exchange.busy:
                self._refuse(error, calling_ae_title)
        except PeerTooSlowError as error:
            # Many scanners just leave an association open: no fault.
            if self._exchange is None or self._exchange.busy:
                self._refuse(error, calling_ae_title)
            send_last(self._socket, abort(AbortReason.NOT_SPECIFIED))
        except GatewayError as error:
            self._refuse(error, calling_ae_title)
            reason = error.abort_reason if isinstance(error, ProtocolError) else AbortReason.NOT_SPECIFIED
            send_last(self._socket, abort(reason))
        except Exception:
            _LOG.exception("an association failed unexpectedly", extra={"peer_address": self._peer_address})
            send_last(self._socket, abort(AbortReason.NOT_SPECIFIED))
        finally:
            with contextlib.suppress(OSError):
                self._socket.close()

    def stop(self) -> None:
        """End at the next message boundary: at once if none is in progress."""
        with self._state:
            self._stopping = True
            if self._elsewhere is not None:
                self._elsewhere.stop()
            elif self._exchange is not None:
                self._exchange.stop()
            else:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RD)

    def hand_on(self, seat: Seat) -> None:
        """Let another process serve the peer from here on; returns when it has."""
        with self._state:
            self._elsewhere = seat
            if self._stopping:
                seat.stop()
        seat.serve()

    def kill(self) -> None:
        """Cut the line now. The instance in progress is discarded."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _begin(self, agreed: Agreed) -> Exchange:
        exchange = Exchange(
            self._socket, agreed, self._peer_address, self._settings, self._spool, self._services
        )
        with self._state:
            self._exchange = exchange
            if self._stopping:
                exchange.stop()
        return exchange

    def _refuse(self, error: GatewayError, calling_ae_title: str) -> None:
        """For the technician's list and the log; the text never holds data-set content."""
        self._note_refusal(calling_ae_title, self._peer_address, str(error))
