"""What is made from archived contents and kept beside them: ready-made metadata, pictures, frames coded anew.

Always true
-----------
- A rendition is kept under a key that says what it was made from (`central.archive.sources`) and as what. So nothing is
  ever invalid: whoever asks reads the list of instances first, and another list is another key.
- What it is made from is looked at once more in the transaction that keeps it, so that of a study that was erased
  meanwhile nothing is kept; the erasing transaction takes the rows that are there (`central.archive.erasure`).
- Where objects are encrypted, these are, each with its own key, wrapped under its study's.
- What is read is compared with its hash. What is damaged, lost or cannot be read just now is made anew.
- Nothing here is needed: losing the store, the rows or both costs the time to make them again. So no backup has them.

What a crash leaves: an object without a row, which `compare` removes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import peewee

from central.archive.errors import ArchiveError, NoSuchObjectError, ObjectDamagedError
from central.archive.making import Making
from central.archive.objects import ObjectStore, StoredObject
from central.archive.removal import Removal
from central.archive.rendition_room import RenditionRoom, Rows
from central.archive.sealed_file import SealedFile
from central.archive.sealing_sink import new_sink
from central.archive.sources import Sources
from central.archive.study_keys import StudyKeys
from central.archive.tables import Instance, Rendition, StudyKey
from central.database import Database
from central.identity.errors import KeyFileError
from central.prepared import Prepared, given

DEFAULT_BYTES: Final = 20 << 30
_AT_ONCE: Final = 256
_ARRIVING_S: Final = 3600.0
_NOT_NOW: Final = (ArchiveError, KeyFileError, OSError, peewee.PeeweeException)
_log = logging.getLogger(__name__)

_FIND: Final = Prepared(
    Rendition.select(Rendition, StudyKey.storage_key_id, StudyKey.wrapped_key.alias("wrapped_study_key"))
    .join(
        StudyKey,
        peewee.JOIN.LEFT_OUTER,
        on=(StudyKey.study_instance_uid == Rendition.study_instance_uid),
    )
    .where(Rendition.key == given("key"))
)


@dataclass(frozen=True)
class RenditionSpace:
    """Where renditions are kept, and how much of them.

    `max_bytes`: what was used last stays; 0 keeps nothing. `has_room`: whether the disk has any left for them.
    """

    store: ObjectStore
    max_bytes: int = DEFAULT_BYTES
    has_room: Callable[[], bool] = lambda: True


@dataclass(frozen=True)
class ReadyBytes:
    """A rendition's bytes and their SHA-256."""

    data: bytes
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> ReadyBytes:
        return cls(data, hashlib.sha256(data).hexdigest())


class Renditions:
    """Of one archive. Safe to call from many threads and processes."""

    def __init__(
        self, db: Database, space: RenditionSpace, study_keys: StudyKeys, removal: Removal, *, encrypts: bool
    ) -> None:
        self._db = db
        self._space = space
        self._study_keys = study_keys
        self._removal = removal
        self._encrypts = encrypts
        self._making: Making[ReadyBytes] = Making()
        self._room = RenditionRoom(db, space.max_bytes, self._doom)

    def get(
        self,
        sources: Sources,
        form: str,
        make: Callable[[], bytes],
        refusal: tuple[type[Exception], ...] = (),
    ) -> ReadyBytes:
        """The rendition of `sources` in `form`: as it is kept, or made now and kept.

        Parameters
        ----------
        form : all that its bytes depend on besides the sources, and a number that goes up when it is made otherwise.
        make : makes it from these sources. Called once at a time, whoever else wants the same meanwhile.
        refusal : errors of `make` after which it is not tried again for a minute. Any other may pass by itself.

        Raises
        ------
        What `make` raises.
        """
        key = _key(sources, form)
        kept = self._kept(key)
        return kept or self._making.once(key, lambda: self._made(key, sources, make), refusal)

    def kept(self, sources: Sources, form: str) -> ReadyBytes | None:
        """As `get`; None where it would have to be made."""
        return self._kept(_key(sources, form))

    def sweep(self) -> None:
        """What a crash left half written goes; so do, where objects are encrypted, renditions from before they were.
        For the server alone, before it answers."""
        self._space.store.sweep(lambda _: False)  # what is lost is made again
        if not self._encrypts:
            return
        plain = Rendition.select().where(Rendition.wrapped_key.is_null()).limit(_AT_ONCE)
        while rows := list(plain.dicts().execute(self._db)):
            self._drop(rows)

    def compare(self) -> None:
        """Free the room that is not theirs, and compare store and rows: what only one of them has goes. One that is
        kept just then may go, too.

        Raises
        ------
        StoreUnavailableError, OSError, peewee.PeeweeException : not now; it may be done again.
        """
        self._room.free()
        position: str | None = ""
        while position is not None:
            position = self._compare_from(position)

    def _kept(self, key: str) -> ReadyBytes | None:
        """None if it is not kept, or cannot be read just now."""
        row = _FIND.first(self._db, key=key)
        if row is None:
            return None
        try:
            content = self._read(row)
        except (NoSuchObjectError, ObjectDamagedError) as error:
            _log.warning("event=rendition-lost error=%s", error)
            self._drop([row])
            return None
        except _NOT_NOW as error:
            _log.warning("event=rendition-unreadable error=%s", error)
            return None
        self._room.used(key)
        return content

    def _read(self, row: dict[str, Any]) -> ReadyBytes:
        address, sha256 = row["address"], row["sha256"]
        path = self._space.store.path_of(address)
        try:
            if row["wrapped_key"] is not None:
                sealed = self._study_keys.unwrap(row)
                file = SealedFile(path, address, row["size_bytes"], sealed.key)
                return ReadyBytes(file.read_bytes(), sha256)
            ready = ReadyBytes.of(path.read_bytes())
        except FileNotFoundError as error:  # it made room a moment ago
            raise NoSuchObjectError(address) from error
        if ready.sha256 != sha256:
            raise ObjectDamagedError(address)
        return ready

    def _made(self, key: str, sources: Sources, make: Callable[[], bytes]) -> ReadyBytes:
        if (kept := self._kept(key)) is not None:  # who came before has kept it since
            return kept
        made = ReadyBytes.of(make())
        try:
            self._keep(key, sources, made.data)
        except _NOT_NOW as error:
            _log.warning("event=rendition-not-kept error=%s", error)
        return made

    def _keep(self, key: str, sources: Sources, data: bytes) -> None:
        if not (self._room.fits(len(data)) and self._space.has_room()):
            return
        with new_sink(self._space.store, encrypts=self._encrypts) as sink:
            sink.write(data)
            stored = sink.commit()
        try:
            with self._db.writing():
                known = _FIND.first(self._db, key=key)
                if known is None and self._are_there(sources):
                    self._add(key, sources.study_instance_uid, stored)
                elif known is None or known["address"] != stored.name:
                    self._removal.doom([stored.name], at_once=True)
        except BaseException:
            self._space.store.remove(stored.name)
            raise
        self._removal.hurry([stored.name])  # if it was doomed
        self._room.added(len(data))

    def _add(self, key: str, study_instance_uid: str, stored: StoredObject) -> None:
        self._removal.spare([stored.name])
        wrapped_key = None
        if stored.sealed is not None:
            wrapped_key = self._study_keys.wrap(
                study_instance_uid, stored.sha256, stored.size_bytes, stored.sealed
            )
        Rendition.insert(
            key=key,
            study_instance_uid=study_instance_uid,
            address=stored.name,
            sha256=stored.sha256,
            size_bytes=stored.size_bytes,
            wrapped_key=wrapped_key,
            used_at_s=time.time(),
        ).execute(self._db)

    def _are_there(self, sources: Sources) -> bool:
        """Whether the index has them still, each with its content."""
        wanted = {(one.id, one.sha256) for one in sources.instances}
        found: set[tuple[int, str]] = set()
        for some in _pieces([id_ for id_, _ in wanted]):
            query = Instance.select(Instance.id, Instance.sha256).where(Instance.id.in_(some))
            found.update(query.tuples().execute(self._db))
        return found == wanted

    def _doom(self, rows: Rows) -> None:
        """Take rows away; their objects go when `Removal.run` is next run, which is once a minute."""
        with self._db.writing():
            Rendition.delete().where(Rendition.key.in_([row["key"] for row in rows])).execute(self._db)
            self._removal.doom([row["address"] for row in rows], at_once=True)

    def _drop(self, rows: Rows) -> None:
        """The same, and the objects now."""
        self._doom(rows)
        self._removal.hurry([row["address"] for row in rows])

    def _compare_from(self, position: str) -> str | None:
        """Compare the next few hundred names; where to go on."""
        kept = [one.sha256 for one in islice(self._space.store.kept(position), _AT_ONCE)]
        listed = Rendition.select().where(Rendition.address > position).order_by(Rendition.address)
        rows = list(listed.limit(_AT_ONCE).dicts().execute(self._db))
        ends = [max(kept)] if len(kept) == _AT_ONCE else []
        ends += [rows[-1]["address"]] if len(rows) == _AT_ONCE else []
        through = min(ends) if ends else None
        named = {row["address"] for row in rows}
        for name in kept:
            if name not in named and (through is None or name <= through):
                self._space.store.remove(name)
        since_s, there = (
            time.time() - _ARRIVING_S,
            set(kept),
        )  # a row that is younger may have its object by now
        lost = [row for row in rows if row["address"] not in there and row["used_at_s"] < since_s]
        lost = [row for row in lost if through is None or row["address"] <= through]
        if lost:
            self._drop(lost)
        return through


def _key(sources: Sources, form: str) -> str:
    """Says what was made from what, and tells nothing of it."""
    made_from = [sources.study_instance_uid, *(one[1:5] for one in sources.instances)]
    return hashlib.sha256(json.dumps([form, made_from]).encode()).hexdigest()


def _pieces(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for at in range(0, len(ids), _AT_ONCE):
        yield ids[at : at + _AT_ONCE]
