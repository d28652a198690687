"""Files that no row knows: what a crash left of the last instances, or everything, where the index was lost.

Each is judged by its label. A sound one was written to its end and may have been acknowledged, so its row is made
again and it goes its way; one without a label was cut off on its way in, nobody was told that it is safe, and it is
swept. What is neither (a label that does not fit its bytes) is kept for a person: nothing that may have been
acknowledged is deleted on a guess.

Always true: a file is read once, by one of a few threads, since a hundred thousand of them have to wait for the disk
together; what becomes of it is decided here, one after the other, oldest first. Rows are written many at a time. A
crash takes the last of them, and the next start goes on with the files that have none; until it has come to the end,
the index counts as new, and a file without a label is not swept.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum, auto
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from contract.identifiers import ObjectId
from edge.buffer.damage import DAMAGE_ERRNOS
from edge.buffer.files import Place, SpoolFiles, sealed_path
from edge.buffer.index import SpoolIndex
from edge.buffer.label import Label, Labelled, UnlabelledError, is_sound, read_label_of
from edge.buffer.new_rows import NewRow, NewRows
from edge.buffer.records import Origin
from edge.buffer.states import SAFE_HERE, State

VERIFIED_AT_START_BYTES = 512 << 20
"""How much is read to compare files with their labels before the box opens; the scrub reads the rest."""

LEAST_CHARGE_BYTES = 1 << 20
"""What a small file counts for: to make it durable takes two syncs, as long as to write this."""

_READERS: Final = 4
_READ_AT_ONCE: Final = 64
_ROWS_AT_ONCE: Final = 1024
_SAY_EVERY_S: Final = 2.0
_DOES_NOT_FIT: Final = "the file's bytes do not fit its label"
_FIND_CONTENTS: Final = """
    SELECT o.sop_instance_uid, o.sha256
    FROM json_each(?) AS j CROSS JOIN objects AS o INDEXED BY live_by_instance ON o.sop_instance_uid = j.value
    WHERE o.freed_at_utc IS NULL AND o.state IN (?, ?, ?, ?, ?)
"""
_LOG = logging.getLogger(__name__)


class Fate(Enum):
    """What becomes of a file that no live row knows."""

    KEPT = auto()  # lies in both folders
    FREED = auto()  # its row says so; the crash came before the unlink
    UNUSED = auto()  # a name kept ready for an instance that never came
    SWEPT = auto()  # cut off on its way in
    DOUBLE = auto()  # whole, but the same bytes are here under another id
    ADOPTED = auto()  # whole: its row is made again
    SET_ASIDE = auto()  # neither: for a person


class _Content(NamedTuple):
    """What makes two objects the same."""

    sop_instance_uid: str
    sha256: str


@dataclass(frozen=True)
class Taken:
    """What became of them, and where in the order those begin that nobody has verified; 0: there are none."""

    fates: Counter[Fate]
    unverified_from: int


class _Stranger(NamedTuple):
    """In the order they came."""

    written_at_ns: int
    object_id: ObjectId
    size_bytes: int
    place: Place


class _Read(NamedTuple):
    """What its file says.

    Attributes
    ----------
    found : None where there is no sound label.
    damage : what is wrong with it; empty: nothing, or it has no label.
    verified : its bytes were compared with the label, and are durable.
    """

    found: Label | None
    damage: str = ""
    verified: bool = False


def take_in(
    names: Sequence[tuple[ObjectId, Place]], files: SpoolFiles, index: SpoolIndex, rows: NewRows
) -> Taken:
    """Judge each by its label, and make the rows of those that are kept.

    Parameters
    ----------
    names : each once, with the folder it lies in.
    """
    return _TakingIn(files, index, rows).run(names) if names else Taken(Counter(), 0)


def place_of(state: State) -> Place:
    """Where an object's file lies."""
    return Place.QUARANTINE if state is State.QUARANTINED else Place.OBJECTS


class _TakingIn:
    def __init__(self, files: SpoolFiles, index: SpoolIndex, rows: NewRows) -> None:
        self._files = files
        self._root = str(files.root)
        self._index = index
        self._new_rows = rows
        self._had_rows = index.last_sequence() > 0
        self._unread_bytes = VERIFIED_AT_START_BYTES
        self._rows: list[NewRow] = []
        self._contents: set[_Content] = set()  # here already
        self._first_unverified: ObjectId | None = None
        # A life that was cut off in the middle of this knew what it had not verified.
        self._unverified_from = 1 if index.is_new and self._had_rows else 0

    def run(self, names: Sequence[tuple[ObjectId, Place]]) -> Taken:
        order = sorted(self._looked_at(names))  # the oldest goes first again
        fates: Counter[Fate] = Counter()
        said_at_s = time.monotonic()
        with ThreadPoolExecutor(_READERS, thread_name_prefix="spool-read") as readers:
            read_all = self._read_all(order, readers)
            while some := list(islice(read_all, _ROWS_AT_ONCE)):
                self._contents = _contents_of(self._index, _instances(some))
                for stranger, read in some:
                    fate = read if isinstance(read, Fate) else self._settle(stranger, read)
                    if fate in (Fate.FREED, Fate.UNUSED, Fate.SWEPT, Fate.DOUBLE):
                        self._files.unlink(stranger.object_id)
                    fates[fate] += 1
                self._write(durable=fates.total() == len(order))
                if time.monotonic() - said_at_s >= _SAY_EVERY_S:
                    said_at_s = time.monotonic()
                    said = {"read": fates.total(), "of": len(order)}
                    _LOG.warning("files that the spool's index does not know are read", extra=said)
        return Taken(fates, self._unverified_from)

    def _looked_at(self, names: Sequence[tuple[ObjectId, Place]]) -> Iterator[_Stranger]:
        for object_id, place in names:
            found = os.stat(sealed_path(self._root, object_id, place))  # noqa: PTH116  # a Path costs as much again
            yield _Stranger(found.st_mtime_ns, object_id, found.st_size, place)

    def _read_all(
        self, order: Sequence[_Stranger], readers: ThreadPoolExecutor
    ) -> Iterator[tuple[_Stranger, Fate | _Read]]:
        """In order, a few pieces ahead of whoever asks."""
        ahead: deque[Future[list[tuple[_Stranger, Fate | _Read]]]] = deque()
        for at in range(0, len(order), _READ_AT_ONCE):
            piece = [(one, self._known_fate(one)) for one in order[at : at + _READ_AT_ONCE]]
            ahead.append(readers.submit(self._read_piece, piece))
            if len(ahead) > _READERS:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()

    def _known_fate(self, stranger: _Stranger) -> Fate | bool:
        """What is known without a look inside; where nothing is, whether its bytes are to be compared."""
        freed = self._index.was_freed(stranger.object_id) if self._had_rows else None
        if freed is not None:
            # A second name of a live object is not this program's doing; deleting by id would take both.
            return Fate.FREED if freed else Fate.KEPT
        if not stranger.size_bytes:
            return Fate.UNUSED
        self._unread_bytes -= max(stranger.size_bytes, LEAST_CHARGE_BYTES)
        return self._unread_bytes >= 0

    def _read_piece(
        self, piece: Sequence[tuple[_Stranger, Fate | bool]]
    ) -> list[tuple[_Stranger, Fate | _Read]]:
        """On a thread of its own: the index is not asked here."""
        return [
            (one, known if isinstance(known, Fate) else self._read(one, verify=known)) for one, known in piece
        ]

    def _read(self, stranger: _Stranger, *, verify: bool) -> _Read:
        path = sealed_path(self._root, stranger.object_id, stranger.place)
        label = None
        try:
            found = _label_of(path)
            if found.label.object_id != stranger.object_id:
                return _Read(None, _DOES_NOT_FIT)
            label = found.label
            if verify and not _is_sound(path, found):
                return _Read(label, _DOES_NOT_FIT)
        except UnlabelledError:
            return _Read(None)
        except OSError as error:
            if error.errno not in DAMAGE_ERRNOS:
                raise
            return _Read(label, f"the disk cannot read the file ({errno.errorcode[error.errno]})")
        if verify:
            self._make_durable(stranger.object_id)
        return _Read(label, verified=verify)

    def _make_durable(self, object_id: ObjectId) -> None:
        """Nothing tells whether the sync of a file without a row succeeded, or failed and its end was not seen."""
        try:
            self._files.write_anew(object_id)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            # What may have been acknowledged is not given up for want of room; most likely it was durable.
            _LOG.warning("no room to write a file anew", extra={"object_id": object_id})

    def _settle(self, stranger: _Stranger, read: _Read) -> Fate:
        label = read.found
        if label is None:
            if not read.damage and not self._index.is_new:
                return Fate.SWEPT
            return self._set_aside_unknown(stranger, read.damage)
        answered = label.identity is not None
        if read.damage:
            # Never evicted, it may have been acknowledged; and whoever looks sees what to send again.
            self._files.move(label.object_id, Place.QUARANTINE)
            kept = replace(label, reason=read.damage)
            self._rows.append(NewRow(kept, answered, State.QUARANTINED, damaged=True))
            return Fate.SET_ASIDE
        if label.identity is not None:
            content = _Content(label.identity.sop_instance_uid, label.sha256)
            if content in self._contents:
                # Its row could not be written, its sender was told failure and sent it again.
                return Fate.DOUBLE
        # Where it lies counts: it may have been set aside since the label was written.
        state = State.QUARANTINED if stranger.place is Place.QUARANTINE else label.state
        if label.identity is not None and state is not State.QUARANTINED:
            self._contents.add(content)
        self._rows.append(NewRow(label, answered, state))
        if place_of(state) is not stranger.place:
            self._files.move(label.object_id, place_of(state))
        if not read.verified and not self._unverified_from and self._first_unverified is None:
            self._first_unverified = label.object_id
        return Fate.ADOPTED

    def _set_aside_unknown(self, stranger: _Stranger, damage: str) -> Fate:
        reason = damage or "a file without a label, from before the index was lost"
        nobody, size_bytes = Origin("", "", "", ""), stranger.size_bytes
        unknown = Label(stranger.object_id, nobody, None, "", 0, size_bytes, datetime.now(UTC), reason)
        self._files.move(stranger.object_id, Place.QUARANTINE)
        # What cannot be read may have been acknowledged.
        self._rows.append(NewRow(unknown, self._index.is_new or damage != _DOES_NOT_FIT))
        return Fate.SET_ASIDE

    def _write(self, *, durable: bool) -> None:
        with self._index.transaction(durable=durable):
            self._new_rows.insert(self._rows)
        if self._first_unverified is not None:
            question = "SELECT sequence FROM objects WHERE object_id = ?"
            (self._unverified_from,) = self._index.execute(question, (self._first_unverified,)).fetchone()
            self._first_unverified = None
        self._rows.clear()


def _contents_of(index: SpoolIndex, sop_instance_uids: Collection[str]) -> set[_Content]:
    """What is here, or on its way to central, of these instances."""
    values = (json.dumps(list(sop_instance_uids)), *SAFE_HERE)
    return {_Content(*found) for found in index.execute(_FIND_CONTENTS, values)}


def _instances(some: Iterable[tuple[_Stranger, Fate | _Read]]) -> list[str]:
    """SOP Instance UIDs of those that name one."""
    labels = [read.found for _, read in some if isinstance(read, _Read) and read.found is not None]
    return [label.identity.sop_instance_uid for label in labels if label.identity is not None]


def _label_of(path: str) -> Labelled:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_label_of(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


def _is_sound(path: str, found: Labelled) -> bool:
    with Path(path).open("rb") as file:
        return is_sound(file, found)
