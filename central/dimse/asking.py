"""Query and retrieve as the SCU (PS3.4 Annex C): C-FIND, C-GET and C-MOVE to another archive, for an import from it.

What is always true
-------------------
- What the other side can make central hold is bounded as on central's own port: PDUs, identifiers, answers, and a data
  set goes into the archive's own file as it comes in.
- Each C-STORE sub-operation is answered after its instance is durable and indexed, or with a failure.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from pydicom import Dataset, uid
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_CANCEL, C_FIND, C_GET, C_MOVE, C_STORE
from pynetdicom.dsutils import decode, encode
from pynetdicom.presentation import PresentationContext

from central.archive.objects import ObjectSink
from central.dimse.association import PENDING, STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE, SUCCESS
from central.dimse.calling import MAX_CONTEXTS, called
from central.dimse.errors import CallFailedError, PeerGoneError
from central.dimse.incoming import Incoming
from central.dimse.negotiation import NATIVE_SYNTAXES
from central.dimse.sending import is_over
from central.dimse.settings import DimseSettings, PeerSettings
from central.dimse.transport import BoundedDimse, Limits

MAX_ANSWERS: Final = 5_000
_SERVICE_SYNTAXES: Final = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)
_PENDING_WITH_WARNING: Final = 0xFF01
_MEDIUM_PRIORITY: Final = 0
_LOOK_EVERY_S: Final = 0.5
_LEAST_PATIENCE_S: Final = 300.0  # an archive that fetches from tape says nothing for a while
# In each form that an archive is likely to hold, in a context of its own, so that an instance comes as it is stored.
_COMPRESSED: Final = (
    uid.RLELossless,
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLossless,
    uid.JPEGLosslessSV1,
    uid.JPEGLSLossless,
    uid.JPEGLSNearLossless,
    uid.JPEG2000Lossless,
    uid.JPEG2000,
    uid.HTJ2KLossless,
    uid.HTJ2KLosslessRPCL,
    uid.HTJ2K,
    uid.MPEG2MPML,
    uid.MPEG2MPHL,
    uid.MPEG4HP41,
    uid.MPEG4HP41BD,
    uid.HEVCMP51,
)
_TAKEN: Final = (*NATIVE_SYNTAXES, uid.DeflatedExplicitVRLittleEndian, *_COMPRESSED)
CLASSES_AT_ONCE: Final = (MAX_CONTEXTS - 1) // len(_TAKEN)
"""SOP classes that one association can take in every form."""

Archived = Callable[[Incoming], tuple[int, str]]
"""Archives what a C-STORE sub-operation brought; its status and comment."""


@dataclass(frozen=True)
class Found:
    """Identifiers that matched. `is_whole` False: the other side, or we, ended before all were said."""

    answers: list[Dataset]
    is_whole: bool


@dataclass(frozen=True)
class Outcome:
    """How a retrieval ended: its last status, and how many sub-operations failed as the other side counts them."""

    status: int
    failed: int

    @property
    def is_success(self) -> bool:
        return self.status == SUCCESS and not self.failed


class Asker:
    """Asks one other archive, an association for each question.

    Parameters
    ----------
    new_object : where the bytes of what a C-GET brings go; `max_object_bytes` of them at most.
    """

    def __init__(
        self,
        settings: DimseSettings,
        source: PeerSettings,
        new_object: Callable[[], ObjectSink],
        max_object_bytes: int,
    ) -> None:
        self._settings = settings
        self._source = source
        self._new_object = new_object
        self._limits = Limits(
            settings.max_pdu_bytes, max_object_bytes, settings.stall_timeout_s, settings.min_rate_bytes_per_s
        )
        self._patience_s = max(settings.idle_timeout_s, _LEAST_PATIENCE_S)

    def find(self, identifiers: Sequence[Dataset], max_answers: int = MAX_ANSWERS) -> list[Found]:
        """C-FIND, one after the other on one association; each ends at `max_answers`.

        Raises
        ------
        CallFailedError, PeerGoneError : the association did not come about, or ended.
        """
        with self._calling([(STUDY_ROOT_FIND, _SERVICE_SYNTAXES)]) as association:
            context = _context(association, STUDY_ROOT_FIND)
            return [self._found(association, context, one, max_answers) for one in identifiers]

    def _found(
        self, association: Association, context: PresentationContext, identifier: Dataset, max_answers: int
    ) -> Found:
        self._send(association, context, _request(C_FIND, STUDY_ROOT_FIND), identifier)
        answers: list[Dataset] = []
        is_cut = False
        while True:
            message = self._next(association)
            if not isinstance(message, C_FIND) or message.Status is None:
                raise PeerGoneError("a C-FIND was answered by something else")
            if message.Status not in (PENDING, _PENDING_WITH_WARNING):
                return Found(answers, message.Status == SUCCESS and not is_cut)
            if is_cut or message.Identifier is None:
                continue
            answers.append(_decoded(message.Identifier, context))
            if len(answers) == max_answers and context.context_id is not None:
                is_cut = True
                cancel = C_CANCEL()
                cancel.MessageIDBeingRespondedTo = 1
                association.dimse.send_msg(cancel, context.context_id)

    def offers_get(self, sop_class_uid: str) -> bool:
        """Whether the other side sends by C-GET. CallFailedError if it cannot be reached."""
        contexts = [(STUDY_ROOT_GET, _SERVICE_SYNTAXES), (sop_class_uid, _SERVICE_SYNTAXES)]
        with self._calling(contexts, as_scp_of=[sop_class_uid]) as association:
            accepted = {str(one.abstract_syntax): one for one in association.accepted_contexts}
            sends = accepted.get(sop_class_uid)
            return STUDY_ROOT_GET in accepted and sends is not None and bool(sends.as_scp)

    def get(
        self, identifiers: Sequence[Dataset], sop_classes: Sequence[str], archived: Archived
    ) -> list[Outcome]:
        """C-GET, one after the other on one association; at most `CLASSES_AT_ONCE` SOP classes.

        Raises
        ------
        CallFailedError, PeerGoneError : the association did not come about, or ended; what was archived stays.
        """
        contexts = [
            (STUDY_ROOT_GET, _SERVICE_SYNTAXES),
            *((sop_class, (syntax,)) for sop_class in sop_classes for syntax in _TAKEN),
        ]
        outcomes = []
        with self._calling(contexts, as_scp_of=sop_classes) as association:
            context = _context(association, STUDY_ROOT_GET)
            for identifier in identifiers:
                self._send(association, context, _request(C_GET, STUDY_ROOT_GET), identifier)
                outcomes.append(self._served(association, archived))
        return outcomes

    def move(self, identifiers: Sequence[Dataset], destination: str) -> list[Outcome]:
        """C-MOVE to the application entity `destination`. Raises as `get`."""
        outcomes = []
        with self._calling([(STUDY_ROOT_MOVE, _SERVICE_SYNTAXES)]) as association:
            context = _context(association, STUDY_ROOT_MOVE)
            for identifier in identifiers:
                request = _request(C_MOVE, STUDY_ROOT_MOVE)
                request.MoveDestination = destination
                self._send(association, context, request, identifier)
                while (outcome := _ended(self._next(association), C_MOVE)) is None:
                    pass
                outcomes.append(outcome)
        return outcomes

    @contextmanager
    def _calling(
        self, contexts: Sequence[tuple[str, Sequence[str]]], as_scp_of: Sequence[str] = ()
    ) -> Iterator[Association]:
        with called(self._settings, self._source, contexts, as_scp_of=as_scp_of) as association:
            accepted = association.accepted_contexts
            messages = BoundedDimse(
                association,
                self._limits,
                self._new_object if as_scp_of else None,
                syntaxes={one.context_id: one.transfer_syntax[0] for one in accepted if one.context_id},
                address=self._source.host,
                peer_max_pdu_bytes=association.acceptor.maximum_length or 0,
            )
            association.dimse = messages
            try:
                yield association
            finally:
                messages.discard_arrived()

    def _served(self, association: Association, archived: Archived) -> Outcome:
        """Take what one C-GET brings."""
        messages = association.dimse
        assert isinstance(messages, BoundedDimse), "_calling makes it"
        while True:
            context_id, message = self._next_on(association)
            if not isinstance(message, C_STORE):
                outcome = _ended(message, C_GET)
                if outcome is not None:
                    return outcome
                continue
            incoming = messages.take_arrived()
            try:
                status, comment = archived(incoming)
            finally:
                incoming.discard()
            answer: Any = C_STORE()  # pynetdicom's types know None alone where a text may stand
            answer.MessageIDBeingRespondedTo = message.MessageID
            answer.AffectedSOPClassUID = message.AffectedSOPClassUID
            answer.AffectedSOPInstanceUID = message.AffectedSOPInstanceUID
            answer.Status = status
            if comment:
                answer.ErrorComment = comment[:64]
            messages.send_msg(answer, context_id)

    def _send(
        self, association: Association, context: PresentationContext, request: Any, identifier: Dataset
    ) -> None:
        syntax = context.transfer_syntax[0]
        encoded = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian)
        if encoded is None or context.context_id is None:
            raise PeerGoneError("an identifier cannot be encoded")
        request.Identifier = BytesIO(encoded)
        association.dimse.send_msg(request, context.context_id)

    def _next(self, association: Association) -> Any:
        return self._next_on(association)[1]

    def _next_on(self, association: Association) -> tuple[int, Any]:
        """The next message and its presentation context."""
        deadline_s = time.monotonic() + self._patience_s
        while time.monotonic() < deadline_s:
            try:
                context_id, message = association.dimse.msg_queue.get(timeout=_LOOK_EVERY_S)
            except queue.Empty:
                if is_over(association):
                    break
                continue
            if context_id is None or message is None:
                break
            return context_id, message
        raise PeerGoneError("the association ended, or fell silent, before the answer was whole")


def _request(message: type, sop_class_uid: str) -> Any:
    made = message()
    made.MessageID = 1
    made.AffectedSOPClassUID = sop_class_uid
    made.Priority = _MEDIUM_PRIORITY
    return made


def _ended(message: Any, kind: type) -> Outcome | None:
    """How a retrieval ended; None while it goes on."""
    status = getattr(message, "Status", None) if isinstance(message, kind) else None
    if status is None:
        raise PeerGoneError("a retrieval was answered by something else")
    if status == PENDING:
        return None
    return Outcome(int(status), int(message.NumberOfFailedSuboperations or 0))


def _decoded(identifier: BytesIO, context: PresentationContext) -> Dataset:
    syntax = context.transfer_syntax[0]
    try:
        return decode(identifier, syntax.is_implicit_VR, syntax.is_little_endian)
    except Exception as error:  # a parser fed by another program
        raise PeerGoneError(f"an answer cannot be read ({type(error).__name__})") from error


def _context(association: Association, sop_class_uid: str) -> PresentationContext:
    for context in association.accepted_contexts:
        if context.abstract_syntax == sop_class_uid:
            return context
    raise CallFailedError("it does not offer this service to us")
