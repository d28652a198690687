"""Searches as SQL: the scope of who asks and the keys of what is asked, in one WHERE.

Always true: every query built here carries the scope, so a search reaches no row that the policy would not
grant; nothing is filtered afterwards.

An institution is as a rule most of the archive, so its index is worth entering only where nothing else in the query is:
then it holds the newest of a small institution together. SQLite keeps no statistics here and would not know, so it is
told (`Unindexed`).
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterable
from dataclasses import replace
from functools import partial, reduce
from operator import and_, or_
from typing import Any, Final

import peewee

from central.access.consent import EVERYWHERE, ConsentWithdrawal
from central.access.policy import Arrivals, PatientKey, PatientOf, Scope
from central.access.policy import StudyKey as StudyOf
from central.archive.object_names import NAME, SEALED
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
from central.archive.tables import Instance, ObjectFault, SealedContent, Series, Study, StudyKey
from central.archive.text_index import is_among_few, matching_in, with_series
from central.database import Database, Unindexed
from central.prepared import Prepared, given

Conditions = list[Condition | None]

_NEWEST_FIRST: Final = (Study.study_date.desc(), Study.study_time.desc(), Study.id.desc())
_BY_NUMBER: Final = (Series.series_number.asc(nulls="FIRST"), Series.id)
IN_STUDY: Final = (*_BY_NUMBER, Instance.instance_number.asc(nulls="FIRST"), Instance.id)
"""Order of a study's instances: by Series and Instance Number, what has none first."""


# In the order of the rows' fields: an answer can have thousands of rows, and is taken by position.
_STUDY: Final = (
    Study.id,
    Study.institution,
    Study.study_instance_uid,
    Study.patient_name,
    Study.patient_id,
    Study.issuer_of_patient_id,
    Study.patient_birth_date,
    Study.patient_sex,
    Study.study_date,
    Study.study_time,
    Study.accession_number,
    Study.study_description,
    Study.study_id,
    Study.referring_physician_name,
    Study.modalities,
    Study.number_of_series,
    Study.number_of_instances,
)
_SERIES: Final = (
    *_STUDY,
    Series.series_instance_uid,
    Series.modality,
    Series.series_number,
    Series.series_description,
    Series.body_part_examined,
    Series.series_date,
    Series.series_time,
    Series.number_of_instances,
)
_INSTANCE: Final = (
    *_SERIES,
    Instance.sop_class_uid,
    Instance.sop_instance_uid,
    Instance.instance_number,
    Instance.rows,
    Instance.columns,
    Instance.bits_allocated,
    Instance.number_of_frames,
    Instance.transfer_syntax_uid,
    Instance.size_bytes,
    Instance.flagged,
)
_AT_MODALITIES: Final = [column.name for column in _STUDY].index("modalities")


def find_studies(db: Database, scope: Scope, query: StudyQuery) -> list[StudyRow]:
    """Newest first. A study that two institutions of the scope hold is there twice, as each holds it."""
    keys = _study_keys(db, query)
    by_date = _by_date(scope, query, keys)
    if len(scope.institutions or ()) > 1 and query.limit is not None and by_date:
        return _newest_of_each(db, scope, query, query.limit)
    select = Study.select(*_STUDY).order_by(*_NEWEST_FIRST)
    conditions = [within(scope, by_date=by_date), *keys]
    found = _page(select, conditions, query.limit, query.offset)
    return [_study_row(columns) for columns in _found(db, found)]


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
    found = _page(select, conditions, query.limit, query.offset)
    return [_series_row(columns) for columns in _found(db, found)]


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
    return _instance_rows(_found(db, _page(select, conditions, query.limit, query.offset)))


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


def _named(studies: Iterable[StudyOf]) -> list[peewee.Expression]:
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


FACTS: Final = Prepared(
    Study.select(
        Study.study_instance_uid,
        Study.patient_id,
        Study.issuer_of_patient_id,
        Study.referring_physician_name,
        consent_withdrawn().alias("consent_withdrawn"),
        Study.institution,
        Study.requesting_service_key.alias("requesting_service"),
        Study.institutional_department_key.alias("institutional_department_name"),
        Study.arrived_from,
        Study.arrived_at_utc,
    )
    .where(Study.study_instance_uid == given("study_instance_uid"))
    .order_by(Study.institution)
)
"""What `StudyFacts` says of a study, as each institution holds it."""


@functools.cache
def in_study(*, everything: bool, holders: int, one_series: bool, one_instance: bool) -> Prepared:
    """The readable instances of a study that was granted, in `IN_STUDY`: all, or what the given UIDs name.

    `holders`: how many institutions' holding of it was granted, given as ``institution_0`` and so on. The row says
    which one's an instance is (``held_by``).
    """
    granted = [given(f"institution_{number}") for number in range(holders)]
    query = (
        Instance.select(
            Instance.id,
            Instance.sha256,
            Instance.size_bytes,
            Instance.sop_class_uid,
            Instance.sop_instance_uid,
            Instance.transfer_syntax_uid,
            Series.series_instance_uid,
            Study.institution.alias("held_by"),
            ObjectFault.kind,
            SealedContent.address,
            SealedContent.wrapped_key,
            SealedContent.study_instance_uid,
            StudyKey.storage_key_id,
            StudyKey.wrapped_key.alias("wrapped_study_key"),
        )
        .join(Series)
        .join(Study)
        .join_from(Instance, SealedContent, peewee.JOIN.LEFT_OUTER, on=SEALED)
        .join(
            StudyKey,
            peewee.JOIN.LEFT_OUTER,
            on=(StudyKey.study_instance_uid == SealedContent.study_instance_uid),
        )
        .join_from(Instance, ObjectFault, peewee.JOIN.LEFT_OUTER, on=(ObjectFault.sha256 == NAME))
        .where(
            Study.study_instance_uid == given("study_instance_uid"),
            Unindexed(Study.institution).in_(granted),
            readable(Scope(everything=everything)),
        )
        .order_by(*IN_STUDY)
    )
    if one_series:
        query = query.where(Series.series_instance_uid == given("series_instance_uid"))
    if one_instance:
        query = query.where(Instance.sop_instance_uid == given("sop_instance_uid"))
    return Prepared(query)


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


def _found(db: Database, query: Any) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = db.execute(query).fetchall()  # type: ignore[no-untyped-call]  # left out by the stubs
    return rows


def _study_row(columns: tuple[Any, ...]) -> StudyRow:
    values = list(columns)
    values[_AT_MODALITIES] = tuple(filter(None, columns[_AT_MODALITIES].split("\\")))
    return StudyRow(*values)


def _series_row(columns: tuple[Any, ...]) -> SeriesRow:
    return SeriesRow(_study_row(columns[: len(_STUDY)]), *columns[len(_STUDY) :])


def _instance_rows(found: Iterable[tuple[Any, ...]]) -> list[InstanceRow]:
    """The instances of one series share its row."""
    series = dict[tuple[Any, ...], SeriesRow]()
    rows = []
    for columns in found:
        above, own = columns[: len(_SERIES)], columns[len(_SERIES) : -1]
        row = series.get(above)
        if row is None:
            row = series[above] = _series_row(above)
        rows.append(InstanceRow(*(row, *own, bool(columns[-1]))))
    return rows
