"""Lives of the box without the wait for Python's imports: ``python -m tests.peers.warm_box CONFIG``.

Everything is imported once; each line on standard input forks one life, which is `dicomnet-edge run` from its
first instruction on. A life says ``PID <pid>`` and then what the box says; its end is said as ``ENDED``.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import edge.app
from tests.peers.real_box import RealBox

_PR_SET_PDEATHSIG = 1


class WarmBox(RealBox):
    """A `RealBox` whose lives begin in a twentieth of the time, for tests that end a thousand of them."""

    _pid: int | None = None

    @property
    def running(self) -> bool:
        return self._pid is not None

    def begin(self) -> None:
        if self._process is None:
            self._spawn("tests.peers.warm_box", str(self._config))
        assert self.process.stdin is not None
        self.process.stdin.write(b"begin\n")
        self.process.stdin.flush()
        self._pid = int(self._read_to(b"PID"))

    def wait_listening(self) -> None:
        self._read_to(b"LISTENING")

    def kill(self) -> None:
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)
            self._read_to(b"ENDED")
            self._pid = None

    def stop(self) -> None:
        if self._pid is not None:
            os.kill(self._pid, signal.SIGTERM)
            self._read_to(b"ENDED")
            self._pid = None
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._reap()

    def _read_to(self, word: bytes) -> str:
        """What follows `word`; lines before it belong to a life that was ended before they were read."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            found, _, rest = line.partition(b" ")
            if found.strip() == word:
                return rest.decode()
            assert found.strip() != b"ENDED", f"the box ended by itself: {self.last_log()}"
        raise AssertionError(f"the box does not begin: {self.last_log()}")


def main() -> None:
    _end_with_parent()
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _end_with_parent()
            os.write(1, b"PID %d\n" % os.getpid())
            os._exit(edge.app.main(["run", "--config", sys.argv[1]]))
        os.waitpid(pid, 0)
        os.write(1, b"ENDED\n")


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
