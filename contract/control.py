"""The gateway's local control socket: what the terminal UI and scripts say to a running box.

A Unix stream socket of mode 0600. One JSON object a line, at most `MAX_LINE_BYTES`; one answer a request, in
order. `{"method": "status", "params": {}}` → `{"result": {...}}` or `{"error": "<a sentence for a person>"}`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from contract.heartbeat import Equipment

MAX_LINE_BYTES: Final = 1 << 20


class _Shape(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Request(_Shape):
    """Methods: status → BoxStatus, queue → QueueList, scanners → ScannerList, echo (EchoParams) → EchoAnswer,
    enrol (EnrolParams) → BoxStatus, requeue (RequeueParams) → QueueList."""

    method: Literal["status", "queue", "scanners", "echo", "enrol", "requeue"]
    params: dict[str, object] = Field(default_factory=dict)


class Answer(_Shape):
    result: dict[str, object] | None = None
    error: str | None = None


class LinkStatus(_Shape):
    """How the box stands with central. `detail` is a sentence that says what to do when it is not well."""

    state: Literal["not-enrolled", "connecting", "connected", "waiting", "refused"]
    central: str | None = None
    detail: str = ""
    last_receipt_at_utc: datetime | None = None
    certificate_expires_at_utc: datetime | None = None
    heartbeat_connected: bool = False


class BoxStatus(_Shape):
    gateway_id: str | None
    ae_title: str
    host: str
    port: int
    version: str
    pid: int
    started_at_utc: datetime
    accepting: bool
    not_accepting_because: str = ""
    queue_objects: int
    queue_bytes: int
    quarantined_objects: int
    oldest_unsent_at_utc: datetime | None = None
    received_objects: int = Field(description="acknowledged to scanners since this process started")
    disk_total_bytes: int
    disk_free_bytes: int
    memory_bytes: int
    link: LinkStatus


class QueueEntry(_Shape):
    object_id: str
    state: str
    calling_ae_title: str
    modality: str
    study_instance_uid: str
    size_bytes: int
    stored_bytes: int
    received_at_utc: datetime
    attempts: int
    last_error: str = ""


class QueueList(_Shape):
    """The oldest entries first; `total` counts all."""

    total: int
    entries: list[QueueEntry]


class KnownScanner(_Shape):
    """A scanner from the configuration, seen or not, or one that called without being configured."""

    ae_title: str
    address: str
    echo_host: str | None = None
    echo_port: int | None = None
    seen: Equipment | None = None
    last_error: str = ""


class ScannerList(_Shape):
    scanners: list[KnownScanner]


class EchoParams(_Shape):
    host: str = Field(min_length=1, max_length=253)
    port: int = Field(gt=0, lt=65536)
    ae_title: str = Field(min_length=1, max_length=16)


class EchoAnswer(_Shape):
    ok: bool
    round_trip_ms: float | None = None
    detail: str


class EnrolParams(_Shape):
    pairing: str = Field(max_length=512)


class RequeueParams(_Shape):
    object_id: str = Field(pattern=r"^[0-9a-f]{32}$")
