"""The peer at the other end of an association, as services call it: our requests out, its responses in.

Everything is sent and read on the association's own thread, so that a TLS connection is never used by two at
once; other threads hand in tasks, which run between two messages. When the association ends, whatever way,
every task that has not run fails with `PeerGoneError`: whoever handed it in knows that the peer was not told.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Protocol, TypeVar

from edge.gateway.command_set import Command, Element, encode_request
from edge.gateway.errors import (
    GatewayError,
    NoAnswerError,
    PeerGoneError,
    ProtocolError,
    TransientGatewayError,
)
from edge.gateway.negotiation import Agreed, Context
from edge.gateway.outgoing import encode_message
from edge.gateway.pdu import PduReader
from edge.gateway.quirks import Quirks
from edge.gateway.service import Answer, Call, Peer

T = TypeVar("T")

_LAST_MESSAGE_ID = 0xFFFF
_MAX_UNANSWERED = 16


class Wire(Protocol):
    """What the association does for its peer."""

    def send(self, data: bytes) -> None: ...

    def step(self) -> bool:
        """Read and act on one PDU; False when the association has ended."""


class ConnectedPeer:
    """The `Peer` of one association. `submit` may be called from any thread, the rest from the association's."""

    def __init__(self, sock: socket.socket, reader: PduReader, agreed: Agreed, wire: Wire) -> None:
        self._socket = sock
        self._reader = reader
        self._agreed = agreed
        self._wire = wire
        self._message_id = 0
        self._awaited: int | None = None  # message id of our request that has no answer yet
        self._answer: Answer | None = None
        self._given_up: set[int] = set()  # our requests whose answer may still come, and is dropped then
        self._performing: int | None = None  # message id of the peer's request in progress
        self._cancelled = False
        self.failure: GatewayError | None = None
        self._lock = threading.Lock()  # guards the three below
        self._tasks: deque[tuple[Future[Any], Callable[[Peer], Any]]] = deque()
        self._closed = False
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)

    @property
    def is_open(self) -> bool:
        return not self._closed

    @property
    def contexts(self) -> Mapping[int, Context]:
        return self._agreed.contexts

    @property
    def performs(self) -> frozenset[str]:
        return self._agreed.peer_performs

    @property
    def quirks(self) -> Quirks:
        return self._agreed.quirks

    @property
    def cancelled(self) -> bool:
        if self._performing is not None:
            with self._remembered():
                while not self._cancelled and self._readable(0.0):
                    self._read()
        return self._cancelled

    def call(self, call: Call, *, timeout_s: float) -> Answer:
        if self._awaited is not None:
            raise RuntimeError("one call at a time")
        if len(self._given_up) >= _MAX_UNANSWERED:
            raise NoAnswerError("the peer answers nothing this box asks")
        self._message_id = self._message_id % _LAST_MESSAGE_ID + 1
        command = encode_request(
            call.field, self._message_id, call.elements, has_data_set=call.data_set is not None
        )
        self._awaited, self._answer = self._message_id, None
        try:
            with self._remembered():
                for pdu in encode_message(
                    call.context_id, command, call.data_set, max_pdu_bytes=self._agreed.peer_max_pdu_bytes
                ):
                    self._wire.send(pdu)
                answer = self._wait_for_answer(time.monotonic() + timeout_s)
        finally:
            self._awaited = None
        if answer is None:
            self._given_up.add(self._message_id)
            raise NoAnswerError("the peer did not answer a request of this box")
        return answer

    def submit(self, task: Callable[[Peer], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._lock:
            if not self._closed:
                self._tasks.append((future, task))
                with contextlib.suppress(BlockingIOError):  # full of wake-ups already
                    self._wake_in.send(b"\0")
                return future
        future.set_exception(PeerGoneError("the association has ended"))
        return future

    # For the association -----------------------------------------------------------------------------------

    def begin(self, message_id: int) -> None:
        """The peer's request `message_id` is being performed from here on."""
        self._performing, self._cancelled = message_id, False

    def end(self) -> None:
        self._performing, self._cancelled = None, False

    def check(self) -> None:
        """Raise what ended the association, if a service has passed over it."""
        if self.failure is not None:
            raise self.failure

    def note_cancel(self, message_id: int) -> None:
        if message_id == self._performing:
            self._cancelled = True

    def note_answer(self, response: Command) -> None:
        """ProtocolError if it answers nothing this box asked."""
        if response.message_id in self._given_up:
            self._given_up.discard(response.message_id)
            return
        if self._awaited is None or response.message_id != self._awaited or self._answer is not None:
            raise ProtocolError("a response to a request this box never made")
        self._answer = Answer(response.number(Element.STATUS), response.elements)

    def wait(self, timeout_s: float) -> bool:
        """Run tasks until bytes of the peer can be read; False if none came in time."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            self._run_tasks()
            if self._readable(deadline_s - time.monotonic(), or_woken=True):
                return True
            if not self._woken() and time.monotonic() >= deadline_s:
                return False

    def close(self) -> None:
        """Fail what has not run. The association has ended."""
        with self._lock:
            self._closed = True
            tasks = list(self._tasks)
            self._tasks.clear()
            self._wake_in.close()
            self._wake_out.close()
        for future, _ in tasks:
            if future.set_running_or_notify_cancel():
                future.set_exception(PeerGoneError("the association ended"))

    def _run_tasks(self) -> None:
        while True:
            with self._lock:
                if not self._tasks:
                    return
                future, task = self._tasks.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = task(self)
            except Exception as error:
                future.set_exception(error)
                if self.failure is not None:
                    raise self.failure from error
            else:
                future.set_result(result)

    def _wait_for_answer(self, deadline_s: float) -> Answer | None:
        while self._answer is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not self._readable(left_s):
                return None
            self._read()
        return self._answer

    def _read(self) -> None:
        if not self._wire.step():
            raise PeerGoneError("the peer ended the association before it had answered")

    def _readable(self, timeout_s: float, *, or_woken: bool = False) -> bool:
        """True if a PDU, or a part of one, is there. Waits for a wake-up as well if asked to."""
        if self._reader.holds_bytes or (isinstance(self._socket, ssl.SSLSocket) and self._socket.pending()):
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if or_woken:
            poll.register(self._wake_out, select.POLLIN)
        ready = poll.poll(max(0.0, timeout_s) * 1000)
        return any(descriptor == self._socket.fileno() for descriptor, _ in ready)

    def _woken(self) -> bool:
        try:
            return bool(self._wake_out.recv(4096))
        except BlockingIOError:
            return False

    @contextlib.contextmanager
    def _remembered(self) -> Iterator[None]:
        """Keep what ended the association: a service cannot answer it away."""
        try:
            yield
        except GatewayError as error:
            self.failure = error
            raise
        except Exception as error:
            # Our own data set broke off inside a message: nothing sensible can follow it on the wire.
            self.failure = TransientGatewayError("this box could not finish a message it had begun")
            raise self.failure from error
