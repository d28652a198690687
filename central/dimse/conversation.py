"""Messages back and forth on an association that is agreed on, whoever asked for it, on the thread that uses it.

pynetdicom knows what a message consists of; our own hand reads and writes what it is sent in (`transport.py`).
(pynetdicom is pinned; a test of every service on a real port notices if what is used of it moves.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from pynetdicom.dimse_messages import C_CANCEL_RQ, C_FIND_RQ, C_GET_RQ, C_MOVE_RQ, N_EVENT_REPORT_RQ
from pynetdicom.dimse_primitives import C_CANCEL, C_FIND, C_GET, C_MOVE, N_EVENT_REPORT
from pynetdicom.dsutils import encode

from central.archive.objects import ObjectSink
from central.dimse.associate import Answered
from central.dimse.errors import OverLimitError, PeerGoneError, PeerTooSlowError
from central.dimse.messages import MAX_COMMAND_BYTES, Messages
from central.dimse.transport import PDV_BYTES, Limits, Line, packed

_MAX_MESSAGES_WAITING: Final = 4
_REQUESTS: Final = {
    C_CANCEL: C_CANCEL_RQ,
    C_FIND: C_FIND_RQ,
    C_GET: C_GET_RQ,
    C_MOVE: C_MOVE_RQ,
    N_EVENT_REPORT: N_EVENT_REPORT_RQ,
}


class Conversation:
    """One, until its line is over.

    Parameters
    ----------
    contexts : id → each presentation context that was accepted.
    peer_max_pdu_bytes : what the peer takes; 0 is no limit (PS3.8 Annex D.1).
    new_object : as in `Messages`.
    """

    def __init__(
        self,
        line: Line,
        contexts: Mapping[int, Answered],
        peer_max_pdu_bytes: int,
        limits: Limits,
        new_object: Callable[[], ObjectSink] | None = None,
    ) -> None:
        self.line = line
        self.contexts = contexts
        self.peer_max_pdu_bytes = peer_max_pdu_bytes
        self.messages = Messages(limits, new_object, contexts)
        self._room = max(1, (peer_max_pdu_bytes or MAX_COMMAND_BYTES) - PDV_BYTES)

    def next(self, silence_s: float) -> tuple[int, Any] | None:
        """The next message, pynetdicom's primitive, and its presentation context; None: the peer is silent or gone.

        PeerGoneError : it cannot be understood, or is too much, and the association was aborted.
        """
        waiting = self.messages.waiting
        while not waiting:
            if not self._take_pdu(silence_s):
                return None
        return waiting.popleft()

    def take_in(self) -> None:
        """Read what has come already, such as a C-CANCEL-RQ, or the end. Raises as `next`."""
        while len(self.messages.waiting) < _MAX_MESSAGES_WAITING and self.line.has_data(0):
            if not self._take_pdu(0):
                return

    def send(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        """Send a message, encoded. PeerGoneError : the association is over."""
        said = packed(context_id, command, self._room, is_last=True, is_command=True)
        self.line.send(said + packed(context_id, data_set, self._room, is_last=True))

    def ask(self, context_id: int, request: Any) -> None:
        """Send a request that is pynetdicom's primitive. PeerGoneError : the association is over."""
        message = _REQUESTS[type(request)]()
        message.primitive_to_message(request)
        command = encode(message.command_set, True, True)
        assert command is not None
        assert message.data_set is not None, "it is made of what we say"
        self.send(context_id, command, message.data_set.getvalue())

    def _take_pdu(self, silence_s: float) -> bool:
        try:
            pdu = self.line.p_data(silence_s)
            if pdu is not None:
                self.messages.take(pdu)
        except (OverLimitError, PeerTooSlowError) as error:
            self.line.abort()
            raise PeerGoneError(f"the other side cannot be understood: {error}") from error
        return pdu is not None
