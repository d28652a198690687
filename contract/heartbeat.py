"""What a box says of itself over MQTT, and where. No patient data in any topic or payload, ever.

    dicomnet/v1/<gateway id>/up/status              retained, QoS 1; also the last will
    dicomnet/v1/<gateway id>/up/telemetry           retained, QoS 1, every `TELEMETRY_INTERVAL_S`
    dicomnet/v1/<gateway id>/up/equipment/<key>     retained, QoS 1, one topic a scanner

`<key>` is `equipment_key`: AE titles may hold characters that a topic may not. A box may write below its own
`up/` only (the broker's ACL). JSON, UTF-8; readers ignore fields they do not know. docs/formats/heartbeat.md.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

TOPIC_ROOT: Final = "dicomnet/v1"
TELEMETRY_INTERVAL_S: Final = 15.0
LOST_AFTER_S: Final = 3 * TELEMETRY_INTERVAL_S
MAX_PAYLOAD_BYTES: Final = 16_384


class BoxState(StrEnum):
    """`OFFLINE` is said by the box when it stops in order; `LOST` by the broker, as its last will."""

    ONLINE = "online"
    OFFLINE = "offline"
    LOST = "lost"


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Status(_Message):
    """`session` is new at every connection: a will of an older session cannot mark a newer one lost."""

    state: BoxState
    session: str = Field(pattern=r"^[0-9a-f]{16}$")
    since_utc: datetime
    version: str = Field(max_length=32)


class Telemetry(_Message):
    captured_at_utc: datetime
    queue_objects: int = Field(ge=0, description="acknowledged to a scanner, not yet receipted by central")
    queue_bytes: int = Field(ge=0)
    quarantined_objects: int = Field(ge=0)
    oldest_unsent_at_utc: datetime | None = None
    disk_total_bytes: int = Field(ge=0)
    disk_free_bytes: int = Field(ge=0)
    accepting: bool = Field(description="False: the disk reserve is reached, scanners are answered 0xA700")
    memory_bytes: int = Field(ge=0, description="resident set of the gateway process")
    uptime_s: float = Field(ge=0)
    certificate_expires_at_utc: datetime | None = None


class Equipment(_Message):
    """One scanner, as the box has seen it."""

    ae_title: str = Field(max_length=16)
    address: str = Field(max_length=64)
    first_seen_at_utc: datetime
    last_store_at_utc: datetime | None = None
    instances: int = Field(ge=0)
    rejected: int = Field(ge=0)


def equipment_key(ae_title: str, address: str) -> str:
    """16 hex digits that name a scanner in a topic."""
    return hashlib.sha256(f"{ae_title}\0{address}".encode()).hexdigest()[:16]


def status_topic(gateway_id: str) -> str:
    return f"{TOPIC_ROOT}/{gateway_id}/up/status"


def telemetry_topic(gateway_id: str) -> str:
    return f"{TOPIC_ROOT}/{gateway_id}/up/telemetry"


def equipment_topic(gateway_id: str, key: str) -> str:
    return f"{TOPIC_ROOT}/{gateway_id}/up/equipment/{key}"
