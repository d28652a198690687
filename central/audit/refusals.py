"""Refusals on record, without letting whoever is refused fill the disk: the same one once a minute, and of strangers,
who can make up how one differs from another, a few of each address."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent
from central.audit.record import Audit
from central.hosts import network_of

OF_A_STRANGER: Final = 10
"""What is recorded of one address (of IPv6: one /64) in a minute, where anybody may call."""

_QUIET_S: Final = 60.0
_REMEMBERED: Final = 4096
_log = logging.getLogger(__name__)


class Refusals:
    """Audits refusals of those in `role`, at most `of_an_address` a minute. A refusal stands, recorded or not."""

    def __init__(
        self,
        audit: Audit,
        clock: Callable[[], float] = time.monotonic,
        *,
        role: str = "gateway",
        of_an_address: int = _REMEMBERED,
    ) -> None:
        self._audit = audit
        self._role = role
        self._of_an_address = of_an_address
        self._clock = clock
        self._lock = threading.Lock()
        self._recorded: dict[tuple[str, str, str, str], float] = {}

    def record(
        self, action: Action, actor: str, source_address: str, detail: str, *, whoever: bool = False
    ) -> None:
        """Put a refusal on record unless the very same one was within the last minute; `whoever`: be it of another."""
        if not self._is_news((action, "" if whoever else actor, network_of(source_address), detail)):
            return
        try:
            self._audit.record(
                AuditEvent(actor, self._role, action, "refused", source_address, detail=detail)
            )
        except AuditUnavailableError:
            _log.exception("refusal not recorded action=%s", action)

    def _is_news(self, key: tuple[str, str, str, str]) -> bool:
        now = self._clock()
        with self._lock:
            if now - self._recorded.get(key, -_QUIET_S) < _QUIET_S:
                return False
            if len(self._recorded) >= _REMEMBERED:
                self._recorded = {known: at for known, at in self._recorded.items() if now - at < _QUIET_S}
            if len(self._recorded) >= _REMEMBERED:
                return False  # thousands of different refusals a minute: an attack is on record well enough
            of_address = sum(
                known[2] == key[2] and now - at < _QUIET_S for known, at in self._recorded.items()
            )
            if of_address >= self._of_an_address:
                return False
            self._recorded[key] = now
            return True
