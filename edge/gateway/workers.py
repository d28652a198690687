"""Receiving processes beside this one, so that scanners that send at once use several cores.

Python runs one thread of a process at a time. Most of what an instance costs is hashing, sealing and writing, which do
not count, but the rest does. So the first association is served here, and of those that overlap each goes to the
process with the fewest. It gets the connection itself and a channel to this process, which owns the spool; guard,
admission and services stay here, and so do associations with services and those inside TLS.

Always true: a process that dies takes its associations with it, and nothing more was told to their scanners than what
is durable and known here; if this one dies, the channels close, and nobody is told anything any more.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Final

from edge.buffer.remote_spool import SpoolOwner, serve
from edge.gateway.negotiation import Agreed
from edge.gateway.settings import GatewaySettings
from edge.gateway.worker import Handed, Stop, work

_LOG = logging.getLogger(__name__)
_MOST_PROCESSES: Final = 4  # more than that the disk of a box does not feed
_EXIT_S: Final = 5.0
_LOOK_AGAIN_S: Final = 0.01  # for a process to end: nothing else tells


class Worker:
    """One receiving process, seen from the one that owns the spool. Safe from any thread."""

    def __init__(self, pid: int, control: socket.socket) -> None:
        self.pid = pid
        self.control = control
        self._sending = threading.Lock()
        self._numbers = 0

    def seat(
        self,
        sock: socket.socket,
        agreed: Agreed,
        peer_address: str,
        settings: GatewaySettings,
        owner: SpoolOwner,
        refuse: Callable[[str, str, str], None],
    ) -> WorkerSeat:
        """Hand an association over. OSError if the process is gone: then nothing was handed over."""
        here, there = Pipe()
        with there:
            try:
                with self._sending:
                    self._numbers += 1
                    handed = Handed(self._numbers, agreed, peer_address, settings, owner.terms())
                    message, descriptors = pickle.dumps(handed), [sock.fileno(), there.fileno()]
                    socket.send_fds(self.control, [message], descriptors)
            except OSError:
                here.close()
                raise
        return WorkerSeat(self, handed.number, here, owner, refuse)

    def stop(self, number: int) -> None:
        """Have one of its associations end at the next message boundary."""
        with self._sending, contextlib.suppress(OSError):
            self.control.send(pickle.dumps(Stop(number)))


class WorkerSeat:
    """One association in a worker."""

    def __init__(
        self,
        worker: Worker,
        number: int,
        channel: Connection,
        owner: SpoolOwner,
        refuse: Callable[[str, str, str], None],
    ) -> None:
        self._worker = worker
        self._number = number
        self._channel = channel
        self._owner = owner
        self._refuse = refuse

    def serve(self) -> None:
        """Answer for the spool until the association has ended."""
        with self._channel:
            serve(self._owner, self._channel, self._refuse)

    def stop(self) -> None:
        self._worker.stop(self._number)


class Workers:
    """Safe from any thread. Made by `fork`; without workers everything is served here."""

    def __init__(self, workers: Sequence[Worker] = ()) -> None:
        self._lock = threading.Lock()
        self._here = 0  # associations served in this process
        self._served = dict.fromkeys(workers, 0)

    @classmethod
    def fork(cls, processes: int) -> Workers:
        """Start `processes` - 1 beside this one; 0: as many as suit the machine. Before any thread starts.

        A fork, since it shares what is loaded already: one more costs a few megabytes.
        """
        count = processes or min(os.cpu_count() or 1, _MOST_PROCESSES)
        started: list[Worker] = []
        gc.collect()
        gc.freeze()  # a collection would touch, and so copy, every page that they share
        for _ in range(count - 1):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if not pid:
                for control in (ours, *(worker.control for worker in started)):
                    control.close()  # or the others would not see this process's parent end
                work(theirs)
            theirs.close()
            started.append(Worker(pid, ours))
        return cls(started)

    @contextlib.contextmanager
    def place(self, *, here: bool) -> Iterator[Worker | None]:
        """Where the next association is to be served, until the block is left; None is this process.

        Parameters
        ----------
        here : it can be served nowhere else.
        """
        with self._lock:
            worker = min(self._served, key=lambda one: self._served[one], default=None)
            if here or (worker is not None and self._served[worker] >= self._here):
                worker = None
            self._count(worker, 1)
        try:
            yield worker
        finally:
            with self._lock:
                self._count(worker, -1)

    def lose(self, worker: Worker) -> None:
        """It is gone: nothing is handed to it any more."""
        _LOG.error("a receiving process is gone, and others take its share", extra={"pid": worker.pid})
        with self._lock:
            self._served.pop(worker, None)

    def stop(self) -> None:
        """End them. Associations that still run in them are cut."""
        with self._lock:
            workers, self._served = list(self._served), {}
        for worker in workers:
            worker.control.close()
        deadline_s = time.monotonic() + _EXIT_S
        for worker in workers:
            _await_exit(worker.pid, deadline_s)

    def _count(self, worker: Worker | None, more: int) -> None:
        if worker is None:
            self._here += more
        elif worker in self._served:
            self._served[worker] += more


def _await_exit(pid: int, deadline_s: float) -> None:
    """A worker ends when its control socket closes; one that hangs is ended by its number."""
    while True:
        ended, _ = os.waitpid(pid, os.WNOHANG)
        if ended:
            return
        if time.monotonic() > deadline_s:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return
        time.sleep(_LOOK_AGAIN_S)
