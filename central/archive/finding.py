"""Searches as SQL: the scope of who asks and the keys of what is asked, in one WHERE.

Always true: every query built here carries the scope, so a search reaches no row that the policy would not
grant; nothing is filtered afterwards.

How a search among studies reaches its rows is settled here and not left to the database (decision 63). Where a key
leads to few studies (`central.archive.narrowing`), these are fetched and sorted. Else the newest are looked through, by
an index in their order: one for each way in which somebody reaches studies, such as an institution, a physician or a
department, and the newest of all ways put together. What SQLite is not to enter an index by is `Unindexed`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import and_, or_
from typing import Any, Final, NamedTuple

import peewee

from central.access.consent import EVERYWHERE, ConsentWithdrawal
from central.access.policy import Arrivals, PatientKey, PatientOf, Scope
from central.access.policy import StudyKey as StudyOf
from central.archive.by_sets import newest_by_sets
from central.archive.candidates import AnyOf, of_departments, of_institutions, terms_of
from central.archive.narrowing import Key, planned, study_keys, with_narrowest
from central.archive.object_names import NAME, SEALED
from central.archive.query import (
    Condition,
    InstanceQuery,
    SeriesQuery,
    StudyQuery,
    has_wildcard,
    matches_codes,
    matches_number,
    matches_text,
    matches_uids,
)
from central.archive.rows import InstanceRow, SeriesRow, StudyRow
from central.archive.tables import Instance, ObjectFault, SealedContent, Series, Study, StudyKey
from central.database import Among, Database, Sqlite, Unindexed
from central.prepared import Prepared, given

Conditions = list[Condition | None]

_ONE_UID: Final = re.compile(r"[0-9.]{1,64}")
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
    keys, ways = study_keys(db, query), _ways(scope)
    # Who reaches but few studies needs no key that leads to few.
    wide = any(way.in_order for way in ways)
    conditions, is_narrow = with_narrowest(db, keys) if wide else (planned(db, keys), False)
    pageful = query.limit is not None and scope.only_study is None
    # By date alone: the index in the order of the answer has them side by side.
    sets = (
        wide and pageful and not (is_narrow or _names_one(query) or all(key.probes is None for key in keys))
    )
    if sets and (page := _by_sets(db, scope, ways, keys, query)) is not None:
        found = page
    elif not is_narrow and pageful and len(ways) > 1:
        assert query.limit is not None
        found = _newest_of_each(db, scope, ways, conditions, keys, query.limit, query.offset)
    else:
        said = [within(scope, narrow=is_narrow and isinstance(db, Sqlite)), *conditions]
        found = _page(Study.select(*_STUDY).order_by(*_NEWEST_FIRST), said, query.limit, query.offset)
    return [_study_row(columns) for columns in _found(db, found)]


def _names_one(query: StudyQuery) -> bool:
    """Whether one key is of a single study or patient, so that its own index leads there."""
    whole = (query.accession_number, query.patient_id, query.study_id)
    return bool(query.study_instance_uid) or any(key.strip() and not has_wildcard(key) for key in whole)


def _by_sets(db: Database, scope: Scope, ways: Sequence[Way], keys: Sequence[Key], query: StudyQuery) -> Any:
    """The page as a query of its studies, where sets say which may be on it; None: sets are of no use here."""
    assert query.limit is not None
    reached: AnyOf | None = None
    if not scope.everything:
        reached = of_departments(
            sorted(scope.referring_physician_keys), sorted(scope.requesting_service_keys)
        )
    elif scope.institutions is not None:
        reached = of_institutions(sorted(scope.institutions))
    everywhere = scope.everything and scope.institutions is None
    few = [] if everywhere else [way.condition for way in ways if not way.in_order]
    said = [within(scope, narrow=True), *(key.looking for key in keys)]
    newest = newest_by_sets(db, few, reached, said, terms_of(query), query.offset + query.limit)
    if newest is None:
        return None
    named = reduce(and_, said, Among(Study.id, newest[query.offset :]))
    return Study.select(*_STUDY).where(named).order_by(*_NEWEST_FIRST)


def _newest_of_each(
    db: Database,
    scope: Scope,
    ways: Sequence[Way],
    conditions: Sequence[Condition],
    keys: Sequence[Key],
    limit: int,
    offset: int,
) -> Any:
    """The newest that each way leads to, put together: no index has those of several in one order."""
    in_order = (Study.study_date, Study.study_time, Study.id)
    each = []
    for way in ways:
        # Few studies are reached by name: a key is compared, and no index entered by it.
        keyed = conditions if way.in_order else planned(db, keys)
        said = [way.condition, *_limits(scope), *keyed]
        newest = Study.select(*in_order).where(reduce(and_, said)).order_by(*_NEWEST_FIRST)
        each.append(_columns_of(newest.limit(offset + limit)))
    page = reduce(or_, each).order_by(*[peewee.SQL(f"{number} DESC") for number in (1, 2, 3)])
    named = _columns_of(page.limit(limit).offset(offset), "id")
    return Study.select(*_STUDY).where(Study.id.in_(named)).order_by(*_NEWEST_FIRST)


def _columns_of(query: Any, *names: str) -> Any:
    """`query` as a table: SQLite has no other way to order and limit a part of a union."""
    table = query.alias("newest")
    columns = [getattr(table.c, name) for name in names or ("study_date", "study_time", "id")]
    return peewee.Select([table], columns)


def find_series(db: Database, scope: Scope, query: SeriesQuery) -> list[SeriesRow]:
    """Newest study first, then by Series Number."""
    select = Series.select(*_SERIES).join(Study).order_by(*_NEWEST_FIRST, *_BY_NUMBER)
    keys, is_narrow = with_narrowest(db, study_keys(db, query.study))
    conditions = [
        within(scope, narrow=is_narrow or bool(query.series_instance_uid)),
        *keys,
        *_series_keys(query),
    ]
    found = _page(select, conditions, query.limit, query.offset)
    return [_series_row(columns) for columns in _found(db, found)]


def find_instances(db: Database, scope: Scope, query: InstanceQuery) -> list[InstanceRow]:
    """Newest study first, then by Series Number and Instance Number."""
    if (found := _by_uids(db, scope, query)) is not None:
        return found
    select = Instance.select(*_INSTANCE).join(Series).join(Study).order_by(*_NEWEST_FIRST, *IN_STUDY)
    keys, is_narrow = with_narrowest(db, study_keys(db, query.series.study))
    is_narrow = is_narrow or bool(query.series.series_instance_uid or query.sop_instance_uid)
    conditions = [
        within(scope, narrow=is_narrow),
        readable(scope),
        *keys,
        *_series_keys(query.series),
        matches_uids(Instance.sop_instance_uid, query.sop_instance_uid),
        matches_uids(Instance.sop_class_uid, query.sop_class_uid),
        matches_number(Instance.instance_number, query.instance_number),
    ]
    return _instance_rows(_found(db, _page(select, conditions, query.limit, query.offset)))


def _by_uids(db: Database, scope: Scope, query: InstanceQuery) -> list[InstanceRow] | None:
    """What retrievals ask most: a study, or a series or instance of it, of whole institutions. None: it asks more."""
    study, series, instance = (
        query.series.study.study_instance_uid,
        query.series.series_instance_uid,
        query.sop_instance_uid,
    )
    plain = InstanceQuery(
        sop_instance_uid=instance,
        series=SeriesQuery(series_instance_uid=series, study=StudyQuery(study_instance_uid=study)),
        limit=None,
    )
    if not scope.institutions or scope != Scope(everything=True, institutions=scope.institutions):
        return None
    if query != plain or not all(
        _ONE_UID.fullmatch(uid) for uid in (study, series or study, instance or study)
    ):
        return None  # lists, and what is no UID at all
    asked = _of_uids(holders=len(scope.institutions), one_series=bool(series), one_instance=bool(instance))
    holders = {f"institution_{number}": held_by for number, held_by in enumerate(sorted(scope.institutions))}
    named = {"study_instance_uid": study, "series_instance_uid": series, "sop_instance_uid": instance}
    return _instance_rows(asked.tuples(db, **holders, **named))


@functools.cache
def _of_uids(*, holders: int, one_series: bool, one_instance: bool) -> Prepared:
    """The question of `_by_uids`, as `granted_in` puts it, among studies whose patients have not withdrawn consent."""
    query = Instance.select(*_INSTANCE).join(Series).join(Study).where(~consent_withdrawn())
    return granted_in(
        query,
        everything=True,
        holders=holders,
        one_series=one_series,
        one_instance=one_instance,
        order=(*_NEWEST_FIRST, *IN_STUDY),
    )


class Way(NamedTuple):
    """How somebody reaches some of the studies. `in_order`: there is an index that has them by date."""

    condition: peewee.Expression
    in_order: bool


def within(scope: Scope, *, narrow: bool = False) -> peewee.Expression:
    """`Scope.covers` as SQL on the study's columns. `narrow`: something else leads to few studies, so that SQLite is to
    enter no index here."""
    ways = [way.condition for way in _ways(scope, Unindexed if narrow else _as_it_is)]
    whole: peewee.Expression = reduce(
        and_, [*_limits(scope), reduce(or_, ways)] if ways else [Study.id.is_null()]
    )
    return whole


def _limits(scope: Scope) -> list[peewee.Expression]:
    """What holds in every way: withdrawn consent, the one study of a guest, refusals."""
    consents = [~consent_withdrawn(), *map(_is_of, sorted(scope.despite_withdrawal_of))]
    limits: list[peewee.Expression] = [reduce(or_, consents)]
    if scope.only_study is not None:
        limits.append(Study.study_instance_uid == scope.only_study)
    return [*limits, *(~named for named in _named(scope.refused_studies, Unindexed))]


Column = Callable[[peewee.Field], peewee.ColumnBase]


def _as_it_is(column: peewee.Field) -> peewee.ColumnBase:
    return column


def _ways(scope: Scope, column: Column = _as_it_is) -> list[Way]:
    """The ways in which `scope` reaches studies. `column`: how a column is named that has an index."""
    ways = []
    if scope.everything:
        institutions = [None] if scope.institutions is None else sorted(scope.institutions)
        ways += [Way(_in(institution, column), in_order=True) for institution in institutions]
    else:
        for keys, field in (
            (scope.referring_physician_keys, Study.referring_physician_key),
            (scope.requesting_service_keys, Study.requesting_service_key),
        ):
            ways += [
                Way((column(field) == key) & _among(scope.institutions), in_order=True)
                for key in sorted(keys)
            ]
        if scope.arrivals is not None:
            ways.append(Way(_arrived(scope.arrivals) & _among(scope.institutions), in_order=False))
    named = [*_named(scope.studies, column), *(_is_of(patient, column) for patient in sorted(scope.patients))]
    if named:
        ways.append(Way(reduce(or_, named), in_order=False))
    return ways


def _in(institution: str | None, column: Column = Unindexed) -> peewee.Expression:
    """Held by it; None: by any. An institution is as a rule most of the archive: its index has only the order."""
    return (
        Study.id.is_null(is_null=False) if institution is None else column(Study.institution) == institution
    )


def _among(institutions: frozenset[str] | None) -> peewee.Expression:
    if institutions is None:
        return _in(None)
    column = Unindexed(Study.institution)
    if len(institutions) == 1:
        (only,) = institutions
        return column == only
    return column.in_(sorted(institutions))


def _named(studies: Iterable[StudyOf], column: Column) -> list[peewee.Expression]:
    """A condition for each institution among them."""
    uids: dict[str, list[str]] = {}
    for institution, uid in sorted(studies):
        uids.setdefault(institution, []).append(uid)
    return [
        column(Study.study_instance_uid).in_(some) & _in(institution) for institution, some in uids.items()
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


def is_patient(patient: PatientKey, column: Column = _as_it_is) -> peewee.Expression:
    """Whether the study carries exactly this Patient ID and issuer, as SQL."""
    return (column(Study.patient_id) == patient.patient_id) & (
        Unindexed(Study.issuer_of_patient_id) == patient.issuer
    )


def _is_of(patient: PatientOf, column: Column = Unindexed) -> peewee.Expression:
    return is_patient(patient.patient, column) & _in(patient.institution)


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
    )
    return granted_in(
        query, everything=everything, holders=holders, one_series=one_series, one_instance=one_instance
    )


def granted_in(
    query: peewee.ModelSelect[Instance],
    *,
    everything: bool,
    holders: int,
    one_series: bool,
    one_instance: bool,
    order: Sequence[Any] = IN_STUDY,
) -> Prepared:
    """`query` of instances, joined with series and study, kept to what `in_study` says, in that `order`."""
    granted = [given(f"institution_{number}") for number in range(holders)]
    query = query.where(
        Study.study_instance_uid == given("study_instance_uid"),
        Unindexed(Study.institution).in_(granted),
        readable(Scope(everything=everything)),
    ).order_by(*order)
    if one_series:
        query = query.where(Series.series_instance_uid == given("series_instance_uid"))
    if one_instance:
        query = query.where(Instance.sop_instance_uid == given("sop_instance_uid"))
    return Prepared(query)


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
