"""A box for tests of the terminal UI: the real control socket over answers that a test decides."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from contract.control import (
    BoxStatus,
    CallerParams,
    EchoAnswer,
    EchoParams,
    EnrolParams,
    KnownScanner,
    LinkStatus,
    PriorityParams,
    QueueEntry,
    QueueList,
    RequeueParams,
    ScannerEntry,
    ScannerList,
    StudyEntry,
    StudyList,
)
from contract.heartbeat import Equipment
from edge.control import ControlError, ControlServer

NOW = datetime.now(UTC)

CONNECTED = LinkStatus(
    state="connected",
    central="https://central.hospital.example:8443",
    last_receipt_at_utc=NOW - timedelta(seconds=12),
    certificate_expires_at_utc=NOW + timedelta(days=58, hours=12),
    heartbeat_connected=True,
)


def status(**changes: object) -> BoxStatus:
    well = BoxStatus(
        gateway_id="gw-ct2",
        ae_title="DICOMNET",
        host="0.0.0.0",
        port=11112,
        tls_port=2762,
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


def study(
    number: int,
    *,
    state: str = "complete",
    evidence: str = "association",
    received: int = 1,
    expected: int | None = None,
    late: int = 0,
) -> StudyEntry:
    return StudyEntry(
        study_instance_uid=f"1.2.{number}",
        calling_ae_title="CT1",
        state=state,
        evidence=evidence,
        received=received,
        expected=expected,
        late=late,
        first_at_utc=NOW - timedelta(days=3, hours=9),
        last_at_utc=NOW - timedelta(days=3, hours=8),
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
    studies: list[StudyEntry] = field(default_factory=list)
    echo_answer: EchoAnswer = WELL
    enrol_error: str = ""
    echoed: list[EchoParams] = field(default_factory=list)
    enrolled: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)
    prioritised: list[str] = field(default_factory=list)
    unknown: Literal["accept", "refuse", "hold"] = "accept"
    warning: str = ""
    decided: list[tuple[str, str, str]] = field(default_factory=list)
    saved: list[ScannerEntry] = field(default_factory=list)
    save_error: str = ""
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
                "scanners": lambda _: self._scanner_list(),
                "studies": lambda _: StudyList(studies=self.studies),
                "echo": self._echo,
                "enrol": self._enrol,
                "requeue": self._requeue,
                "prioritise": self._prioritise,
                "pause": lambda _: self._pause(paused=True),
                "resume": lambda _: self._pause(paused=False),
                "approve": lambda params: self._decide("approve", params),
                "refuse": lambda params: self._decide("refuse", params),
                "remove_scanner": lambda params: self._decide("remove_scanner", params),
                "save_scanner": self._save_scanner,
            },
        )
        self._server.start()
        return self

    def stop(self) -> None:
        self.hold.set()
        if self._server is not None:
            self._server.stop()
            self._server = None

    def _pause(self, *, paused: bool) -> BoxStatus:
        self.status = self.status.model_copy(update={"paused": paused})
        return self.status

    def _scanner_list(self) -> ScannerList:
        return ScannerList(
            scanners=self.scanners,
            unknown=self.unknown,
            warning=self.warning,
            profiles=["lossless", "old-toolkit"],
        )

    def _decide(self, method: str, params: dict[str, object]) -> ScannerList:
        caller = CallerParams.model_validate(params)
        self.decided.append((method, caller.ae_title, caller.address))
        standing = {"approve": "approved", "refuse": "refused", "remove_scanner": "unlisted"}[method]
        self.scanners = [
            one.model_copy(update={"standing": standing})
            if one.ae_title == caller.ae_title and caller.address in ("", one.address)
            else one
            for one in self.scanners
        ]
        self.scanners.sort(key=lambda one: one.standing != "waiting")
        return self._scanner_list()

    def _save_scanner(self, params: dict[str, object]) -> ScannerList:
        entry = ScannerEntry.model_validate(params)
        if self.save_error:
            raise ControlError(self.save_error)
        self.saved.append(entry)
        others = [one for one in self.scanners if one.ae_title != entry.ae_title]
        self.scanners = [*others, approved(entry)]
        return self._scanner_list()

    def _queue(self) -> QueueList:
        return QueueList(total=len(self.entries) if self.total is None else self.total, entries=self.entries)

    def _echo(self, params: dict[str, object]) -> EchoAnswer:
        self.echoed.append(EchoParams.model_validate(params))
        self.hold.wait(20)
        return self.echo_answer

    def _enrol(self, params: dict[str, object]) -> BoxStatus:
        wanted = EnrolParams.model_validate(params)
        self.enrolled.append(
            wanted.pairing if wanted.central == "central" else f"{wanted.central} {wanted.pairing}"
        )
        if self.enrol_error:
            raise ControlError(self.enrol_error)
        self.status = status(centrals=self.status.centrals)
        return self.status

    def _prioritise(self, params: dict[str, object]) -> QueueList:
        wanted = PriorityParams.model_validate(params)
        self.prioritised.append(f"{wanted.study_instance_uid} {wanted.priority}")
        self.entries = [one.model_copy(update={"priority": wanted.priority}) for one in self.entries]
        return self._queue()

    def _requeue(self, params: dict[str, object]) -> QueueList:
        asked = RequeueParams.model_validate(params)
        self.requeued.append(f"{asked.object_id} {asked.destination}".strip())
        self.entries = [
            one.model_copy(update={"state": "ready", "last_error": ""})
            if (one.object_id, one.destination) == (asked.object_id, asked.destination)
            else one
            for one in self.entries
        ]
        return self._queue()


def approved(entry: ScannerEntry) -> KnownScanner:
    return KnownScanner(ae_title=entry.ae_title, address=entry.host, standing="approved", entry=entry)


def waiting(ae_title: str, address: str) -> KnownScanner:
    return KnownScanner(
        ae_title=ae_title,
        address=address,
        standing="waiting",
        attempts=12,
        last_attempt_at_utc=NOW - timedelta(seconds=5),
        called_ae_title="OLDBOX",
        certificate="CN=ct1",
        certificate_sha256="ab" * 32,
        last_error=f"{ae_title} waits for approval",
    )


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
