"""Modality Worklist as SCP (PS3.4 Annex K): C-FIND, answered from the cache whatever the network does.

Always true: a modality is told only what its source said, in the bytes of the source; a box that has never seen its
worklist says so with a failure, since an empty answer would mean that nobody is scheduled. Parsed items live in
memory alone.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Protocol

from edge.buffer.worklist_cache import WorklistItem, WorklistSnapshot
from edge.gateway.command_set import CommandField
from edge.gateway.data_set import (
    MAX_KEYS,
    DataSet,
    Element,
    UnreadableDataSetError,
    ascii_value,
    read_data_set,
    vr_of,
    write_data_set,
)
from edge.gateway.matching import QUERY_CONTROL, SPECIFIC_CHARACTER_SET, matches
from edge.gateway.service import Peer, Reply, Request

_LOG = logging.getLogger(__name__)

MODALITY_WORKLIST_FIND: Final = "1.2.840.10008.5.1.4.31"
SCHEDULED_PROCEDURE_STEP_SEQUENCE: Final = 0x00400100
_START_DATE, _START_TIME = 0x00400002, 0x00400003

SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
CANCELLED: Final = 0xFE00
NOT_SEEN_YET: Final = Reply(0xA700, "This box has not got its worklist yet; ask again later")
UNREADABLE: Final = Reply(0xA900, "The identifier of the query cannot be read")
TOO_MANY_STEPS: Final = Reply(0xA900, "A sequence key has at most one item")


class Worklist(Protocol):
    """Where the worklist is kept."""

    def snapshot(self) -> WorklistSnapshot: ...


class WorklistService:
    """C-FIND for the Modality Worklist Information Model."""

    operations: Mapping[str, frozenset[int]] = {MODALITY_WORKLIST_FIND: frozenset({CommandField.C_FIND_RQ})}

    def __init__(self, worklist: Worklist) -> None:
        self._worklist = worklist
        self._lock = threading.Lock()
        self._parsed_from: Sequence[WorklistItem] = ()
        self._parsed: Sequence[DataSet] = ()

    def handle(self, request: Request, peer: Peer) -> Iterator[Reply]:
        """Yield one pending reply for each scheduled procedure step that matches, by its start."""
        try:
            query = read_data_set(
                request.data_set, request.context.transfer_syntax_uid, max_elements=MAX_KEYS
            )
        except UnreadableDataSetError as error:
            _LOG.warning(
                "worklist query refused",
                extra={"calling_ae_title": request.calling_ae_title, "reason": str(error)},
            )
            yield UNREADABLE
            return
        if not _is_query(query):
            yield TOO_MANY_STEPS
            return
        snapshot = self._worklist.snapshot()
        if snapshot.refreshed_at_utc is None:
            yield NOT_SEEN_YET
            return
        answers = 0
        for item in self._items(snapshot):
            if peer.cancelled:
                yield Reply(CANCELLED)
                return
            if matches(query, item):
                answer = write_data_set(_answer(query, item), request.context.transfer_syntax_uid)
                answers += 1
                yield Reply(PENDING, data_set=answer)
        _LOG.info(
            "worklist query answered",
            extra={
                "calling_ae_title": request.calling_ae_title,
                "answers": answers,
                "worklist_of_utc": snapshot.refreshed_at_utc.isoformat(timespec="seconds"),
            },
        )
        yield Reply(SUCCESS)

    def _items(self, snapshot: WorklistSnapshot) -> Sequence[DataSet]:
        """The snapshot's items, parsed once for all queries."""
        with self._lock:
            if self._parsed_from is not snapshot.items:
                readable = []
                for item in snapshot.items:
                    try:
                        readable.append(read_data_set(item.data_set, item.transfer_syntax_uid))
                    except UnreadableDataSetError as error:
                        _LOG.warning("a worklist item cannot be read", extra={"reason": str(error)})
                self._parsed = sorted(readable, key=_start)
                self._parsed_from = snapshot.items
            return self._parsed


def _is_query(query: DataSet) -> bool:
    """Every sequence in it is a key: none, or one item (PS3.4 section C.2.2.2.6)."""
    return all(
        element.vr != "SQ" or (len(element.items) <= 1 and all(map(_is_query, element.items)))
        for element in query.values()
    )


def _start(item: DataSet) -> tuple[str, str]:
    step = item.get(SCHEDULED_PROCEDURE_STEP_SEQUENCE)
    if step is None or not step.items:
        return "", ""
    return ascii_value(step.items[0], _START_DATE), ascii_value(step.items[0], _START_TIME)


def _answer(query: DataSet, item: DataSet) -> DataSet:
    """What the query asks for, as the item has it; what the item does not have comes back empty (K.4.1.1.3)."""
    answer: dict[int, Element] = {}
    if SPECIFIC_CHARACTER_SET in item:
        answer[SPECIFIC_CHARACTER_SET] = item[SPECIFIC_CHARACTER_SET]
    for tag, key in query.items():
        if tag in QUERY_CONTROL:
            continue
        found = item.get(tag)
        if found is None:
            vr = vr_of(tag) if key.vr == "UN" else key.vr
            answer[tag] = Element(vr)
        elif key.vr == "SQ" and found.vr == "SQ" and key.items and key.items[0]:
            wanted = key.items[0]
            answer[tag] = Element("SQ", items=[_answer(wanted, inner) for inner in found.items])
        else:
            answer[tag] = found
    return answer
