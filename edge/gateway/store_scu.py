"""C-STORE to one other node (PS3.4 Annex B), object after object on an association that is kept while there is work.

Always true: an object is sent in the transfer syntax it is stored in, or not at all; it passes in pieces, so its size
costs nothing. An association that has failed in any way is not used again. Used by one thread.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from edge.gateway.addresses import Address
from edge.gateway.calling import MAX_CONTEXTS, OutgoingAssociation
from edge.gateway.command_set import CommandField, Element, us
from edge.gateway.errors import GatewayError, PermanentGatewayError
from edge.gateway.negotiation import Context
from edge.gateway.query_attributes import after_meta
from edge.gateway.service import Call

_ANSWER_TIMEOUT_S: Final = 60.0


class ContextNotTakenError(PermanentGatewayError):
    """The other side does not store this SOP class in this transfer syntax."""

    def __init__(self, context: Context) -> None:
        super().__init__(
            f"it does not take SOP class {context.abstract_syntax_uid} in transfer syntax "
            f"{context.transfer_syntax_uid}, and this box does not transcode: set it to take that, then try again"
        )


class StoreScu:
    """Associates when there is something to send, with every context that was needed of late."""

    def __init__(self, address: Address, *, called_ae_title: str, calling_ae_title: str) -> None:
        self._address = address
        self._called_ae_title = called_ae_title
        self._calling_ae_title = calling_ae_title
        self._association: OutgoingAssociation | None = None
        self._proposed: frozenset[Context] = frozenset()
        self._wanted: OrderedDict[Context, None] = OrderedDict()

    def store(self, context: Context, sop_instance_uid: str, part10: Iterable[bytes]) -> int:
        """Send one Part 10 file's data set; the status it is answered with.

        Raises
        ------
        CallFailedError : there is no association, so nothing was sent.
        ContextNotTakenError : nothing was sent.
        GatewayError : the association broke, or there was no answer: it may have the object or not.
        """
        association = self._associated(context)
        number = next((one for one, taken in association.peer.contexts.items() if taken == context), None)
        if number is None:
            raise ContextNotTakenError(context)
        elements: dict[int, bytes] = {
            Element.AFFECTED_SOP_CLASS_UID: context.abstract_syntax_uid.encode(),
            Element.AFFECTED_SOP_INSTANCE_UID: sop_instance_uid.encode(),
            Element.PRIORITY: us(0),
        }
        data_set = after_meta(iter(part10))
        try:
            return association.peer.call(
                Call(number, CommandField.C_STORE_RQ, elements, data_set), timeout_s=_ANSWER_TIMEOUT_S
            ).status
        except GatewayError as error:
            self._end(error)
            raise

    def rest(self) -> None:
        """Release the association, if there is one."""
        self._end(None)

    def _associated(self, context: Context) -> OutgoingAssociation:
        if self._association is not None and (
            context not in self._proposed or not self._association.is_quiet
        ):
            self.rest()
        if self._association is None:
            self._wanted[context] = None
            self._wanted.move_to_end(context)
            while len(self._wanted) > MAX_CONTEXTS:
                self._wanted.popitem(last=False)
            self._association = OutgoingAssociation.connect(
                self._address,
                called_ae_title=self._called_ae_title,
                calling_ae_title=self._calling_ae_title,
                contexts=list(self._wanted),
            )
            self._proposed = frozenset(self._wanted)
        return self._association

    def _end(self, error: GatewayError | None) -> None:
        association, self._association = self._association, None
        if association is not None:
            association.__exit__(type(error) if error else None, error, None)
