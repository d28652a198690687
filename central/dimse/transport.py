"""What lies between pynetdicom's state machine and the socket: limits on everything a peer may make central hold.

Why it exists: pynetdicom reads whatever length a PDU declares, keeps every message whole in memory, queues messages
without end, and waits on a socket without a clock. Here PDUs and messages are capped before they are held, a peer that
stops or trickles is ended, and a C-STORE's data set goes to the archive's own file as it comes in. From an
association's first C-STORE on, those that follow it are read elsewhere (`storing.py`), under the same limits.

Always true: what a peer can make central hold is two PDUs, a command, an identifier of `MAX_IDENTIFIER_BYTES` and a few
waiting messages; an object that did not arrive whole is discarded with its association.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from pynetdicom.association import Association
from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import C_STORE_RQ, N_EVENT_REPORT_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dul import DULServiceProvider
from pynetdicom.fsm import StateMachine
from pynetdicom.pdu_primitives import P_DATA
from pynetdicom.transport import AssociationSocket

from central.archive.objects import ObjectSink
from central.dimse.command_set import StoreRequest, plain_store_rq
from central.dimse.errors import DimseError, OverLimitError, PeerTooSlowError
from central.dimse.incoming import OUT_OF_RESOURCES, Incoming, header_for
from contract.part10 import file_meta

MAX_COMMAND_BYTES: Final = 65_536
PDV_BYTES: Final = 6  # before a fragment, in a PDU
MAX_IDENTIFIER_BYTES: Final = 8 << 20  # a commitment request for 65,536 instances is about 6 MB
_MAX_MESSAGES_WAITING: Final = 4
LEAST_PDU_BYTES: Final = 65_536  # what an A-ASSOCIATE may have, however small our own PDUs are
COMMAND_FRAGMENT: Final = 0x01  # of a message control header (PS3.8 Annex E.2)
LAST_FRAGMENT: Final = 0x02
_REST_S: Final = 0.05  # without news; what pynetdicom has no news of, such as its timers, waits as long
_PAUSE_S: Final = 0.001  # where there is nothing to wait on
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one association may cost. Sizes in bytes, times in seconds."""

    max_pdu_bytes: int
    max_object_bytes: int
    stall_timeout_s: float
    min_rate_bytes_per_s: int

    def is_trickle(self, began_s: float, came_bytes: int) -> bool:
        """Whether `came_bytes` since `began_s`, on the monotonic clock, are fewer than a peer has to send."""
        took_s = time.monotonic() - began_s
        return took_s > self.stall_timeout_s and came_bytes < took_s * self.min_rate_bytes_per_s


class Outgoing(queue.Queue[Any]):
    """pynetdicom's queue of what is to be sent, which says when something comes into it."""

    def __init__(self, on_put: Callable[[], None]) -> None:
        super().__init__()
        self._on_put = on_put

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        super().put(item, block, timeout)
        self._on_put()


class GuardedSocket(AssociationSocket):
    """pynetdicom's socket with a clock and a cap, of an association that has been agreed on.

    Its thread waits here, and nowhere else, until something comes in or is to go out; and it rests here while
    somebody else has the socket (`take`).
    """

    def __init__(self, assoc: Association, sock: socket.socket, limits: Limits) -> None:
        super().__init__(assoc, client_socket=sock)
        assoc.dul.event_queue.queue.clear()  # that somebody has called: it was seen long ago
        self._guard(sock, limits)

    @classmethod
    def take_over(cls, association: Association, limits: Limits) -> None:
        """Put one in place of the socket of an association that is established, and at rest."""
        transport = association.dul.socket
        if transport is None or transport.socket is None:
            return
        guarded = cls.__new__(cls)
        vars(guarded).update(vars(transport))
        guarded._guard(transport.socket, limits)
        association.dul.socket = guarded

    def _guard(self, sock: socket.socket, limits: Limits) -> None:
        sock.settimeout(limits.stall_timeout_s)
        self._held = memoryview(b"")
        self._limits = limits
        self._ear, self._bell = socket.socketpair()
        self._bell.setblocking(False)
        self._come_in = select.poll()  # and not select(), which fails from descriptor 1,024 on
        self._come_in.register(sock, select.POLLIN)
        self._any_news = select.poll()
        self._any_news.register(sock, select.POLLIN)
        self._any_news.register(self._ear, select.POLLIN)
        self._turn = threading.Condition()
        self._is_wanted = self._is_taken = False
        self.assoc.dul.to_provider_queue = Outgoing(self._ring)
        self.assoc.dul._run_loop_delay = 0  # it waits here instead

    def _ring(self) -> None:
        with contextlib.suppress(OSError):  # rung already, or over
            self._bell.send(b"\0")

    def end(self) -> None:
        """Close what is kept beside the socket. To be called when no thread uses the association any more."""
        self._ear.close()
        self._bell.close()

    @property
    def ready(self) -> bool:
        """Whether a PDU should be read now: there is one, and those before it are being served."""
        if self._is_wanted:
            self._rest()
            return False
        if self.socket is None or not self._is_connected:
            time.sleep(_PAUSE_S)  # until the association's thread has seen it
            return False
        if self._held:
            return True
        if self.assoc.dimse.msg_queue.qsize() >= _MAX_MESSAGES_WAITING:
            time.sleep(_PAUSE_S)
            return False
        if isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
            return True
        # The only pause of the reactor: it goes on at once when something comes in or is to go out, and does not begin
        # while an event waits.
        rest_s = 0 if self.assoc.dul.event_queue.queue else _REST_S
        found = dict(self._any_news.poll(rest_s * 1000))
        if self._ear.fileno() in found:
            self._ear.recv(4096)
            del found[self._ear.fileno()]
        return bool(found)

    def take(self, is_alive: Callable[[], bool]) -> bool:
        """Let pynetdicom's thread rest, once it has sent what it was given; False if it is no more (`is_alive`)."""
        with self._turn:
            self._is_wanted = True
            self._ring()
            while not self._is_taken:
                if not is_alive():
                    self._is_wanted = False
                    return False
                self._turn.wait(_REST_S)
        return True

    def give_back(self) -> None:
        """Let it go on."""
        with self._turn:
            self._is_wanted = self._is_taken = False
            self._turn.notify_all()

    def _rest(self) -> None:
        with self._turn:
            self._is_taken = True
            self._turn.notify_all()
            self._turn.wait_for(lambda: not self._is_wanted)

    # For who has taken it.

    def set_timeout(self, timeout_s: float | None) -> float | None:
        """Set the socket's; the one before."""
        if self.socket is None:
            return None
        before: float | None = self.socket.gettimeout()
        with contextlib.suppress(OSError):
            self.socket.settimeout(timeout_s)
        return before

    def has_data(self, timeout_s: float) -> bool:
        """Whether something can be read within so long. OSError: the socket is closed."""
        if self.socket is None:
            raise OSError("the socket is closed")
        if self._held or (isinstance(self.socket, ssl.SSLSocket) and self.socket.pending()):
            return True
        return bool(self._come_in.poll(timeout_s * 1000))

    def send_all(self, data: bytes) -> None:
        """Send; the timeout is for each step of it. OSError: the socket is closed, or the other side does not read."""
        if self.socket is None:
            raise OSError("the socket is closed")
        left = memoryview(data)
        while left:
            left = left[self.socket.send(left) :]

    def put_back(self, data: bytes | bytearray) -> None:
        """Let these bytes be read once more."""
        self._held = memoryview(bytes(data) + bytes(self._held))

    def recv(self, nr_bytes: int) -> bytearray:
        """`nr_bytes`, or fewer where the peer closed. OSError for what is too large, too slow or broken."""
        if nr_bytes > max(self._limits.max_pdu_bytes, LEAST_PDU_BYTES):
            _log.warning("event=pdu-too-long bytes=%d", nr_bytes)
            raise OSError("a longer PDU than was agreed")
        taken = bytearray(self._held[:nr_bytes])
        self._held = self._held[nr_bytes:]
        if len(taken) == nr_bytes:
            return taken
        assert self.socket is not None
        out = bytearray(nr_bytes)
        out[: len(taken)] = taken
        return out[: fill(self.socket, out, len(taken), self._limits)]

    def recv_some(self, out: bytearray, at: int, until: int) -> int:
        """Read into `out` from `at` on until `until` at least, and what else has come, as `fill` does."""
        if self.socket is None:
            raise OSError("the socket is closed")
        if self._held:
            took = min(len(self._held), len(out) - at)
            out[at : at + took] = self._held[:took]
            self._held = self._held[took:]
            at += took
        return fill(self.socket, out, at, self._limits, until)


def fill(sock: socket.socket, out: bytearray, at: int, limits: Limits, until: int | None = None) -> int:
    """Read `out` from `at` on, full or until `until`; up to where it is, less than that where the peer closed.

    Raises
    ------
    OSError : the connection is broken, or nothing or too little comes.
    """
    view, began_s, first = memoryview(out), time.monotonic(), at
    wanted = len(out) if until is None else until
    while at < wanted:
        got = sock.recv_into(view[at:])
        if not got:
            break
        at += got
        if limits.is_trickle(began_s, at - first):
            raise TimeoutError("a PDU trickles in")
    return at


class EndingStateMachine(StateMachine):
    """pynetdicom's, but an event out of order ends the association in order, not its thread with a traceback.

    Parameters
    ----------
    on_news : called when something has come that the association's thread should look at.
    """

    def __init__(self, dul: DULServiceProvider, on_news: Callable[[], None]) -> None:
        super().__init__(dul)
        self._on_news = on_news

    @classmethod
    def take_over(cls, dul: DULServiceProvider, on_news: Callable[[], None] = lambda: None) -> None:
        """Put one in place of the machine that `dul` has, in the state in which that is."""
        machine = cls(dul, on_news)
        machine.current_state = dul.state_machine.current_state
        dul.state_machine = machine

    def do_action(self, event: str) -> None:
        try:
            super().do_action(event)
        except Exception as error:
            _log.info("event=association-out-of-order error=%s", type(error).__name__)
            transport = self.dul.socket
            if transport is not None:
                transport._shutdown_socket()
            self.dul._kill_thread = True
        if self.dul._kill_thread or self.dul.assoc.dimse.msg_queue.queue or self.dul.to_user_queue.queue:
            self._on_news()


class BoundedDimse(DIMSEServiceProvider):
    """pynetdicom's message reader under `limits`. What is over one ends the association with an A-ABORT.

    Parameters
    ----------
    syntaxes : id of each accepted presentation context → its transfer syntax UID.
    address : the peer's, for the log.
    peer_max_pdu_bytes : what the peer takes; 0 is no limit.
    """

    def __init__(
        self,
        assoc: Association,
        limits: Limits,
        new_object: Callable[[], ObjectSink] | None,
        *,
        syntaxes: Mapping[int, str],
        address: str,
        peer_max_pdu_bytes: int,
    ) -> None:
        super().__init__(assoc)
        self._syntaxes = syntaxes
        self._address = address
        self._peer_max_pdu_bytes = peer_max_pdu_bytes
        self.limits = limits
        self._new_object = new_object
        self._plain: tuple[int, C_STORE] | None = (
            None  # a request that was read here: its context and what it says
        )
        self._arriving: Incoming | None = None
        self._arrived: deque[Incoming] = deque()
        self._lock = threading.Lock()  # arrival is the reactor's thread, serving the association's
        self._command_bytes = self._data_bytes = 0
        self._began_s = 0.0
        self._is_broken = False

    @property
    def maximum_pdu_size(self) -> int:
        """What the peer takes; 0 is no limit."""
        return self._peer_max_pdu_bytes

    @property
    def is_at_rest(self) -> bool:
        """Whether no message is on its way or waits. For who has the socket."""
        begun = self.message is not None or self._plain is not None or self._is_broken
        return not begun and not self._arrived and not self.msg_queue.qsize()

    def take_arrived(self) -> Incoming:
        """What the oldest C-STORE-RQ that waits to be served brought."""
        with self._lock:
            return self._arrived.popleft()

    def discard_arrived(self) -> None:
        """Forget what was not served: the association is over."""
        with self._lock:
            for incoming in (*self._arrived, *filter(None, [self._arriving])):
                incoming.discard()
            self._arrived.clear()
            self._arriving = None

    def receive_primitive(self, primitive: P_DATA) -> None:
        if self._is_broken:
            return
        try:
            for context_id, data in primitive.presentation_data_value_list:
                self._take(context_id, data)
        except (
            Exception
        ) as error:  # pynetdicom raises whatever its parsing runs into; its thread must not end of it
            self._is_broken = True
            why = str(error) if isinstance(error, DimseError) else type(error).__name__
            _log.warning("event=message-refused peer=%s reason=%s", self._address, why)
            self.dul.event_queue.put("Evt19")  # an invalid PDU: A-ABORT (PS3.8 Table 9-10)

    def _take(self, context_id: int, data: bytes) -> None:
        if context_id not in self._syntaxes or not data:
            raise OverLimitError("a fragment on a presentation context that was not accepted")
        if self.message is None and self._plain is None:
            self._command_bytes = self._data_bytes = 0
            self._began_s = time.monotonic()
        self._check_rate()
        if data[0] & COMMAND_FRAGMENT:
            self._command_bytes += len(data)
            if self._command_bytes > MAX_COMMAND_BYTES:
                raise OverLimitError("a longer command than any has")
            if self._plain is not None:
                raise OverLimitError("a command inside a data set")
            if self.message is None and data[0] & LAST_FRAGMENT and self._begin_plain(context_id, data[1:]):
                return
            self._hand_on(context_id, data)
            if data[0] & LAST_FRAGMENT and self.message is not None:
                self._begin_data(context_id)
            return
        begun = self._plain[0] if self._plain else self.message.context_id if self.message else None
        if begun != context_id:
            raise OverLimitError("a data set without a command")
        self._data_bytes += len(data)
        if self._arriving is None:
            if self._data_bytes > MAX_IDENTIFIER_BYTES:
                raise OverLimitError("a longer identifier than is taken")
            self._hand_on(context_id, data)
            return
        if self._data_bytes > self.limits.max_object_bytes:
            self._arriving.refuse(OUT_OF_RESOURCES)
        self._arriving.write(memoryview(data)[1:])
        if data[0] & LAST_FRAGMENT:
            with self._lock:
                self._arrived.append(self._arriving)
                self._arriving = None
            if self._plain is not None:
                self.msg_queue.put(self._plain)
                self._plain = None
            else:
                self._hand_on(context_id, bytes((LAST_FRAGMENT,)))

    def _begin_plain(self, context_id: int, command: bytes) -> bool:
        """Begin an ordinary C-STORE-RQ, most of what comes, without pynetdicom; False if it is no such thing."""
        begun = self.begin_store(context_id, command)
        if begun is None:
            return False
        request, arriving = begun
        said = C_STORE()
        said.MessageID = request.message_id
        said.Priority = request.priority
        said.AffectedSOPClassUID = request.sop_class_uid
        said.AffectedSOPInstanceUID = request.sop_instance_uid
        said.DataSet = BytesIO()  # it goes another way; this one says that it came
        with self._lock:
            self._arriving = arriving
        self._plain = context_id, said
        return True

    def begin_store(self, context_id: int, command: bytes) -> tuple[StoreRequest, Incoming] | None:
        """What an ordinary C-STORE-RQ says, and where its data set goes; None if it is no such thing."""
        request = plain_store_rq(command)
        syntax = self._syntaxes.get(context_id)
        if self._new_object is None or request is None or syntax is None:
            return None
        header = file_meta(request.sop_class_uid, request.sop_instance_uid, syntax)
        return request, Incoming(self._new_object, header)

    def _begin_data(self, context_id: int) -> None:
        """A command is whole and a data set follows."""
        if isinstance(self.message, N_EVENT_REPORT_RQ):
            raise OverLimitError("central receives no event reports")  # pynetdicom starts a thread for each
        if not isinstance(self.message, C_STORE_RQ):
            return
        if self._new_object is None:
            raise OverLimitError("nothing is stored on this association")
        command = self.message.command_set
        header = header_for(command, self._syntaxes[context_id])
        with self._lock:
            self._arriving = Incoming(self._new_object, header)

    def _hand_on(self, context_id: int, data: bytes) -> None:
        one = P_DATA()
        one.presentation_data_value_list.append((context_id, data))
        super().receive_primitive(one)

    def _check_rate(self) -> None:
        if self.limits.is_trickle(self._began_s, self._command_bytes + self._data_bytes):
            raise PeerTooSlowError("a message trickles in")
