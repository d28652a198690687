"""One association as central serves it: pynetdicom frames messages, the services here answer.

pynetdicom's own service classes want data sets decoded and whole; ours stream. And its thread for an association only
waits for what another of its threads reads. So an association that was agreed on (`negotiation.py`) begins in the state
where messages are exchanged, on the thread of its connection, which hands each service a `Request` to answer.
(pynetdicom is pinned; a test of every service on a real port notices if what is replaced moves.)

Always true: a message is served only if its peer may use that service, whatever was negotiated; a service that fails
ends the association, never the server.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final, Protocol

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.association import Association
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
from pynetdicom.dsutils import decode, encode
from pynetdicom.pdu_primitives import P_DATA

from central.dimse.command_set import C_STORE_RSP, response
from central.dimse.errors import DimseError
from central.dimse.peers import Peer
from central.dimse.settings import Service
from central.dimse.transport import (
    COMMAND_FRAGMENT,
    LAST_FRAGMENT,
    MAX_COMMAND_BYTES,
    PDV_BYTES,
    BoundedDimse,
)

if TYPE_CHECKING:
    from central.dimse.associate import Agreed
    from central.dimse.incoming import Incoming
    from central.dimse.store_record import StoreRecord

SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
CANCELLED: Final = 0xFE00
NOT_AUTHORIZED: Final = 0x0124
PROCESSING_FAILURE: Final = 0x0110
UNRECOGNIZED_OPERATION: Final = 0x0211
UNABLE_TO_PROCESS: Final = 0xC000
_COMMENT_CHARACTERS: Final = 64  # VR LO
_DATA_TRANSFER: Final = "Sta6"  # PS3.8 Table 9-9
_LOOK_EVERY_S: Final = 0.5  # for what makes no news: the idle timer
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
        return self.message.MessageID in self.association.dimse.cancel_req

    def data_set(self, encoded: BytesIO | None) -> Dataset:
        """A data set of the request decoded. Raises whatever pydicom finds wrong with it."""
        syntax = self.transfer_syntax_uid
        if encoded is None:
            return Dataset()
        return decode(encoded, syntax.is_implicit_VR, syntax.is_little_endian, syntax.is_deflated)

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
        self._send(command, COMMAND_FRAGMENT)
        if encoded:
            self._send(encoded, 0)

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

    def _send(self, data: bytes, kind: int) -> None:
        room = max(1, (self.association.dimse.maximum_pdu_size or MAX_COMMAND_BYTES) - PDV_BYTES)
        for at in range(0, len(data), room):
            control = kind if at + room < len(data) else kind | LAST_FRAGMENT
            piece = P_DATA()
            piece.presentation_data_value_list.append(
                (self.context_id, bytes((control,)) + data[at : at + room])
            )
            self.association.dul.send_pdu(piece)

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


class CentralAssociation(Association):
    """An association that `routes` answer for, as it was `agreed` on.

    Attributes
    ----------
    contexts : id → each presentation context that was accepted.
    news : set when something has come that is to be looked at.
    certificate_sha256 : of the certificate that the peer proved; None without one.
    store_record : what it stored, once it has.
    """

    def __init__(self, ae: AE, routes: Routes, peer: Peer, agreed: Agreed) -> None:
        super().__init__(ae, "acceptor")
        self.peer = peer
        self.agreed = agreed
        self.contexts = agreed.accepted
        self.news = threading.Event()
        self.certificate_sha256: str | None = None
        self.store_record: StoreRecord | None = None
        self._routes = routes

    @property
    def messages(self) -> BoundedDimse:
        assert isinstance(self.dimse, BoundedDimse)
        return self.dimse

    def serve(self) -> None:
        """Serve it, on the thread that calls, from when the A-ASSOCIATE-AC has left until it is over."""
        self.is_established = True
        self.dul.state_machine.current_state = _DATA_TRANSFER
        self.dul.start()
        self._run_reactor()

    def _bind_defaults(self) -> None:
        """Without pynetdicom's logging of every PDU and message, which is most of their cost."""
        for event in evt._INTERVENTION_EVENTS:
            self.bind(event, evt.get_default_handler(event))

    def _run_reactor(self) -> None:
        """pynetdicom's loop, which waits for news instead of looking every millisecond."""
        self._is_paused = False
        while not self._kill:
            self.news.wait(_LOOK_EVERY_S)
            self.news.clear()
            while not self._kill:
                context_id, message = self.dimse.get_msg(block=False)
                if message is None or context_id is None:
                    break
                self._serve_request(message, context_id)
            if self.is_established and self.acse.is_release_requested():
                self.acse.send_release(is_response=True)
                self.is_released = True
                self.is_established = False
                self.kill()
            elif self.acse.is_aborted():
                self.is_aborted = True
                self.is_established = False
                self.kill()
            elif not self.dul.is_alive():
                self.kill()
            elif self.dul.idle_timer_expired():
                self.abort()
                self.kill()

    def _serve_request(self, msg: Any, context_id: int) -> None:
        context = self.contexts.get(context_id)
        if context is not None and getattr(msg, "AffectedSOPClassUID", "") is None:
            msg.AffectedSOPClassUID = (
                context.abstract_syntax_uid
            )  # left out by some; there is only one it can be
        if not msg.is_valid_request or context is None or type(msg) not in _RESPONSES:
            _log.warning("event=message-refused peer=%s message=%s", self.peer.address, type(msg).__name__)
            self.abort()
            return
        request = Request(
            msg, context_id, context.abstract_syntax_uid, context.transfer_syntax_uid, self.peer, self
        )
        self.dimse.cancel_req = {}
        self._is_paused = True
        try:
            self._answer(request)
        except Exception as error:  # the border: whatever it is, it is this association's end
            _log.warning(
                "event=association-failed peer=%s ae_title=%s message=%s error=%s",
                self.peer.address, self.peer.ae_title, type(msg).__name__, type(error).__name__,
                exc_info=not isinstance(error, DimseError),
            )  # fmt: skip
            self.abort()
        finally:
            self._is_paused = False
            self.dimse.cancel_req = {}
            self.dul._idle_timer.restart()  # a long C-MOVE is not silence of the peer

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
