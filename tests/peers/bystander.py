"""The scanner next door: echoes all the while from an address of its own, and says how long it had to wait."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from tests.peers.scripted_scu import IMPLICIT_LITTLE, VERIFICATION, ScriptedScu, command, p_data

ADDRESS = "127.0.0.2"
_EVERY_S = 0.02


class Bystander(threading.Thread):
    """One association, C-ECHO and release after the other, timed from connecting to the release's answer.

    Attributes
    ----------
    waits_s : of every echo that was answered.
    failed : what went wrong with the others.
    """

    def __init__(self, port: int, *, timeout_s: float = 60.0) -> None:
        super().__init__(name="bystander", daemon=True)
        self.waits_s: list[float] = []
        self.failed: list[str] = []
        self._port, self._timeout_s = port, timeout_s
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_EVERY_S):
            began_s = time.monotonic()
            try:
                with ScriptedScu(self._port, source=ADDRESS, timeout_s=self._timeout_s) as scu:
                    scu.associate([(1, VERIFICATION, [IMPLICIT_LITTLE])])
                    scu.send(p_data(1, 3, command(0x0030)))
                    assert scu.read_response().status == 0
                    scu.release()
            except (OSError, AssertionError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")
            else:
                self.waits_s.append(time.monotonic() - began_s)

    @property
    def p99_s(self) -> float:
        return sorted(self.waits_s)[len(self.waits_s) * 99 // 100]

    def check(self, limit_s: float = 1.0) -> None:
        """It was served, always, and its 99th percentile below the limit."""
        assert self.failed == []
        assert len(self.waits_s) >= 20, "too few echoes to say anything"
        assert self.p99_s < limit_s, f"an echo took {self.p99_s:.2f} s at the 99th percentile"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self.join(60)
