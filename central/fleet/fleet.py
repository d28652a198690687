"""The fleet: which boxes there are, and how each is.

A box is shown lost when its last will says so, and also when nothing was heard of it for `LOST_AFTER_S`,
unless central itself does not hear: while the broker is away nobody is declared lost.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Literal

from central.fleet.heartbeats import BoxHeartbeat, Heartbeats
from central.fleet.listener import BrokerListener
from central.fleet.view import BoxCondition, BoxView, EquipmentView
from central.identity.gateways import GatewayRecord, Gateways
from contract.heartbeat import LOST_AFTER_S, BoxState

BrokerState = Literal["connected", "away", "none"]


class Fleet:
    """Puts the register and the heartbeats together. `listener` None: no broker is configured."""

    def __init__(
        self,
        gateways: Gateways,
        heartbeats: Heartbeats,
        listener: BrokerListener | None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._gateways = gateways
        self._heartbeats = heartbeats
        self._listener = listener
        self._clock = clock

    def broker_state(self) -> BrokerState:
        if self._listener is None:
            return "none"
        return "away" if self._listener.connected_for_s() is None else "connected"

    def boxes(self) -> list[BoxView]:
        """Every enrolled box, by id."""
        heard_for_s = self._listener.connected_for_s() if self._listener else None
        can_tell = heard_for_s is not None and heard_for_s >= LOST_AFTER_S
        return [
            _view(record, self._heartbeats.of(record.gateway_id), self._clock(), silence_counts=can_tell)
            for record in self._gateways.listed()
        ]


def _view(record: GatewayRecord, heartbeat: BoxHeartbeat, now: datetime, *, silence_counts: bool) -> BoxView:
    state, since_utc = _condition(heartbeat, now, silence_counts=silence_counts)
    telemetry = heartbeat.telemetry
    return BoxView(
        gateway_id=record.gateway_id,
        name=record.name,
        state=state,
        since_utc=since_utc,
        version=heartbeat.status.version if heartbeat.status else "",
        queue_objects=telemetry.queue_objects if telemetry else None,
        queue_bytes=telemetry.queue_bytes if telemetry else None,
        quarantined_objects=telemetry.quarantined_objects if telemetry else None,
        oldest_unsent_at_utc=telemetry.oldest_unsent_at_utc if telemetry else None,
        disk_total_bytes=telemetry.disk_total_bytes if telemetry else None,
        disk_free_bytes=telemetry.disk_free_bytes if telemetry else None,
        accepting=telemetry.accepting if telemetry else None,
        last_telemetry_at_utc=heartbeat.telemetry_heard_at_utc,
        certificate_expires_at_utc=record.certificate_expires_at_utc,
        revoked=record.revoked_at_utc is not None,
        equipment=tuple(
            EquipmentView(seen.ae_title, seen.address, seen.last_store_at_utc, seen.instances, seen.rejected)
            for seen in heartbeat.equipment
        ),
    )


def _condition(
    heartbeat: BoxHeartbeat, now: datetime, *, silence_counts: bool
) -> tuple[BoxCondition, datetime | None]:
    status = heartbeat.status
    if status is None:
        return "never", None
    heard = [at for at in (heartbeat.status_heard_at_utc, heartbeat.telemetry_heard_at_utc) if at is not None]
    if status.state is BoxState.ONLINE:
        last_heard = max(heard)
        if silence_counts and (now - last_heard).total_seconds() > LOST_AFTER_S:
            return "lost", last_heard
        return "online", status.since_utc
    if status.state is BoxState.LOST:
        # A will was written when the connection began; when it was heard is when the box was lost.
        return "lost", max(heard)
    return "offline", status.since_utc
