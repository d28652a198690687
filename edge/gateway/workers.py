"""Receiving processes beside this one, so that scanners that send at once use several cores.

Python runs one thread of a process at a time. Most of what an instance costs is hashing, sealing and writing, which do
not count, but the rest does. So the first association is served here, and of those that overlap each goes to the
process with the fewest. It gets the connection itself and a channel to this process, which owns the spool; guard,
admission and services stay here, and so do associations with services and those inside TLS.

Always true: a process that dies takes its associations with it, and nothing more was told to their scanners than what
is durable and known here. Another is forked in its place (`edge.gateway.nursery`), later each time; what it had half
received is deleted when its channels close (`edge.buffer.remote_spool`). If this one dies, the channels close, and
nobody is told anything any more.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Final

from edge.buffer.remote_spool import SpoolOwner, serve
from edge.gateway.negotiation import Agreed
from edge.gateway.nursery import Nursery
from edge.gateway.settings import GatewaySettings
from edge.gateway.worker import Handed, Stop

_LOG = logging.getLogger(__name__)
_MOST_PROCESSES: Final = 4  # more than that the disk of a box does not feed
_EXIT_S: Final = 5.0
# Until one that died is started again: a bad image that kills it must not make a loop that takes the whole machine.
_FIRST_S: Final = 1.0
_LONGEST_S: Final = 60.0
_QUIET_S: Final = 600.0  # after which it counts as the first again


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

    def end(self) -> None:
        """Have it end."""
        with contextlib.suppress(OSError):
            self.control.shutdown(socket.SHUT_WR)

    def await_exit(self, deadline_s: float) -> None:
        """It closes its end of the control socket by ending; one that hangs is ended by its number."""
        with self.control, contextlib.suppress(OSError):
            self.control.settimeout(max(0.01, deadline_s - time.monotonic()))
            try:
                self.control.recv(1)
            except TimeoutError:
                os.kill(self.pid, signal.SIGKILL)

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

    def __init__(self, count: int = 0, nursery: Nursery | None = None) -> None:
        self._lock = threading.Lock()
        self._here = 0  # associations served in this process
        self._count_wanted = count
        self._nursery = nursery
        self._served: dict[Worker, int] = {}
        self._ended = 0
        self._ended_at_utc: datetime | None = None
        self._watching: threading.Thread | None = None
        self._wake, self._woken = socket.socketpair()

    @classmethod
    def fork(cls, processes: int) -> Workers:
        """Start `processes` - 1 beside this one; 0: as many as suit the machine. Before any thread starts.

        Forks, since they share what is loaded already: one more costs a few megabytes.
        """
        count = (processes or min(os.cpu_count() or 1, _MOST_PROCESSES)) - 1
        if not count:
            return cls()
        gc.collect()
        gc.freeze()  # a collection would touch, and so copy, every page that they share
        workers = cls(count, Nursery.fork())
        for _ in range(count):
            workers._start_one()
        return workers

    def watch(self, tell: Callable[[str], None]) -> None:
        """Start those again that die, each time a little later, and say so with a sentence for a technician."""
        if self._nursery is not None:
            self._watching = threading.Thread(target=self._watch, args=(tell,), name="dicom-workers")
            self._watching.start()

    def stop_watching(self) -> None:
        """Idempotent."""
        if self._watching is not None:
            self._wake.send(b"\0")
            self._watching.join()
            self._watching = None

    def notice(self) -> str:
        """What a technician should know of processes that died; empty if none did."""
        with self._lock:
            missing = self._count_wanted - len(self._served)
            if self._ended_at_utc is None:
                return ""
            times = "once" if self._ended == 1 else f"{self._ended} times"
            now = f"; {missing} not yet started again" if missing else "; all run again"
            return (
                f"a receiving process ended unexpectedly {times} since the box started, last at "
                f"{self._ended_at_utc:%Y-%m-%d %H:%M} UTC{now}. Nothing acknowledged was lost."
            )

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
        with self._lock:
            self._served.pop(worker, None)

    def stop(self) -> None:
        """End them. Associations that still run in them are cut."""
        self.stop_watching()
        with self._lock:
            workers, self._served = list(self._served), {}
        for worker in workers:
            worker.end()
        deadline_s = time.monotonic() + _EXIT_S
        for worker in workers:
            worker.await_exit(deadline_s)
        if self._nursery is not None:
            self._nursery.close()
        self._wake.close()
        self._woken.close()

    def _start_one(self) -> Worker:
        assert self._nursery is not None
        worker = Worker(*self._nursery.fork_worker())
        with self._lock:
            self._served[worker] = 0
        return worker

    def _watch(self, tell: Callable[[str], None]) -> None:
        """On a thread of its own: a worker's socket becomes readable when it dies, and never otherwise."""
        backoff = _Backoff()
        start_at_s: list[float] = []
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            for worker in list(self._served):
                selector.register(worker.control, selectors.EVENT_READ, worker)
            while True:
                wait_s = max(0.0, min(start_at_s) - time.monotonic()) if start_at_s else None
                for key, _ in selector.select(wait_s):
                    if key.data is None:
                        return
                    selector.unregister(key.fileobj)
                    again_in_s = backoff.next_s()
                    self._bury(key.data, again_in_s, tell)
                    start_at_s.append(time.monotonic() + again_in_s)
                if start_at_s and min(start_at_s) <= time.monotonic():
                    start_at_s.remove(min(start_at_s))
                    try:
                        worker = self._start_one()
                    except OSError as error:
                        again_in_s = backoff.next_s()
                        start_at_s.append(time.monotonic() + again_in_s)
                        _LOG.error(
                            "no receiving process could be started",
                            extra={"reason": error.strerror, "again_in_s": again_in_s},
                        )
                        continue
                    selector.register(worker.control, selectors.EVENT_READ, worker)
                    _LOG.warning("a receiving process was started again", extra={"pid": worker.pid})

    def _bury(self, worker: Worker, again_in_s: float, tell: Callable[[str], None]) -> None:
        self.lose(worker)
        worker.control.close()
        with self._lock:
            self._ended += 1
            self._ended_at_utc = datetime.now(UTC)
        _LOG.error(
            "a receiving process ended unexpectedly; others take its share until it is started again",
            extra={"pid": worker.pid, "again_in_s": again_in_s},
        )
        tell(
            "a receiving process ended unexpectedly, which cuts what scanners sent to it: they send that again, and "
            f"nothing acknowledged was lost. It is started again in {again_in_s:.0f} s; if this comes often, look "
            "for a lack of memory in the system's log"
        )

    def _count(self, worker: Worker | None, more: int) -> None:
        if worker is None:
            self._here += more
        elif worker in self._served:
            self._served[worker] += more


class _Backoff:
    """How long to wait before the next start: twice as long each time, from the beginning after a quiet while."""

    def __init__(self) -> None:
        self._failures = 0
        self._last_s = float("-inf")

    def next_s(self) -> float:
        now_s = time.monotonic()
        if now_s - self._last_s > _QUIET_S:
            self._failures = 0
        self._last_s = now_s
        self._failures += 1
        return float(min(_FIRST_S * 2 ** (self._failures - 1), _LONGEST_S))
