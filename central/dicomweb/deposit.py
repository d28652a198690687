"""The instances of one STOW-RS request on their way into the archive (PS3.18 section 10.5).

Instances go in groups: while the next ones come in, those before are made durable side by side, since most of that is
waiting for the disk; then one transaction makes a group findable.

What is always true
-------------------
- Bytes go into the archive's own writer as they come: an instance costs no memory, however large it is.
- An instance counts as stored only when its file and its index row are durable. What is refused was never under its
  content's address, so refusing it here takes nothing from another request that stores the same content.
- One instance's fault is its own: the others of the request are stored.

What a crash leaves: nothing of the instance that was being received; those before it are archived, or durable and not
findable, though nobody was told; a second request finds them there, or makes them findable.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import peewee

from central.archive.errors import NotDicomError, StorageError, StudyErasedError
from central.archive.examining import Examined, Indexable
from central.archive.indexing import ObjectOrigin
from central.archive.objects import ObjectSink
from central.archive.receiving import Receiving
from central.dicomweb.errors import BadRequestError, TooLargeError
from central.dicomweb.multipart_reader import MultipartReader, PartBegin, PartEnd
from contract.identifiers import is_uid
from contract.receipt import Outcome

PART_TYPE: Final = "application/dicom"
MAX_INSTANCES: Final = 10_000
"""In one request: what is answered about them is held in memory."""

AT_ONCE: Final = 16
"""Instances made findable in one transaction: bounds files that are open and the memory that their metadata takes."""

# Failure Reason (PS3.18 table I.2-2), Warning Reason (table I.2-1).
PROCESSING_FAILURE: Final = 0x0110
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122
OUT_OF_RESOURCES: Final = 0xA700
DATA_SET_DOES_NOT_MATCH_SOP_CLASS: Final = 0xA900
CANNOT_UNDERSTAND: Final = 0xC000
OF_ANOTHER_STUDY: Final = 0xC001
"""The request's URL names one study and the instance another. Of the range C000 to CFFF."""

OF_ERASED_STUDY: Final = 0xC002
"""An administrator erased the study, and nothing of it is taken in. Of the same range."""

TRANSFER_SYNTAX_NOT_SUPPORTED: Final = 0xC122
COERCION_OF_DATA_ELEMENTS: Final = 0xB000

_BYTES: Final = re.compile(r"[0-9]{1,18}")
_MEDIA_DIRECTORY: Final = "1.2.840.10008.1.3.10"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stored:
    """An instance that is durable and indexed. `warning_reason` 0: as it was sent."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    warning_reason: int = 0


@dataclass(frozen=True)
class Failed:
    """An instance that was not stored. The UIDs are "" where the part did not name them."""

    failure_reason: int
    sop_class_uid: str = ""
    sop_instance_uid: str = ""


@dataclass(frozen=True)
class _Kept:
    """An instance that is durable and not findable yet. `uids`: of its SOP class, if it is one, and its own."""

    indexable: Indexable
    uids: tuple[str, str]
    is_as_sent: bool


@dataclass(frozen=True)
class DepositLimits:
    """What the archive takes. `has_room` says whether it takes anything at all now."""

    max_object_bytes: int
    has_room: Callable[[], bool]


class Deposit:
    """One request's body. Fed by one thread at a time; `discard` when it is over, however it ended.

    Parameters
    ----------
    openers : threads that make instances durable, of all requests together.
    """

    def __init__(
        self,
        archive: Receiving,
        limits: DepositLimits,
        openers: Executor,
        boundary: bytes,
        sender: str,
        institution: str,
        study_instance_uid: str | None,
    ) -> None:
        self._archive = archive
        self._limits = limits
        self._openers = openers
        self._reader = MultipartReader(boundary)
        self._sender = sender
        self._institution = institution
        self._study_instance_uid = study_instance_uid
        self._part: _Part | None = None
        self._group: list[Future[_Kept | Failed] | Failed] = []  # in the order in which they came
        self.stored: list[Stored] = []
        self.failed: list[Failed] = []

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the body.

        Raises
        ------
        BadRequestError : this is no multipart body.
        TooLargeError : it has more than `MAX_INSTANCES` parts.
        """
        for event in self._reader.feed(data):
            if isinstance(event, PartBegin):
                if len(self.stored) + len(self.failed) + len(self._group) >= MAX_INSTANCES:
                    raise TooLargeError(
                        f"a request holds {MAX_INSTANCES} instances at most: that many were looked at, send the others "
                        "in further requests"
                    )
                self._part = self._begun(event.headers)
            elif isinstance(event, PartEnd):
                self._end_part()
            elif self._part is not None:
                self._part.write(event)

    def finish(self) -> None:
        """The body is over.

        Raises
        ------
        BadRequestError : its closing boundary did not come, or it had no part.
        """
        self._settle()
        if not self._reader.is_finished:
            raise BadRequestError("the body ends before its closing boundary")
        if not self.stored and not self.failed:
            raise BadRequestError("the body holds no part")

    def break_off(self) -> None:
        """The body cannot be read further: a failure, of the part that was being received if there is one."""
        if self._part is not None:
            self._part.fail(PROCESSING_FAILURE)
            self._end_part()
            self._settle()
        else:
            self._settle()
            self.failed.append(Failed(PROCESSING_FAILURE))

    def discard(self) -> None:
        """Forget the part that was being received, and bring those before it to their end."""
        if self._part is not None:
            self._part.discard()
            self._part = None
        self._settle()

    def _begun(self, headers: Mapping[str, str]) -> _Part:
        part = _Part(
            self._archive.new_object, headers.get("content-length", ""), self._limits.max_object_bytes
        )
        media_type = headers.get("content-type", PART_TYPE).partition(";")[0].strip().lower()
        coding = headers.get("content-transfer-encoding", "binary").lower()
        if media_type != PART_TYPE or coding not in ("binary", "8bit", "7bit"):
            part.fail(CANNOT_UNDERSTAND)
        elif not self._limits.has_room():
            part.fail(OUT_OF_RESOURCES)
        else:
            part.open()
        return part

    def _end_part(self) -> None:
        assert self._part is not None
        part, self._part = self._part, None
        part.check_length()
        if part.failure_reason or part.sink is None:
            part.discard()
            self._group.append(Failed(part.failure_reason or PROCESSING_FAILURE))
        else:
            self._group.append(self._openers.submit(self._kept, part))
        if len(self._group) >= AT_ONCE:
            self._settle()

    def _kept(self, part: _Part) -> _Kept | Failed:
        """A whole instance, read and durable, or why it is not. Runs beside the others of its group."""
        assert part.sink is not None, "looked at before"
        uids: tuple[str, str] = ("", "")
        try:
            said = self._archive.examine(part.sink)
            sop_class_uid = str(said.attributes.instance["sop_class_uid"])
            uids = (sop_class_uid if is_uid(sop_class_uid) else "", said.attributes.sop_instance_uid)
            failure_reason = _refusal(said) or self._wrong_study(said)
            if failure_reason:
                return Failed(failure_reason, *uids)
            origin = ObjectOrigin(f"user:{self._sender}", "", datetime.now(UTC), self._institution)
            stored = part.sink.commit()
        except NotDicomError:
            return Failed(CANNOT_UNDERSTAND)
        except Exception as error:  # one instance's fault is its own
            return self._failed(error, uids)
        finally:
            part.discard()
        return _Kept(
            Indexable(stored, origin, said.attributes, said.metadata), uids, is_as_sent=said.is_filed_as_sent
        )

    def _settle(self) -> None:
        """Make the group findable, all in one transaction; afterwards each of it is stored or failed."""
        group, self._group = self._group, []
        opened = [one if isinstance(one, Failed) else one.result() for one in group]
        kept = [one for one in opened if isinstance(one, _Kept)]
        outcomes = iter(self._archive.index_together([one.indexable for one in kept]) if kept else ())
        for one in opened:
            ended = one if isinstance(one, Failed) else self._ended(one, next(outcomes))
            if isinstance(ended, Failed):
                self.failed.append(ended)
            else:
                self.stored.append(ended)

    def _ended(self, one: _Kept, outcome: Outcome | Exception) -> Stored | Failed:
        if isinstance(outcome, StudyErasedError):
            self._archive.forget(one.indexable.stored)
            return Failed(OF_ERASED_STUDY, *one.uids)
        if isinstance(outcome, Exception):
            return self._failed(outcome, one.uids)
        attributes = one.indexable.attributes
        _log.info(
            "event=stored by=%s outcome=%s size_bytes=%d",
            self._sender, outcome.value, one.indexable.stored.size_bytes,
        )  # fmt: skip
        return Stored(
            attributes.study_instance_uid,
            attributes.series_instance_uid,
            attributes.sop_instance_uid,
            str(attributes.instance["sop_class_uid"]),
            0 if one.is_as_sent else COERCION_OF_DATA_ELEMENTS,
        )

    def _failed(self, error: Exception, uids: tuple[str, str]) -> Failed:
        known = isinstance(error, (StorageError, OSError, peewee.OperationalError))
        _log.warning(
            "event=cannot-store by=%s error=%s", self._sender, type(error).__name__,
            exc_info=None if known else error,
        )  # fmt: skip
        return Failed(OUT_OF_RESOURCES if known else PROCESSING_FAILURE, *uids)

    def _wrong_study(self, said: Examined) -> int:
        wanted = self._study_instance_uid
        return OF_ANOTHER_STUDY if wanted not in (None, said.attributes.study_instance_uid) else 0


class _Part:
    """One part while it is received. After the first failure its bytes are passed over."""

    def __init__(self, new_object: Callable[[], ObjectSink], said_length: str, max_bytes: int) -> None:
        self._new_object = new_object
        self._said_bytes = int(said_length) if _BYTES.fullmatch(said_length) else None
        self._max_bytes = max_bytes
        self._bytes = 0
        self.sink: ObjectSink | None = None
        self.failure_reason = 0

    def open(self) -> None:
        if self._said_bytes is not None and self._said_bytes > self._max_bytes:
            self.fail(OUT_OF_RESOURCES)
            return
        try:
            self.sink = self._new_object()
        except OSError:
            self.fail(OUT_OF_RESOURCES)

    def write(self, data: bytes) -> None:
        self._bytes += len(data)
        if self.sink is None:
            return
        if self._bytes > self._max_bytes:
            self.fail(OUT_OF_RESOURCES)
            return
        try:
            self.sink.write(data)
        except (StorageError, OSError):
            self.fail(OUT_OF_RESOURCES)

    def check_length(self) -> None:
        """A part that says how long it is and has another length was cut, or was put together wrongly."""
        if not self.failure_reason and self._said_bytes not in (None, self._bytes):
            self.fail(PROCESSING_FAILURE)

    def fail(self, failure_reason: int) -> None:
        self.failure_reason = self.failure_reason or failure_reason
        self.discard()

    def discard(self) -> None:
        if self.sink is not None:
            self.sink.discard()
            self.sink = None


def _refusal(said: Examined) -> int:
    """Why the archive does not take this instance; 0: it does."""
    header = said.header
    sop_class_uid = str(said.attributes.instance["sop_class_uid"])
    if not is_uid(sop_class_uid):
        return CANNOT_UNDERSTAND
    if sop_class_uid == _MEDIA_DIRECTORY:
        return SOP_CLASS_NOT_SUPPORTED
    if not is_uid(header.transfer_syntax_uid):
        return TRANSFER_SYNTAX_NOT_SUPPORTED
    named = header.media_storage_sop_class_uid
    return DATA_SET_DOES_NOT_MATCH_SOP_CLASS if named not in ("", sop_class_uid) else 0
