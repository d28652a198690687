"""The callers that were put off until a technician decides: in memory, and a bounded number of them.

They call again after a restart, so nothing of this is written; a machine that makes up AE titles can neither fill the
memory nor push the others out of the list.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from edge.gateway.tls import PeerCertificate

MAX_WAITING: Final = 64
MAX_WAITING_PER_ADDRESS: Final = 8


@dataclass(frozen=True)
class Waiting:
    """A caller that was put off.

    Attributes
    ----------
    certificate : what it showed on the TLS port; None on the plain one.
    """

    ae_title: str
    address: str
    called_ae_title: str
    certificate: PeerCertificate | None
    first_seen_at_utc: datetime
    last_seen_at_utc: datetime
    attempts: int


class WaitingList:
    """Callers hold the lock of `Admission`."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], Waiting] = {}

    def note(
        self, ae_title: str, address: str, called_ae_title: str, certificate: PeerCertificate | None
    ) -> None:
        """It called once more, or for the first time; dropped where its address has its share already."""
        now = datetime.now(UTC)
        held = self._waiting.get((ae_title, address))
        if held is not None:
            self._waiting[ae_title, address] = replace(
                held,
                called_ae_title=called_ae_title,
                certificate=certificate,
                last_seen_at_utc=now,
                attempts=held.attempts + 1,
            )
        elif self._make_room(address):
            self._waiting[ae_title, address] = Waiting(
                ae_title, address, called_ae_title, certificate, now, now, attempts=1
            )

    def find(self, ae_title: str, address: str) -> Waiting | None:
        return self._waiting.get((ae_title, address))

    def all(self) -> list[Waiting]:
        """The latest caller first."""
        return sorted(self._waiting.values(), key=lambda one: one.last_seen_at_utc, reverse=True)

    def forget(self, is_decided: Callable[[Waiting], bool]) -> None:
        self._waiting = {key: one for key, one in self._waiting.items() if not is_decided(one)}

    def _make_room(self, address: str) -> bool:
        if sum(one.address == address for one in self._waiting.values()) >= MAX_WAITING_PER_ADDRESS:
            return False
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[min(self._waiting, key=lambda key: self._waiting[key].last_seen_at_utc)]
        return True
