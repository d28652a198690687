"""What the fleet page shows of a box."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from central.fleet.commands import GivenCommand
from central.fleet.events import HeardEvent
from contract.command import SettingValue

BoxCondition = Literal["online", "offline", "lost", "never"]


@dataclass(frozen=True)
class EquipmentView:
    """A scanner, as its box has seen it."""

    ae_title: str
    address: str
    last_store_at_utc: datetime | None
    instances: int
    rejected: int
    silence: str = "learning"
    echo_ok: bool | None = None
    echo_at_utc: datetime | None = None


@dataclass(frozen=True)
class DestinationView:
    """Where a box sends beside this central, as it last said. `waiting_bytes` None: it is too old to say."""

    name: str
    kind: str
    waiting_objects: int
    waiting_bytes: int | None
    set_aside_objects: int
    oldest_at_utc: datetime | None
    last_error: str


Severity = Literal["warning", "critical"]


@dataclass(frozen=True)
class Alert:
    """What is wrong with a box. `kind` is stable, for programs; `sentence` is for a person."""

    kind: str
    severity: Severity
    sentence: str


@dataclass(frozen=True)
class BoxView:
    """One box. `since_utc` says since when it is in `state`. Numbers are None until the first telemetry came.

    "lost": its last will came, or nothing was heard for `contract.heartbeat.LOST_AFTER_S`; "never": enrolled,
    and not heard of since. `oldest_unsent_at_utc` None: nothing waits. `key_place`: where the key of its certificate
    lies; None: it has not said.
    """

    gateway_id: str
    name: str
    state: BoxCondition
    since_utc: datetime | None
    version: str
    queue_objects: int | None
    queue_bytes: int | None
    quarantined_objects: int | None
    oldest_unsent_at_utc: datetime | None
    disk_total_bytes: int | None
    disk_free_bytes: int | None
    accepting: bool | None
    last_telemetry_at_utc: datetime | None
    certificate_expires_at_utc: datetime | None
    revoked: bool
    equipment: tuple[EquipmentView, ...]
    destinations: tuple[DestinationView, ...] = ()
    twin: bool = False
    contradicts_audit: bool = False
    over_quota: bool = False
    paused: bool = False
    hours_to_full: float | None = None
    disk_wear_percent: int | None = None
    temperature_c: float | None = None
    memory_available_bytes: int | None = None
    clock_offset_s: float | None = None
    key_place: Literal["tpm", "file"] | None = None
    model: str = ""
    settings: Mapping[str, SettingValue] = field(default_factory=dict)
    settings_refused: Mapping[str, str] = field(default_factory=dict)
    settings_pending: bool = False
    events: tuple[HeardEvent, ...] = ()
    commands: tuple[GivenCommand, ...] = ()
    alerts: tuple[Alert, ...] = ()
    institution: str = ""
