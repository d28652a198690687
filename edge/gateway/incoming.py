"""Where the data set of a message goes while it arrives, other than a C-STORE's, which streams into the spool.

Used by one thread. Nothing here holds more than `MAX_IDENTIFIER_BYTES`, whatever the peer sends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edge.gateway.service import MAX_IDENTIFIER_BYTES
from edge.gateway.storage import StoreStatus

SOP_CLASS_NOT_SUPPORTED = StoreStatus(0x0122, "This presentation context is not for storage")
NOT_A_SENDER = StoreStatus(0x0124, "You may query this box and retrieve, not send to it")
UNRECOGNIZED_OPERATION = StoreStatus(0x0211, "This box does not do that on this presentation context")
_TOO_LONG = "The data set of this request is too long for this box"
REQUEST_TOO_LONG = StoreStatus(0xA700, _TOO_LONG)  # C-FIND, C-GET, C-MOVE: out of resources
RESOURCE_LIMITATION = StoreStatus(0x0213, _TOO_LONG)  # N-services (PS3.7 Annex C)


class IncomingDataSet(Protocol):
    """Where the data set of a message goes."""

    def write(self, data: memoryview) -> None: ...

    def finish(self) -> StoreStatus | None:
        """What to answer now; None where the answer comes later, or never."""

    def answered(self) -> None:
        """The peer has what `finish` gave: time for what it need not wait for."""

    def discard(self) -> None: ...


class Refused:
    """The data set of a request that is refused whatever it says: taken off the wire and dropped."""

    def __init__(self, status: StoreStatus) -> None:
        self._status = status

    def write(self, data: memoryview) -> None:
        del data

    def finish(self) -> StoreStatus:
        return self._status

    def answered(self) -> None:
        return

    def discard(self) -> None:
        return


class Dropped:
    """The data set of an answer to us: nothing this box asks has one that matters."""

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then

    def write(self, data: memoryview) -> None:
        del data

    def finish(self) -> None:
        self._then()

    def answered(self) -> None:
        return

    def discard(self) -> None:
        return


class Collected:
    """The data set of a request to a service, whole, or refused once it is past the bound."""

    def __init__(self, then: Callable[[bytes], None], too_long: StoreStatus) -> None:
        self._then = then
        self._too_long = too_long
        self._held: bytearray | None = bytearray()

    def write(self, data: memoryview) -> None:
        if self._held is None:
            return
        if len(self._held) + len(data) > MAX_IDENTIFIER_BYTES:
            self._held = None
        else:
            self._held += data

    def finish(self) -> StoreStatus | None:
        if self._held is None:
            return self._too_long
        self._then(bytes(self._held))
        return None

    def answered(self) -> None:
        return

    def discard(self) -> None:
        self._held = None
