"""How a sealed file gets its row: a copy of its label, with what it is owed to and how urgent it is.

Always true: the file is durable before its row is made, and whatever rules name is owed from the very transaction that
makes the row. The row itself is not synced: a power cut may take it, and recovery makes it again from the label. What
a resend adds stands in no label, so it is synced.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from contract.identifiers import ObjectId
from contract.priority import Priority
from edge.buffer.index import SpoolIndex
from edge.buffer.label import Label
from edge.buffer.states import OWE, State
from edge.buffer.tables import utc_text

# The columns are those of `SpoolObject`.
_INSERT: Final = """
    INSERT INTO objects (
        object_id, state, success_answered, sop_class_uid, sop_instance_uid, study_instance_uid,
        series_instance_uid, modality, transfer_syntax_uid, calling_ae_title, called_ae_title, peer_address,
        sha256, size_bytes, stored_bytes, received_at_utc, due_s, attempts, last_error, damaged,
        station, department, sealed_for, priority
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?,
        COALESCE((SELECT priority FROM study_priorities WHERE study_instance_uid = ?), ?))
"""
_OWE: Final = """
    INSERT OR IGNORE INTO deliveries (object_id, destination, state, due_s, attempts, stored_bytes)
    VALUES (?, ?, 'waiting', 0, 0, ?)
"""

Route = Callable[[Label], Collection[str]]
"""To which destinations beside central an identified instance goes, by name."""


def to_central_alone(_: Label) -> Collection[str]:
    return ()


Rank = Callable[[Label], Priority]
"""How urgent an identified instance is, unless a person has decided about its study."""


def as_routine(_: Label) -> Priority:
    return Priority.ROUTINE


class NewRow(NamedTuple):
    """A file that gets a row: in its label's state or another.

    Attributes
    ----------
    success_answered : its sender was told that it is safe, or may have been.
    damaged : its bytes are not what the label says.
    """

    label: Label
    success_answered: bool = True
    state: State | None = None
    damaged: bool = False


class NewRows:
    """Makes them. Callers hold the spool's lock, where there is one already.

    Parameters
    ----------
    route : what a new row is owed to.
    rank : its priority.
    """

    def __init__(self, index: SpoolIndex, route: Route = to_central_alone, rank: Rank = as_routine) -> None:
        self._index = index
        self._route = route
        self._rank = rank

    def insert(self, rows: Sequence[NewRow]) -> None:
        """The rows of files that are durable already, in this order. Inside a transaction."""
        self._index.execute_many(_INSERT, [self._values(row) for row in rows])
        self._owe([row.label for row in rows if row.success_answered])

    def route_of_resend(self, label: Label) -> Collection[str]:
        """Where a resend would go, had it not been absorbed. Copies are owed by what the object is sealed for."""
        return self._route(replace(label, sealed_for=()))

    def owe_too(self, object_id: ObjectId, destinations: Collection[str], stored_bytes: int) -> bool:
        """Owe an object to these as well; False if it was owed to all of them before. Durable when this returns.

        What was delivered or given up stays so.
        """
        question = "SELECT destination FROM deliveries WHERE object_id = ?"
        before = {destination for (destination,) in self._index.execute(question, (object_id,))}
        more = [one for one in destinations if one not in before]
        if not more:
            return False
        row = self._index.find(object_id)  # None: the index took none just now, and will hardly take this
        with self._index.transaction():
            stored_bytes = row["stored_bytes"] if row else stored_bytes
            self._index.execute_many(_OWE, [(object_id, one, stored_bytes) for one in more])
            if row and row["state"] in OWE.from_states:
                self._index.step_within(object_id, OWE)
        return True

    def _owe(self, labels: Iterable[Label]) -> None:
        rows = [
            (label.object_id, destination, label.stored_bytes)
            for label in labels
            if label.identity is not None
            for destination in self._route(label)
        ]
        if rows:
            self._index.execute_many(_OWE, rows)

    def _values(self, row: NewRow) -> tuple[object, ...]:
        """In the order of `_INSERT`."""
        label, success_answered, state, damaged = row
        origin, identity = label.origin, label.identity
        return (
            label.object_id,
            state or label.state,
            success_answered,
            identity and identity.sop_class_uid,
            identity and identity.sop_instance_uid,
            identity and identity.study_instance_uid,
            identity and identity.series_instance_uid,
            identity and identity.modality,
            origin.transfer_syntax_uid,
            origin.calling_ae_title,
            origin.called_ae_title,
            origin.peer_address,
            label.sha256,
            label.size_bytes,
            label.stored_bytes,
            utc_text(label.received_at_utc),
            0.0,
            0,
            label.reason,
            damaged,
            (identity and identity.station_name) or None,
            (identity and identity.department) or None,
            " ".join(label.sealed_for[1:]) or None,
            identity and identity.study_instance_uid,
            int(self._rank(label)) if identity else 0,
        )
