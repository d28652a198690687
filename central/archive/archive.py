"""The archive as the other rooms see it: write an object, index it, find studies, read what was granted.

Always true: what reads return is byte for byte what was written; every read takes a `Scope` or a `Grant` of
the policy. What a crash leaves: a durable file without a row (the resend finds it again), or everything.
"""

from __future__ import annotations

import logging
import random
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import peewee

from central.access.consent import make_consent_tables
from central.access.policy import Grant, PatientKey, Scope, StudyFacts, department_key, scope_of
from central.archive import finding
from central.archive.attributes import Attributes, attributes_of, text_of
from central.archive.comparison import Comparison
from central.archive.dicom_json import dicom_json, with_bulk_data_at
from central.archive.encrypting import Encrypting
from central.archive.erasure import Erasures, Incoming
from central.archive.errors import NoSuchInstanceError, NoSuchObjectError, ObjectDamagedError, StorageError
from central.archive.faults import UNREADABLE, FaultKind, Faults
from central.archive.header import Header, read_header
from central.archive.indexing import ObjectOrigin, add_to_index, expect_order
from central.archive.object_files import ObjectFiles
from central.archive.object_names import is_indexed, name_of
from central.archive.objects import ObjectSink, ObjectStore, StoredObject
from central.archive.placing import Placing
from central.archive.postings import fold_some, make_postings
from central.archive.query import InstanceQuery, SeriesQuery, StudyQuery
from central.archive.removal import Removal
from central.archive.renditions import Renditions, RenditionSpace
from central.archive.rows import InstanceRow, SeriesRow, StoredInstance, StudyRow
from central.archive.sealed_file import ObjectFile, SealedFile, sealed_size
from central.archive.sealing_sink import new_sink
from central.archive.sources import Source, Sources, sources_in_study
from central.archive.study_keys import StudyKeys
from central.archive.tables import Instance, Metadata, Series, Study, make_index
from central.archive.text_index import make_text_index
from central.archive.together import Together
from central.archive.unsynced_files import UnsyncedFiles
from central.database import Database, Unindexed
from central.identity.storage_keys import StorageKeys
from contract.receipt import Outcome

Row = TypeVar("Row")
_METADATA_BATCH: Final = 64  # rows in memory at a time
_ZLIB_LEVEL: Final = 6
_TOGETHER: Final = 32  # objects in one transaction: bounds how long the next ones wait for it
_UIDS_AT_ONCE: Final = 500
_BETWEEN_FOLDS: Final = 256  # objects, after which it is looked whether there are studies to be folded
_STORED: Final = (
    "sha256",
    "size_bytes",
    "series_instance_uid",
    "sop_class_uid",
    "sop_instance_uid",
    "transfer_syntax_uid",
)
_log = logging.getLogger(__name__)
_SYNCS: Final = 16  # at once, beside who reads; a disk takes no more
_SAMPLED: Final = 1 / 64
_SAMPLED_BYTES: Final = 16 << 20  # somebody waits: what is larger is left to the scrub


@dataclass(frozen=True)
class Examined:
    """What a Part 10 file says of itself. `metadata` is its DICOM JSON, compressed."""

    header: Header
    attributes: Attributes
    metadata: bytes

    @property
    def is_filed_as_sent(self) -> bool:
        """Whether the archive knows it under the UIDs that it has, and had to make none up."""
        return all(text_of(self.header, tag) == uid for tag, uid in self.attributes.filed_under.items())


@dataclass(frozen=True)
class Indexable:
    """A durable file and what its row will say. `metadata` is its DICOM JSON, compressed."""

    stored: StoredObject
    origin: ObjectOrigin
    attributes: Attributes
    metadata: bytes


class Archive:
    """Open archive; one per process, safe to call from many threads."""

    def __init__(
        self,
        objects: ObjectStore,
        db: Database,
        study_keys: StudyKeys,
        space: RenditionSpace,
        *,
        encrypts: bool,
    ) -> None:
        self._objects = objects
        self._db = db
        self._study_keys = study_keys
        self._encrypts = encrypts
        self.faults = Faults(db)
        self.removal = Removal(db, objects, space.store)
        self.erasures = Erasures(db, self.removal)
        self.renditions = Renditions(db, space, study_keys, self.removal, encrypts=encrypts)
        self._placing = Placing(db, self.faults, self.removal, study_keys)
        # SQLite has one writer; waiting here is fair and costs nothing, its busy handler sleeps and polls.
        self._write_lock = threading.Lock()
        self._not_folded = 0
        self._together = Together(self._index_all, _TOGETHER)
        self._syncs = ThreadPoolExecutor(_SYNCS, thread_name_prefix="object-sync")

    @classmethod
    def open(
        cls,
        root: Path,
        db: Database,
        storage_keys: StorageKeys,
        objects: ObjectStore | None = None,
        renditions: RenditionSpace | None = None,
        *,
        encrypts: bool,
    ) -> Archive:
        """Open the archive whose index is in `db` and whose contents are in `objects`, or else under `root`/objects.

        Parameters
        ----------
        renditions : where what is made from contents is kept; None: under `root`/renditions.
        encrypts : what comes from now on is encrypted at rest; what lies there is read either way.

        Raises
        ------
        OSError : the folder cannot be made or read.
        KeyFileError : a key that objects need is missing or damaged.
        """
        make_index(db)
        make_consent_tables(db)  # which access writes, and every search looks into
        make_text_index(db)
        make_postings(db)
        study_keys = StudyKeys(db, storage_keys)
        study_keys.require_whole(make=encrypts)
        space = renditions or RenditionSpace(UnsyncedFiles.open(root / "renditions"))
        return cls(objects or ObjectFiles.open(root / "objects"), db, study_keys, space, encrypts=encrypts)

    def sweep(self) -> None:
        """End what a crash left half done. For the server alone: a command beside it would take what arrives."""
        self._objects.sweep(partial(is_indexed, self._db))
        self.renditions.sweep()

    # Writing: for the ways in (ingest, C-STORE, STOW-RS) only.

    def new_object(self) -> ObjectSink:
        """Where the bytes of one Part 10 file go; see `ObjectSink`."""
        return new_sink(self._objects, encrypts=self._encrypts)

    def read(self, stored: StoredObject, origin: ObjectOrigin) -> Indexable:
        """What the index will hold of a durable file. Touches no database: may run on many threads at once.

        Raises
        ------
        NotDicomError : nothing names its SOP instance. The file stays; `forget` removes it.
        """
        said = examined(stored.path)
        return Indexable(stored, origin, said.attributes, said.metadata)

    def examine(self, sink: ObjectSink) -> Examined:
        """What an object says of itself before it is committed: one that is refused now was never in the archive.

        Raises
        ------
        NotDicomError : nothing names its SOP instance.
        StorageFullError : the disk is full.
        """
        return examined(sink.readable())

    def keep(
        self,
        sink: ObjectSink,
        origin: ObjectOrigin,
        admit: Callable[[Attributes], None] = lambda _attributes: None,
    ) -> Indexable:
        """Make an object durable, and read at the same time what the index will hold of it.

        Parameters
        ----------
        admit : called before it has its place in the store; what it raises keeps it out. Whoever wants one out later
            might take the same content from somebody else, who has just put it there.

        Raises
        ------
        NotDicomError : nothing names its SOP instance; it was never in the archive.
        StorageFullError, StoreUnavailableError, OSError : it is not durable.
        """
        path = sink.readable()
        durable = self._syncs.submit(sink.sync)
        try:
            said = examined(path)
            admit(said.attributes)
        finally:
            wait([durable])  # the file is in use until then
        durable.result()
        return Indexable(sink.commit(), origin, said.attributes, said.metadata)

    def index(self, stored: StoredObject, origin: ObjectOrigin) -> Outcome:
        """Make one durable file findable. Raises as `read`, and peewee's errors."""
        (outcome,) = self.index_together([self.read(stored, origin)])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def index_together(self, objects: Sequence[Indexable]) -> list[Outcome | Exception]:
        """Make durable files findable, in one transaction with those of whoever comes at the same time.

        Returns
        -------
        For each what became of it, or why it is not findable: a fault of the database fails all that shared the
        transaction, any other fault the one object that it is of.
        """
        try:
            self._look_at_held(objects)
        except (StorageError, peewee.PeeweeException) as error:
            return [error for _ in objects]
        return self._together.write(objects)

    def index_all(
        self,
        objects: Sequence[Indexable],
        in_transaction: Callable[[Sequence[Outcome]], None] | None = None,
    ) -> list[Outcome]:
        """Make durable files findable, all of them in one transaction or none.

        Parameters
        ----------
        in_transaction : called before the commit, for what must become true together with it.

        Raises
        ------
        StudyErasedError : one is of a study that was erased; its file stays, `forget` removes it.
        StorageError : one cannot be taken just now: its object may be on its way out of the store, or what is held of
            it cannot be read to be compared.
        """
        self._look_at_held(objects)
        return self._index_all(objects, in_transaction)

    def _look_at_held(self, objects: Sequence[Indexable]) -> None:
        """Compare what is held of a content that comes once more under another name, as encrypted ones do.

        Who sends it takes an answer for our word that it is here, and gives up its own: so damage that nobody has seen
        is found now, while what mends it is at hand. It costs one reading, before anybody else has to wait for it.
        """
        for one in objects:
            held = name_of(self._db, one.stored.sha256)
            if held is None or held == one.stored.name:
                continue
            if self.comparison(_free).look(held):
                _log.error("event=object-fault found by a resend, which mends it: %s", held)

    def _index_all(
        self,
        objects: Sequence[Indexable],
        in_transaction: Callable[[Sequence[Outcome]], None] | None = None,
    ) -> list[Outcome]:
        with self._write_lock, self._db.writing():
            self._not_folded += len(objects)
            if self._not_folded >= _BETWEEN_FOLDS:
                self._not_folded = 0
                fold_some(self._db)
            self.erasures.refuse_erased(
                [
                    Incoming(one.attributes.study_instance_uid, one.origin.institution, one.stored)
                    for one in objects
                ]
            )
            outcomes, not_needed = [], []
            for one in objects:
                former = name_of(self._db, one.stored.sha256)  # before this one has its row
                outcomes.append(add_to_index(self._db, one.attributes, one.metadata, one.stored, one.origin))
                if not self._placing.place(one.stored, one.attributes.study_instance_uid, former):
                    not_needed.append(one.stored)
            if in_transaction is not None:
                in_transaction(outcomes)
        self.removal.hurry([stored.name for stored in not_needed if stored.sealed is not None])
        return outcomes

    def brought_by(self, gateway_id: str, since: datetime) -> int:
        """How many bytes of objects came from a gateway since then."""
        of_gateway = (Instance.gateway_id == gateway_id) & (Instance.received_at_utc >= since.isoformat())
        total = Instance.select(peewee.fn.COALESCE(peewee.fn.SUM(Instance.size_bytes), 0)).where(of_gateway)
        return int(total.scalar(self._db))

    def comparison(self, pay: Callable[[int], None]) -> Comparison:
        """What compares the store with the index, paid for by `pay`."""
        return Comparison(self._db, self._objects, self._study_keys, self.faults, pay)

    def encrypting(self) -> Encrypting:
        """What encrypts objects that came before `encrypts` was set."""
        return Encrypting(self._db, self._objects, self.faults, self._placing)

    def number_of_objects(self) -> int:
        """How many the index names."""
        return int(Instance.select(peewee.fn.COUNT(Instance.sha256.distinct())).scalar(self._db))

    def forget(self, stored: StoredObject) -> None:
        """Remove a file that `index` refused, be it of another process. One that the index knows is left alone."""
        with self._write_lock, self._db.writing():  # so that no row comes in between
            if not is_indexed(self._db, stored.name):
                self._objects.remove(stored.name)

    def held(self, sop_instance_uids: Sequence[str], institution: str) -> dict[str, int]:
        """Those of the SOP instances that `institution` has, with their sizes: so that a way in knows what it lacks."""
        found: dict[str, int] = {}
        theirs = Unindexed(Study.institution) == institution
        for at in range(0, len(sop_instance_uids), _UIDS_AT_ONCE):
            some = Instance.sop_instance_uid.in_(sop_instance_uids[at : at + _UIDS_AT_ONCE])
            query = Instance.select(Instance.sop_instance_uid, Instance.size_bytes)
            query = query.join(Series).join(Study).where(some, theirs)
            found.update(
                (row["sop_instance_uid"], row["size_bytes"]) for row in query.dicts().execute(self._db)
            )
        return found

    # Reading.

    def find_studies(self, scope: Scope, query: StudyQuery) -> list[StudyRow]:
        """Studies within `scope` that match, newest first. QueryError for a malformed key."""
        return finding.find_studies(self._db, scope, query)

    def find_series(self, scope: Scope, query: SeriesQuery) -> list[SeriesRow]:
        """Series within `scope` that match. QueryError for a malformed key."""
        return finding.find_series(self._db, scope, query)

    def find_instances(self, scope: Scope, query: InstanceQuery) -> list[InstanceRow]:
        """Instances within `scope` that match. QueryError for a malformed key."""
        return finding.find_instances(self._db, scope, query)

    def facts(self, study_instance_uid: str) -> StudyFacts | None:
        """What the policy needs to know of a study, as each institution holds it; None when it is not here."""
        held = [
            StudyFacts(**{**row, "consent_withdrawn": bool(row["consent_withdrawn"])})
            for row in finding.FACTS.rows(self._db, study_instance_uid=study_instance_uid)
        ]
        return replace(held[0], elsewhere=tuple(held[1:])) if held else None

    def arrival(self, study_instance_uid: str, institution: str) -> tuple[int, int, int] | None:
        """Series, instances and the time of the first of them (seconds since 1970) of a study of `institution`; None
        when nothing has come. No more than that: it is for who waits for images and may not look at them."""
        its = (Study.study_instance_uid == study_instance_uid) & (Study.institution == institution)
        columns = (Study.number_of_series, Study.number_of_instances, Study.arrived_at_utc)
        found = next(iter(Study.select(*columns).where(its).tuples().execute(self._db)), None)
        return (int(found[0]), int(found[1]), int(found[2])) if found is not None else None

    def expect_order(self, study_instance_uid: str, institution: str, requesting_service: str) -> None:
        """Note which department ordered a study, whether or not images of it have come."""
        with self._write_lock:
            expect_order(self._db, study_instance_uid, institution, department_key(requesting_service))

    def studies_of(self, patient: PatientKey, institution: str | None = None) -> list[str]:
        """Study Instance UIDs that carry exactly this Patient ID and issuer, in one institution or in all."""
        query = Study.select(Study.study_instance_uid).where(finding.is_patient(patient)).distinct()
        if institution is not None:
            query = query.where(Study.institution == institution)
        return [uid for (uid,) in query.tuples().execute(self._db)]

    def series_of(self, grant: Grant) -> list[SeriesRow]:
        """The series of the granted study, by Series Number."""
        query = SeriesQuery(study=StudyQuery(study_instance_uid=grant.study_instance_uid), limit=None)
        found = finding.find_series(self._db, _scope(grant), query)
        return _once(grant, found, lambda row: row.study.institution, lambda row: row.series_instance_uid)

    def instances_of(
        self, grant: Grant, series_instance_uid: str | None = None, sop_instance_uid: str | None = None
    ) -> list[InstanceRow]:
        """The instances of the granted study, or those that the UIDs name, by Series and Instance Number."""
        series = SeriesQuery(
            series_instance_uid=series_instance_uid or "",
            study=StudyQuery(study_instance_uid=grant.study_instance_uid),
        )
        query = InstanceQuery(sop_instance_uid=sop_instance_uid or "", series=series, limit=None)
        found = finding.find_instances(self._db, _scope(grant), query)
        return _once(
            grant,
            found,
            lambda row: row.series.study.institution,
            lambda row: (row.series.series_instance_uid, row.sop_instance_uid),
        )

    def metadata(
        self,
        grant: Grant,
        series_instance_uid: str | None = None,
        sop_instance_uid: str | None = None,
        *,
        studies_url: str = "",
    ) -> Iterator[bytes]:
        """DICOM JSON objects in UTF-8, one an instance, in the order of `instances_of`; none if none is there.

        Parameters
        ----------
        studies_url : where the studies are served, for BulkDataURIs; empty: they stay relative to their instance.
        """
        return self.metadata_of(
            self.sources(grant, series_instance_uid, sop_instance_uid), studies_url=studies_url
        )

    def sources(
        self, grant: Grant, series_instance_uid: str | None = None, sop_instance_uid: str | None = None
    ) -> Sources:
        """What renditions of the granted study, or of what the UIDs name, are made from; ordered as `instances_of`."""
        query = sources_in_study(
            everything=_scope(grant).everything,
            holders=len(grant.institutions),
            one_series=series_instance_uid is not None,
            one_instance=sop_instance_uid is not None,
        )
        found = query.tuples(self._db, **_granted_values(grant, series_instance_uid, sop_instance_uid))
        instances = _once(
            grant,
            [Source(*row) for row in found],
            lambda row: row.held_by,
            lambda row: (row.series_instance_uid, row.sop_instance_uid),
        )
        return Sources(grant.study_instance_uid, tuple(instances))

    def metadata_of(self, sources: Sources, *, studies_url: str = "") -> Iterator[bytes]:
        """As `metadata`, of these instances exactly.

        Raises
        ------
        NoSuchInstanceError : one of them was erased meanwhile.
        """
        for at in range(0, len(sources.instances), _METADATA_BATCH):
            batch = sources.instances[at : at + _METADATA_BATCH]
            query = Metadata.select().where(Metadata.instance.in_([one.id for one in batch])).dicts()
            made = {row["instance"]: row["dicom_json"] for row in query.execute(self._db)}
            for one in batch:
                if one.id not in made:
                    raise NoSuchInstanceError("an instance was erased meanwhile")
                text = zlib.decompress(made[one.id])
                if not studies_url:
                    yield text
                    continue
                instance_url = (
                    f"{studies_url}/{sources.study_instance_uid}/series/{one.series_instance_uid}"
                    f"/instances/{one.sop_instance_uid}"
                )
                yield with_bulk_data_at(text, instance_url)

    def open_instance(
        self, grant: Grant, series_instance_uid: str, sop_instance_uid: str, *, compared: bool = False
    ) -> StoredInstance:
        """One instance, whose bytes may be read.

        Parameters
        ----------
        compared : what is made of it is kept, so it is always read and compared first, unless it is very large.

        Raises
        ------
        NoSuchInstanceError : the granted study has no such instance.
        """
        for row in self._granted(grant, series_instance_uid, sop_instance_uid):
            return self._stored(row, compared=compared)
        raise NoSuchInstanceError("no such instance in this study")

    def open_instances(
        self, grant: Grant, series_instance_uid: str | None = None, sop_instance_uid: str | None = None
    ) -> list[StoredInstance]:
        """Those of the granted study whose bytes may be read, in the order of `instances_of`; none if none is there."""
        return [self._stored(row) for row in self._granted(grant, series_instance_uid, sop_instance_uid)]

    def _stored(self, row: Mapping[str, Any], *, compared: bool = False) -> StoredInstance:
        located = partial(self._located, row, compared=compared)
        return StoredInstance(located, **{name: row[name] for name in _STORED})

    def _located(self, row: Mapping[str, Any], *, compared: bool) -> ObjectFile:
        """See `StoredInstance.path`. Its size is looked at; where `compared`, and one in so many, all of it is read."""
        name = row["address"] or row["sha256"]
        if row["kind"] in UNREADABLE:
            raise NoSuchObjectError(name) if row["kind"] == FaultKind.MISSING else ObjectDamagedError(name)
        is_sealed = row["address"] is not None
        compared = (compared and not is_sealed) or random.random() < _SAMPLED  # noqa: S311  # not a secret
        size_bytes = row["size_bytes"]
        try:
            path = self._whole(
                name,
                sealed_size(size_bytes) if is_sealed else size_bytes,
                compared=compared and size_bytes <= _SAMPLED_BYTES,
            )
        except ObjectDamagedError:
            self.faults.note(name, FaultKind.DAMAGED)
            raise
        except NoSuchObjectError:
            if is_indexed(self._db, name):  # else it was erased a moment ago
                self.faults.note(name, FaultKind.MISSING)
            raise
        if not is_sealed:
            return path
        return SealedFile(path, name, size_bytes, self._study_keys.unwrap(row).key)

    def _whole(self, name: str, size_bytes: int, *, compared: bool) -> Path:
        """What reads to the end of a file would take a cut one for the whole."""
        path = self._objects.path_of(name, compare=compared)
        try:
            found_bytes = path.stat().st_size
        except FileNotFoundError as error:  # it was removed a moment ago
            raise NoSuchObjectError(name) from error
        if found_bytes != size_bytes:
            raise ObjectDamagedError(name)
        return path

    def _granted(
        self, grant: Grant, series_instance_uid: str | None, sop_instance_uid: str | None
    ) -> list[dict[str, Any]]:
        query = finding.in_study(
            everything=_scope(grant).everything,
            holders=len(grant.institutions),
            one_series=series_instance_uid is not None,
            one_instance=sop_instance_uid is not None,
        )
        found = query.rows(self._db, **_granted_values(grant, series_instance_uid, sop_instance_uid))
        return _once(
            grant,
            found,
            lambda row: row["held_by"],
            lambda row: (row["series_instance_uid"], row["sop_instance_uid"]),
        )


def _free(_bytes: int) -> None:
    """Costs nobody anything."""


def examined(path: ObjectFile) -> Examined:
    """What the Part 10 file at `path` says of itself. NotDicomError if nothing names its SOP instance."""
    header = read_header(path)
    attributes = attributes_of(header)
    return Examined(
        header, attributes, zlib.compress(dicom_json(header, attributes.filed_under), _ZLIB_LEVEL)
    )


def _once(
    grant: Grant, found: list[Row], held_by: Callable[[Row], str], named: Callable[[Row], object]
) -> list[Row]:
    """Of what several granted institutions hold under one name the first one's, in the order in which it was found."""
    preference = {institution: place for place, institution in enumerate(grant.institutions)}
    found = [row for row in found if held_by(row) in preference]
    if len(preference) == 1:
        return found
    best: dict[object, str] = {}
    for row in found:
        held = best.setdefault(named(row), held_by(row))
        best[named(row)] = min(held, held_by(row), key=preference.__getitem__)
    return [row for row in found if best[named(row)] == held_by(row)]


def _granted_values(
    grant: Grant, series_instance_uid: str | None, sop_instance_uid: str | None
) -> dict[str, str | None]:
    """What is given to a query for granted instances."""
    return {
        "study_instance_uid": grant.study_instance_uid,
        "series_instance_uid": series_instance_uid,
        "sop_instance_uid": sop_instance_uid,
        **{f"institution_{number}": held for number, held in enumerate(grant.institutions)},
    }


def _scope(grant: Grant) -> Scope:
    return scope_of(grant.principal, grant.action)
