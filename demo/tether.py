"""Ties a program to the process that started it, then becomes that program: `python -m demo.tether PARENT_PID CMD …`

A demo that is killed without warning must not leave a gateway or a broker behind that holds its ports. Linux
sends the signal of `PR_SET_PDEATHSIG` when the parent's *thread* ends, so children are started from the main
thread only. The setting survives exec, and the process keeps its id: what is seen in `ps` is the program itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def main(arguments: list[str]) -> None:
    """Become `arguments[1:]`, to be killed when the process `arguments[0]` ends; does not return."""
    parent_pid, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        # SIGKILL, not SIGTERM: every program here survives it by design, and the next start finds free ports.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit("the process that started this one has already ended")
    os.execvp(command[0], command)  # noqa: S606 - the command comes from demo.processes, as a list


if __name__ == "__main__":
    main(sys.argv[1:])
