"""What the fleet page needs to know of a box, said as protocols: this room does not know the fleet room."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol


class EquipmentView(Protocol):
    """A scanner as a box has seen it."""

    @property
    def ae_title(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def last_store_at_utc(self) -> datetime | None: ...
    @property
    def instances(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def silence(self) -> str: ...
    @property
    def echo_ok(self) -> bool | None: ...


class AlertView(Protocol):
    """What is wrong with a box; `severity`: warning or critical."""

    @property
    def kind(self) -> str: ...
    @property
    def severity(self) -> str: ...
    @property
    def sentence(self) -> str: ...


class EventView(Protocol):
    """Something that happened at a box, by its clock."""

    @property
    def at_utc(self) -> datetime: ...
    @property
    def kind(self) -> str: ...
    @property
    def detail(self) -> str: ...


class CommandView(Protocol):
    """What a box was told. `state`: waiting, sent, done, failed, refused or expired."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def issued_by(self) -> str: ...
    @property
    def issued_at_utc(self) -> datetime: ...
    @property
    def state(self) -> str: ...
    @property
    def detail(self) -> str: ...


class DestinationView(Protocol):
    """Where a box sends beside this central."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def waiting_objects(self) -> int: ...
    @property
    def waiting_bytes(self) -> int | None: ...
    @property
    def set_aside_objects(self) -> int: ...
    @property
    def oldest_at_utc(self) -> datetime | None: ...
    @property
    def last_error(self) -> str: ...


class BoxView(Protocol):
    """A box as central knows it; None where it has not said anything yet. `state`: online, offline, lost, never."""

    @property
    def gateway_id(self) -> str: ...
    @property
    def institution(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def since_utc(self) -> datetime | None: ...
    @property
    def version(self) -> str: ...
    @property
    def queue_objects(self) -> int | None: ...
    @property
    def queue_bytes(self) -> int | None: ...
    @property
    def quarantined_objects(self) -> int | None: ...
    @property
    def oldest_unsent_at_utc(self) -> datetime | None: ...
    @property
    def disk_total_bytes(self) -> int | None: ...
    @property
    def disk_free_bytes(self) -> int | None: ...
    @property
    def accepting(self) -> bool | None: ...
    @property
    def last_telemetry_at_utc(self) -> datetime | None: ...
    @property
    def certificate_expires_at_utc(self) -> datetime | None: ...
    @property
    def revoked(self) -> bool: ...
    @property
    def paused(self) -> bool: ...
    @property
    def hours_to_full(self) -> float | None: ...
    @property
    def temperature_c(self) -> float | None: ...
    @property
    def disk_wear_percent(self) -> int | None: ...
    @property
    def clock_offset_s(self) -> float | None: ...
    @property
    def key_place(self) -> str | None: ...
    @property
    def model(self) -> str: ...
    @property
    def settings(self) -> Mapping[str, object]: ...
    @property
    def settings_refused(self) -> Mapping[str, str]: ...
    @property
    def settings_pending(self) -> bool: ...
    @property
    def equipment(self) -> Sequence[EquipmentView]: ...
    @property
    def destinations(self) -> Sequence[DestinationView]: ...
    @property
    def alerts(self) -> Sequence[AlertView]: ...
    @property
    def events(self) -> Sequence[EventView]: ...
    @property
    def commands(self) -> Sequence[CommandView]: ...


def box_json(box: BoxView) -> dict[str, Any]:
    """One box for the page; times in ISO 8601, sizes in bytes."""
    return {
        "gateway_id": box.gateway_id,
        "institution": box.institution,
        "name": box.name,
        "state": box.state,
        "since_utc": _iso(box.since_utc),
        "version": box.version,
        "queue_objects": box.queue_objects,
        "queue_bytes": box.queue_bytes,
        "quarantined_objects": box.quarantined_objects,
        "oldest_unsent_at_utc": _iso(box.oldest_unsent_at_utc),
        "disk_total_bytes": box.disk_total_bytes,
        "disk_free_bytes": box.disk_free_bytes,
        "accepting": box.accepting,
        "last_telemetry_at_utc": _iso(box.last_telemetry_at_utc),
        "certificate_expires_at_utc": _iso(box.certificate_expires_at_utc),
        "revoked": box.revoked,
        "paused": box.paused,
        "hours_to_full": box.hours_to_full,
        "temperature_c": box.temperature_c,
        "disk_wear_percent": box.disk_wear_percent,
        "clock_offset_s": box.clock_offset_s,
        "key_place": box.key_place,
        "model": box.model,
        "settings": dict(box.settings),
        "settings_refused": dict(box.settings_refused),
        "settings_pending": box.settings_pending,
        "alerts": [
            {"kind": alert.kind, "severity": alert.severity, "sentence": alert.sentence}
            for alert in box.alerts
        ],
        "events": [
            {"at_utc": _iso(event.at_utc), "kind": event.kind, "detail": event.detail} for event in box.events
        ],
        "commands": [
            {
                "id": command.id,
                "kind": command.kind,
                "issued_by": command.issued_by,
                "issued_at_utc": _iso(command.issued_at_utc),
                "state": command.state,
                "detail": command.detail,
            }
            for command in box.commands
        ],
        "equipment": [
            {
                "ae_title": scanner.ae_title,
                "address": scanner.address,
                "last_store_at_utc": _iso(scanner.last_store_at_utc),
                "instances": scanner.instances,
                "rejected": scanner.rejected,
                "silence": scanner.silence,
                "echo_ok": scanner.echo_ok,
            }
            for scanner in box.equipment
        ],
        "destinations": [
            {
                "name": one.name,
                "kind": one.kind,
                "waiting_objects": one.waiting_objects,
                "waiting_bytes": one.waiting_bytes,
                "set_aside_objects": one.set_aside_objects,
                "oldest_at_utc": _iso(one.oldest_at_utc),
                "last_error": one.last_error,
            }
            for one in box.destinations
        ],
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment is not None else None
