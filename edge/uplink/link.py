"""How the box stands with central, kept in one place for whoever asks.

Written by the forwarder and the heartbeat, read by the control socket; every change is one assignment of a
frozen value under a lock, so a reader never sees half a change. Nothing here is durable: after a restart the
link is what the next attempt finds.
"""

from __future__ import annotations

import threading
from datetime import datetime

from contract.control import LinkStatus

NOT_ENROLLED = "Not enrolled: paste the pairing string that central shows (Fleet, Add a box)."


class Link:
    """Thread-safe holder of one `LinkStatus`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status = LinkStatus(state="not-enrolled", detail=NOT_ENROLLED)

    def status(self) -> LinkStatus:
        return self._status

    def not_enrolled(self, detail: str) -> None:
        """There is no usable identity, for the reason given."""
        self._change(state="not-enrolled", detail=detail)

    def enrolled(self, central: str, certificate_expires_at_utc: datetime) -> None:
        """An identity is in use from now on; nothing is known yet of whether it is accepted. A renewed one of the
        same central leaves the link as it is: nothing may be on its way that would tell."""
        if self._status.state == "connected" and self._status.central == central:
            self._change(certificate_expires_at_utc=certificate_expires_at_utc)
            return
        self._change(
            state="connecting",
            central=central,
            detail=f"Connecting to {central}.",
            certificate_expires_at_utc=certificate_expires_at_utc,
        )

    def connected(self) -> None:
        if self._status.state != "connected":
            self._change(state="connected", detail="")

    def waiting(self, detail: str) -> None:
        """Central cannot be had just now. Receiving goes on, and it is tried again without anybody's help."""
        self._change(state="waiting", detail=detail)

    def refused(self, detail: str) -> None:
        """Central was reached and will not have this box until a person does something."""
        self._change(state="refused", detail=detail)

    def receipted(self, at_utc: datetime) -> None:
        self._change(state="connected", detail="", last_receipt_at_utc=at_utc)

    def heartbeat(self, *, connected: bool, detail: str = "") -> None:
        """Whether central hears from this box; `detail` says why not, and what to do."""
        self._change(heartbeat_connected=connected, heartbeat_detail=detail)

    def enrolment(self, detail: str) -> None:
        """What an enrolment waits for; "" when none is under way."""
        self._change(enrolment=detail)

    def standing(self, **changes: datetime | float | str | None) -> None:
        """What the upkeep found: `renew_at_utc`, `key_place`, `clock_offset_s`, `notice`."""
        self._change(**changes)

    def _change(self, **changes: object) -> None:
        with self._lock:
            self._status = self._status.model_copy(update=changes)
