"""What one association stored, on the audit record: a study at a time, never an instance at a time.

Always true: before the first image of a study is indexed and answered it is on record that this peer stores it; if that
cannot be written, nothing is kept and the peer sends again. How many came is recorded when the association is over,
where they were more than that one. A refusal is on record before it is answered, once for its kind, and counted alike.

What a crash leaves: that the peer began to store a study, as STOW-RS leaves it; how much of it came says the index.
"""

from __future__ import annotations

import logging
from collections import Counter

from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, Outcome
from central.audit.record import Audit
from central.dimse.peers import Peer

_log = logging.getLogger(__name__)


class StoreRecord:
    """Of one association, in whose thread it is used. `certificate_sha256` is of the one that the peer proved."""

    def __init__(self, audit: Audit, peer: Peer, certificate_sha256: str | None) -> None:
        self._audit = audit
        self._peer = peer
        self._by = f", certificate {certificate_sha256}" if certificate_sha256 else ""
        self._study: str | None = None
        self._stored: Counter[str] = Counter()
        self._refused: Counter[tuple[str | None, int]] = Counter()

    def arrived(self) -> None:
        """An image came; of which study is not known yet."""
        self._study = None

    def begins(self, study_instance_uid: str) -> None:
        """It is of this study, and about to be indexed. AuditUnavailableError: it must not be."""
        if study_instance_uid not in self._stored:
            self._record("success", "the first instance", study_instance_uid)
            self._stored[study_instance_uid] = 0
        self._study = study_instance_uid

    def stored(self) -> None:
        """It is in the archive."""
        assert self._study is not None, "it has begun"
        self._stored[self._study] += 1

    def refused(self, status: int) -> None:
        """It is not, and the answer will be `status`; that nothing was kept need not wait for the record."""
        kind = (self._study, status)
        if kind not in self._refused:
            self._try("refused", f"not stored: {status:04X}", self._study)
        self._refused[kind] += 1

    def ends(self) -> None:
        """The association is over: how many there were, where it was not one."""
        for study, count in self._stored.items():
            if count != 1:
                self._try("success", f"{count} instances stored", study)
        for (of_study, status), count in self._refused.items():
            if count != 1:
                self._try("refused", f"not stored: {count} x {status:04X}", of_study)

    def _record(self, outcome: Outcome, said: str, study: str | None) -> None:
        self._audit.record(self._peer.event(Action.STORE, outcome, f"C-STORE: {said}{self._by}", study))

    def _try(self, outcome: Outcome, said: str, study: str | None) -> None:
        try:
            self._record(outcome, said, study)
        except AuditUnavailableError:
            _log.warning("event=not-recorded peer=%s ae_title=%s", self._peer.address, self._peer.ae_title)
