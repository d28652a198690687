"""Searches as SQL: the scope of who asks and the keys of what is asked, in one WHERE.

Always true: every query built here carries the scope, so a search reaches no row that the policy would not
grant; nothing is filtered afterwards.

How a search among studies reaches its rows is settled here and not left to the database, from what costs least on
(decisions 63 and 67). Where a key leads to few studies (`central.archive.narrowing`), these are fetched and sorted.
Else the newest are looked through, by an index in their order: one for each way in which somebody reaches studies
(`central.archive.reach`), and the newest of all ways put together. What the newest thousand do not fill a page with is
found by sets (`central.archive.by_sets`).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from functools import reduce
from operator import and_, or_
from typing import Any, Final, NamedTuple

import peewee

from central.access.policy import Scope
from central.archive.by_sets import Page, Passing, page_by_sets
from central.archive.candidates import (
    has_texts,
    of_departments,
    of_everything,
    of_institutions,
    says_all,
    terms_of,
)
from central.archive.granted import BY_NUMBER, IN_STUDY, granted_in, held_by
from central.archive.mixed import instances_as_read, modalities_read, series_as_read, studies_as_read
from central.archive.modalities import spelled_out
from central.archive.narrowing import Key, study_keys, with_narrowest
from central.archive.query import (
    Condition,
    InstanceQuery,
    SeriesQuery,
    StudyQuery,
    code_list,
    has_wildcard,
    matches_codes,
    matches_date,
    matches_number,
    matches_text,
    matches_time,
    matches_uids,
    matches_until,
)
from central.archive.reach import (
    Way,
    consent_withdrawn,
    has_readable,
    limits,
    readable,
    taken_away,
    ways_of,
    within,
)
from central.archive.rows import InstanceRow, SeriesRow, StudyRow
from central.archive.steps import matches_request
from central.archive.tables import Instance, Series, Study
from central.database import Among, AmongFound, Database, Once, Sqlite, rows_of
from central.prepared import Prepared

Conditions = list[Condition | None]

_ONE_UID: Final = re.compile(r"[0-9.]{1,64}")
_PLACE: Final = (Study.study_date, Study.study_time, Study.id)
_NEWEST_FIRST: Final = (Once(Study, peewee.NodeList([column.desc() for column in _PLACE], ", ")),)
_WALKED: Final = 1000
"""So many of the newest are looked through before sets are asked: a millisecond, for what many studies have."""
_DEEP: Final = 2_000
_FAR: Final = 10_000
"""Studies before a page, from which on sets pass over them: an index that has them in order passes over more."""

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
    Study.mixed,
)
_WHOLE_STUDY: Final = Once(Study, peewee.NodeList(_STUDY, ", "))
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
    Series.performed_procedure_step_start_date,
    Series.performed_procedure_step_start_time,
    Series.request_attributes,
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
    return studies_as_read(db, scope, _found(db, scope, spelled_out(db, query)))


def _found(db: Database, scope: Scope, query: StudyQuery) -> list[StudyRow]:
    keys, ways = [*study_keys(db, query), *_read_keys(db, scope, query)], ways_of(scope)
    # Who reaches but few studies needs no key that leads to few.
    wide = any(way.in_order for way in ways)
    looking = [key.looking for key in keys]
    conditions, is_narrow = with_narrowest(db, keys) if wide else (looking, False)
    if is_narrow or query.limit is None or scope.only_study is not None:
        said = [within(scope, narrow=is_narrow and isinstance(db, Sqlite)), *conditions]
        return _rows(
            db, _page(Study.select(_WHOLE_STUDY).order_by(*_NEWEST_FIRST), said, query.limit, query.offset)
        )
    newest = _Newest(scope, ways, conditions, looking, query.limit, query.offset)
    # By date alone: the index in the order of the answer has them side by side.
    in_order = all(key.probes is None for key in keys) and query.offset < (_FAR if len(ways) == 1 else _DEEP)
    if wide and not (in_order or _names_one(query)):
        dates = [key.within_order for key in keys if key.probes is None]
        walked = newest._replace(conditions=[key.within_order for key in keys])
        until = matches_until(Study.study_date, query.study_date)
        is_early = query.offset + query.limit <= _WALKED // 4 and not has_texts(query)
        if is_early and (page := _among_newest(db, walked, dates, until)):
            return page
        if (found := _by_sets(db, scope, ways, looking, query)) is not None:
            return _rows(db, found)
    return _rows(db, newest.page())


def _names_one(query: StudyQuery) -> bool:
    """Whether one key is of a single study or patient, so that its own index leads there."""
    whole = (query.accession_number, query.patient_id, query.study_id)
    return bool(query.study_instance_uid) or any(key.strip() and not has_wildcard(key) for key in whole)


def _by_sets(
    db: Database, scope: Scope, ways: Sequence[Way], looking: Sequence[Condition], query: StudyQuery
) -> Any:
    """The page as a query of its studies, where sets say which may be on it; None: sets are of no use here."""
    assert query.limit is not None
    reached = (
        [of_everything()] if scope.institutions is None else [of_institutions(sorted(scope.institutions))]
    )
    if not scope.everything:
        physicians = {key.partition("=")[0] for key in scope.referring_physician_keys}
        reached.append(of_departments(sorted(physicians), sorted(scope.requesting_service_keys)))
    few = [way.condition for way in ways if not way.in_order]
    page = Page(query.offset, query.limit, query.study_date)
    is_passed = query.offset >= _DEEP and says_all(query) and not _read_keys(db, scope, query)
    # How a name is written in ideographs no set says.
    is_passed = is_passed and not any("=" in key for key in scope.referring_physician_keys)
    passing = Passing(taken_away(scope), page) if is_passed else None
    # Of the candidates, then of those that wait, then of what is on the page: the same each time.
    said = [Once(Study, reduce(and_, looking, within(scope, narrow=True)))]
    ids = page_by_sets(db, few, reached, said, terms_of(query), page, passing)
    if ids is None:
        return None
    return Study.select(_WHOLE_STUDY).where(reduce(and_, said, Among(Study.id, ids))).order_by(*_NEWEST_FIRST)


class _Newest(NamedTuple):
    """A page of what `ways` lead to, from the newest on. `conditions` and `looking`: the keys for ways in order, and
    for others: few studies are reached by name, so a key is compared there, and no index entered by it."""

    scope: Scope
    ways: Sequence[Way]
    conditions: Sequence[Condition]
    looking: Sequence[Condition]
    limit: int
    offset: int

    def page(self, *also: Any) -> Any:
        """The studies that `also` holds of. The newest of each way are put together: no index has those of several."""
        if len(self.ways) < 2:
            said = [within(self.scope), *self.conditions, *also]
            return _page(Study.select(_WHOLE_STUDY).order_by(*_NEWEST_FIRST), said, self.limit, self.offset)
        each = []
        for way in self.ways:
            keyed = self.conditions if way.in_order else self.looking
            said = [way.condition, *limits(self.scope), *keyed, *also]
            newest = _page(Study.select(*_PLACE).order_by(*_NEWEST_FIRST), said, self.offset + self.limit, 0)
            each.append(_columns_of(newest))
        page = reduce(or_, each).order_by(*[peewee.SQL(f"{number} DESC") for number in (1, 2, 3)])
        named = _columns_of(page.limit(self.limit).offset(self.offset), "id")
        return Study.select(_WHOLE_STUDY).where(AmongFound(Study.id, named)).order_by(*_NEWEST_FIRST)


def _among_newest(
    db: Database, newest: _Newest, dates: Sequence[Condition], until: Condition | None
) -> list[StudyRow] | None:
    """The page, where the first `_WALKED` or so have it full: what many have is soon found. None: they do not.

    Always right: all that are as new as the oldest of those are looked through, so nothing else comes before its end.
    """
    last: list[tuple[str, str, int]] = []
    for way in newest.ways:
        if way.in_order:
            # Of the index alone: which of them somebody reaches needs the rows, and any place will do.
            some = Study.select(*_PLACE).order_by(*_NEWEST_FIRST)
            last += rows_of(db, _page(some, [way.entered, *dates], 1, _WALKED))
    if not last:
        return _rows(db, newest.page())
    # Of several ways the one that has most of lately: of the others there are fewer to be looked through then.
    bound = peewee.Tuple(*_PLACE) >= peewee.Tuple(*max(last))
    if isinstance(db, Sqlite):
        # It enters by one begin, which is to be the bound and not that of the dates.
        bounded = newest._replace(conditions=newest.looking if until is None else [*newest.looking, until])
        page = _rows(db, bounded.page(bound))
    else:
        # Its statistics are of single columns: it takes a bound of several for a third of everything.
        page = _rows(db, newest.page(bound, Study.study_date >= max(last)[0]))
    return page if len(page) == newest.limit else None


def _columns_of(query: Any, *names: str) -> Any:
    """`query` as a table: SQLite has no other way to order and limit a part of a union."""
    table = query.alias("newest")
    columns = [getattr(table.c, name) for name in names or ("study_date", "study_time", "id")]
    return peewee.Select([table], columns)


def find_series(db: Database, scope: Scope, query: SeriesQuery) -> list[SeriesRow]:
    """Newest study first, then by Series Number."""
    select = Series.select(*_SERIES).join(Study).order_by(*_NEWEST_FIRST, *BY_NUMBER)
    above = spelled_out(db, query.study)
    keys, is_narrow = with_narrowest(db, [*study_keys(db, above), *_read_keys(db, scope, above)])
    conditions = [
        within(scope, narrow=is_narrow or bool(query.series_instance_uid)),
        has_readable(scope),
        *keys,
        *_series_keys(query),
    ]
    found = _page(select, conditions, query.limit, query.offset)
    return series_as_read(db, scope, [_series_row(columns) for columns in rows_of(db, found)])


def find_instances(db: Database, scope: Scope, query: InstanceQuery) -> list[InstanceRow]:
    """Newest study first, then by Series Number and Instance Number."""
    if (found := _by_uids(db, scope, query)) is not None:
        return found
    select = Instance.select(*_INSTANCE).join(Series).join(Study).order_by(*_NEWEST_FIRST, *IN_STUDY)
    above = spelled_out(db, query.series.study)
    keys, is_narrow = with_narrowest(db, [*study_keys(db, above), *_read_keys(db, scope, above)])
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
    found = _instance_rows(rows_of(db, _page(select, conditions, query.limit, query.offset)))
    return instances_as_read(db, scope, found)


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
    named = {"study_instance_uid": study, "series_instance_uid": series, "sop_instance_uid": instance}
    return _instance_rows(asked.tuples(db, **held_by(sorted(scope.institutions)), **named))


@functools.cache
def _of_uids(*, holders: int, one_series: bool, one_instance: bool) -> Prepared:
    """The question of `_by_uids`, as `granted_in` puts it, among studies whose patients have not withdrawn consent."""
    query = Instance.select(*_INSTANCE).join(Series).join(Study).where(~consent_withdrawn())
    return granted_in(
        query,
        all_patients=True,
        holders=holders,
        one_series=one_series,
        one_instance=one_instance,
        order=(*_NEWEST_FIRST, *IN_STUDY),
    )


def _read_keys(db: Database, scope: Scope, query: StudyQuery) -> list[Key]:
    read = modalities_read(db, scope, code_list(query.modalities_in_study))
    return [] if read is None else [Key(read)]


def _series_keys(query: SeriesQuery) -> Conditions:
    return [
        matches_uids(Series.series_instance_uid, query.series_instance_uid),
        matches_codes(Series.modality, query.modality),
        matches_number(Series.series_number, query.series_number),
        matches_text(Series.series_description_key, query.series_description, folded=True),
        matches_codes(peewee.fn.UPPER(Series.body_part_examined), query.body_part_examined),  # kept as sent
        matches_date(Series.performed_procedure_step_start_date, query.performed_procedure_step_start_date),
        matches_time(Series.performed_procedure_step_start_time, query.performed_procedure_step_start_time),
        matches_request(query.request_scheduled_procedure_step_id, query.request_requested_procedure_id),
    ]


def _page(select: Any, conditions: Iterable[Condition | None], limit: int | None, offset: int) -> Any:
    said = [condition for condition in conditions if condition is not None]
    if said:
        select = select.where(reduce(and_, said))
    if limit is not None:
        select = select.limit(limit)
    return select.offset(offset) if offset else select


def _rows(db: Database, query: Any) -> list[StudyRow]:
    return [_study_row(columns) for columns in rows_of(db, query)]


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
