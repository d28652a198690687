"""Modality Worklist as SCP (PS3.4 Annex K): what central's worklist has for whoever asks straight from here.

Items that are for certain boxes only are theirs and are not answered. The query is on record before its first answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Final, Protocol

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.filereader import read_dataset

from central.audit.errors import AuditUnavailableError
from central.audit.events import Action
from central.audit.record import Audit
from central.dimse.association import CANCELLED, PENDING, SUCCESS, UNABLE_TO_PROCESS, Request
from central.dimse.find import refuse_too_much, shown
from central.dimse.matching import answered, matches

MODALITY_WORKLIST_FIND: Final = "1.2.840.10008.5.1.4.31"
_OUT_OF_RESOURCES: Final = 0xA700


class WorklistItems(Protocol):
    """Where the items are kept."""

    def for_everybody(self, *, first_date: str, last_date: str, institution: str) -> Iterator[bytes]:
        """Data sets in Explicit VR Little Endian of what an institution has for every box between two days
        (``YYYYMMDD``, "" open)."""


class Worklist:
    """Serves C-FIND of the worklist."""

    def __init__(self, items: WorklistItems, audit: Audit, max_matches: int) -> None:
        self._items = items
        self._audit = audit
        self._max_matches = max_matches

    def serve(self, request: Request) -> None:
        query = request.identifier()
        event = request.peer.event(Action.WORKLIST_READ, "success", f"C-FIND {shown(query)}")
        if not event.is_whole:
            refuse_too_much(request, self._audit, event)
            return
        try:
            self._audit.record(event)
        except AuditUnavailableError:
            request.respond(UNABLE_TO_PROCESS, "the audit record cannot be written")
            return
        for number, item in enumerate(self._matching(query, request.peer.principal.institution)):
            if request.is_cancelled:
                request.respond(CANCELLED)
                return
            if number == self._max_matches:
                request.respond(_OUT_OF_RESOURCES, f"more than {self._max_matches} matches: ask for less")
                return
            answer = answered(query, item)
            if item.get("SpecificCharacterSet"):
                answer.SpecificCharacterSet = item.SpecificCharacterSet
            request.respond(PENDING, data_set=answer)
        request.respond(SUCCESS)

    def _matching(self, query: Dataset, institution: str) -> Iterator[Dataset]:
        first, last = days(query)
        for encoded in self._items.for_everybody(first_date=first, last_date=last, institution=institution):
            item = read_dataset(BytesIO(encoded), False, True)
            if matches(query, item):
                yield item


def days(query: Dataset) -> tuple[str, str]:
    """The days a query asks for, so that the database need not give others; "" where it is open."""
    steps: DataElement | None = query.get((0x0040, 0x0100))
    if steps is None or not steps.value:
        return "", ""
    text = str(steps.value[0].get("ScheduledProcedureStepStartDate") or "").replace(" ", "")
    first, dash, last = text.partition("-")
    return (first, last) if dash else (first, first)
