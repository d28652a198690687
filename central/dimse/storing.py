"""C-STOREs that follow each other on one association, read and answered without pynetdicom.

Why it exists: it makes objects of each fragment and each message; for a sender that waits for every answer that is much
of the time. So from the first C-STORE on what comes is read straight into the archive's file.

Always true: another message is left whole and unread. The limits are those of `messages.py`: of a command, an object
and of rate. An object that did not arrive whole is discarded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from central.dimse.association import CentralAssociation
from central.dimse.command_set import StoreRequest, store_rsp
from central.dimse.errors import OverLimitError, PeerGoneError, PeerTooSlowError
from central.dimse.incoming import OUT_OF_RESOURCES, Incoming
from central.dimse.transport import COMMAND_FRAGMENT, LAST_FRAGMENT, PDV_BYTES, fragments


@dataclass(frozen=True)
class Arrived:
    """A C-STORE-RQ and, once it is whole, its data set."""

    context_id: int
    request: StoreRequest
    incoming: Incoming


class StoringLane:
    """An association between two messages. Used by one thread."""

    def __init__(self, association: CentralAssociation) -> None:
        self._association = association
        self._messages = association.messages
        self._limits = association.messages.limits

    def answer(self, context_id: int, request: StoreRequest, status: int, comment: str) -> None:
        """Send the C-STORE-RSP. PeerGoneError : the association is over."""
        said = store_rsp(request.sop_class_uid, request.sop_instance_uid, request.message_id, status, comment)
        self._association.send(context_id, said)

    def next(self) -> Arrived | None:
        """The next C-STORE, whole; None where something else comes, or the association ends.

        Raises
        ------
        PeerGoneError, PeerTooSlowError, OverLimitError : the association is to be aborted.
        """
        line, arriving = self._association.line, None
        began_s, data_bytes = 0.0, 0
        try:
            while (pdu := line.p_data(self._association.silence_s)) is not None:
                used = 0
                for context_id, control, data in fragments(pdu):
                    if arriving is None:
                        began_s = time.monotonic()
                        arriving = self._begun(context_id, control, data)
                        if arriving is None:
                            line.leave(pdu, used)
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
                        line.leave(pdu, used)
                        whole, arriving = arriving, None
                        return whole
                if self._limits.is_trickle(began_s, data_bytes):
                    raise PeerTooSlowError("a message trickles in")
            if arriving is not None:
                raise PeerGoneError("the association ended while an instance came")
            return None
        finally:
            if arriving is not None:
                arriving.incoming.discard()

    def _begun(self, context_id: int, control: int, data: memoryview) -> Arrived | None:
        if control != COMMAND_FRAGMENT | LAST_FRAGMENT:
            return None
        begun = self._messages.begin_store(context_id, bytes(data))
        return Arrived(context_id, *begun) if begun is not None else None
