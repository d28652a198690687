"""What ends a gateway's live sessions when it is revoked; said as a protocol, for this room does not know the fleet."""

from __future__ import annotations

from typing import Protocol


class LiveSessions(Protocol):
    """The broker, as far as a revocation needs it. Uploads need nothing: every request is checked anew."""

    def kick(self, gateway_id: str) -> None:
        """End the gateway's session at the broker now, if it has one, and let it in no more.

        Raises
        ------
        OSError : the broker cannot be told; the text says why. The gateway is revoked none the less.
        """
