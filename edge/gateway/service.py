"""What a DIMSE service other than C-STORE and C-ECHO is to the association that carries it.

The association owns the wire: it collects a request with its data set (bounded), asks the service, and sends each
reply as it is yielded. A service owns the meaning, never sees a socket, and may run on many associations at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from edge.gateway.command_set import Command
from edge.gateway.negotiation import Context
from edge.gateway.quirks import Quirks

T = TypeVar("T")

MAX_IDENTIFIER_BYTES = 2 << 20
"""A query, a work-list item, an MPPS: all far below; a commitment request for 10,000 instances has 1.6 million."""


@dataclass(frozen=True)
class Request:
    """One complete request.

    Attributes
    ----------
    data_set : encoded in ``context.transfer_syntax_uid``; empty where the request has none.
    """

    command: Command
    data_set: bytes
    context: Context
    calling_ae_title: str
    called_ae_title: str
    peer_address: str


@dataclass(frozen=True)
class Reply:
    """One response (PS3.7 section 9.3 and 10.3); a status of 0xFF00 or 0xFF01 says that more follow.

    Attributes
    ----------
    comment : Error Comment, at most 64 characters, ASCII, nothing from the data set in it.
    data_set : encoded in the request's transfer syntax; empty for none.
    elements : further elements of the command set by number, raw, such as counts of sub-operations.
    """

    status: int
    comment: str = ""
    data_set: bytes = b""
    elements: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def is_pending(self) -> bool:
        return self.status in (0xFF00, 0xFF01)


@dataclass(frozen=True)
class Call:
    """A request of ours to the peer: an N-EVENT-REPORT, or a C-STORE sub-operation of a C-GET.

    Attributes
    ----------
    context_id : an accepted presentation context on which the peer performs this operation.
    elements : of the command set, by number, raw; command field, message id and data set type are added.
    data_set : its pieces in the context's transfer syntax, asked for as they are sent; None for no data set.
    """

    context_id: int
    field: int
    elements: Mapping[int, bytes]
    data_set: Iterable[bytes] | None = None


@dataclass(frozen=True)
class Answer:
    """The peer's response to a `Call`. Values are raw; a data set it may have had was dropped."""

    status: int
    elements: Mapping[int, bytes]


class Peer(Protocol):
    """The association as a service sees it. Usable after `Service.handle` too, until the association ends."""

    @property
    def is_open(self) -> bool:
        """False once the association has ended."""

    @property
    def contexts(self) -> Mapping[int, Context]:
        """The accepted presentation contexts by id."""

    @property
    def performs(self) -> frozenset[str]:
        """SOP classes for which the peer agreed to be called (role SCP), such as storage in a C-GET."""

    @property
    def quirks(self) -> Quirks:
        """What is done otherwise for this peer."""

    @property
    def cancelled(self) -> bool:
        """True once a C-CANCEL-RQ for the request in progress has arrived."""

    def call(self, call: Call, *, timeout_s: float) -> Answer:
        """Ask the peer and wait for its response. Only inside `Service.handle` or a submitted task.

        Parameters
        ----------
        timeout_s : for the response, counted from the last byte of the request.

        Raises
        ------
        NoAnswerError : none came; the association goes on, and a late answer is dropped.
        GatewayError : the association cannot go on; let it pass.
        """
        ...

    def submit(self, task: Callable[[Peer], T]) -> Future[T]:
        """Run `task` on the association's thread at its next message boundary; from any thread.

        The future fails with `PeerGoneError` when the association has ended, or ends before the task has.
        """
        ...


class Service(Protocol):
    """Answers the requests of some SOP classes.

    Attributes
    ----------
    operations : command fields it answers, by abstract syntax UID. These are the contexts it is offered on.
    """

    @property
    def operations(self) -> Mapping[str, frozenset[int]]: ...

    def handle(self, request: Request, peer: Peer) -> Iterator[Reply]:
        """Yield at least one reply, the last of which is not pending. Raising is answered with 0x0110."""
        ...
