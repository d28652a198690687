"""Messages out of fragments, under limits; images go into the archive's file, and what is seldom to pynetdicom.

Always true: what a peer can make central hold here is a command, an identifier of `MAX_IDENTIFIER_BYTES`, and the
messages of one PDU and a few more; an object that did not arrive whole is discarded with its association. From an
association's first C-STORE on, those that follow it are read elsewhere (`storing.py`), under the same limits.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, Final

from pynetdicom.dimse_messages import C_STORE_RQ, N_EVENT_REPORT_RQ, DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL, C_ECHO, C_FIND, C_GET, C_MOVE, C_STORE
from pynetdicom.pdu_primitives import P_DATA

from central.archive.objects import ObjectSink
from central.dimse import command_set
from central.dimse.associate import Answered, read_uid
from central.dimse.command_set import StoreRequest, plain_store_rq
from central.dimse.errors import DimseError, OverLimitError, PeerGoneError, PeerTooSlowError
from central.dimse.incoming import OUT_OF_RESOURCES, Incoming, header_for
from central.dimse.transport import COMMAND_FRAGMENT, LAST_FRAGMENT, Limits, fragments
from contract.part10 import file_meta

MAX_COMMAND_BYTES: Final = 65_536
MAX_IDENTIFIER_BYTES: Final = 8 << 20  # a commitment request for 65,536 instances is about 6 MB
MAX_CANCELS: Final = 10
_QUERIES: Final = {0x0010: C_GET, 0x0020: C_FIND, 0x0021: C_MOVE, 0x0030: C_ECHO}  # by Command Field


class Messages:
    """What comes on one association.

    Parameters
    ----------
    new_object : where the bytes of what is stored go; None: nothing is.
    contexts : id → each presentation context that was accepted.

    Attributes
    ----------
    waiting : presentation context and pynetdicom's primitive of each message that is whole.
    cancelled : Message IDs of C-CANCEL-RQs.
    """

    def __init__(
        self, limits: Limits, new_object: Callable[[], ObjectSink] | None, contexts: Mapping[int, Answered]
    ) -> None:
        self.limits = limits
        self.waiting: deque[tuple[int, Any]] = deque()
        self.cancelled: set[int] = set()
        self._new_object = new_object
        self._contexts = contexts
        self._message: DIMSEMessage | None = None
        self._plain: tuple[int, Any] | None = None  # one that was read here: its context and what it says
        self._arriving: Incoming | None = None
        self._arrived: deque[Incoming] = deque()
        self._command_bytes = self._data_bytes = 0
        self._began_s = 0.0

    @property
    def is_at_rest(self) -> bool:
        """Whether no message is on its way or waits."""
        return self._message is None and self._plain is None and not self._arrived and not self.waiting

    def take_arrived(self) -> Incoming:
        """What the oldest C-STORE-RQ that waits to be served brought. PeerGoneError : nothing, against the standard."""
        if not self._arrived:
            raise PeerGoneError("a C-STORE without a data set")
        return self._arrived.popleft()

    def discard_arrived(self) -> None:
        """Forget what was not served: the association is over."""
        for incoming in (*self._arrived, *filter(None, [self._arriving])):
            incoming.discard()
        self._arrived.clear()
        self._arriving = None

    def take(self, pdu: memoryview) -> None:
        """Take the body of a P-DATA-TF. DimseError : it cannot be understood, or is too much; nothing can follow."""
        try:
            for context_id, control, data in fragments(pdu):
                self._take(context_id, control, data)
        except DimseError:
            raise
        except Exception as error:  # pynetdicom raises whatever its parsing runs into
            raise OverLimitError(f"a message that cannot be read ({type(error).__name__})") from error

    def cancel(self, message_id: int) -> None:
        """A C-CANCEL-RQ for this message came."""
        if len(self.cancelled) < MAX_CANCELS:
            self.cancelled.add(message_id)

    def _take(self, context_id: int, control: int, data: memoryview) -> None:
        if context_id not in self._contexts:
            raise OverLimitError("a fragment on a presentation context that was not accepted")
        if self._message is None and self._plain is None:
            self._command_bytes = self._data_bytes = 0
            self._began_s = time.monotonic()
        if self.limits.is_trickle(self._began_s, self._command_bytes + self._data_bytes):
            raise PeerTooSlowError("a message trickles in")
        # The context of a command that is whole, and whose data set is on its way.
        begun = self._plain[0] if self._plain else self._message.context_id if self._message else None
        if control & COMMAND_FRAGMENT:
            self._command_bytes += len(data)
            if self._command_bytes > MAX_COMMAND_BYTES:
                raise OverLimitError("a longer command than any has")
            if begun is not None:
                raise OverLimitError("a command inside a data set")
            if (
                self._message is None
                and control & LAST_FRAGMENT
                and self._begin_plain(context_id, bytes(data))
            ):
                return
            self._hand_on(context_id, control, data)
            if control & LAST_FRAGMENT and self._message is not None:
                self._begin_data(self._message, context_id)
            return
        if begun != context_id:
            raise OverLimitError("a data set without a command")
        self._data_bytes += len(data)
        if self._arriving is None:
            if self._data_bytes > MAX_IDENTIFIER_BYTES:
                raise OverLimitError("a longer identifier than is taken")
            if self._plain is None:
                self._hand_on(context_id, control, data)
                return
            self._plain[1].Identifier.write(data)
            if control & LAST_FRAGMENT:
                self._end_plain(self._plain)
            return
        if self._data_bytes > self.limits.max_object_bytes:
            self._arriving.refuse(OUT_OF_RESOURCES)
        self._arriving.write(data)
        if control & LAST_FRAGMENT:
            self._arrived.append(self._arriving)
            self._arriving = None
            if self._plain is not None:
                self._end_plain(self._plain)
            else:
                self._hand_on(context_id, LAST_FRAGMENT, b"")

    def _begin_plain(self, context_id: int, command: bytes) -> bool:
        """Begin an ordinary request of those that come most, without pydicom; False if it is no such thing."""
        begun = self.begin_store(context_id, command)
        if begun is None:
            query = _plain_query(command)
            if query is None:
                return False
            self._plain = context_id, query
            if isinstance(query, C_ECHO):
                self._end_plain(self._plain)
            return True
        request, self._arriving = begun
        said = C_STORE()
        said.MessageID = request.message_id
        said.Priority = request.priority
        said.AffectedSOPClassUID = request.sop_class_uid
        said.AffectedSOPInstanceUID = request.sop_instance_uid
        said.DataSet = BytesIO()  # it goes another way; this one says that it came
        self._plain = context_id, said
        return True

    def _end_plain(self, whole: tuple[int, Any]) -> None:
        self.waiting.append(whole)
        self._plain = None

    def begin_store(self, context_id: int, command: bytes) -> tuple[StoreRequest, Incoming] | None:
        """What an ordinary C-STORE-RQ says, and where its data set goes; None if it is no such thing."""
        request = plain_store_rq(command)
        context = self._contexts.get(context_id)
        if self._new_object is None or request is None or context is None:
            return None
        header = file_meta(request.sop_class_uid, request.sop_instance_uid, context.transfer_syntax_uid)
        return request, Incoming(self._new_object, header)

    def _begin_data(self, message: DIMSEMessage, context_id: int) -> None:
        """A command is whole and a data set follows."""
        if not isinstance(message, C_STORE_RQ):
            return
        if self._new_object is None:
            raise OverLimitError("nothing is stored on this association")
        self._arriving = Incoming(
            self._new_object, header_for(message.command_set, self._contexts[context_id].transfer_syntax_uid)
        )

    def _hand_on(self, context_id: int, control: int, data: bytes | memoryview) -> None:
        """Have pynetdicom put a fragment to those before it."""
        one = P_DATA()
        one.presentation_data_value_list.append((context_id, bytes((control,)) + data))
        message = self._message = self._message or DIMSEMessage()
        is_whole = message.decode_msg(one)
        if isinstance(message, N_EVENT_REPORT_RQ):
            raise OverLimitError("central receives no event reports")
        if not is_whole:
            return
        self._message = None
        said = message.message_to_primitive()
        if isinstance(said, C_CANCEL):
            self.cancel(said.MessageIDBeingRespondedTo or 0)
        else:
            self.waiting.append((context_id, said))


def _plain_query(command: bytes) -> Any | None:
    """An ordinary C-GET-, C-FIND-, C-MOVE- or C-ECHO-RQ with all that belongs to it; None: it is anything else."""
    try:
        found = command_set.elements(command)
        kind = _QUERIES[command_set.number(found, command_set.COMMAND_FIELD) or 0]
        has_data_set = command_set.number(found, command_set.DATA_SET_TYPE) != command_set.NO_DATA_SET
        if has_data_set == (kind is C_ECHO):
            return None
        said: Any = kind()
        said.MessageID = command_set.number(found, command_set.MESSAGE_ID)
        said.AffectedSOPClassUID = read_uid(found[command_set.AFFECTED_SOP_CLASS_UID])
        if has_data_set:
            said.Priority = command_set.number(found, command_set.PRIORITY)
            said.Identifier = BytesIO()
        if kind is C_MOVE:
            said.MoveDestination = found[command_set.MOVE_DESTINATION].decode("ascii").strip()
    except (OverLimitError, KeyError, TypeError, ValueError):
        return None
    return said if said.is_valid_request else None
