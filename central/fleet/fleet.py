"""The fleet: which boxes there are, how each is, and what is wrong with it.

A box is shown lost when its last will says so, and also when nothing was heard of it for `LOST_AFTER_S`,
unless central itself does not hear: while the broker is away nobody who speaks over it is declared lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version as installed_version
from typing import Final, Literal, Protocol

from central.fleet.alerts import alerts
from central.fleet.commands import Commands
from central.fleet.desired import DesiredSettings
from central.fleet.events import Events
from central.fleet.heartbeats import BoxHeartbeat, Heartbeats
from central.fleet.view import BoxCondition, BoxView, DestinationView, EquipmentView
from central.fleet.witnesses import Witnesses
from central.identity.gateways import GatewayRecord, Gateways
from contract.heartbeat import LOST_AFTER_S, BoxState

BrokerState = Literal["connected", "away", "none"]
VERSION: Final = installed_version("dicomnet")
_EVENTS_SHOWN: Final = 10
_COMMANDS_SHOWN: Final = 5


class Ear(Protocol):
    """The broker's listener, as far as it matters here."""

    def connected_for_s(self) -> float | None: ...


class Fleet:
    """Puts together what the other modules keep. `listener` None: no broker is configured.

    Parameters
    ----------
    https_heard_at : when a box last spoke over HTTPS, by id.
    over_quota : whether central takes no more from a box for now, by id.
    """

    def __init__(
        self,
        gateways: Gateways,
        heartbeats: Heartbeats,
        events: Events,
        commands: Commands,
        desired: DesiredSettings,
        witnesses: Witnesses,
        listener: Ear | None,
        https_heard_at: Callable[[str], datetime | None],
        over_quota: Callable[[str], bool],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._gateways = gateways
        self._heartbeats = heartbeats
        self._events = events
        self._commands = commands
        self._desired = desired
        self._witnesses = witnesses
        self._listener = listener
        self._https_heard_at = https_heard_at
        self._over_quota = over_quota
        self._clock = clock
        self._began_s = time.monotonic()

    def broker_state(self) -> BrokerState:
        if self._listener is None:
            return "none"
        return "away" if self._listener.connected_for_s() is None else "connected"

    def boxes(
        self, institution: str | None = None, gateway_ids: Sequence[str] | None = None
    ) -> list[BoxView]:
        """Enrolled boxes by id: every one, or an institution's, or those with these ids."""
        return [self._view(record) for record in self._gateways.listed(institution, gateway_ids)]

    def _silence_counts(self, gateway_id: str) -> bool:
        """Whether central would have heard the box if it had spoken."""
        if self._listener is None or self._https_heard_at(gateway_id) is not None:
            return time.monotonic() - self._began_s >= LOST_AFTER_S
        heard_for_s = self._listener.connected_for_s()
        return heard_for_s is not None and heard_for_s >= LOST_AFTER_S

    def _view(self, record: GatewayRecord) -> BoxView:
        gateway_id, now = record.gateway_id, self._clock()
        heartbeat = self._heartbeats.of(gateway_id)
        counts = self._silence_counts(gateway_id)
        state, since_utc = _condition(heartbeat, now, silence_counts=counts)
        telemetry, reported = heartbeat.telemetry, heartbeat.reported
        desired = self._desired.of(gateway_id)
        view = BoxView(
            gateway_id=gateway_id,
            institution=record.institution,
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
            twin=self._heartbeats.has_twin(gateway_id),
            contradicts_audit=self._witnesses.contradicts(gateway_id, heartbeat.witnessed),
            over_quota=self._over_quota(gateway_id),
            paused=telemetry is not None and telemetry.paused,
            hours_to_full=telemetry.hours_to_full if telemetry else None,
            disk_wear_percent=telemetry.disk_wear_percent if telemetry else None,
            temperature_c=telemetry.temperature_c if telemetry else None,
            memory_available_bytes=telemetry.memory_available_bytes if telemetry else None,
            clock_offset_s=_clock_offset_s(heartbeat),
            key_place=telemetry.key_place if telemetry else None,
            model=heartbeat.info.model if heartbeat.info else "",
            settings=reported.settings if reported else {},
            settings_refused=reported.refused if reported else {},
            settings_pending=desired is not None and desired.version > (reported.version if reported else 0),
            equipment=tuple(
                EquipmentView(
                    seen.ae_title,
                    seen.address,
                    seen.last_store_at_utc,
                    seen.instances,
                    seen.rejected,
                    seen.silence,
                    seen.echo.ok if seen.echo else None,
                    seen.echo.at_utc if seen.echo else None,
                )
                for seen in heartbeat.equipment
            ),
            destinations=tuple(
                DestinationView(
                    one.name,
                    one.kind,
                    one.waiting_objects,
                    one.waiting_bytes,
                    one.set_aside_objects,
                    one.oldest_at_utc,
                    one.last_error,
                )
                for one in (telemetry.destinations if telemetry else ())
            ),
            events=tuple(self._events.last(gateway_id, _EVENTS_SHOWN)),
            commands=tuple(self._commands.last(gateway_id, _COMMANDS_SHOWN)),
        )
        return replace(view, alerts=alerts(view, now, central_version=VERSION))


def _clock_offset_s(heartbeat: BoxHeartbeat) -> float | None:
    """The box's clock minus ours: as the box measured it, else as its last telemetry shows, on the way included."""
    telemetry, heard_at_utc = heartbeat.telemetry, heartbeat.telemetry_heard_at_utc
    if telemetry is None or heard_at_utc is None:
        return None
    if telemetry.clock_offset_s is not None:
        return telemetry.clock_offset_s
    return (telemetry.captured_at_utc - heard_at_utc).total_seconds()


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
