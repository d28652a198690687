"""One association as central serves it: what comes goes to the service that it is for, on its connection's thread.

pynetdicom's own service classes want data sets decoded and whole; ours stream. So an association that was agreed on
(`negotiation.py`) hands each service a `Request` to answer.

Always true: a message is served only if its peer may use that service, whatever was negotiated; a service that fails
ends the association, never the server.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydicom import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID
from pynetdicom.dimse_primitives import (
    C_ECHO,
    C_FIND,
    C_GET,
    C_MOVE,
    C_STORE,
    N_ACTION,
    N_CREATE,
    N_GET,
    N_SET,
)
from pynetdicom.dsutils import encode

from central.archive.header import beyond_limit, limited
from central.archive.objects import ObjectSink
from central.dimse.associate import Agreed
from central.dimse.command_set import C_STORE_RSP, response
from central.dimse.conversation import Conversation
from central.dimse.errors import DimseError, IdentifierError, PeerGoneError
from central.dimse.peers import Peer
from central.dimse.settings import Service
from central.dimse.transport import Limits, Line

if TYPE_CHECKING:
    from central.dimse.incoming import Incoming
    from central.dimse.store_record import StoreRecord

SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
PENDING_WITH_WARNING: Final = 0xFF01
"""As `PENDING`, where an optional key of the request is not supported (PS3.4 section C.4.1.1.4)."""
CANCELLED: Final = 0xFE00
NOT_AUTHORIZED: Final = 0x0124
PROCESSING_FAILURE: Final = 0x0110
UNRECOGNIZED_OPERATION: Final = 0x0211
UNABLE_TO_PROCESS: Final = 0xC000
_COMMENT_CHARACTERS: Final = 64  # VR LO
_MAX_QUERY_BYTES: Final = 128 << 10  # held until its peer has the answers; a list of 500 UIDs is 33 kB
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One DIMSE request, and how it is answered. `message` is pynetdicom's primitive."""

    message: Any
    context_id: int
    abstract_syntax_uid: UID
    transfer_syntax_uid: UID
    peer: Peer
    association: CentralAssociation

    @property
    def is_cancelled(self) -> bool:
        """Whether a C-CANCEL-RQ for this request has come."""
        self.association.take_in()
        return self.message.MessageID in self.association.messages.cancelled

    def identifier(self) -> Dataset:
        """What a query or a retrieval names, decoded. Raises as `data_set`; so it does where it is too large."""
        encoded: BytesIO | None = self.message.Identifier
        if encoded is not None and len(encoded.getbuffer()) > _MAX_QUERY_BYTES:
            raise IdentifierError(f"an identifier has at most {_MAX_QUERY_BYTES} bytes")
        return self.data_set(encoded)

    def data_set(self, encoded: BytesIO | None) -> Dataset:
        """A data set of the request decoded. Raises whatever pydicom finds wrong with it, or that it has more than an
        image's header may have."""
        syntax = self.transfer_syntax_uid
        if encoded is None:
            return Dataset()
        encoded.seek(0)
        data_set = read_dataset(limited(encoded), syntax.is_implicit_VR, syntax.is_little_endian)
        if beyond_limit(dict(data_set.items())):
            raise IdentifierError("a data set has more items than a data set may have")
        return data_set

    def respond(
        self,
        status: int,
        comment: str = "",
        *,
        data_set: Dataset | None = None,
        fields: Mapping[str, int] | None = None,
    ) -> None:
        """Send a response. `fields` are elements of its command by keyword, such as counts of sub-operations."""
        encoded = self._encoded(data_set) if data_set is not None else b""
        command = response(
            _RESPONSES[type(self.message)],
            self.message.MessageID,
            status,
            (self._affected("SOPClassUID"), self._affected("SOPInstanceUID")),
            comment[:_COMMENT_CHARACTERS],
            numbers=fields,
            has_data_set=bool(encoded),
        )
        self.association.send(self.context_id, command, encoded)

    def _affected(self, keyword: str) -> str | None:
        for prefix in ("Affected", "Requested"):
            uid = getattr(self.message, prefix + keyword, None)
            if uid is not None:
                return str(uid)
        return None

    def _encoded(self, data_set: Dataset) -> bytes:
        syntax = self.transfer_syntax_uid
        made = encode(data_set, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)
        if made is None:
            raise DimseError("an answer cannot be encoded")
        return made

    def take_incoming(self) -> Incoming:
        """What a C-STORE-RQ brought."""
        return self.association.messages.take_arrived()


# Query/Retrieve information models, Patient Root and Study Root (PS3.4 C.6)
PATIENT_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.1.1")
PATIENT_ROOT_MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.1.2")
PATIENT_ROOT_GET: Final = UID("1.2.840.10008.5.1.4.1.2.1.3")
STUDY_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.2.1")
STUDY_ROOT_MOVE: Final = UID("1.2.840.10008.5.1.4.1.2.2.2")
STUDY_ROOT_GET: Final = UID("1.2.840.10008.5.1.4.1.2.2.3")
RELATIONAL: Final = frozenset(
    {PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE, PATIENT_ROOT_GET, STUDY_ROOT_FIND, STUDY_ROOT_MOVE, STUDY_ROOT_GET}
)


class Handler(Protocol):
    """Answers the requests of one service. What it raises ends the association."""

    def serve(self, request: Request) -> None: ...


_RESPONSES: Final[Mapping[type, int]] = {  # Command Fields (PS3.7 Table E.1-1)
    C_STORE: C_STORE_RSP,
    C_GET: 0x8010,
    C_FIND: 0x8020,
    C_MOVE: 0x8021,
    C_ECHO: 0x8030,
    N_GET: 0x8110,
    N_SET: 0x8120,
    N_ACTION: 0x8130,
    N_CREATE: 0x8140,
}


@dataclass(frozen=True)
class Route:
    """Which service answers a message of a SOP class; `service` None: everybody may."""

    message: type
    handler: Handler
    service: Service | None


class Routes:
    """(message, SOP class) → who answers. A SOP class of None takes every one that is not named."""

    def __init__(self) -> None:
        self._routes: dict[tuple[type, str | None], Route] = {}
        self._services: dict[str, set[Service | None]] = {}

    def add(self, message: type, handler: Handler, service: Service | None, *sop_classes: str) -> None:
        for sop_class in sop_classes or (None,):
            self._routes[message, sop_class] = Route(message, handler, service)
            if sop_class is not None:
                self._services.setdefault(sop_class, set()).add(service)

    def find(self, message: type, sop_class_uid: str) -> Route | None:
        return self._routes.get((message, sop_class_uid)) or self._routes.get((message, None))

    def services_of(self, sop_class_uid: str) -> set[Service | None]:
        """The services that the routes of a named SOP class belong to; empty for one that is not named."""
        return self._services.get(sop_class_uid, set())

    def table(self) -> dict[tuple[str, str | None], Service | None]:
        """(message, SOP class) → service; what the matrix test walks."""
        return {(message.__name__, uid): route.service for (message, uid), route in self._routes.items()}


class CentralAssociation(Conversation):
    """An association that `routes` answer for, as it was `agreed` on.

    Parameters
    ----------
    peer_max_pdu_bytes, new_object : as in `Conversation`.
    silence_s : how long the peer may say nothing between two messages.

    Attributes
    ----------
    certificate_sha256 : of the certificate that the peer proved; None without one.
    store_record : what it stored, once it has.
    """

    def __init__(
        self,
        line: Line,
        routes: Routes,
        peer: Peer,
        agreed: Agreed,
        *,
        peer_max_pdu_bytes: int,
        limits: Limits,
        silence_s: float,
        new_object: Callable[[], ObjectSink] | None,
        certificate_sha256: str | None,
    ) -> None:
        super().__init__(line, agreed.accepted, peer_max_pdu_bytes, limits, new_object)
        self.peer = peer
        self.agreed = agreed
        self.silence_s = silence_s
        self.certificate_sha256 = certificate_sha256
        self.store_record: StoreRecord | None = None
        self._routes = routes

    def serve(self) -> None:
        """Serve it, from when the A-ASSOCIATE-AC has left until it is over."""
        try:
            while not self.line.is_over and (came := self.next(self.silence_s)) is not None:
                self._serve_request(*came)
        except PeerGoneError as error:
            _log.warning("event=message-refused peer=%s reason=%s", self.peer.address, error)
        finally:
            self.messages.discard_arrived()
            if self.store_record is not None:
                self.store_record.ends()
        self.line.released()

    def _serve_request(self, context_id: int, message: Any) -> None:
        context = self.contexts[context_id]
        if getattr(message, "AffectedSOPClassUID", "") is None:
            message.AffectedSOPClassUID = (
                context.abstract_syntax_uid
            )  # left out by some; there is only one it can be
        if not message.is_valid_request or type(message) not in _RESPONSES:
            _log.warning(
                "event=message-refused peer=%s message=%s", self.peer.address, type(message).__name__
            )
            self.line.abort()
            return
        request = Request(
            message, context_id, context.abstract_syntax_uid, context.transfer_syntax_uid, self.peer, self
        )
        self.messages.cancelled.clear()
        try:
            self._answer(request)
        except Exception as error:  # the border: whatever it is, it is this association's end
            _log.warning(
                "event=association-failed peer=%s ae_title=%s message=%s error=%s",
                self.peer.address, self.peer.ae_title, type(message).__name__, type(error).__name__,
                exc_info=not isinstance(error, DimseError),
            )  # fmt: skip
            self.line.abort()

    def _answer(self, request: Request) -> None:
        route = self._routes.find(type(request.message), request.abstract_syntax_uid)
        if route is None:
            request.respond(UNRECOGNIZED_OPERATION)
        elif route.service is not None and not self.peer.may(route.service):
            if isinstance(request.message, C_STORE):
                request.take_incoming().discard()
            request.respond(NOT_AUTHORIZED, f"not configured for {route.service}")
        else:
            route.handler.serve(request)
