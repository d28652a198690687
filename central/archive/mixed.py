"""What who may see one patient's images is told of a study in which others' lie as well: of the others nothing.

Why it exists: what a study's row counts and lists is of everything in it, and a series is described as by the first
that came. For nearly every study that is the same for everybody; `Study.mixed` marks the few where it is not, and what
is answered of them is put together again from the instances that whoever asks may read.

Always true: who reads all patients' images is told of everything, as the rows have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import peewee

from central.access.policy import Scope
from central.archive.included import Element, included
from central.archive.reach import readable
from central.archive.rows import InstanceRow, SeriesRow, StudyRow
from central.archive.steps import TAGS as STEP_TAGS
from central.archive.steps import steps_of
from central.archive.tables import Instance, Series, Study
from central.database import Database, rows_of
from central.prepared import Prepared

_MODALITY, _NUMBER, _DESCRIPTION, _BODY_PART = "00080060", "00200011", "0008103E", "00180015"
_DATE, _TIME = "00080021", "00080031"
_TAGS: Final = (_MODALITY, _NUMBER, _DESCRIPTION, _BODY_PART, _DATE, _TIME, *STEP_TAGS)
_ANY: Final = Prepared(Study.select(Study.id).where(Study.mixed).limit(1))


def modalities_read(db: Database, scope: Scope, codes: Sequence[str]) -> peewee.Expression | None:
    """Whether a study has one of the modalities in what `scope` reads of it, as SQL; None where its row says so, which
    is everywhere in most archives."""
    if scope.reads_all_patients or not codes or _ANY.first(db) is None:
        return None
    series, instance = Series.alias(), Instance.alias()  # a search among them has their tables itself
    its = (
        series.select(series.id)
        .join(instance, on=(instance.series == series.id))
        .where(series.study == Study.id, series.modality.in_(codes), readable(scope, instance))
    )
    read: peewee.Expression = ~Study.mixed | peewee.fn.EXISTS(its)
    return read


def studies_as_read(db: Database, scope: Scope, rows: list[StudyRow]) -> list[StudyRow]:
    if scope.reads_all_patients or not any(row.mixed for row in rows):
        return rows
    counted = _counted(db, scope, {row.id for row in rows if row.mixed})
    return [_study(row, counted) if row.mixed else row for row in rows]


def series_as_read(db: Database, scope: Scope, rows: list[SeriesRow]) -> list[SeriesRow]:
    mixed = [row for row in rows if row.study.mixed]
    if scope.reads_all_patients or not mixed:
        return rows
    counted = _counted(db, scope, {row.study.id for row in mixed})
    told = dict(zip(map(_name, mixed), included(db, scope, mixed, _TAGS), strict=True))
    return [_series(row, counted, told[_name(row)]) if row.study.mixed else row for row in rows]


def instances_as_read(db: Database, scope: Scope, rows: list[InstanceRow]) -> list[InstanceRow]:
    series = {_name(row.series): row.series for row in rows if row.series.study.mixed}
    if scope.reads_all_patients or not series:
        return rows
    read = dict(zip(series, series_as_read(db, scope, list(series.values())), strict=True))
    return [replace(row, series=read.get(_name(row.series), row.series)) for row in rows]


_Name = tuple[int, str]
_Counted = Mapping[_Name, tuple[str, int]]
"""Of each series of which something is read, its modality and how many instances that is."""


def _name(row: SeriesRow) -> _Name:
    return row.study.id, row.series_instance_uid


def _counted(db: Database, scope: Scope, study_ids: set[int]) -> _Counted:
    columns = (Series.study, Series.series_instance_uid, Series.modality)
    query = (
        Series.select(*columns, peewee.fn.COUNT(Instance.id))
        .join(Instance)
        .where(Series.study.in_(sorted(study_ids)), readable(scope))
        .group_by(*columns)
    )
    return {(study, uid): (modality, count) for study, uid, modality, count in rows_of(db, query)}


def _study(row: StudyRow, counted: _Counted) -> StudyRow:
    its = [said for (study, _), said in counted.items() if study == row.id]
    return replace(
        row,
        modalities_in_study=tuple(sorted({modality for modality, _ in its} - {""})),
        number_of_study_related_series=len(its),
        number_of_study_related_instances=sum(count for _, count in its),
    )


def _series(row: SeriesRow, counted: _Counted, told: Mapping[str, Element]) -> SeriesRow:
    number = _value(told, _NUMBER)
    return replace(
        row,
        study=_study(row.study, counted),
        modality=str(_value(told, _MODALITY)).upper(),
        series_number=number if isinstance(number, int) else None,
        series_description=str(_value(told, _DESCRIPTION)),
        body_part_examined=str(_value(told, _BODY_PART)),
        series_date=str(_value(told, _DATE)),
        series_time=str(_value(told, _TIME)),
        number_of_series_related_instances=counted.get(_name(row), ("", 0))[1],
        **steps_of(told).columns,
    )


def _value(told: Mapping[str, Element], tag: str) -> Any:
    values = told.get(tag, {}).get("Value", ())
    return values[0] if values and values[0] is not None else ""
