"""A receiving process: takes associations from the one that owns the spool, and serves each on a thread.

It has no state of its own beside what it is receiving. It ends when its control socket closes, which the owner's end
does as well, however it comes.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import threading
from contextlib import nullcontext
from multiprocessing.connection import Connection
from typing import Final, NamedTuple, Never

from edge.buffer.remote_spool import Receiving, RemoteSpool, Terms
from edge.gateway.association import Association
from edge.gateway.negotiation import Agreed
from edge.gateway.settings import GatewaySettings
from edge.memory import Heap

_LOG = logging.getLogger(__name__)
_MAX_MESSAGE_BYTES: Final = 1 << 18
_DESCRIPTORS: Final = 2


class Handed(NamedTuple):
    """An association on its way to a worker; its connection and the channel to the spool travel beside it."""

    number: int
    agreed: Agreed
    peer_address: str
    settings: GatewaySettings
    terms: Terms


class Stop(NamedTuple):
    """End that association at the next message boundary."""

    number: int


def work(control: socket.socket) -> Never:
    """The whole life of a worker; never returns, since the process is a copy of another one's beginning."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # sent to all of a service: the owner says when it is time
        _Worker(control).run()
    except BaseException:
        _LOG.exception("a receiving process failed")
        os._exit(1)
    os._exit(0)


class _Worker:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._receiving = Receiving()
        self._heap = Heap()
        self._lock = threading.Lock()
        self._running: dict[int, Association] = {}

    def run(self) -> None:
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._control, _MAX_MESSAGE_BYTES, _DESCRIPTORS)
            if not message:
                break
            told: Handed | Stop = pickle.loads(message)  # noqa: S301  # from the process this one is a copy of
            if isinstance(told, Stop):
                with self._lock:
                    association = self._running.get(told.number)
                if association is not None:
                    association.stop()
            else:
                self._begin(told, *descriptors)
        with self._lock:
            running = list(self._running.values())
        for association in running:
            association.kill()

    def _begin(self, handed: Handed, connection: int, channel: int) -> None:
        sock = socket.socket(fileno=connection)
        spool = RemoteSpool(handed.terms, Connection(channel), self._receiving)
        association = Association(
            sock,
            handed.peer_address,
            handed.settings,
            spool,
            agree=lambda _: nullcontext(handed.agreed),
            services={},
            note_refusal=spool.refuse,
        )
        with self._lock:
            self._running[handed.number] = association
        threading.Thread(
            target=self._serve,
            args=(handed.number, association, spool),
            name=f"dicom-{handed.peer_address}",
            daemon=True,
        ).start()

    def _serve(self, number: int, association: Association, spool: RemoteSpool) -> None:
        try:
            association.run()
        finally:
            spool.close()
            with self._lock:
                del self._running[number]
            self._heap.trim()
