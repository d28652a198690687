"""Receives for a spool that another process owns: files are written here, names and rows come from there.

The owner hands out durable names and takes labels (`SpoolOwner`); everything between, from the first byte to the sync,
happens in the process that holds the association (`RemoteSpool`). One question and one answer an instance cross the
channel, behind the sync and before success is answered.

Always true: success rests on a durable file *and* the owner's word that it has the label. A receiving process that
dies leaves what a crash leaves: names without bytes, torn files, labelled files nobody was told success for; the
owner deletes them when the channel closes. An owner that dies closes the channel: nothing is answered any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Final, NamedTuple, Protocol

from contract.identifiers import ObjectId
from contract.sealed_object import Aead
from contract.sealing import DataKeyRing, RecipientPublicKey
from edge.buffer.coding_pace import Coding, CodingPace
from edge.buffer.desk import Desk, Intake
from edge.buffer.errors import DiskFullError, SpoolClosedError, SpoolError, StorageFailedError
from edge.buffer.files import object_path
from edge.buffer.label import Label
from edge.buffer.processors import Processors
from edge.buffer.reception import Reception
from edge.buffer.records import InstanceIdentity, Origin
from edge.buffer.sealed_file import AlignedBuffers, SealedFile

_NAMES_AT_ONCE: Final = 16
_PLENTY_BYTES: Final = 1 << 30  # above every mark: only then a look at the disk needs no word of the owner
_PLENTY_FILES: Final = 4096


class Terms(NamedTuple):
    """How the owner wants instances to be kept.

    Attributes
    ----------
    root : of the spool.
    direct : whether its files take direct writes.
    mark_bytes : reserve or low-water mark, whichever is higher.
    line_is_slow : as it was when the association began.
    recipients : whom to seal for; empty before enrolment.
    """

    root: str
    direct: bool
    reserve_bytes: int
    mark_bytes: int
    aead: Aead
    coding: Coding
    line_is_slow: bool
    recipients: tuple[RecipientPublicKey, ...]


class WantNames(NamedTuple):
    """Asks for a list of object ids, each with an empty, durable file."""

    how_many: int


class WantRoom(NamedTuple):
    """Asks whether another instance may be taken in; None, or a failure."""


class Durable(NamedTuple):
    """Says that an instance is durable; the answer is the id of the object that holds its bytes."""

    label: Label
    identity: InstanceIdentity


class DurableApart(NamedTuple):
    """Says that an instance is durable which belongs into quarantine."""

    label: Label


class Rejected(NamedTuple):
    """An instance that was refused, for the technician's list."""

    calling_ae_title: str
    peer_address: str
    reason: str


class Refused(NamedTuple):
    """An association that ended badly, for list and log as far as they take it."""

    calling_ae_title: str
    peer_address: str
    reason: str


class GiveBack(NamedTuple):
    """Names that were not used."""

    names: list[ObjectId]


Message = WantNames | WantRoom | Durable | DurableApart | Rejected | Refused | GiveBack


@dataclass(frozen=True)
class Failure:
    """A `SpoolError`, taken apart to cross the channel."""

    kind: str
    free_bytes: int | None = None
    reserve_bytes: int = 0
    free_files: int | None = None
    errno: int = errno.EIO

    @classmethod
    def of(cls, error: SpoolError) -> Failure:
        if isinstance(error, DiskFullError):
            return cls("full", error.free_bytes, error.reserve_bytes, error.free_files)
        if isinstance(error, StorageFailedError):
            return cls("failed", errno=getattr(errno, error.errno_name, errno.EIO))
        return cls("closed")

    def error(self) -> SpoolError:
        if self.kind == "full":
            return DiskFullError(
                free_bytes=self.free_bytes, reserve_bytes=self.reserve_bytes, free_files=self.free_files
            )
        if self.kind == "failed":
            return StorageFailedError(OSError(self.errno, os.strerror(self.errno)))
        return SpoolClosedError()


class Receiving:
    """What the associations of one receiving process share: buffers, data keys, each scanner's pace."""

    def __init__(self) -> None:
        self.buffers = AlignedBuffers()
        self._lock = threading.Lock()
        self._pace: CodingPace | None = None
        self._keys: DataKeyRing | None = None

    def pace(self, coding: Coding) -> CodingPace:
        with self._lock:
            if self._pace is None:
                self._pace = CodingPace(coding)
                self._pace.processors_are_busy = Processors().are_busy
            return self._pace

    def keys(self, recipients: tuple[RecipientPublicKey, ...]) -> DataKeyRing | None:
        """A ring of this process's own: its data keys exist nowhere else."""
        with self._lock:
            if not recipients:
                self._keys = None
            elif self._keys is None or self._keys.recipients != recipients:
                self._keys = DataKeyRing(recipients)
            return self._keys


class RemoteSpool:
    """An `Intake` and a `Registrar` for one association, used by its thread."""

    def __init__(self, terms: Terms, channel: Connection, receiving: Receiving) -> None:
        self.reserve_bytes = terms.reserve_bytes
        self._terms = terms
        self._channel = channel
        self._buffers = receiving.buffers
        self._names: list[ObjectId] = []
        pace = receiving.pace(terms.coding)
        pace.line_is_slow = lambda: terms.line_is_slow
        self._desk = Desk(self, self._new_file, pace, terms.aead, receiving.keys(terms.recipients))

    def receive(self, origin: Origin) -> Reception:
        return self._desk.begin(origin)

    def prepare(self, origin: Origin) -> None:
        self._desk.prepare(origin)

    def note_rejection(self, calling_ae_title: str, peer_address: str, reason: str) -> None:
        self._ask(Rejected(calling_ae_title, peer_address, reason))

    def refuse(self, calling_ae_title: str, peer_address: str, reason: str) -> None:
        """Have the owner tell of an association that ended badly."""
        with contextlib.suppress(SpoolError):  # the owner is gone, and whom it could be told with it
            self._ask(Refused(calling_ae_title, peer_address, reason))

    def check_room(self) -> None:
        found = os.statvfs(self._terms.root)
        free_bytes = found.f_bavail * found.f_frsize
        few_files = found.f_files and found.f_favail < _PLENTY_FILES
        if few_files or free_bytes - self._terms.mark_bytes < _PLENTY_BYTES:
            self._ask(WantRoom())

    def absorb(self, label: Label, identity: InstanceIdentity) -> ObjectId | None:
        """Never known here: a resend is synced before the owner absorbs it."""
        del label, identity
        return None

    def register(self, label: Label, identity: InstanceIdentity) -> ObjectId:
        return ObjectId(str(self._ask(Durable(label, identity))))

    def register_quarantined(self, label: Label) -> None:
        self._ask(DurableApart(label))

    def close(self) -> None:
        """Give back what was not used, where the owner still listens, and end."""
        self._desk.close()
        with contextlib.suppress(SpoolError):
            if self._names:
                self._ask(GiveBack(self._names))
                self._names = []
        self._channel.close()

    def _new_file(self) -> tuple[ObjectId, SealedFile]:
        if not self._names:
            names = self._ask(WantNames(_NAMES_AT_ONCE))
            assert isinstance(names, list)
            self._names = names
        object_id = self._names.pop()
        return object_id, SealedFile(
            object_path(self._terms.root, object_id), self._buffers, direct=self._terms.direct
        )

    def _ask(self, message: Message) -> object:
        try:
            self._channel.send(message)
            answer = self._channel.recv()
        except (OSError, EOFError) as error:
            raise SpoolClosedError from error
        if isinstance(answer, Failure):
            raise answer.error()
        return answer


class SpoolOwner(Intake, Protocol):
    """What the process that owns the spool does for the others. Safe from any thread."""

    def terms(self) -> Terms: ...

    def take_names(self, count: int) -> list[ObjectId]: ...

    def give_back(self, names: list[ObjectId]) -> None: ...

    def check_room(self) -> None: ...

    def register(self, label: Label, identity: InstanceIdentity) -> ObjectId: ...

    def register_quarantined(self, label: Label) -> None: ...

    def sweep(self, names: Collection[ObjectId]) -> None: ...


def serve(owner: SpoolOwner, channel: Connection, refuse: Callable[[str, str, str], None]) -> None:
    """Answer a `RemoteSpool` until it closes its end.

    Parameters
    ----------
    refuse : takes calling AE title, address and reason of a refusal.
    """
    lent: set[ObjectId] = set()
    try:
        while True:
            try:
                message: Message = channel.recv()
            except (OSError, EOFError):
                return
            try:
                answer = _answer(owner, message, refuse)
            except SpoolError as error:
                answer = Failure.of(error)
            _note_names(lent, message, answer)
            try:
                channel.send(answer)
            except OSError:
                return
    finally:
        # Its end is closed: nobody writes to them any more, and nobody was told that one of them is safe.
        if lent:
            with contextlib.suppress(SpoolError):  # then the next start does it
                owner.sweep(lent)


def _note_names(lent: set[ObjectId], message: Message, answer: object) -> None:
    """Keep count of names that are out and that no row knows."""
    match message:
        case WantNames() if isinstance(answer, list):
            lent.update(answer)
        case GiveBack(names):
            lent.difference_update(names)
        case DurableApart(label) if not isinstance(answer, Failure):
            lent.discard(label.object_id)
        case Durable(label, _) if answer == label.object_id:
            lent.discard(label.object_id)


def _answer(owner: SpoolOwner, message: Message, refuse: Callable[[str, str, str], None]) -> object:
    match message:
        case Durable(label, identity):
            return owner.register(label, identity)
        case WantNames(how_many):
            return owner.take_names(how_many)
        case WantRoom():
            owner.check_room()
        case DurableApart(label):
            owner.register_quarantined(label)
        case GiveBack(names):
            owner.give_back(names)
        case Rejected(calling_ae_title, peer_address, reason):
            owner.note_rejection(calling_ae_title, peer_address, reason)
        case Refused(calling_ae_title, peer_address, reason):
            refuse(calling_ae_title, peer_address, reason)
    return None
