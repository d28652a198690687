"""What the fleet page shows of a box."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

BoxCondition = Literal["online", "offline", "lost", "never"]


@dataclass(frozen=True)
class EquipmentView:
    """A scanner, as its box has seen it."""

    ae_title: str
    address: str
    last_store_at_utc: datetime | None
    instances: int
    rejected: int


@dataclass(frozen=True)
class BoxView:
    """One box. `since_utc` says since when it is in `state`. Numbers are None until the first telemetry came.

    "lost": its last will came, or nothing was heard for `contract.heartbeat.LOST_AFTER_S`; "never": enrolled,
    and not heard of since. `oldest_unsent_at_utc` None: nothing waits.
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
