"""Searches as SQL: the scope of who asks and the keys of what is asked, in one WHERE.

Always true: every query built here carries the scope, so a search reaches no row that the policy would not
grant; nothing is filtered afterwards.

An institution is as a rule most of the archive, so its index is worth entering only where nothing else in the query is:
then it holds the newest of a small institution together. SQLite keeps no statistics here and would not know, so it is
told (`Unindexed`).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import replace
from functools import partial, reduce
from operator import and_, or_
from typing import Any, Final

import peewee

from central.access.consent import EVERYWHERE, ConsentWithdrawal
from central.access.policy import Arrivals, PatientKey, PatientOf, Scope, StudyKey
from central.archive.query import (
    Condition,
    InstanceQuery,
    SeriesQuery,
    StudyQuery,
    matches_codes,
    matches_date,
    matches_number,
    matches_person_name,
    matches_text,
    matches_time,
    matches_uids,
)
from central.archive.rows import InstanceRow, SeriesRow, StudyRow
from central.archive.tables import Instance, Series, Study
from central.archive.text_index import is_among_few, matching_in, with_series
from central.database import Database, Unindexed

Conditions = list[Condition | None]

_NEWEST_FIRST: Final = (Study.study_date.desc(), Study.study_time.desc(), Study.id.desc())
_BY_NUMBER: Final = (Series.series_number.asc(nulls="FIRST"), Series.id)
IN_STUDY: Final = (*_BY_NUMBER, Instance.instance_number.asc(nulls="FIRST"), Instance.id)
"""Order of a study's instances: by Series and Instance Number, what has none first."""


def _columns(model: type[peewee.Model]) -> list[Any]:
    """All columns, named ``<table>.<column>`` in the result: three tables share some names."""
    table = model._meta.table_name
    return [field.alias(f"{table}.{name}") for name, field in model._meta.fields.items()]


_STUDY: Final = _columns(Study)
_SERIES: Final = [*_STUDY, *_columns(Series)]
_INSTANCE: Final = [*_SERIES, *_columns(Instance)]


def find_studies(db: Database, scope: Scope, query: StudyQuery) -> list[StudyRow]:
    """Newest first. A study that two institutions of the scope hold is there twice, as each holds it."""
    keys = _study_keys(db, query)
    by_date = _by_date(scope, query, keys)
    if len(scope.institutions or ()) > 1 and query.limit is not None and by_date:
        return _newest_of_each(db, scope, query, query.limit)
    select = Study.select(*_STUDY).order_by(*_NEWEST_FIRST)
    conditions = [within(scope, by_date=by_date), *keys]
    found = _page(select, conditions, query.limit, query.offset)
    return [_study_row(row) for row in found.dicts().execute(db)]


def _newest_of_each(db: Database, scope: Scope, query: StudyQuery, limit: int) -> list[StudyRow]:
    """Each institution's own newest, by its index, put together: no index has those of several in one order."""
    wanted = replace(query, limit=query.offset + limit, offset=0)
    each = [
        find_studies(db, replace(scope, institutions=frozenset({institution})), wanted)
        for institution in sorted(scope.institutions or ())
    ]
    merged = heapq.merge(*each, key=lambda row: (row.study_date, row.study_time, row.id), reverse=True)
    return list(merged)[query.offset : query.offset + limit]


def _by_date(scope: Scope, query: StudyQuery, keys: Conditions) -> bool:
    """Whether the studies are best read from the newest on: nothing that is asked for leads to few of them."""
    begins = (query.patient_name, query.referring_physician_name, query.patient_id, query.accession_number)
    return (
        scope.everything
        and not query.study_instance_uid
        and all(text[:1] in ("", "*", "?") for text in begins)
        and not any(is_among_few(key) for key in keys)
    )


def find_series(db: Database, scope: Scope, query: SeriesQuery) -> list[SeriesRow]:
    """Newest study first, then by Series Number."""
    select = Series.select(*_SERIES).join(Study).order_by(*_NEWEST_FIRST, *_BY_NUMBER)
    keys = _study_keys(db, query.study)
    by_date = _by_date(scope, query.study, keys) and not query.series_instance_uid
    conditions = [within(scope, by_date=by_date), *keys, *_series_keys(query)]
    return [
        _series_row(row) for row in _page(select, conditions, query.limit, query.offset).dicts().execute(db)
    ]


def find_instances(db: Database, scope: Scope, query: InstanceQuery) -> list[InstanceRow]:
    """Newest study first, then by Series Number and Instance Number."""
    select = Instance.select(*_INSTANCE).join(Series).join(Study).order_by(*_NEWEST_FIRST, *IN_STUDY)
    keys = _study_keys(db, query.series.study)
    by_date = _by_date(scope, query.series.study, keys)
    by_date = by_date and not (query.series.series_instance_uid or query.sop_instance_uid)
    conditions = [
        within(scope, by_date=by_date),
        readable(scope),
        *keys,
        *_series_keys(query.series),
        matches_uids(Instance.sop_instance_uid, query.sop_instance_uid),
        matches_uids(Instance.sop_class_uid, query.sop_class_uid),
        matches_number(Instance.instance_number, query.instance_number),
    ]
    return [
        _instance_row(row) for row in _page(select, conditions, query.limit, query.offset).dicts().execute(db)
    ]


def within(scope: Scope, *, by_date: bool = False) -> peewee.Expression:
    """`Scope.covers` as SQL on the study's columns. `by_date`: the index of an institution's newest may be entered."""
    by_attributes: list[peewee.Expression] = []
    if scope.referring_physician_keys:
        by_attributes.append(Study.referring_physician_key.in_(sorted(scope.referring_physician_keys)))
    if scope.requesting_service_keys:
        by_attributes.append(Study.requesting_service_key.in_(sorted(scope.requesting_service_keys)))
    if scope.arrivals is not None:
        by_attributes.append(_arrived(scope.arrivals))
    ways: list[peewee.Expression] = []
    if scope.everything or by_attributes:
        ways = (
            [_in(scope.institutions, indexed=by_date)]
            if scope.everything
            else [reduce(and_, [way, _in(scope.institutions)]) for way in by_attributes]
        )
    ways += _named(scope.studies)
    ways += [_is_of(patient) for patient in sorted(scope.patients)]
    if not ways:
        return Study.id.is_null()
    consents = [~consent_withdrawn(), *map(_is_of, sorted(scope.despite_withdrawal_of))]
    conditions: list[peewee.Expression] = [reduce(or_, consents), reduce(or_, ways)]
    if scope.only_study is not None:
        conditions.append(Study.study_instance_uid == scope.only_study)
    conditions += [~named for named in _named(scope.refused_studies)]
    whole: peewee.Expression = reduce(and_, conditions)
    return whole


def _in(institutions: frozenset[str] | None, *, indexed: bool = False) -> peewee.Expression:
    if institutions is None:
        return Study.id.is_null(is_null=False)
    column = Study.institution if indexed else Unindexed(Study.institution)
    if len(institutions) == 1:
        (only,) = institutions
        return column == only
    return column.in_(sorted(institutions))


def _named(studies: Iterable[StudyKey]) -> list[peewee.Expression]:
    """A condition for each institution among them."""
    uids: dict[str, list[str]] = {}
    for institution, uid in sorted(studies):
        uids.setdefault(institution, []).append(uid)
    return [
        Study.study_instance_uid.in_(some) & _in(frozenset({institution}))
        for institution, some in uids.items()
    ]


def _arrived(arrivals: Arrivals) -> peewee.Expression:
    """Found by the time of arrival first: few came since yesterday, wherever they stand in the order by date."""
    come = Study.alias()
    ways = []
    if arrivals.gateway_ids:
        ways.append(come.arrived_from.in_(sorted(arrivals.gateway_ids)))
    if arrivals.department_keys:
        ways.append(come.institutional_department_key.in_(sorted(arrivals.department_keys)))
    return Study.id.in_(
        come.select(come.id).where(come.arrived_at_utc >= arrivals.since_utc, reduce(or_, ways))
    )


def consent_withdrawn() -> Any:
    """Whether the study's patient has withdrawn consent, as SQL."""
    return peewee.fn.EXISTS(
        ConsentWithdrawal.select(ConsentWithdrawal.withdrawal_id).where(
            ConsentWithdrawal.patient_id == Study.patient_id,
            ConsentWithdrawal.issuer_of_patient_id == Study.issuer_of_patient_id,
            ConsentWithdrawal.institution.in_([Study.institution, EVERYWHERE]),
            ConsentWithdrawal.ended_at_utc.is_null(),
        )
    )


def is_patient(patient: PatientKey) -> peewee.Expression:
    """Whether the study carries exactly this Patient ID and issuer, as SQL."""
    return (Study.patient_id == patient.patient_id) & (Study.issuer_of_patient_id == patient.issuer)


def _is_of(patient: PatientOf) -> peewee.Expression:
    return is_patient(patient.patient) & _in(frozenset({patient.institution}))


def readable(scope: Scope) -> peewee.Expression:
    """The contents that reads return; an instance that names another patient only to those who see everything."""
    current = Instance.current == True  # noqa: E712  # SQL
    return current if scope.everything else current & (Instance.other_patient == False)  # noqa: E712  # SQL


def _study_keys(db: Database, query: StudyQuery) -> Conditions:
    modality = matches_codes(Series.modality, query.modalities_in_study)
    text = partial(matches_text, matching=matching_in(db))
    name = partial(matches_person_name, matching=matching_in(db))
    return [
        matches_uids(Study.study_instance_uid, query.study_instance_uid),
        name(Study.patient_name_key, Study.patient_name_other_keys, query.patient_name),
        text(Study.patient_id, query.patient_id),
        text(Study.issuer_of_patient_id, query.issuer_of_patient_id),
        matches_date(Study.study_date, query.study_date),
        matches_time(Study.study_time, query.study_time),
        text(Study.accession_number, query.accession_number),
        text(Study.study_id, query.study_id),
        text(Study.study_description_key, query.study_description, folded=True),
        name(Study.referring_physician_key, None, query.referring_physician_name),
        with_series(db, modality) if modality is not None else None,
    ]


def _series_keys(query: SeriesQuery) -> Conditions:
    return [
        matches_uids(Series.series_instance_uid, query.series_instance_uid),
        matches_codes(Series.modality, query.modality),
        matches_number(Series.series_number, query.series_number),
        matches_text(Series.series_description_key, query.series_description, folded=True),
        matches_codes(Series.body_part_examined, query.body_part_examined),
    ]


def _page(select: Any, conditions: Iterable[Condition | None], limit: int | None, offset: int) -> Any:
    said = [condition for condition in conditions if condition is not None]
    if said:
        select = select.where(reduce(and_, said))
    if limit is not None:
        select = select.limit(limit)
    return select.offset(offset) if offset else select


def _study_row(row: dict[str, Any]) -> StudyRow:
    return StudyRow(
        id=row["study.id"],
        institution=row["study.institution"],
        study_instance_uid=row["study.study_instance_uid"],
        patient_name=row["study.patient_name"],
        patient_id=row["study.patient_id"],
        issuer_of_patient_id=row["study.issuer_of_patient_id"],
        patient_birth_date=row["study.patient_birth_date"],
        patient_sex=row["study.patient_sex"],
        study_date=row["study.study_date"],
        study_time=row["study.study_time"],
        accession_number=row["study.accession_number"],
        study_description=row["study.study_description"],
        study_id=row["study.study_id"],
        referring_physician_name=row["study.referring_physician_name"],
        modalities_in_study=tuple(filter(None, row["study.modalities"].split("\\"))),
        number_of_study_related_series=row["study.number_of_series"],
        number_of_study_related_instances=row["study.number_of_instances"],
    )


def _series_row(row: dict[str, Any]) -> SeriesRow:
    return SeriesRow(
        study=_study_row(row),
        series_instance_uid=row["series.series_instance_uid"],
        modality=row["series.modality"],
        series_number=row["series.series_number"],
        series_description=row["series.series_description"],
        body_part_examined=row["series.body_part_examined"],
        series_date=row["series.series_date"],
        series_time=row["series.series_time"],
        number_of_series_related_instances=row["series.number_of_instances"],
    )


def _instance_row(row: dict[str, Any]) -> InstanceRow:
    return InstanceRow(
        series=_series_row(row),
        sop_class_uid=row["instance.sop_class_uid"],
        sop_instance_uid=row["instance.sop_instance_uid"],
        instance_number=row["instance.instance_number"],
        rows=row["instance.rows"],
        columns=row["instance.columns"],
        bits_allocated=row["instance.bits_allocated"],
        number_of_frames=row["instance.number_of_frames"],
        transfer_syntax_uid=row["instance.transfer_syntax_uid"],
        size_bytes=row["instance.size_bytes"],
        flagged=row["instance.flagged"],
    )
