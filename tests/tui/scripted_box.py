"""A box for tests of the terminal UI: the real control socket over answers that a test decides."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contract.control import (
    BoxStatus,
    EchoAnswer,
    EchoParams,
    EnrolParams,
    KnownScanner,
    LinkStatus,
    QueueEntry,
    QueueList,
    RequeueParams,
    ScannerList,
)
from contract.heartbeat import Equipment
from edge.control import ControlError, ControlServer

NOW = datetime.now(UTC)

CONNECTED = LinkStatus(
    state="connected",
    central="https://central.hospital.example:8443",
    last_receipt_at_utc=NOW - timedelta(seconds=12),
    certificate_expires_at_utc=NOW + timedelta(days=58, hours=1),
    heartbeat_connected=True,
)


def status(**changes: object) -> BoxStatus:
    well = BoxStatus(
        gateway_id="gw-ct2",
        ae_title="DICOMNET",
        host="0.0.0.0",
        port=11112,
        version="0.1.0",
        pid=4711,
        started_at_utc=NOW - timedelta(hours=3),
        accepting=True,
        queue_objects=12,
        queue_bytes=34_000_000,
        quarantined_objects=1,
        oldest_unsent_at_utc=NOW - timedelta(minutes=4),
        received_objects=1234,
        disk_total_bytes=200 << 30,
        disk_free_bytes=120 << 30,
        memory_bytes=83 << 20,
        link=CONNECTED,
    )
    return well.model_copy(update=changes)


def entry(number: int, state: str = "ready", error: str = "") -> QueueEntry:
    return QueueEntry(
        object_id=f"{number:032x}",
        state=state,
        calling_ae_title="CT_SOMATOM_XCITE",
        modality="CT",
        study_instance_uid="1.3.12.2.1107.5.1.4.73104.30000019120408253517100000012.999",
        size_bytes=525_000,
        stored_bytes=262_144,
        received_at_utc=NOW - timedelta(minutes=number),
        attempts=number,
        last_error=error,
    )


WELL = EchoAnswer(ok=True, round_trip_ms=12.3, detail="CT1 answered")


@dataclass
class ScriptedBox:
    """Its fields are what it answers; calls that change something are noted."""

    path: Path
    status: BoxStatus = field(default_factory=status)
    entries: list[QueueEntry] = field(default_factory=list)
    total: int | None = None
    scanners: list[KnownScanner] = field(default_factory=list)
    echo_answer: EchoAnswer = WELL
    enrol_error: str = ""
    echoed: list[EchoParams] = field(default_factory=list)
    enrolled: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)  # cleared: echo waits

    def __post_init__(self) -> None:
        self.hold.set()
        self._server: ControlServer | None = None

    def start(self) -> ScriptedBox:
        self._server = ControlServer(
            self.path,
            {
                "status": lambda _: self.status,
                "queue": lambda _: self._queue(),
                "scanners": lambda _: ScannerList(scanners=self.scanners),
                "echo": self._echo,
                "enrol": self._enrol,
                "requeue": self._requeue,
            },
        )
        self._server.start()
        return self

    def stop(self) -> None:
        self.hold.set()
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _queue(self) -> QueueList:
        return QueueList(total=len(self.entries) if self.total is None else self.total, entries=self.entries)

    def _echo(self, params: dict[str, object]) -> EchoAnswer:
        self.echoed.append(EchoParams.model_validate(params))
        self.hold.wait(20)
        return self.echo_answer

    def _enrol(self, params: dict[str, object]) -> BoxStatus:
        self.enrolled.append(EnrolParams.model_validate(params).pairing)
        if self.enrol_error:
            raise ControlError(self.enrol_error)
        self.status = status()
        return self.status

    def _requeue(self, params: dict[str, object]) -> QueueList:
        object_id = RequeueParams.model_validate(params).object_id
        self.requeued.append(object_id)
        self.entries = [
            one.model_copy(update={"state": "ready", "last_error": ""}) if one.object_id == object_id else one
            for one in self.entries
        ]
        return self._queue()


def scanner(ae_title: str, address: str, *, port: int | None = None, rejected: int = 0) -> KnownScanner:
    return KnownScanner(
        ae_title=ae_title,
        address=address,
        echo_host=address if port else None,
        echo_port=port,
        seen=Equipment(
            ae_title=ae_title,
            address=address,
            first_seen_at_utc=NOW - timedelta(days=3),
            last_store_at_utc=NOW - timedelta(minutes=2),
            instances=98765,
            rejected=rejected,
        ),
        last_error="called AE title WRONG is not this box's" if rejected else "",
    )
