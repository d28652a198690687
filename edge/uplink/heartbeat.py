"""What the box says of itself: that it lives, how it is, which scanners it has seen, and what happened.

Over MQTT where central names a broker that can be reached, else over the upload connection. Always true: status,
info, equipment and telemetry are states, and what was missed while the line was down is not made up for; events
are kept in the outbox until central has said that it keeps them. Each connection has a session of its own in its
last will, ordered by boot and connection, so that the will of an old one cannot mark a newer one lost. A line that
is away, slow or hostile disturbs nothing else. Nothing here is durable but the outbox.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError

from contract.command import COMMAND, DESIRED, HEARD, Command, Desired, Heard
from contract.heartbeat import STATUS, TELEMETRY_INTERVAL_S, BoxState, EventKind, Telemetry
from contract.witness import WITNESS, Witness
from edge.uplink import broker_fault
from edge.uplink.broker_channel import BrokerChannel
from edge.uplink.errors import UplinkTransientError
from edge.uplink.https_channel import HttpsChannel, first_post
from edge.uplink.identity import Identity
from edge.uplink.link import Link
from edge.uplink.outbox import Outbox
from edge.uplink.run import Run
from edge.uplink.speech import Reports, Saying, Session, Speech

_log = logging.getLogger(__name__)

_DEBOUNCE_S: Final = 1.0
_STOP_WAIT_S: Final = 2.0
_HTTPS_TIMEOUT_S: Final = 10.0
_TWIN_NEWS_AFTER_S: Final = 3600.0
"""Two boxes may push each other off for days, and other events are to be kept."""


@dataclass(frozen=True)
class Hearers:
    """Who takes what central says. `settings` and `witness` may raise OSError, and return whether it was news;
    `connected`: central's side may be back."""

    command: Callable[[Command], None]
    settings: Callable[[Desired], object]
    witness: Callable[[Witness], bool]
    connected: Callable[[], None]


class Heartbeat:
    """One identity's heartbeats, from `start` to `stop`.

    Parameters
    ----------
    https_after_s : how long the broker may be away before the same goes over the upload connection.
    """

    def __init__(
        self,
        identity: Identity,
        link: Link,
        run: Run,
        reports: Reports,
        hearers: Hearers,
        outbox: Outbox,
        *,
        https_after_s: float,
    ) -> None:
        self._link = link
        self._reports = reports
        self._speech = Speech(run, reports, outbox)
        self._hearers = hearers
        self._outbox = outbox
        self._https_after_s = https_after_s
        self._next = self._speech.session
        self._twin = False
        self._twin_noted_at_s = float("-inf")
        self._over_https = False
        self._told = ""  # the last failure that was logged
        self._wake = threading.Condition()
        self._asked = True
        self._stopping = False
        self._https = HttpsChannel(identity, timeout_s=_HTTPS_TIMEOUT_S)
        self._broker: BrokerChannel | None = None
        if identity.broker is not None:
            self._broker = BrokerChannel(
                identity,
                will=self._will,
                on_session=self._session_stands,
                on_heard=self._hear,
                on_broken=self._broker_broken,
            )
        self._beating = threading.Thread(target=self._beat_until_stopped, name="heartbeat", daemon=True)

    def start(self) -> None:
        if self._broker is not None:
            self._broker.start()
        self._beating.start()

    def soon(self) -> None:
        """Something changed: publish within a second, however often this is called."""
        with self._wake:
            self._asked = True
            self._wake.notify()

    def stop(self) -> None:
        """Say that the box goes off in order, and end every thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._beating.is_alive():
            self._beating.join(_STOP_WAIT_S)
        goodbye = self._speech.status(BoxState.OFFLINE, self._speech.session)
        if self._broker is not None:
            self._broker.stop(goodbye)
        if not self._beating.is_alive():
            if self._over_https:
                try:
                    self._https.post([Saying(STATUS, goodbye, retain=True)])
                except UplinkTransientError as error:
                    _log.info("going offline could not be said", extra={"detail": error})
            self._https.close()
        self._link.heartbeat(connected=False)

    def _will(self) -> bytes:
        """The last will of the session that the next connection will have, should it stand."""
        self._next = self._speech.new_session()
        return self._speech.status(BoxState.LOST, self._next)

    def _begin(self, session: Session, *, over_https: bool) -> None:
        self._speech.begin(session)
        self._twin, self._over_https = False, over_https

    def _session_stands(self) -> None:
        self._begin(self._next, over_https=False)
        self._link.heartbeat(connected=True)
        self.soon()
        self._hearers.connected()

    def _broker_broken(self, why: str) -> None:
        if not self._over_https:
            self._link.heartbeat(connected=False, detail=why)

    def _beat_until_stopped(self) -> None:
        last = broker_seen = float("-inf")
        began = time.monotonic()
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._asked or self._stopping, TELEMETRY_INTERVAL_S)
                # Debounced: a burst of stores is one message, at most a second after the first of them.
                self._wake.wait_for(lambda: self._stopping, max(0.0, last + _DEBOUNCE_S - time.monotonic()))
                if self._stopping:
                    return
                self._asked = False
            last = time.monotonic()
            try:
                # Taken with each beat, line or no line: what changes meanwhile becomes an event.
                telemetry = self._reports.telemetry()
                if self._broker is not None and self._broker.is_connected:
                    broker_seen = last
                    self._beat_over(self._broker, telemetry)
                elif self._broker is None or last - max(began, broker_seen) >= self._https_after_s:
                    self._beat_over_https(telemetry)
            except UplinkTransientError as error:
                self._https_failed(str(error))
            except Exception:
                # Whatever the box cannot say of itself now, it says at the next beat; receiving goes on.
                _log.exception("heartbeat failed")

    def _beat_over(self, broker: BrokerChannel, telemetry: Telemetry) -> None:
        due = self._speech.due(telemetry)
        self._speech.note_said(due, broker.say(due.sayings))

    def _beat_over_https(self, telemetry: Telemetry) -> None:
        if not self._over_https:
            self._begin(self._speech.new_session(), over_https=True)
            _log.info("heartbeats go over HTTPS", extra={"session": self._speech.session.name})
        due = self._speech.due(telemetry)
        taken = first_post(due.sayings)
        answers = self._https.post(taken)
        self._speech.note_said(due, len(taken))
        self._told = ""
        self._link.heartbeat(connected=True, detail=broker_fault.TWIN if self._twin else "")
        for below, payload in answers:
            self._hear(below, payload)
        if len(taken) < len(due.sayings):
            self.soon()

    def _https_failed(self, why: str) -> None:
        if self._broker is None or self._over_https:
            self._over_https = False  # the next one that gets through begins a session
            self._link.heartbeat(connected=False, detail=why)
        if why != self._told:  # once: a central that is away for days must not wear the card
            self._told = why
            _log.warning("heartbeat not posted", extra={"reason": why})

    def _hear(self, below: str, payload: bytes) -> None:
        try:
            if below == HEARD:
                self._heard(Heard.model_validate_json(payload))
            elif below == DESIRED:
                if self._hearers.settings(Desired.model_validate_json(payload)):
                    self.soon()
            elif below == WITNESS:
                if self._hearers.witness(Witness.model_validate_json(payload)):
                    self.soon()
            elif below == COMMAND:
                self._hearers.command(Command.model_validate_json(payload))
        except ValidationError as error:
            _log.warning(
                "central said what makes no sense", extra={"below": below, "errors": error.error_count()}
            )
        except OSError as error:
            _log.warning("not kept, what central said", extra={"below": below, "detail": error.strerror})

    def _heard(self, heard: Heard) -> None:
        if heard.events is not None:
            self._outbox.acknowledge(heard.events)
            if self._outbox.waiting(1):
                self.soon()  # more than went at once
        if heard.twin and not self._twin:
            self._twin = True
            self._link.heartbeat(connected=True, detail=broker_fault.TWIN)
            if time.monotonic() - self._twin_noted_at_s > _TWIN_NEWS_AFTER_S:
                self._twin_noted_at_s = time.monotonic()
                self._outbox.add(EventKind.TWIN, broker_fault.TWIN)
                _log.error("identity used twice", extra={"detail": broker_fault.TWIN})
        elif self._twin and not heard.twin and heard.events is None:
            self._twin = False
            self._link.heartbeat(connected=True)
            _log.info("identity used once again")
