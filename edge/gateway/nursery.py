"""Where receiving processes are forked: a process beside the box that does nothing else, and has one thread.

The box cannot fork them itself once it runs: its threads hold locks that a copy would wait for without end. So it is
forked once, before any thread, shares what is loaded, and forks a worker whenever it is told to, for a start and in
the place of one that died. It ends when the box's end of its socket closes.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from typing import Never

from edge.gateway.worker import work

_ASKED = b"one more"
_MAX_ANSWER_BYTES = 32


class Nursery:
    """The box's side. Used by one thread at a time."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self._pid = pid
        self._control = control

    @classmethod
    def fork(cls) -> Nursery:
        """Before any thread starts."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if not pid:
            ours.close()
            _run(theirs)
        theirs.close()
        return cls(pid, ours)

    def fork_worker(self) -> tuple[int, socket.socket]:
        """Its process id and the socket to hand it associations by. OSError: there is none, and why."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                socket.send_fds(self._control, [_ASKED], [theirs.fileno()])
            answer = int(self._control.recv(_MAX_ANSWER_BYTES) or -errno.EPIPE)
        except OSError:
            ours.close()
            raise
        if answer < 0:
            ours.close()
            raise OSError(-answer, os.strerror(-answer))
        return answer, ours

    def close(self) -> None:
        """End it; workers stay until their own sockets close."""
        self._control.close()
        os.waitpid(self._pid, 0)


def _run(control: socket.socket) -> Never:
    """Its whole life; never returns, since the process is a copy of the box's beginning."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # sent to all of a service: the box says when it is time
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # the kernel buries the dead: the box learns it from their sockets
    while True:
        try:
            message, descriptors, _, _ = socket.recv_fds(control, len(_ASKED), 1)
        except OSError:
            os._exit(1)
        if not message:
            os._exit(0)
        (descriptor,) = descriptors
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or errno.EAGAIN)
        if not pid:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            control.close()
            work(socket.socket(fileno=descriptor))
        os.close(descriptor)
        try:
            control.send(str(pid).encode("ascii"))
        except OSError:
            os._exit(0)
