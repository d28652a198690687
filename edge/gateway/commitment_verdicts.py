"""Judges what a scanner asked Storage Commitment for: each instance is safe as the policy wants, has failed, or is
waited for (PS3.4 Annex J.3).

Looking again is cheap: it begins with the instance that was waited for last. That is memory only, and a hint that the
request waits still: a verdict is of one look at every instance, since the disk may have damaged, or central lost, what
was safe at the look before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from edge.buffer.commitments import Commitment, CommitmentStore, Reference
from edge.buffer.standing import Standing
from edge.gateway.commitment import Safety
from edge.gateway.service_settings import CommitmentSettings
from edge.gateway.sop_classes import VERIFICATION, is_accepted

# Failure Reason (PS3.3 C.14.1.1)
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_OBJECT_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122

_WAIT: Final = -1  # in place of a reason: neither committed to nor failed yet
_INSTANCES_AT_ONCE: Final = 500


class Verdicts:
    """Used by one thread, but for `hold`, which any may ask."""

    def __init__(self, store: CommitmentStore, safety: Safety, settings: CommitmentSettings) -> None:
        self._store = store
        self._safety = safety
        self._needs_central = settings.policy == "at_central"
        self._wait_s = settings.wait_hours * 3600
        self._waited_at: dict[int, int] = {}  # position by number of the request

    def deadline_in_s(self, commitment: Commitment) -> float:
        """Until what is still waited for has failed."""
        return max(0.0, self._wait_s - commitment.age_s)

    def judge(self, commitment: Commitment) -> dict[int, int] | None:
        """Failure reasons by position, everything else being committed to; None while anything is waited for."""
        first = self._waited_at.pop(commitment.number, 0)
        failures = self._judge_from(first, commitment)
        return self._judge_from(0, commitment) if first and failures is not None else failures

    def hold(self, committed: Sequence[Reference]) -> bool:
        """Whether these, which were committed to, are as safe still."""
        for at in range(0, len(committed), _INSTANCES_AT_ONCE):
            references = committed[at : at + _INSTANCES_AT_ONCE]
            if any(reason is not None for reason in self._reasons(references, overdue=False)):
                return False
        return True

    def _judge_from(self, position: int, commitment: Commitment) -> dict[int, int] | None:
        """The same, of the instances from `position` on."""
        overdue = commitment.age_s >= self._wait_s
        failures: dict[int, int] = {}
        limit = 1  # for most of those that wait, the first open instance says so
        while position < commitment.instances:
            references = self._store.references(commitment.number, first=position, limit=limit)
            for reason in self._reasons(references, overdue=overdue):
                if reason == _WAIT:
                    self._waited_at[commitment.number] = position
                    return None
                if reason is not None:
                    failures[position] = reason
                position += 1
            limit = _INSTANCES_AT_ONCE
        return failures

    def _reasons(self, references: Sequence[Reference], *, overdue: bool) -> Iterator[int | None]:
        found = self._safety.standing([reference.sop_instance_uid for reference in references])
        for reference in references:
            yield self._reason(reference, found.get(reference.sop_instance_uid), overdue)

    def _reason(self, reference: Reference, found: Standing | None, overdue: bool) -> int | None:
        """None: committed to. `_WAIT`: not to be said yet. Else a Failure Reason."""
        if reference.sop_class_uid == VERIFICATION or not is_accepted(reference.sop_class_uid):
            return SOP_CLASS_NOT_SUPPORTED
        if found is None:
            return NO_SUCH_OBJECT_INSTANCE if overdue else _WAIT
        if reference.sop_class_uid not in found.sop_class_uids:
            return CLASS_INSTANCE_CONFLICT
        if self._needs_central and not found.at_central:
            return PROCESSING_FAILURE if overdue else _WAIT
        return None
