"""Attributes that the index has no columns for, out of the metadata that is kept, for searches that ask for them.

Always true: what is told is of an instance that whoever searches may read; a study and a series are told of by the
first one of theirs.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import peewee

from central.access.policy import Scope
from central.archive.reach import readable
from central.archive.rows import InstanceRow, SeriesRow, StudyRow
from central.archive.tables import Instance, Metadata, Series, Study
from central.database import Database, rows_of

Element = dict[str, Any]
"""One element of DICOM JSON (PS3.18 section F.2.2)."""

Row = StudyRow | SeriesRow | InstanceRow
_AT_ONCE: Final = 200


def included(
    db: Database, scope: Scope, rows: Sequence[Row], tags: Collection[str]
) -> Iterator[dict[str, Element]]:
    """Of each of `rows`, all of one kind and found with `scope`, those of `tags` that it has; nothing binary."""
    for at in range(0, len(rows), _AT_ONCE):
        some = rows[at : at + _AT_ONCE]
        told = {tuple(row[:-1]): row[-1] for row in rows_of(db, _told(scope, some))}
        for row in some:
            metadata = told.get(_name(row))
            said = json.loads(zlib.decompress(bytes(metadata))) if metadata is not None else {}
            yield {tag: said[tag] for tag in tags if tag in said and not _is_binary(said[tag])}


def _name(row: Row) -> tuple[Any, ...]:
    if isinstance(row, StudyRow):
        return (row.id,)
    if isinstance(row, SeriesRow):
        return (row.study.id, row.series_instance_uid)
    return (row.series.study.id, row.series.series_instance_uid, row.sop_instance_uid)


def _told(scope: Scope, rows: Sequence[Row]) -> Any:
    """What names each of `rows`, and the metadata of the first instance of it."""
    names = [_name(row) for row in rows]
    columns = (Study.id, Series.series_instance_uid, Instance.sop_instance_uid)[: len(names[0])]
    named = [
        column.in_(sorted(set(values)))
        for column, values in zip(columns, zip(*names, strict=True), strict=True)
    ]
    first = (
        Instance.select(peewee.fn.MIN(Instance.id))
        .join(Series)
        .join(Study)
        .where(readable(scope), *named)
        .group_by(*columns)
    )
    return (
        Metadata.select(*columns, Metadata.dicom_json)
        .join(Instance)
        .join(Series)
        .join(Study)
        .where(Metadata.instance.in_(first))
    )


def _is_binary(element: Element) -> bool:
    return "BulkDataURI" in element or "InlineBinary" in element or element["vr"] == "UN"
