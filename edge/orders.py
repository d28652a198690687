"""What the worklist says of the order behind a study: how urgent it is, and which department asked.

Read once from each worklist that comes, off the receiving threads; asked at every image. Found by Study Instance UID,
which a modality takes from its worklist item, or else by accession number, for one that makes its own UID. In memory
alone: accession numbers are in no label, index or log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from contract.priority import REQUESTED, Priority
from edge.buffer.worklist_cache import WorklistItem
from edge.gateway.data_set import DataSet, UnreadableDataSetError, ascii_value, read_data_set
from edge.gateway.matching import character_set, decode

_ACCESSION_NUMBER: Final = 0x00080050
_STUDY_INSTANCE_UID: Final = 0x0020000D
_REQUESTING_SERVICE: Final = 0x00321033
_REQUESTED_PROCEDURE_PRIORITY: Final = 0x00401003
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """Of several worklist items of one study the most urgent counts, and the first department that is named."""

    priority: Priority = Priority.ROUTINE
    department: str = ""

    def joined(self, other: Order) -> Order:
        return Order(max(self.priority, other.priority), self.department or other.department)


NO_ORDER: Final = Order()


class Orders:
    """One writer; readers see one whole worklist."""

    def __init__(self) -> None:
        self._by_study: dict[str, Order] = {}
        self._by_accession: dict[str, Order] = {}

    def learn(self, items: Iterable[WorklistItem]) -> dict[str, Order]:
        """Take the orders of a worklist in the place of the former ones; by Study Instance UID."""
        by_study: dict[str, Order] = {}
        by_accession: dict[str, Order] = {}
        for item in items:
            try:
                ds = read_data_set(item.data_set, item.transfer_syntax_uid)
            except UnreadableDataSetError as error:
                _log.warning("a worklist item cannot be read", extra={"reason": str(error)})
                continue
            order = _order(ds)
            for orders, key in (
                (by_study, ascii_value(ds, _STUDY_INSTANCE_UID)),
                (by_accession, _text(ds, _ACCESSION_NUMBER, "SH")),
            ):
                if key:
                    orders[key] = orders[key].joined(order) if key in orders else order
        self._by_study, self._by_accession = by_study, by_accession
        return by_study

    def find(self, study_instance_uid: str, accession_number: str) -> Order:
        """`NO_ORDER` where the worklist names neither."""
        found = self._by_study.get(study_instance_uid)
        if found is None and accession_number:
            found = self._by_accession.get(accession_number)
        return found or NO_ORDER


def _order(ds: DataSet) -> Order:
    said = ascii_value(ds, _REQUESTED_PROCEDURE_PRIORITY).upper()
    return Order(REQUESTED.get(said, Priority.ROUTINE), _text(ds, _REQUESTING_SERVICE, "LO"))


def _text(ds: DataSet, tag: int, vr: str) -> str:
    element = ds.get(tag)
    if element is None:
        return ""
    text = decode(element.value, vr, character_set(ds)).partition("\\")[0]
    return "".join(char for char in text if char.isprintable()).strip()
