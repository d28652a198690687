"""Query and retrieve as the SCU (PS3.4 Annex C): C-FIND, C-GET and C-MOVE to another archive, for an import from it.

What is always true
-------------------
- What the other side can make central hold is bounded as on central's own port: PDUs, identifiers, answers, and a data
  set goes into the archive's own file as it comes in.
- Each C-STORE sub-operation is answered after its instance is durable and indexed, or with a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

from pydicom import Dataset, uid
from pynetdicom.dimse_primitives import C_CANCEL, C_FIND, C_GET, C_MOVE, C_STORE
from pynetdicom.dsutils import decode, encode

from central.archive.objects import ObjectSink
from central.dimse.associate import Answered
from central.dimse.association import (
    PENDING,
    PENDING_WITH_WARNING,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    SUCCESS,
)
from central.dimse.calling import MAX_CONTEXTS, Contexts, called, line_to
from central.dimse.command_set import store_rsp
from central.dimse.conversation import Conversation
from central.dimse.errors import CallFailedError, PeerGoneError
from central.dimse.incoming import Incoming
from central.dimse.negotiation import NATIVE_SYNTAXES
from central.dimse.settings import DimseSettings, PeerSettings

MAX_ANSWERS: Final = 5_000
_SERVICE_SYNTAXES: Final = (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian)
_MEDIUM_PRIORITY: Final = 0
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
        self._max_object_bytes = max_object_bytes
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
        self, association: Conversation, context: Answered, identifier: Dataset, max_answers: int
    ) -> Found:
        self._send(association, context, _request(C_FIND, STUDY_ROOT_FIND), identifier)
        answers: list[Dataset] = []
        is_cut = False
        while True:
            message = self._next(association)
            if not isinstance(message, C_FIND) or message.Status is None:
                raise PeerGoneError("a C-FIND was answered by something else")
            if message.Status not in (PENDING, PENDING_WITH_WARNING):
                return Found(answers, message.Status == SUCCESS and not is_cut)
            if is_cut or message.Identifier is None:
                continue
            answers.append(_decoded(message.Identifier, context))
            if len(answers) == max_answers:
                is_cut = True
                cancel = C_CANCEL()
                cancel.MessageIDBeingRespondedTo = 1
                association.ask(context.context_id, cancel)

    def offers_get(self, sop_class_uid: str) -> bool:
        """Whether the other side sends by C-GET. CallFailedError if it cannot be reached."""
        contexts = [(STUDY_ROOT_GET, _SERVICE_SYNTAXES), (sop_class_uid, _SERVICE_SYNTAXES)]
        with line_to(self._settings, self._source, contexts, [sop_class_uid]) as (_, accepted):
            offered = {one.abstract_syntax_uid for one in accepted.answered}
            return {STUDY_ROOT_GET, sop_class_uid} <= offered and sop_class_uid in accepted.scp_of

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

    def _calling(
        self, contexts: Contexts, as_scp_of: Sequence[str] = ()
    ) -> AbstractContextManager[Conversation]:
        return called(
            self._settings,
            self._source,
            contexts,
            as_scp_of=as_scp_of,
            new_object=self._new_object if as_scp_of else None,
            max_object_bytes=self._max_object_bytes,
        )

    def _served(self, association: Conversation, archived: Archived) -> Outcome:
        """Take what one C-GET brings."""
        while True:
            context_id, message = self._next_on(association)
            if not isinstance(message, C_STORE):
                outcome = _ended(message, C_GET)
                if outcome is not None:
                    return outcome
                continue
            incoming = association.messages.take_arrived()
            try:
                status, comment = archived(incoming)
            finally:
                incoming.discard()
            uids = str(message.AffectedSOPClassUID), str(message.AffectedSOPInstanceUID)
            association.send(context_id, store_rsp(*uids, message.MessageID or 0, status, comment[:64]))

    def _send(self, association: Conversation, context: Answered, request: Any, identifier: Dataset) -> None:
        syntax = context.transfer_syntax_uid
        encoded = encode(identifier, syntax.is_implicit_VR, syntax.is_little_endian)
        if encoded is None:
            raise PeerGoneError("an identifier cannot be encoded")
        request.Identifier = BytesIO(encoded)
        association.ask(context.context_id, request)

    def _next(self, association: Conversation) -> Any:
        return self._next_on(association)[1]

    def _next_on(self, association: Conversation) -> tuple[int, Any]:
        """The next message and its presentation context."""
        came = association.next(self._patience_s)
        if came is None:
            raise PeerGoneError("the association ended, or fell silent, before the answer was whole")
        return came


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


def _decoded(identifier: BytesIO, context: Answered) -> Dataset:
    syntax = context.transfer_syntax_uid
    try:
        return decode(identifier, syntax.is_implicit_VR, syntax.is_little_endian)
    except Exception as error:  # a parser fed by another program
        raise PeerGoneError(f"an answer cannot be read ({type(error).__name__})") from error


def _context(association: Conversation, sop_class_uid: str) -> Answered:
    for context in association.contexts.values():
        if context.abstract_syntax_uid == sop_class_uid:
            return context
    raise CallFailedError("it does not offer this service to us")
