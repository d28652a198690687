"""C-FIND over the archive's index, in both information models (PS3.4 Annex C.4.1).

Always true: the search is recorded before its first answer, and its scope is the policy's, in the SQL. Answers are
read a page at a time and end at `max_matches`; none is given twice, whatever arrives between two pages.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from typing import Final

from pydicom import Dataset

from central.access.policy import Action, Scope, scope_of
from central.archive.errors import QueryError
from central.archive.query import InstanceQuery, SeriesQuery
from central.archive.reading import Reading
from central.archive.rows import SeriesRow, StudyRow
from central.audit.errors import AuditUnavailableError
from central.audit.events import AuditEvent
from central.audit.record import Audit
from central.dimse.association import (
    CANCELLED,
    PENDING,
    PENDING_WITH_WARNING,
    SUCCESS,
    UNABLE_TO_PROCESS,
    Request,
)
from central.dimse.errors import IdentifierError
from central.dimse.identifiers import Find, Row, understood

PAGE_ROWS: Final = 500
_OUT_OF_RESOURCES: Final = 0xA700
_IDENTIFIER_DOES_NOT_MATCH: Final = 0xA900


class Query:
    """Serves C-FIND."""

    def __init__(self, archive: Reading, audit: Audit, *, ae_title: str, max_matches: int) -> None:
        self._archive = archive
        self._audit = audit
        self._ae_title = ae_title
        self._max_matches = max_matches

    def serve(self, request: Request) -> None:
        identifier = request.identifier()
        peer = request.peer
        event = peer.event(Action.SEARCH, "success", f"C-FIND {shown(identifier)}")
        if not event.is_whole:
            refuse_too_much(request, self._audit, event)
            return
        recording = self._audit.begin(event)
        try:
            try:
                relational = request.abstract_syntax_uid in request.association.agreed.relational
                find = understood(identifier, request.abstract_syntax_uid, relational=relational)
                rows = self._distinct(find, scope_of(peer.principal, Action.SEARCH))
                first = [row for row in [next(rows, None)] if row is not None]
            finally:  # nothing is answered, and be it what is wrong, before it is on record
                recording.wait()
            self._answer(request, find, chain(first, rows))
        except (IdentifierError, QueryError) as error:
            request.respond(_IDENTIFIER_DOES_NOT_MATCH, str(error))
        except AuditUnavailableError:
            request.respond(UNABLE_TO_PROCESS, "the audit record cannot be written")

    def _answer(self, request: Request, find: Find, rows: Iterator[Row]) -> None:
        pending = PENDING if find.is_whole else PENDING_WITH_WARNING
        for number, row in enumerate(rows):
            if request.is_cancelled:
                request.respond(CANCELLED)
                return
            if number == self._max_matches:
                request.respond(_OUT_OF_RESOURCES, f"more than {self._max_matches} matches: ask for less")
                return
            request.respond(pending, data_set=find.answer(row, self._ae_title))
        request.respond(SUCCESS)

    def _distinct(self, find: Find, scope: Scope) -> Iterator[Row]:
        """Matching rows; at patient level one of each patient."""
        if find.level != "PATIENT":
            yield from self._rows(find, scope)
            return
        patients = set()
        for row in self._rows(find, scope):
            patient = (getattr(row, "issuer_of_patient_id", ""), getattr(row, "patient_id", ""))
            if patient not in patients:
                patients.add(patient)
                yield row

    def _rows(self, find: Find, scope: Scope) -> Iterator[Row]:
        offset = 0
        answered = set[tuple[object, ...]]()
        while True:
            page = self._page(find, scope, offset)
            # What came in since the last page has moved everything behind it: the begin of this one was answered.
            fresh = [row for row in page if _identity(row) not in answered]
            yield from fresh
            if len(page) < PAGE_ROWS:
                return
            answered.update(map(_identity, fresh))
            offset += PAGE_ROWS

    def _page(self, find: Find, scope: Scope, offset: int) -> list[Row]:
        query = find.query(PAGE_ROWS, offset)
        if isinstance(query, InstanceQuery):
            return list(self._archive.find_instances(scope, query))
        if isinstance(query, SeriesQuery):
            return list(self._archive.find_series(scope, query))
        return list(self._archive.find_studies(scope, query))


def refuse_too_much(request: Request, audit: Audit, event: AuditEvent) -> None:
    """A request whose keys are more than the record can hold; as much of them as it can is on record."""
    try:
        audit.record(replace(event, outcome="refused"))
    except AuditUnavailableError:
        request.respond(UNABLE_TO_PROCESS, "the audit record cannot be written")
        return
    request.respond(_OUT_OF_RESOURCES, "more keys than the audit record can hold")


def _identity(row: Row) -> tuple[object, ...]:
    if isinstance(row, StudyRow):
        return (row.id,)
    if isinstance(row, SeriesRow):
        return row.study.id, row.series_instance_uid
    return row.series.study.id, row.series.series_instance_uid, row.sop_instance_uid


def shown(identifier: Dataset) -> str:
    """A request's keys for the audit record; "" when they cannot be read."""
    try:
        return "; ".join(f"{element.keyword}={element.value}" for element in identifier if element.value)
    except Exception:  # a parser fed by strangers; the request is refused right after this
        return ""
