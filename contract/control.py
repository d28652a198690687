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
    enrol (EnrolParams) → BoxStatus, requeue (RequeueParams) → QueueList; for who may send, each → ScannerList:
    approve, refuse, remove_scanner (CallerParams), save_scanner (ScannerEntry); studies → StudyList;
    destinations, try_again and give_up (DeliveryParams) → DestinationList; prioritise (PriorityParams) → QueueList;
    pause and resume (of sending to centrals) → BoxStatus."""

    method: Literal[
        "status",
        "queue",
        "scanners",
        "echo",
        "enrol",
        "requeue",
        "approve",
        "refuse",
        "save_scanner",
        "remove_scanner",
        "studies",
        "destinations",
        "try_again",
        "give_up",
        "pause",
        "resume",
        "prioritise",
    ]
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
    renew_at_utc: datetime | None = Field(default=None, description="when the box will renew its certificate")
    key_place: Literal["tpm", "file"] | None = Field(
        default=None, description="where the private key of that certificate lies"
    )
    clock_offset_s: float | None = Field(
        default=None, description="seconds that this machine's clock is ahead of central's"
    )
    enrolment: str = Field(default="", description="what an enrolment waits for; a sentence for a person")
    notice: str = Field(default="", description="what is wrong with keys or identity, and what to do")
    heartbeat_connected: bool = False
    heartbeat_detail: str = ""


class CentralStatus(_Shape):
    """How the box stands with a central beside the first.

    `in_use`: objects go there now; one for fail-over stands by while those before it work.
    """

    name: str
    mode: Literal["copy", "fail-over"]
    in_use: bool
    gateway_id: str | None
    link: LinkStatus


class WorkflowStatus(_Shape):
    """The worklist that modalities are answered from, and what they reported of procedure steps.

    `worklist_source` is "off", "central" or "upstream". An error is a sentence for a person.
    """

    worklist_source: str = "off"
    worklist_items: int = 0
    worklist_refreshed_at_utc: datetime | None = None
    worklist_error: str = ""
    procedures_waiting: int = Field(default=0, description="messages that central does not have yet")
    procedures_refused: int = 0
    procedures_oldest_at_utc: datetime | None = None
    procedures_error: str = ""


class CommitmentStatus(_Shape):
    """Requests for storage commitment, those that ended within the last week included."""

    waiting: int = Field(default=0, description="for images that are not as safe yet as the policy wants")
    unreported: int = Field(default=0, description="decided, and the scanner could not be told yet")
    reported: int = 0
    given_up: int = Field(default=0, description="the scanner could not be told for too long")
    unreported_because: str = Field(
        default="",
        description="why the scanner that was tried last was not told; empty: none was tried in vain",
    )


class DestinationStatus(_Shape):
    """One destination beside central. `last_error`: why it does not go on; empty while it does."""

    name: str
    kind: Literal["", "dimse", "stow", "central"] = Field(
        default="", description="empty where it is not configured any more"
    )
    configured: bool = Field(default=True, description="False: what is owed from an earlier configuration")
    waiting_objects: int = 0
    waiting_bytes: int = 0
    set_aside_objects: int = Field(default=0, description="refused for good; a person has to decide")
    oldest_at_utc: datetime | None = Field(default=None, description="arrival of the oldest that waits")
    last_error: str = ""


class SetAsideEntry(_Shape):
    """An object that a destination did not take. Empty is what is no longer known of it."""

    object_id: str
    destination: str
    reason: str
    attempts: int
    study_instance_uid: str
    calling_ae_title: str
    modality: str


class DestinationList(_Shape):
    """`set_aside` holds the oldest."""

    destinations: list[DestinationStatus]
    set_aside: list[SetAsideEntry]


class DeliveryParams(_Shape):
    """`object_id` None: everything that is open for the destination."""

    destination: str = Field(min_length=1, max_length=32)
    object_id: str | None = Field(default=None, pattern=r"^[0-9a-f]{32}$")


class LostStudyEntry(_Shape):
    """Images that central signed for and lost, and that the box does not have any more: the scanner has to send them.

    `sentence` says so, for a person.
    """

    calling_ae_title: str
    study_instance_uid: str
    instances: int
    first_at_utc: datetime
    last_at_utc: datetime
    sentence: str


class BoxStatus(_Shape):
    gateway_id: str | None
    ae_title: str
    host: str
    port: int
    tls_port: int | None = Field(default=None, description="port for DICOM over TLS; None: off")
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
    hours_to_full: float | None = Field(
        default=None, description="until nothing is taken in any more; None: not soon, or not known yet"
    )
    retained_objects: int = Field(default=0, description="at central, and kept here for a while")
    retained_bytes: int = 0
    scrubbed_at_utc: datetime | None = Field(
        default=None, description="end of the last pass that read every file here to find damage"
    )
    scrubbed_objects: int = Field(default=0, description="files it read")
    scrub_damaged_objects: int = Field(default=0, description="of those, what the disk had damaged or lost")
    memory_bytes: int
    receiving_notice: str = Field(
        default="", description="of receiving processes that died; a sentence for a person"
    )
    link: LinkStatus
    paused: bool = Field(default=False, description="sending to centrals, by a person")
    centrals: list[CentralStatus] = Field(default=[], description="beside the first, which `link` is about")
    destinations: list[DestinationStatus] = Field(default=[], description="beside central")
    lost_studies: list[LostStudyEntry] = Field(
        default=[], description="what central and the box have lost, the oldest first; at most 50"
    )
    workflow: WorkflowStatus | None = None
    commitments: CommitmentStatus | None = None


class StudyEntry(_Shape):
    """How a study stands: "receiving", "complete" (by which evidence), or "reopened" by a late image."""

    study_instance_uid: str
    calling_ae_title: str
    state: str
    evidence: str = Field(
        default="", description="procedure step, association or idle; empty while not complete"
    )
    expected: int | None = Field(default=None, description="instances that its procedure steps counted")
    received: int
    late: int = Field(description="those of `received` that came after the study had first been complete")
    first_at_utc: datetime
    last_at_utc: datetime
    completed_at_utc: datetime | None = None


class StudyList(_Shape):
    """The latest first."""

    studies: list[StudyEntry]


class QueueEntry(_Shape):
    """An object on its way, or one that was not taken: by central ("quarantined"), by a `destination` ("set aside")."""

    object_id: str
    state: str
    destination: str = Field(default="", description="empty: central")
    calling_ae_title: str
    modality: str
    study_instance_uid: str
    size_bytes: int
    stored_bytes: int
    received_at_utc: datetime | None
    attempts: int
    last_error: str = ""
    priority: str = Field(default="routine", description="a word of contract.priority")


class QueueList(_Shape):
    """The oldest entries first; `total` counts all."""

    total: int
    entries: list[QueueEntry]


class ScannerEntry(_Shape):
    """A scanner that may send, as the configuration's ``[[scanners]]`` has it; the box checks the values."""

    ae_title: str = Field(max_length=16)
    name: str = Field(default="", max_length=64)
    addresses: list[str] = Field(default=[], max_length=32)
    called_ae_titles: list[str] = Field(default=[], max_length=32)
    tls: str = "allowed"
    certificate_sha256: str = ""
    quirks: str | None = None
    host: str = Field(default="", max_length=253)
    port: int = 104
    call_over: str = "auto"


class KnownScanner(_Shape):
    """A scanner that may send, that waits for approval, that was refused, or that called at some time.

    `entry` is what holds for it, where it may send. `note` says what a technician should know about it.
    """

    ae_title: str
    address: str
    standing: Literal["configured", "approved", "waiting", "refused", "unlisted"] = "unlisted"
    entry: ScannerEntry | None = None
    echo_host: str | None = None
    echo_port: int | None = None
    seen: Equipment | None = None
    last_error: str = ""
    note: str = ""
    attempts: int = Field(default=0, description="of one that waits")
    last_attempt_at_utc: datetime | None = None
    called_ae_title: str = ""
    certificate: str = Field(
        default="", description="subject of the certificate that it showed last, over TLS"
    )
    certificate_sha256: str = ""


class ScannerList(_Shape):
    """Those that wait first, then those that may send, then the rest.

    `unknown` is what a scanner gets that is not listed; `profiles` are the names an entry's quirks may have.
    """

    scanners: list[KnownScanner]
    unknown: Literal["accept", "refuse", "hold"] = "accept"
    warning: str = ""
    profiles: list[str] = []


class CallerParams(_Shape):
    """`address` empty: the approved scanner of that AE title, wherever it calls from."""

    ae_title: str = Field(min_length=1, max_length=16)
    address: str = Field(default="", max_length=64)


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
    central: str = Field(default="central", max_length=32, description="the name by which the box knows it")


class PriorityParams(_Shape):
    """`priority`: first, stat, high, routine or low; it holds for what comes of the study later, too."""

    study_instance_uid: str = Field(pattern=r"^[0-9.]{1,64}$")
    priority: str = Field(max_length=16)


class RequeueParams(_Shape):
    destination: str = Field(default="", max_length=32, description="empty: central")
    object_id: str = Field(pattern=r"^[0-9a-f]{32}$")
