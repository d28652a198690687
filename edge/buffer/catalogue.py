"""What can be queried on this box: one row for each object that is still here, its attributes sealed.

UIDs are plain, to find by; what names a patient is in `record`, sealed under the device key. A row is a copy of
what is in the spool: it is made again when it is lost, so a crash costs time and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from peewee import SQL, BlobField, IntegerField, Model, TextField, fn

from contract.identifiers import ObjectId
from edge.buffer.device_key import DeviceKey
from edge.buffer.records import Present
from edge.buffer.service_database import ServiceDatabase

_AT_ONCE: Final = 500


@dataclass(frozen=True)
class Group:
    """A study, a series or an instance, with the attributes of its latest object.

    Attributes
    ----------
    record : a data set in Explicit VR Little Endian.
    """

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    series: int
    instances: int
    record: bytes


class _Entry(Model):
    object_id = TextField(primary_key=True)
    sequence = IntegerField()
    sop_class_uid = TextField()
    sop_instance_uid = TextField(index=True)
    study_instance_uid = TextField(index=True)
    series_instance_uid = TextField(index=True)
    transfer_syntax_uid = TextField()
    record = BlobField()

    class Meta:
        table_name = "catalogue"


class Catalogue:
    """Safe from any thread."""

    def __init__(self, database: ServiceDatabase, key: DeviceKey) -> None:
        self._database = database
        self._key = key
        database.declare([_Entry])

    def missing(self, objects: Collection[Present]) -> list[Present]:
        """Those that have no row yet."""
        with self._database.reading():
            known = {
                row[0]
                for row in _Entry.select(_Entry.object_id)
                .where(_Entry.object_id.in_([one.object_id for one in objects]))
                .tuples()
                .execute(self._database.db)
            }
        return [one for one in objects if one.object_id not in known]

    def add(self, entries: Iterable[tuple[Present, bytes]]) -> None:
        """Keep objects with their records."""
        rows = [
            {**vars(one), "record": self._key.seal(record, _context(one.object_id))}
            for one, record in entries
        ]
        if rows:
            with self._database.transaction():
                _Entry.insert_many(rows).on_conflict_replace().execute(self._database.db)

    def keep_only(self, object_ids: Collection[ObjectId]) -> int:
        """Forget every object that is not here any more; how many."""
        with self._database.reading():
            rows = _Entry.select(_Entry.object_id).tuples().execute(self._database.db)
            gone = [row[0] for row in rows if row[0] not in object_ids]
        for at in range(0, len(gone), _AT_ONCE):
            with self._database.transaction():
                _Entry.delete().where(_Entry.object_id.in_(gone[at : at + _AT_ONCE])).execute(
                    self._database.db
                )
        return len(gone)

    def groups(self, by: str, **uids: Collection[str]) -> Iterator[Group]:
        """Groups by ``study_instance_uid``, ``series_instance_uid`` or ``sop_instance_uid``, latest first.

        Parameters
        ----------
        uids : only objects with one of these, by the name of the column.
        """
        column = getattr(_Entry, by)
        # SQLite gives the other columns of the row that has the maximum, which is the latest object.
        query = (
            _Entry.select(
                _Entry.object_id,
                _Entry.study_instance_uid,
                _Entry.series_instance_uid,
                _Entry.sop_instance_uid,
                _Entry.record,
                fn.COUNT(_Entry.series_instance_uid.distinct()),
                fn.COUNT(_Entry.sop_instance_uid.distinct()),
                fn.MAX(_Entry.sequence).alias("latest"),
            )
            .where(*_conditions(uids))
            .group_by(column)
            .order_by(SQL("latest").desc())
        )
        with self._database.reading():
            rows = list(query.tuples().execute(self._database.db))
        for object_id, study, series, instance, record, series_count, instance_count, _ in rows:
            opened = self._key.open(bytes(record), _context(object_id))
            yield Group(study, series, instance, series_count, instance_count, opened)

    def objects(self, **uids: Collection[str]) -> list[Present]:
        """The latest object of each instance that has one of these UIDs, in the order they came."""
        fields = [getattr(_Entry, name) for name in Present.__dataclass_fields__ if name != "sequence"]
        query = (
            _Entry.select(fn.MAX(_Entry.sequence).alias("latest"), *fields)
            .where(*_conditions(uids))
            .group_by(_Entry.sop_instance_uid)
            .order_by(SQL("latest"))
        )
        with self._database.reading():
            return [Present(*row) for row in query.tuples().execute(self._database.db)]


def forget_catalogue(database: ServiceDatabase) -> None:
    """Drop what was kept while queries were allowed on this box."""
    with database.transaction(), database.db.bind_ctx([_Entry]):
        database.db.drop_tables([_Entry], safe=True)


def _conditions(uids: dict[str, Collection[str]]) -> list[Any]:
    return [getattr(_Entry, name).in_(list(wanted)) for name, wanted in uids.items()] or [SQL("1")]


def _context(object_id: str) -> str:
    return f"catalogue {object_id}"
