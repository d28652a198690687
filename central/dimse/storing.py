"""C-STOREs that follow each other on one association, read and answered by the thread that serves them.

Why it exists: pynetdicom takes each PDU through queues and a state machine, and each message and its answer from one
thread to another; for a sender that waits for every answer that is half of the time. So from the first C-STORE on the
thread that archives has the socket (`GuardedSocket.take`), and reads what comes straight into the archive's file.

Always true: what is no ordinary C-STORE-RQ is given back to pynetdicom whole and unread: a release, an abort, another
message, the end of the connection. The limits are those of `transport.py`: of a PDU, a command, an object, of silence
and of rate. An object that did not arrive whole is discarded.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from central.dimse.association import CentralAssociation
from central.dimse.command_set import StoreRequest, store_rsp
from central.dimse.errors import OverLimitError, PeerGoneError, PeerTooSlowError
from central.dimse.incoming import OUT_OF_RESOURCES, Incoming
from central.dimse.lane import P_DATA_TF, fragments, packed
from central.dimse.transport import (
    COMMAND_FRAGMENT,
    LAST_FRAGMENT,
    LEAST_PDU_BYTES,
    MAX_COMMAND_BYTES,
    PDV_BYTES,
    GuardedSocket,
)

_HEAD: Final = struct.Struct(">BxL")


@dataclass(frozen=True)
class Arrived:
    """A C-STORE-RQ and, once it is whole, its data set."""

    context_id: int
    request: StoreRequest
    incoming: Incoming


class StoringLane:
    """The association's socket between two messages. Used by one thread."""

    def __init__(self, association: CentralAssociation, wire: GuardedSocket) -> None:
        self._messages = association.messages
        self._limits = association.messages.limits
        assert association.network_timeout is not None, "the server sets it"
        self._silence_s = association.network_timeout
        self._wire = wire
        # What was read and is not used yet lies between `_at` and `_end`: a PDU, and the beginning of the next.
        self._held = bytearray(2 * (_HEAD.size + max(self._limits.max_pdu_bytes, LEAST_PDU_BYTES)))
        self._at = self._end = 0

    def answer(self, context_id: int, request: StoreRequest, status: int, comment: str) -> None:
        """Send the C-STORE-RSP. PeerGoneError : the association is over."""
        room = max(1, (self._messages.maximum_pdu_size or MAX_COMMAND_BYTES) - PDV_BYTES)
        said = store_rsp(request.sop_class_uid, request.sop_instance_uid, request.message_id, status, comment)
        try:
            self._wire.send_all(packed(context_id, said, room, is_last=True, is_command=True))
        except OSError as error:
            raise PeerGoneError("the association ended before its answer") from error

    def next(self) -> Arrived | None:
        """The next C-STORE, whole; None where something else comes, or the connection ends.

        Raises
        ------
        PeerGoneError, PeerTooSlowError, OverLimitError : the association is to be aborted.
        """
        arriving: Arrived | None = None
        began_s, data_bytes = 0.0, 0
        try:
            while (pdu := self._pdu()) is not None:
                used = 0
                for context_id, control, data in fragments(pdu):
                    if arriving is None:
                        began_s = time.monotonic()
                        arriving = self._begun(context_id, control, data)
                        if arriving is None:
                            self._leave(pdu, used)
                            return None
                        used += PDV_BYTES + len(data)
                        continue
                    if control & COMMAND_FRAGMENT or context_id != arriving.context_id:
                        raise OverLimitError("another message inside a data set")
                    used += PDV_BYTES + len(data)
                    data_bytes += len(data)
                    if data_bytes > self._limits.max_object_bytes:
                        arriving.incoming.refuse(OUT_OF_RESOURCES)
                    arriving.incoming.write(data)
                    if control & LAST_FRAGMENT:
                        self._leave(pdu, used)
                        whole, arriving = arriving, None
                        return whole
                if self._limits.is_trickle(began_s, data_bytes):
                    raise PeerTooSlowError("a message trickles in")
        finally:
            if arriving is not None:
                arriving.incoming.discard()
        return None

    def give_back(self) -> None:
        """Leave to pynetdicom what was read and not used."""
        self._wire.put_back(self._held[self._at : self._end])

    def _begun(self, context_id: int, control: int, data: memoryview) -> Arrived | None:
        if control != COMMAND_FRAGMENT | LAST_FRAGMENT:
            return None
        begun = self._messages.begin_store(context_id, bytes(data))
        return Arrived(context_id, *begun) if begun is not None else None

    def _leave(self, pdu: memoryview, used: int) -> None:
        """Leave what stands behind the first `used` bytes of the PDU that was read last, as a PDU of its own."""
        left = len(pdu) - used
        if left:
            self._at -= left + _HEAD.size
            _HEAD.pack_into(self._held, self._at, P_DATA_TF, left)

    def _pdu(self) -> memoryview | None:
        """The body of the next P-DATA-TF, valid until the next; None: what comes is something else, and unread."""
        try:
            if self._end == self._at and not self._wire.has_data(self._silence_s):
                raise PeerGoneError("the other side is silent")
            if not self._has(_HEAD.size):
                return None
            kind, length = _HEAD.unpack_from(self._held, self._at)
            whole = _HEAD.size + length
            if kind != P_DATA_TF or whole > len(self._held) // 2 or not self._has(whole):
                return None
        except OSError as error:
            raise PeerGoneError("the association ended while an instance came") from error
        begins = self._at + _HEAD.size
        self._at = begins + length
        return memoryview(self._held)[begins : self._at]

    def _has(self, wanted: int) -> bool:
        """Have `wanted` bytes read, and what else has come; False where the connection ends before."""
        if self._at + wanted > len(self._held):
            self._held[: self._end - self._at] = self._held[self._at : self._end]
            self._at, self._end = 0, self._end - self._at
        if self._end < self._at + wanted:
            self._end = self._wire.recv_some(self._held, self._end, self._at + wanted)
        return self._end >= self._at + wanted


@contextmanager
def storing_on(association: CentralAssociation) -> Iterator[StoringLane | None]:
    """Take the socket from pynetdicom for the block; None where a message is under way there already."""
    wire = association.dul.socket
    assert isinstance(wire, GuardedSocket)
    if not wire.take(association.dul.is_alive):
        yield None
        return
    try:
        if not association.messages.is_at_rest:
            yield None
            return
        lane = StoringLane(association, wire)
        try:
            yield lane
        finally:
            lane.give_back()
    finally:
        wire.give_back()
