"""How tightly to code what a scanner sends: as tightly as its own pace allows.

Coding pixels as images shrinks them to a quarter and takes its time. A scanner that pauses between images, as a
scanner does while it makes them, never notices. One that empties its disk at the wire's speed would wait for the
codec, so what it sends is kept as it is until it slows down. What is compared is measured here: the time the
scanner itself takes over each byte, and how much more processor time the box takes over it when it codes. Coding is
done where the first is several times the second, and always while the line to central is slow: then what is not coded
takes longer on the line than the codec takes over it. Waits do not count: in a crowd they say how many there are, not
what coding costs. While no processor is idle nothing is coded for a scanner's pace: what looks like its pause may be
the machine's. In memory alone; a restart begins anew.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import StrEnum

from edge.buffer.records import Origin


class Coding(StrEnum):
    """What decides whether pixels are coded as images: the scanner's pace, or the site."""

    PACE = "pace"
    ALWAYS = "always"
    NEVER = "never"


_MAX_SENDERS = 512
_WEIGHT = 0.3  # of the newest image: four of them decide
_PATIENCE = 4.0  # a scanner's own time must be so many times what coding adds: it then loses a fifth at most
_MOST_PATIENT = 16.0  # one long pause counts as this many times the codec's own time, and no more
_FIRST_TIGHT_S_PER_BYTE = 1 / 50e6  # a guess, for the first images only
_FIRST_LOOSE_S_PER_BYTE = 1 / 400e6
_LEAST_SHARE = 0.25  # of the work on a coded image, that coding takes at least
_LEAST_BYTES = 4096  # smaller objects say nothing about speed


class _Sender:
    """One scanner: seconds of its own per byte, once known, and when its last image was done."""

    def __init__(self) -> None:
        self.s_per_byte: float | None = None
        self.done_at_s: float | None = None


class CodingPace:
    """Safe from any thread. `clock` gives seconds that never go back.

    Attributes
    ----------
    line_is_slow : whether the line decides how long a study takes. Asked for each instance; must not block.
    processors_are_busy : whether coding would take a processor from somebody. The same.
    """

    def __init__(self, coding: Coding = Coding.PACE, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.line_is_slow: Callable[[], bool] = lambda: False
        self.processors_are_busy: Callable[[], bool] = lambda: False
        self._coding = coding
        self._lock = threading.Lock()
        self._senders: OrderedDict[tuple[str, str], _Sender] = OrderedDict()
        self._tight_s_per_byte = _FIRST_TIGHT_S_PER_BYTE
        self._loose_s_per_byte = _FIRST_LOOSE_S_PER_BYTE

    def allows_tight(self, origin: Origin) -> bool:
        """Whether this scanner's own time covers what coding adds to the box's, or the line is slow.

        True for a scanner not known yet, unless no processor has time for it.
        """
        if self._coding is not Coding.PACE:
            return self._coding is Coding.ALWAYS
        if self.line_is_slow():
            return True
        if self.processors_are_busy():
            return False
        with self._lock:
            # The two are not measured at the same moment, and a crowd in between must not make coding look free.
            more_s = max(
                self._tight_s_per_byte - self._loose_s_per_byte, _LEAST_SHARE * self._tight_s_per_byte
            )
            own_s = self._sender(origin).s_per_byte
            return own_s is None or own_s >= _PATIENCE * more_s

    def note(self, origin: Origin, *, size_bytes: int, spent_s: float, cpu_s: float, tight: bool) -> None:
        """Learn from an instance that just became durable.

        Parameters
        ----------
        spent_s : the time the box took over it; the rest of the time since the one before was the scanner's.
        cpu_s : processor time in it.
        tight : whether its pixels were coded as images.
        """
        if size_bytes < _LEAST_BYTES:
            return
        now_s = self._clock()
        with self._lock:
            if tight:
                self._tight_s_per_byte += _WEIGHT * (cpu_s / size_bytes - self._tight_s_per_byte)
            else:
                self._loose_s_per_byte += _WEIGHT * (cpu_s / size_bytes - self._loose_s_per_byte)
            sender = self._sender(origin)
            if sender.done_at_s is not None:
                own_s = max(0.0, now_s - sender.done_at_s - spent_s) / size_bytes
                own_s = min(own_s, _MOST_PATIENT * self._tight_s_per_byte)
                known_s = own_s if sender.s_per_byte is None else sender.s_per_byte
                sender.s_per_byte = known_s + _WEIGHT * (own_s - known_s)
            sender.done_at_s = now_s

    def _sender(self, origin: Origin) -> _Sender:
        key = (origin.calling_ae_title, origin.peer_address)
        sender = self._senders.get(key)
        if sender is None:
            if len(self._senders) >= _MAX_SENDERS:
                self._senders.popitem(last=False)
            sender = self._senders[key] = _Sender()
        self._senders.move_to_end(key)
        return sender
