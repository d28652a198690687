"""C-STORE sub-operations and their answers on one association: that of who asks by C-GET, or to a C-MOVE's destination.

Always true: nothing comes there but answers and, where somebody asked, C-CANCEL-RQs; whatever else does is the
association's end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from central.dimse import command_set
from central.dimse.associate import Answered
from central.dimse.errors import OverLimitError, PeerGoneError
from central.dimse.messages import MAX_CANCELS, MAX_COMMAND_BYTES
from central.dimse.transport import COMMAND_FRAGMENT, LAST_FRAGMENT, PDV_BYTES, Line, fragments

Taken = Mapping[str, Mapping[str, int]]
"""SOP class → transfer syntax → id of the presentation context that was accepted for both."""

_NO_LIMIT_PDU_BYTES: Final = 131_072  # what is sent to a peer that names no maximum


class Lane:
    """Messages of sub-operations on one association, on the thread that serves.

    Parameters
    ----------
    max_pdu_bytes : what the other side takes; 0 is no limit (PS3.8 Annex D.1).
    timeout_s : silence of the other side that is borne, while it answers and while it does not read.
    cancel : takes the Message ID of a C-CANCEL-RQ; None: the other side asked for nothing.

    Every method raises PeerGoneError when the association is over, or should be.
    """

    def __init__(
        self, line: Line, max_pdu_bytes: int, timeout_s: float, cancel: Callable[[int], None] | None = None
    ) -> None:
        line.sock.settimeout(timeout_s)
        self._line = line
        self._timeout_s = timeout_s
        self._cancel = cancel
        self.room = max(1, (max_pdu_bytes or _NO_LIMIT_PDU_BYTES) - PDV_BYTES)
        """Bytes of a message that a PDU takes."""

    def send(self, data: bytes) -> None:
        """Send encoded PDUs."""
        self._line.send(data)

    def take_in(self) -> None:
        """Read what has come already: a C-CANCEL-RQ counts from now on."""
        for _ in range(MAX_CANCELS):
            if not self._line.has_data(0):
                return
            self._take(self._command())

    def answer(self, message_id: int) -> int:
        """Wait for the C-STORE-RSP to `message_id`; its status."""
        while True:
            found = self._command()
            if command_set.number(found, command_set.COMMAND_FIELD) != command_set.C_STORE_RSP:
                self._take(found)
                continue
            status = command_set.number(found, command_set.STATUS)
            answered = command_set.number(found, command_set.MESSAGE_ID_RESPONDED_TO)
            if answered != message_id or status is None:
                raise PeerGoneError("no answer came to a C-STORE sub-operation")
            return status

    def _take(self, found: dict[int, bytes]) -> None:
        """What came and is no answer."""
        cancelled = command_set.number(found, command_set.MESSAGE_ID_RESPONDED_TO)
        is_cancel = command_set.number(found, command_set.COMMAND_FIELD) == command_set.C_CANCEL_RQ
        if self._cancel is None or not is_cancel or cancelled is None:
            raise PeerGoneError("another message came where the answer to a sub-operation belongs")
        self._cancel(cancelled)

    def _command(self) -> dict[int, bytes]:
        try:
            return self._message()
        except OverLimitError as error:
            raise PeerGoneError(f"the other side cannot be understood: {error}") from error

    def _message(self) -> dict[int, bytes]:
        """The next message, which has no data set."""
        whole = bytearray()
        while True:
            pdu = self._line.p_data(self._timeout_s)
            if pdu is None:
                raise PeerGoneError(
                    "the association ended while an instance was sent, or its other side is silent"
                )
            for _, control, data in fragments(pdu):
                if not control & COMMAND_FRAGMENT or len(whole) + len(data) > MAX_COMMAND_BYTES:
                    raise OverLimitError(
                        "a data set where an answer belongs, or a longer command than any has"
                    )
                whole += data
                if control & LAST_FRAGMENT:
                    return command_set.elements(bytes(whole))


def taken_of(contexts: Iterable[Answered]) -> Taken:
    """What is taken in `contexts` that were accepted; the first of several for the same."""
    taken: dict[str, dict[str, int]] = {}
    for one in contexts:
        taken.setdefault(one.abstract_syntax_uid, {}).setdefault(one.transfer_syntax_uid, one.context_id)
    return taken
