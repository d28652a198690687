"""Sends every record to an audit record repository, from where it stood: a thread of its own, which delays nobody.

What is always true
-------------------
- Nothing is skipped: the position in the database moves only behind what has arrived. It is read and written over
  connections of this module's own, so that a look never waits for a receiver.
- A record counts as arrived when the receiver's machine has acknowledged it and the connection has then stood for
  `SETTLE_S`, or when the receiver has ended it in order; syslog has no other answer. What was under way when a
  connection broke is sent again.
- Of several processes on one database one sends at a time; if that ends, another takes over after `LEASE_S`.

What a crash leaves: a position that is behind; the last records are sent a second time, in the same bytes.
"""

from __future__ import annotations

import logging
import secrets
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

import peewee

from central.audit.dicom_message import PatientObject, audit_message
from central.audit.settings import AuditSettings
from central.audit.syslog_line import SyslogLine, syslog_message, tls_context
from central.audit.tables import AuditDelivery, AuditRecord
from central.database import Database

SETTLE_S: Final = 5.0
LEASE_S: Final = 60.0
_POLL_S: Final = 5.0  # for what other processes recorded: they cannot wake this one
_BATCH: Final = 100
_BACKOFF_S: Final = (1.0, 2.0, 5.0, 15.0, 30.0)
_JOIN_S: Final = 10.0
_log = logging.getLogger(__name__)

PatientOf = Callable[[str], PatientObject | None]
"""Whose study that is, by its UID; None where it is not known. After a peewee.PeeweeException it is asked again."""


@dataclass(frozen=True)
class DeliveryState:
    """`behind`: records that have not arrived for certain. `trouble`: why not, as a sentence; "" while it goes on."""

    behind: int
    trouble: str


class DeliveryBook:
    """Where the delivery to `receiver` stands, in `db`, which may be used by several threads."""

    def __init__(self, db: Database, receiver: str) -> None:
        self._db = db
        self._receiver = receiver
        self._holder = secrets.token_hex(8)
        self._held_until_s = 0.0

    def take(self) -> int | None:
        """The last record that has arrived, if it is for this process to send now."""
        now = time.time()
        if now + LEASE_S / 2 < self._held_until_s:
            return self.arrived_id()  # without a write: this is asked every few seconds
        with self._db.writing():
            AuditDelivery.insert(
                receiver=self._receiver, last_id=0, holder="", held_until_s=0.0
            ).on_conflict_ignore().execute(self._db)
            free = (AuditDelivery.holder == self._holder) | (AuditDelivery.held_until_s < now)
            query = AuditDelivery.update(holder=self._holder, held_until_s=now + LEASE_S)
            taken = query.where(AuditDelivery.receiver == self._receiver, free).execute(self._db)
        self._held_until_s = now + LEASE_S if taken else 0.0
        return self.arrived_id() if taken else None

    def note_arrived(self, last_id: int) -> None:
        """Everything up to `last_id` has arrived; another process's later word stands."""
        AuditDelivery.update(last_id=last_id).where(
            AuditDelivery.receiver == self._receiver, AuditDelivery.last_id < last_id
        ).execute(self._db)

    def let_go(self) -> None:
        """Another process may go on at once."""
        AuditDelivery.update(held_until_s=0.0).where(
            AuditDelivery.receiver == self._receiver, AuditDelivery.holder == self._holder
        ).execute(self._db)

    def arrived_id(self) -> int:
        query = AuditDelivery.select(AuditDelivery.last_id).where(AuditDelivery.receiver == self._receiver)
        return query.scalar(self._db) or 0

    def newest_id(self) -> int:
        return AuditRecord.select(peewee.fn.MAX(AuditRecord.id)).scalar(self._db) or 0

    def after(self, last_id: int) -> list[dict[str, Any]]:
        """The next records, at most `_BATCH`."""
        query = AuditRecord.select().where(AuditRecord.id > last_id).order_by(AuditRecord.id).limit(_BATCH)
        return list(query.dicts().execute(self._db))

    def end(self) -> None:
        """Let go of this thread's connection."""
        self._db.close()


def receiver_of(settings: AuditSettings) -> str:
    """What the book calls the receiver of `settings`: another one is sent the record from its beginning."""
    return f"syslog {settings.syslog_host} {settings.syslog_port}"


class SyslogDelivery:
    """`start`, and `stop` before the database is closed.

    Parameters
    ----------
    book : over a database of its own.

    Raises
    ------
    SyslogUnfitError : a file named in the settings cannot be used.
    """

    def __init__(
        self, settings: AuditSettings, book: DeliveryBook, patient_of: PatientOf, *, central_id: str
    ) -> None:
        self._where = (settings.syslog_host, settings.syslog_port)
        self._context = tls_context(settings)
        self._book = book
        self._patient_of = patient_of
        self._central_id = central_id
        self._our_host = socket.gethostname()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._work, name="audit-syslog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Something was recorded."""
        self._wake.set()

    def stop(self) -> None:
        """End after the message under way; what has not arrived for certain is sent at the next start."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_S)

    def state(self) -> DeliveryState:
        """Reads the database; peewee.PeeweeException if it is away."""
        return DeliveryState(max(0, self._book.newest_id() - self._book.arrived_id()), self._trouble)

    def word(self) -> Literal["delivered", "waiting"]:
        """Whether messages get through, for who asks how central is; reads nothing."""
        return "waiting" if self._trouble else "delivered"

    def _work(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                arrived = self._book.take()
                if arrived is None:  # another process sends
                    self._rest(_POLL_S)
                    continue
                self._deliver(arrived)
                failures = 0
            except (OSError, peewee.PeeweeException) as error:
                failures = failures + 1 if self._trouble else 1
                self._say(_sentence(error, *self._where))
                self._stop.wait(_BACKOFF_S[min(failures, len(_BACKOFF_S)) - 1])
            except Exception as error:
                # Whatever it is, the record stays where it is and the next attempt begins there.
                self._say(f"audit messages cannot be made: {type(error).__name__}")
                _log.exception("audit delivery failed")
                self._stop.wait(_BACKOFF_S[-1])
        try:
            self._book.let_go()
        except peewee.PeeweeException:
            _log.info("audit delivery stopped without the database")
        self._book.end()

    def _deliver(self, last_id: int) -> None:
        """Over one connection, until it breaks, another process took over, or this one stops."""
        line = SyslogLine(*self._where, self._context)
        written: deque[tuple[int, int]] = deque()  # up to which record, and how many bytes that took
        settling: deque[tuple[int, float]] = deque()  # up to which record, and since when it is acknowledged
        try:
            while not self._stop.is_set():
                self._wake.clear()
                rows = self._book.after(last_id)
                for row in rows:
                    line.send(self._message(row))
                    last_id = row["id"]
                if rows:
                    written.append((last_id, line.written_bytes()))
                line.check()
                self._works_again()
                now, acknowledged = time.monotonic(), line.acknowledged_bytes()
                while written and written[0][1] <= acknowledged:
                    settling.append((written.popleft()[0], now))
                if self._book.take() is None:
                    return
                while settling and now - settling[0][1] >= SETTLE_S:
                    self._book.note_arrived(settling.popleft()[0])
                if len(rows) < _BATCH:
                    self._rest(1.0 if written or settling else _POLL_S)
            if line.end():
                self._book.note_arrived(last_id)
        finally:
            line.abandon()

    def _message(self, row: Mapping[str, Any]) -> bytes:
        study = row["study_instance_uid"]
        patient = self._patient_of(study) if study else None
        xml = audit_message(row, central_id=self._central_id, patient=patient)
        return syslog_message(xml, at=datetime.fromisoformat(row["at_utc"]), host=self._our_host)

    def _rest(self, seconds: float) -> None:
        if not self._stop.is_set():
            self._wake.wait(seconds)

    def _say(self, trouble: str) -> None:
        """In the log once, until it works again: how far behind it is meanwhile, `state` says."""
        if not self._trouble:
            _log.warning("audit messages wait behind=%s reason=%s", self._behind(), trouble)
        self._trouble = trouble

    def _works_again(self) -> None:
        if self._trouble:
            _log.info("audit messages are delivered again behind=%s", self._behind())
        self._trouble = ""

    def _behind(self) -> str:
        try:
            return str(self.state().behind)
        except peewee.PeeweeException:
            return "unknown"


def _sentence(error: Exception, host: str, port: int) -> str:
    if isinstance(error, peewee.PeeweeException):
        return "the database cannot be read; this goes on by itself when it can"
    where = f"the audit record repository {host} port {port}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"{where} shows a certificate that does not verify: {error.verify_message} (audit.syslog_ca)"
    if isinstance(error, ssl.SSLError):
        why = error.reason or "no TLS"
        return f"{where} ends the TLS connection: {why} (audit.syslog_certificate, or its port)"
    return f"{where} does not take messages: {getattr(error, 'strerror', None) or error or 'time-out'}"
