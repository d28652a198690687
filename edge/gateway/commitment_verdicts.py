"""Judges what a scanner asked Storage Commitment for: each instance is safe as the policy wants, has failed, or is
waited for (PS3.4 Annex J.3).

Looking again is cheap: the instances before the first that is waited for were judged and stay so, because an
instance that is safe does not become less safe. That is memory only; a new life judges from the start.
"""

from __future__ import annotations

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
    """Used by one thread."""

    def __init__(self, store: CommitmentStore, safety: Safety, settings: CommitmentSettings) -> None:
        self._store = store
        self._safety = safety
        self._needs_central = settings.policy == "at_central"
        self._wait_s = settings.wait_hours * 3600
        self._judged: dict[int, tuple[int, dict[int, int]]] = {}  # position and failures of those that wait

    def deadline_in_s(self, commitment: Commitment) -> float:
        """Until what is still waited for has failed."""
        return max(0.0, self._wait_s - commitment.age_s)

    def judge(self, commitment: Commitment) -> dict[int, int] | None:
        """Failure reasons by position, everything else being committed to; None while anything is waited for."""
        position, failures = self._judged.pop(commitment.number, (0, {}))
        overdue = commitment.age_s >= self._wait_s
        limit = 1  # for most of those that wait, the first open instance says so
        while position < commitment.instances:
            references = self._store.references(commitment.number, first=position, limit=limit)
            found = self._safety.standing([reference.sop_instance_uid for reference in references])
            for reference in references:
                reason = self._reason(reference, found.get(reference.sop_instance_uid), overdue)
                if reason == _WAIT:
                    self._judged[commitment.number] = (position, failures)
                    return None
                if reason is not None:
                    failures[position] = reason
                position += 1
            limit = _INSTANCES_AT_ONCE
        return failures

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
