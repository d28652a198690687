"""Brings what one destination is owed to it: a thread, a line and a backoff of its own, so none waits for another.

Always true: a delivery ends as delivered only after the destination said so of that very instance; whatever else
happens (edge.uplink.verdicts), its row stays and says why. The object is opened piece by piece as it is sent, and never
written anywhere. A crash leaves the row waiting, and the object is sent again.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final, Protocol

from contract.identifiers import ObjectId
from edge.buffer.deliveries import Deliveries, Delivery
from edge.buffer.errors import PermanentSpoolError, SpoolClosedError, SpoolError
from edge.uplink.errors import SendingStoppedError
from edge.uplink.line import Line, Pass, backoff_s
from edge.uplink.stumbles import Stumbles
from edge.uplink.verdicts import Outcome, Verdict

_log = logging.getLogger(__name__)

_LINGER_S: Final = 5.0
"""How long a connection is kept for the next object: scanners pause between images."""

Opener = Callable[[ObjectId], AbstractContextManager[Iterator[bytes]]]
"""The Part 10 file inside a sealed object, in pieces."""


class Destination(Protocol):
    """One way to send. Used by one thread."""

    def send(self, delivery: Delivery, part10: Source) -> Outcome:
        """Send the file and say what became of it; `part10` can be read again from the start."""

    def rest(self) -> None:
        """Nothing is due: let go of connections."""


class Source:
    """A Part 10 file, opened anew each time it is iterated.

    Attributes
    ----------
    fault : what ended the reading on this box; None if all that was asked for could be read.
    """

    def __init__(self, object_id: ObjectId, opener: Opener, is_stopping: Callable[[], bool]) -> None:
        self._object_id = object_id
        self._opener = opener
        self._is_stopping = is_stopping
        self.fault: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            with self._opener(self._object_id) as pieces:
                for piece in pieces:
                    self._check_going_on()
                    yield piece
        except (SpoolError, OSError, SendingStoppedError) as error:
            self.fault = error
            raise

    def _check_going_on(self) -> None:
        if self._is_stopping():
            raise SendingStoppedError("this box is stopping")


class Courier:
    """`start`; `stop` and `wait_until_idle`, then close the spool, then `join`.

    Attributes
    ----------
    trouble : why the destination does not go on, as a sentence; empty while it does.
    """

    def __init__(
        self,
        name: str,
        destination: Destination,
        deliveries: Deliveries,
        opener: Opener,
        *,
        backoff_ceiling_s: float,
        on_delivered: Callable[[], None] = lambda: None,
    ) -> None:
        self._name = name
        self._destination = destination
        self._deliveries = deliveries
        self._opener = opener
        self._ceiling_s = backoff_ceiling_s
        self._on_delivered = on_delivered
        self._line = Line(backoff_ceiling_s)
        self._stopping = threading.Event()
        self._busy = threading.Lock()
        self.trouble = ""
        self._stumbles = Stumbles()
        self._thread = threading.Thread(target=self._work, name=f"to-{name}", daemon=True)

    def start(self) -> None:
        self._line.begin()
        self._thread.start()

    def try_now(self) -> None:
        """A person says that it works again: do not wait out the backoff."""
        self._line.try_now()

    def stop(self) -> None:
        """Let go of what is being sent, without waiting; an idle worker ends when the spool is closed."""
        self._stopping.set()
        self._line.stop()

    def wait_until_idle(self, timeout_s: float) -> None:
        """After `stop`: until what was being sent has been let go of."""
        if self._busy.acquire(timeout=max(0.0, timeout_s)):
            self._busy.release()

    def join(self, timeout_s: float) -> None:
        """To be called after the spool was closed."""
        self._thread.join(max(0.0, timeout_s))

    def _work(self) -> None:
        try:
            while (permit := self._line.enter()) is not Pass.STOP:
                if permit is not Pass.SEND:
                    self._line.passed()  # the next object is the probe: there is one thread
                try:
                    delivery = self._deliveries.next(self._name)
                    if delivery is None:
                        self._wait()
                        continue
                    with self._busy:
                        self._bring(delivery)
                except SpoolClosedError:
                    return
                except SpoolError as error:
                    self._close_line(f"the spool on this box fails: {error}")
        finally:
            self._destination.rest()

    def _wait(self) -> None:
        if not self._deliveries.wait(self._name, _LINGER_S):
            self._destination.rest()
            self._deliveries.wait(self._name, None)

    def _bring(self, delivery: Delivery) -> None:
        """One attempt, and what follows from it."""
        source = Source(delivery.object_id, self._opener, self._stopping.is_set)
        try:
            outcome = self._destination.send(delivery, source)
        except Exception as error:
            if source.fault is None:
                _log.exception("delivery failed", extra={"destination": self._name, **_named(delivery)})
                outcome = Outcome(Verdict.LATER, "a fault in this program; see its log")
            else:
                outcome = Outcome(Verdict.LATER, str(error))
        if source.fault is not None and outcome.verdict is not Verdict.DELIVERED:
            self._fail_here(delivery, source.fault)
        else:
            self._follow(delivery, outcome)

    def _follow(self, delivery: Delivery, outcome: Outcome) -> None:
        verdict, sentence = outcome.verdict, outcome.sentence
        if verdict is Verdict.DELIVERED:
            self._delivered(delivery)
        elif verdict is Verdict.REFUSED:
            self._set_aside(delivery, sentence)
        elif verdict is Verdict.AWAY:
            self._close_line(sentence, outcome.wait_s)
        else:
            self._later(delivery, sentence)
            self._close_line(sentence, outcome.wait_s)

    def _later(self, delivery: Delivery, sentence: str) -> None:
        if self._stumbles.failed(delivery.object_id):
            self._set_aside(delivery, f"tried {delivery.attempts + 1} times while others passed: {sentence}")
        else:
            self._put_off(delivery, sentence)

    def _delivered(self, delivery: Delivery) -> None:
        if not self._deliveries.deliver(delivery):
            _log.info(
                "delivered after it was given up", extra={"destination": self._name, **_named(delivery)}
            )
            return
        self._line.succeeded()
        self._stumbles.passed(delivery.object_id)
        if self.trouble:
            _log.info("destination works again", extra={"destination": self._name})
        self.trouble = ""
        _log.info(
            "delivered",
            extra={"destination": self._name, "size_bytes": delivery.size_bytes, **_named(delivery)},
        )
        self._on_delivered()

    def _fail_here(self, delivery: Delivery, fault: Exception) -> None:
        """The object could not be read on this box."""
        if isinstance(fault, (SendingStoppedError, SpoolClosedError)):
            return
        if isinstance(fault, PermanentSpoolError):
            self._set_aside(delivery, f"it cannot be opened on this box: {fault}")
        else:
            self._put_off(delivery, f"this box failed: {fault}")

    def _put_off(self, delivery: Delivery, sentence: str) -> None:
        retry_in_s = backoff_s(delivery.attempts, self._ceiling_s, random.uniform)
        _log.warning(
            "not delivered",
            extra={
                "destination": self._name,
                "retry_in_s": round(retry_in_s, 1),
                "detail": sentence,
                **_named(delivery),
            },
        )
        self._deliveries.put_off(delivery, error=sentence, retry_in_s=retry_in_s)

    def _set_aside(self, delivery: Delivery, reason: str) -> None:
        _log.error("set aside", extra={"destination": self._name, "reason": reason, **_named(delivery)})
        self._deliveries.set_aside(delivery, reason=reason)

    def _close_line(self, sentence: str, at_least_s: float = 0.0) -> None:
        delay_s = self._line.failed(at_least_s)
        if sentence != self.trouble:  # not again at every attempt
            _log.warning(
                "destination away",
                extra={"destination": self._name, "retry_in_s": round(delay_s, 1), "detail": sentence},
            )
        self.trouble = sentence


def _named(delivery: Delivery) -> dict[str, object]:
    return {"object_id": delivery.object_id, "attempts": delivery.attempts + 1}
