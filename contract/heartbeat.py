"""What a box says of itself, and where. No patient data in any topic or payload, ever.

    dicomnet/v1/<gateway id>/up/status              retained; also the last will
    dicomnet/v1/<gateway id>/up/info                retained: what kind of box it is
    dicomnet/v1/<gateway id>/up/telemetry           retained, every `TELEMETRY_INTERVAL_S`
    dicomnet/v1/<gateway id>/up/equipment/<key>     retained, one topic a scanner
    dicomnet/v1/<gateway id>/up/reported            retained (contract.command)
    dicomnet/v1/<gateway id>/up/event               not retained: kept by the box until central has heard it

All with QoS 1. `<key>` is `equipment_key`: AE titles may hold characters that a topic may not. A box may write
below its own `up/` and read below its own `down/` only (the broker's ACL). Where only HTTPS leaves the building,
`Letter`s carry the same messages over the upload connection. JSON, UTF-8; readers ignore members they do not
know. docs/formats/heartbeat.md.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue

TOPIC_ROOT: Final = "dicomnet/v1"
TELEMETRY_INTERVAL_S: Final = 15.0
LOST_AFTER_S: Final = 3 * TELEMETRY_INTERVAL_S
MAX_PAYLOAD_BYTES: Final = 16_384
HEARTBEAT_PATH: Final = "/ingest/v1/heartbeat"  # POST Post → Post, with the box's certificate
MAX_POST_BYTES: Final = 262_144
MAX_POST_LETTERS: Final = 64
MAX_DESTINATIONS: Final = 32

STATUS: Final = "status"
INFO: Final = "info"
TELEMETRY: Final = "telemetry"
EQUIPMENT: Final = "equipment/"
REPORTED: Final = "reported"
EVENT: Final = "event"

Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]


class BoxState(StrEnum):
    """`OFFLINE` is said by the box when it stops in order; `LOST` by the broker, as its last will."""

    ONLINE = "online"
    OFFLINE = "offline"
    LOST = "lost"


class Message(BaseModel):
    """Base of all that crosses here: frozen; members a reader does not know are ignored.

    Times have a zone and numbers are finite, so that nothing a box says can trip who computes with it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class Status(Message):
    """Which session of which run speaks. `boot` and `connection` order sessions without trusting a clock.

    `session` is new at every connection: a will of an older session cannot mark a newer one lost. `run` is new
    at every start of the program: two that take turns are two boxes with one identity.
    """

    state: BoxState
    session: Hex16
    since_utc: AwareDatetime
    version: str = Field(max_length=32)
    run: Hex16 = "0" * 16
    boot: int = Field(default=0, ge=0, description="starts of the program, counted durably")
    connection: int = Field(default=0, ge=0, description="connections in this run, from 1")

    def is_older_than(self, other: Status) -> bool:
        """Whether `other` is of a later session; by clock only where either does not count its boots."""
        if self.boot and other.boot:
            return (self.boot, self.connection) < (other.boot, other.connection)
        return self.session != other.session and self.since_utc <= other.since_utc


class Info(Message):
    """What does not change while the program runs."""

    version: str = Field(max_length=32)
    ae_title: str = Field(max_length=16)
    dicom_port: int = Field(ge=0, le=65535)
    started_at_utc: AwareDatetime
    model: str = Field(default="", max_length=128, description="of the machine, as its firmware says")
    system: str = Field(default="", max_length=128, description="operating system and kernel")
    architecture: str = Field(default="", max_length=32)
    processors: int = Field(default=0, ge=0)
    memory_bytes: int = Field(default=0, ge=0, description="of the machine")


class DestinationHealth(Message):
    """How a box stands with one destination beside the central that hears this. `last_error`: why it does not go on.

    `kind` is text, so that a reader can pass over what a newer box sends to; empty where it is configured no longer.
    """

    name: str = Field(max_length=32)
    kind: str = Field(default="", max_length=16, description="dimse, stow or central")
    waiting_objects: int = Field(ge=0)
    waiting_bytes: int | None = Field(default=None, ge=0, description="sealed; None from an older box")
    set_aside_objects: int = Field(ge=0, description="refused for good; a person has to decide")
    oldest_at_utc: AwareDatetime | None = Field(default=None, description="arrival of the oldest that waits")
    last_error: str = Field(default="", max_length=160)


class Telemetry(Message):
    captured_at_utc: AwareDatetime
    queue_objects: int = Field(ge=0, description="acknowledged to a scanner, not yet receipted by central")
    queue_bytes: int = Field(ge=0)
    quarantined_objects: int = Field(ge=0)
    oldest_unsent_at_utc: AwareDatetime | None = None
    disk_total_bytes: int = Field(ge=0)
    disk_free_bytes: int = Field(ge=0)
    accepting: bool = Field(description="False: the disk reserve is reached, scanners are answered 0xA700")
    memory_bytes: int = Field(ge=0, description="resident set of the gateway process")
    uptime_s: float = Field(ge=0)
    certificate_expires_at_utc: AwareDatetime | None = None
    key_place: Literal["tpm", "file"] | None = Field(
        default=None, description="where the certificate's private key lies"
    )
    paused: bool = Field(default=False, description="sending was paused by somebody")
    hours_to_full: float | None = Field(
        default=None,
        ge=0,
        description="until the disk reserve is reached at the pace of late; None: not soon",
    )
    disk_wear_percent: int | None = Field(default=None, ge=0, le=100, description="where the disk tells")
    temperature_c: float | None = Field(default=None, description="the hottest sensor of the machine")
    memory_available_bytes: int | None = Field(default=None, ge=0, description="of the machine")
    clock_offset_s: float | None = Field(default=None, description="this box's clock minus central's")
    destinations: tuple[DestinationHealth, ...] = Field(
        default=(), max_length=MAX_DESTINATIONS, description="beside central"
    )


class Echo(Message):
    """Outcome of the last C-ECHO to a configured scanner."""

    at_utc: AwareDatetime
    ok: bool
    round_trip_ms: float | None = None


Silence = Literal["learning", "usual", "silent"]


class Equipment(Message):
    """One scanner, as the box has seen it. `first_seen_at_utc` None: configured, and never called.

    `silence` compares with the scanner's own week: "silent" when so long a pause has at most one chance in a
    thousand, "learning" until two weeks are known.
    """

    ae_title: str = Field(max_length=16)
    address: str = Field(max_length=253)
    first_seen_at_utc: AwareDatetime | None = None
    last_store_at_utc: AwareDatetime | None = None
    instances: int = Field(ge=0)
    rejected: int = Field(ge=0)
    echo: Echo | None = None
    silence: Silence = "learning"


class EventKind(StrEnum):
    """What a box of this version tells."""

    STARTED = "started"
    STOPPED_ACCEPTING = "stopped-accepting"
    ACCEPTING = "accepting"
    QUARANTINED = "quarantined"
    SCANNER_SILENT = "scanner-silent"
    SCANNER_BACK = "scanner-back"
    TWIN = "twin"
    CENTRAL_SET_BACK = "central-set-back"
    RECEIVER_ENDED = "receiver-ended"
    SETTINGS = "settings"
    COMMAND = "command"


class Outcome(StrEnum):
    """What became of a command: `REFUSED` was not tried (expired, unknown, busy)."""

    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"


class CommandAnswer(Message):
    """`command_id` is the correlation id of contract.command.Command."""

    command_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    outcome: Outcome


class Event(Message):
    """Something that happened once. `number` counts up in a `stream`, which is new when a box lost its outbox.

    `after` is the number of the event before it that the box still keeps, 0 if it is the oldest: central takes
    an event only if it has that one, so none falls out on the way unnoticed.
    """

    stream: Hex16
    number: int = Field(ge=1)
    after: int = Field(default=0, ge=0)
    at_utc: AwareDatetime
    kind: str = Field(max_length=32, description="one of EventKind, or of a later version")
    detail: str = Field(max_length=300)
    answer: CommandAnswer | None = Field(default=None, description="for the kind `command`")


class Letter(Message):
    """One message on HTTPS: `below` is its topic below ``up/`` or ``down/``."""

    below: str = Field(max_length=64)
    payload: JsonValue


class Post(Message):
    """What one request, or its answer, carries."""

    letters: tuple[Letter, ...] = Field(max_length=MAX_POST_LETTERS)


def equipment_key(ae_title: str, address: str) -> str:
    """16 hex digits that name a scanner in a topic."""
    return hashlib.sha256(f"{ae_title}\0{address}".encode()).hexdigest()[:16]


def up_topic(gateway_id: str, below: str) -> str:
    """Where a box speaks."""
    return f"{TOPIC_ROOT}/{gateway_id}/up/{below}"


def down_topic(gateway_id: str, below: str) -> str:
    """Where a box is spoken to."""
    return f"{TOPIC_ROOT}/{gateway_id}/down/{below}"


def status_topic(gateway_id: str) -> str:
    return up_topic(gateway_id, STATUS)


def telemetry_topic(gateway_id: str) -> str:
    return up_topic(gateway_id, TELEMETRY)


def equipment_topic(gateway_id: str, key: str) -> str:
    return up_topic(gateway_id, EQUIPMENT + key)
