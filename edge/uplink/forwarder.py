"""Takes what a queue holds to one central, over several connections at once.

Each worker: wait until the line may be used → claim, small objects several at once → send, as a pack if they are
several → verify each receipt against the pinned keys and its very object → acknowledge. The line, pausing and the
threads are here; `dispatch` brings each claim to its end, `delivery` sends.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from edge.buffer.errors import SpoolError
from edge.uplink.bandwidth import Bandwidth
from edge.uplink.client import open_client
from edge.uplink.delivery import Route
from edge.uplink.dispatch import Dispatch, Queue
from edge.uplink.errors import UplinkPermanentError, UplinkTransientError
from edge.uplink.identity import Identity
from edge.uplink.line import Line, Pass
from edge.uplink.line_pace import LinePace
from edge.uplink.link import Link
from edge.uplink.transfer import Transfer


class Forwarder:
    """`connections` worker threads over one queue. Receives its identity later if the box is not enrolled yet.

    Parameters
    ----------
    on_line : called when the line may have gone out or come back (`out_since_s`).
    lease_s : how long a claim holds; the spool gives the object to somebody else after it.
    bandwidth : how much may be sent at which hour; without it as much as the line takes.
    backoff_ceiling_s : the longest wait between two attempts, of the line and of one object.
    timeout_s : for each connect, send and wait for bytes.
    on_receipt : called after each object that was freed.
    """

    def __init__(
        self,
        queue: Queue,
        link: Link,
        *,
        connections: int,
        lease_s: float,
        backoff_ceiling_s: float,
        timeout_s: float,
        on_receipt: Callable[[], None] = lambda: None,
        bandwidth: Bandwidth | None = None,
        on_line: Callable[[], None] = lambda: None,
        name: str = "uplink",
    ) -> None:
        self._queue = queue
        self._link = link
        self._connections = connections
        self._timeout_s = timeout_s
        self._bandwidth = bandwidth or Bandwidth()
        self._line = Line(backoff_ceiling_s, on_change=on_line)
        self._pace = LinePace()
        self._dispatch = Dispatch(
            queue,
            self._line,
            link,
            self._pace,
            connections=connections,
            lease_s=lease_s,
            ceiling_s=backoff_ceiling_s,
            on_receipt=on_receipt,
            paused=lambda: self.paused,
        )
        self._route: Route | None = None
        self._stopping = threading.Event()
        self._flowing = threading.Event()  # cleared: somebody paused sending
        self._flowing.set()
        self._busy = 0
        self._idle = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, args=(number,), name=f"{name}-{number}", daemon=True)
            for number in range(connections)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def use(self, identity: Identity) -> None:
        """Forward as `identity` from the next object on, beginning at once."""
        client = open_client(
            identity.central_url,
            identity.tls_context(),
            timeout_s=self._timeout_s,
            connections=self._connections,
        )
        # The former client is not closed here: a worker may be in the middle of using it. Its sockets go
        # with the last reference.
        transfer = Transfer(
            client,
            self._stopping.is_set,
            self._pace,
            self._bandwidth,
            wait=self._stopping.wait,
            on_success=lambda: self._dispatch.note_central(identity),
        )
        self._dispatch.takes_packs = True
        self._route = Route(identity, client, transfer)
        self._link.enrolled(identity.central_url, identity.certificate_expires_at_utc)
        self._line.begin()

    def out_since_s(self) -> float | None:
        """Since when nothing gets through to central, on the monotonic clock; None while something does.

        Without an identity nothing ever did.
        """
        return self._line.out_since_s if self._route is not None else -math.inf

    def line_is_slow(self) -> bool:
        """Whether the line, and not the scanner or the disk, decides how long a study takes; as of late."""
        return self._pace.is_slow

    def try_now(self) -> None:
        """Something else got through to central's side: do not wait out the backoff."""
        self._line.try_now()

    @property
    def paused(self) -> bool:
        return not self._flowing.is_set()

    def pause(self) -> None:
        """Send nothing more, from the next chunk on, until `resume`; what central has of an object stays there."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    def stop(self, grace_s: float) -> None:
        """Let go of what is being sent, within `grace_s`; idle workers end when the spool is closed."""
        self._stopping.set()
        self._flowing.set()
        self._line.stop()
        with self._idle:
            self._idle.wait_for(lambda: self._busy == 0, grace_s)

    def join(self, timeout_s: float) -> None:
        """To be called after the spool was closed."""
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._route is not None:
            self._route.client.close()

    def _work(self, number: int) -> None:
        while (permit := self._line.enter()) is not Pass.STOP:
            route = self._route
            assert route is not None, "the line opens only after `use`"
            if permit is Pass.PROBE or (permit is Pass.BEGIN and self.paused):
                self._probe(route)
                continue
            self._flowing.wait()
            try:
                claims = self._dispatch.claim(number)
                if not claims and permit is Pass.BEGIN:
                    self._probe(route)
                    continue
                if not claims:
                    self._queue.wait_for_work(None)
                    continue
            except SpoolError as error:
                if self._stopping.is_set():
                    return
                self._dispatch.close_line(f"the spool on this box fails: {error}")
                continue
            with self._idle:
                self._busy += 1
            try:
                self._dispatch.bring_to_ends(route, claims)
            finally:
                with self._idle:
                    self._busy -= 1
                    self._idle.notify_all()

    def _probe(self, route: Route) -> None:
        try:
            route.transfer.probe()
        except (UplinkTransientError, UplinkPermanentError) as error:
            self._dispatch.blame_line(error)
        else:
            self._dispatch.takes_packs = True  # it may have come back as another version
