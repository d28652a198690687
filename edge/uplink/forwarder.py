"""Takes what a queue holds to one central, and frees an object only against a receipt that fits it.

Each worker: wait until the line may be used → claim, small objects several at once → send, as a pack if they are
several → verify each receipt against the pinned keys and its very object → acknowledge. Always true: no path frees
an object without a verified receipt; every claim ends in exactly one of acknowledge, release and set aside, unless
the process dies, and then the spool drops the lease at the next start and the next attempt goes on where central is.
What went wrong decides who waits:

| what                                   | the object              | the line                          |
|----------------------------------------|-------------------------|-----------------------------------|
| central was never reached, not trusted | ready at once, untried  | closed, backoff                   |
| certificate refused                    | ready at once, untried  | closed, backoff; state "refused"  |
| central failed, or the line broke      | waits by its own count  | closed, backoff                   |
| the receipt does not fit               | waits by its own count  | closed, backoff                   |
| refused or damaged                     | set aside, kept         | open                              |
| tampered                               | once more from zero, alone, then set aside | open           |
| the pack is refused as such, or cannot be read here | sent by itself | open                          |

A pack that was interrupted by the line is sent again as the same pack, from the byte where central is. One over which
central failed is not: its objects come back one by one, each when its own wait is over.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Final, Protocol

import httpx

from contract.identifiers import ObjectId
from contract.pack import MAX_OBJECTS, MAX_PACK_BYTES, Fate, PackAnswer, head_bytes, make_pack
from contract.receipt import Receipt, ReceiptError, verify_receipt
from contract.transfer import PERMANENT, Problem
from edge.buffer.errors import SpoolError
from edge.buffer.records import Claimed
from edge.uplink.bandwidth import Bandwidth
from edge.uplink.client import open_client
from edge.uplink.errors import (
    CentralFailedError,
    CentralNotTrustedError,
    CentralUnreachableError,
    CertificateRefusedError,
    ObjectRefusedError,
    PackRefusedError,
    SendingStoppedError,
    UplinkPermanentError,
    UplinkTransientError,
)
from edge.uplink.identity import Identity
from edge.uplink.line import Line, Pass, backoff_s
from edge.uplink.line_pace import LinePace
from edge.uplink.link import Link
from edge.uplink.pack_source import PackSource
from edge.uplink.refusals import printable
from edge.uplink.transfer import Transfer

_log = logging.getLogger(__name__)

_LEASE_MARGIN: Final = 0.5
"""A worker gives an object back after this part of its lease, so that no two workers ever hold one."""


@dataclass(frozen=True)
class _Route:
    """Everything that comes with an identity; replaced as a whole when the box is enrolled anew."""

    identity: Identity
    client: httpx.Client
    transfer: Transfer


class Queue(Protocol):
    """Lends objects: the spool, or what one of several centrals is owed of it. Everything as `Spool` has it.

    Raises
    ------
    SpoolError
    """

    def claim(self, *, lease_s: float) -> Claimed | None: ...

    def claim_several(
        self, *, lease_s: float, max_objects: int, max_bytes: int, these: Collection[ObjectId] = ()
    ) -> list[Claimed]: ...

    def wait_for_work(self, timeout_s: float | None) -> bool: ...

    def open_object(self, object_id: ObjectId) -> BinaryIO: ...

    def acknowledge_all(self, receipts: Sequence[tuple[ObjectId, str]]) -> None: ...

    def release(
        self, object_id: ObjectId, *, error: str, retry_in_s: float, untried: bool = False
    ) -> None: ...

    def set_aside(self, object_id: ObjectId, *, reason: str) -> None: ...


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
        self._lease_s = lease_s
        self._ceiling_s = backoff_ceiling_s
        self._timeout_s = timeout_s
        self._on_receipt = on_receipt
        self._bandwidth = bandwidth or Bandwidth()
        self._line = Line(backoff_ceiling_s, on_change=on_line)
        self._pace = LinePace()
        # Packs to be sent again as they are; a worker puts back one at most.
        self._interrupted: deque[tuple[ObjectId, ...]] = deque(maxlen=connections)
        self._takes_packs = True
        self._route: _Route | None = None
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
            on_success=self._note_central,
        )
        self._takes_packs = True
        self._route = _Route(identity, client, transfer)
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
                claims = self._claim(number)
                if not claims and permit is Pass.BEGIN:
                    self._probe(route)
                    continue
                if not claims:
                    self._queue.wait_for_work(None)
                    continue
            except SpoolError as error:
                if self._stopping.is_set():
                    return
                self._close_line(f"the spool on this box fails: {error}")
                continue
            with self._idle:
                self._busy += 1
            try:
                self._forward_together(route, claims)
            finally:
                with self._idle:
                    self._busy -= 1
                    self._idle.notify_all()

    def _probe(self, route: _Route) -> None:
        try:
            route.transfer.probe()
        except (UplinkTransientError, UplinkPermanentError) as error:
            self._blame_line(error)
        else:
            self._takes_packs = True  # it may have come back as another version

    def _note_central(self) -> None:
        """Central took something, or refused it for what it is."""
        route = self._route
        if route is not None and self._line.passed():
            self._link.connected()
            _log.info("central connected", extra={"central": route.identity.central_url})

    def _claim(self, number: int) -> Sequence[Claimed]:
        """What goes in one piece: an interrupted pack, or the next object and what small ones fit beside it."""
        if not self._takes_packs:
            one = self._queue.claim(lease_s=self._lease_s)
            return [one] if one else []
        room = min(self._pace.pack_bytes(number, self._connections), MAX_PACK_BYTES) - head_bytes(MAX_OBJECTS)
        these: tuple[ObjectId, ...] = ()
        with suppress(IndexError):
            these = self._interrupted.popleft()
        if these and (again := self._claim_several(room, these)):
            return again
        return self._claim_several(room)

    def _claim_several(self, max_bytes: int, these: Sequence[ObjectId] = ()) -> Sequence[Claimed]:
        return self._queue.claim_several(
            lease_s=self._lease_s, max_objects=MAX_OBJECTS, max_bytes=max_bytes, these=these
        )

    def _forward_together(self, route: _Route, claims: Sequence[Claimed]) -> None:
        """Bring several claims to their ends."""
        if len(claims) < 2:
            self._forward_each(route, claims)
            return
        object_ids = tuple(claimed.object_id for claimed in claims)
        try:
            answer = self._deliver_pack(route, claims)
        except (UplinkPermanentError, SpoolError, OSError) as error:
            # Refused as a pack, or one of its files is damaged: by themselves, each meets its own fate.
            _log.warning("pack not sent", extra={"reason": error, "objects": len(claims)})
            if isinstance(error, PackRefusedError) and error.takes_none:
                self._takes_packs = False
            self._forward_each(route, claims)
        except (SendingStoppedError, CentralUnreachableError, CertificateRefusedError) as error:
            never_there = not isinstance(error, SendingStoppedError)
            if never_there:
                self._blame_line(error)
            self._interrupted.append(object_ids)
            self._release_all(claims, str(error), untried=never_there)
        except UplinkTransientError as error:
            self._blame_line(error)
            if not isinstance(error, CentralFailedError) or error.status is None:
                self._pace.note_cut()
                self._interrupted.append(object_ids)
            for claimed in claims:
                self._release(claimed.object_id, str(error), retry_in_s=self._own_backoff_s(claimed))
        except Exception:
            _log.exception("forwarding failed", extra={"object_ids": object_ids})
            for claimed in claims:
                reason = "a fault in this program; see its log"
                self._release(claimed.object_id, reason, retry_in_s=self._ceiling_s)
        else:
            fates = {fate.object_id: fate for fate in answer.objects}
            taken = self._take_receipts(route, claims, fates)
            for claimed in claims:
                if claimed.object_id not in taken:
                    self._forward(route, claimed, fates[claimed.object_id])

    def _take_receipts(
        self, route: _Route, claims: Sequence[Claimed], fates: Mapping[str, Fate]
    ) -> set[ObjectId]:
        """Acknowledge with one sync what central signed for; which that was. The rest meets its own fate by itself."""
        good: list[tuple[Claimed, Receipt, str]] = []
        try:
            for claimed in claims:
                token = fates[claimed.object_id].receipt
                if token is not None:
                    with suppress(ReceiptError):
                        good.append((claimed, check_receipt(token, route.identity, claimed), token))
            if good:
                self._queue.acknowledge_all([(claimed.object_id, token) for claimed, _, token in good])
        except Exception as error:
            _log.warning("receipts are taken one by one", extra={"reason": error})
            return set()
        for claimed, receipt, _ in good:
            self._note_receipt(claimed, receipt)
        return {claimed.object_id for claimed, _, _ in good}

    def _forward_each(self, route: _Route, claims: Sequence[Claimed]) -> None:
        """One after the other, each by itself, as long as the line holds."""
        for number, claimed in enumerate(claims):
            if not self._forward(route, claimed):
                reason = "the line to central broke before its turn"
                self._release_all(claims[number + 1 :], reason, untried=True)
                return

    def _release_all(self, claims: Sequence[Claimed], reason: str, *, untried: bool) -> None:
        for claimed in claims:
            self._release(claimed.object_id, reason, retry_in_s=0.0, untried=untried)

    def _deliver_pack(self, route: _Route, claims: Sequence[Claimed]) -> PackAnswer:
        give_up_at = time.monotonic() + self._lease_s * _LEASE_MARGIN
        pack = make_pack((claimed.object_id, claimed.stored_bytes) for claimed in claims)
        with PackSource(pack, self._queue.open_object) as source:
            return route.transfer.send_pack(
                pack,
                source,
                resume=any(claimed.attempts > 1 for claimed in claims),
                stop_at=lambda: self.paused or time.monotonic() > give_up_at,
            )

    def _forward(self, route: _Route, claimed: Claimed, fate: Fate | None = None) -> bool:
        """Bring one claim to its end; False if the line is not to be used for the next.

        `fate`: what central said of it in a pack. Whatever happens, the claim is not kept.
        """
        object_id = claimed.object_id
        try:
            receipt, token = self._redeem(route, claimed, fate) if fate else self._deliver(route, claimed)
            self._queue.acknowledge_all([(object_id, token)])
        except SendingStoppedError as error:
            self._release(object_id, str(error), retry_in_s=0.0)
            return False
        except (CentralUnreachableError, CertificateRefusedError) as error:
            self._blame_line(error)
            self._release(object_id, str(error), retry_in_s=0.0, untried=True)
            return False
        except (UplinkTransientError, ReceiptError) as error:
            self._blame_line(error)
            self._release(object_id, str(error), retry_in_s=self._own_backoff_s(claimed))
            return False
        except UplinkPermanentError as error:
            if isinstance(error, ObjectRefusedError):
                self._note_central()
            self._set_aside(object_id, str(error))
        except (SpoolError, OSError) as error:
            # This box's own disk; the object waits, the others may be well.
            self._release(object_id, f"this box failed: {error}", retry_in_s=self._own_backoff_s(claimed))
        except Exception:
            _log.exception("forwarding failed", extra={"object_id": object_id})
            self._release(object_id, "a fault in this program; see its log", retry_in_s=self._ceiling_s)
        else:
            self._note_receipt(claimed, receipt)
        return True

    def _note_receipt(self, claimed: Claimed, receipt: Receipt) -> None:
        self._line.succeeded()
        self._link.receipted(datetime.now(UTC))
        _log.info(
            "freed",
            extra={
                "object_id": claimed.object_id,
                "outcome": receipt.outcome,
                "size_bytes": claimed.size_bytes,
                "stored_bytes": claimed.stored_bytes,
                "attempts": claimed.attempts,
            },
        )
        self._on_receipt()

    def _redeem(self, route: _Route, claimed: Claimed, fate: Fate) -> tuple[Receipt, str]:
        """What central said of this object in its pack, as if it had come by itself."""
        if fate.receipt is not None:
            return check_receipt(fate.receipt, route.identity, claimed), fate.receipt
        sentence = f"central refused it: {fate.problem}" + (
            f": {printable(fate.detail)}" if fate.detail else ""
        )
        if fate.problem is Problem.TAMPERED:
            # Changed on the way, or here? Sent by itself, from zero, it tells.
            _log.warning("sending anew", extra={"object_id": claimed.object_id, "reason": sentence})
            return self._deliver(route, claimed)
        if fate.problem in PERMANENT:
            raise ObjectRefusedError(fate.problem, sentence)
        raise CentralFailedError(sentence)

    def _deliver(self, route: _Route, claimed: Claimed) -> tuple[Receipt, str]:
        give_up_at = time.monotonic() + self._lease_s * _LEASE_MARGIN
        with self._queue.open_object(claimed.object_id) as source:

            def send(*, resume: bool) -> str:
                return route.transfer.send(
                    claimed.object_id,
                    source,
                    claimed.stored_bytes,
                    resume=resume,
                    stop_at=lambda: self.paused or time.monotonic() > give_up_at,
                )

            try:
                token = send(resume=claimed.attempts > 1)
            except ObjectRefusedError as error:
                if error.problem is not Problem.TAMPERED:
                    raise
                # Changed on the way, or here? Central dropped what it had; one try from zero tells.
                _log.warning("sending anew", extra={"object_id": claimed.object_id, "reason": error})
                token = send(resume=False)
        return check_receipt(token, route.identity, claimed), token

    def _blame_line(self, error: Exception) -> None:
        if isinstance(error, CertificateRefusedError):
            self._line.failed()
            sentence = f"{error}. Central will not take anything from this box until it is enrolled again."
            self._link.refused(sentence)
            _log.error("certificate refused", extra={"detail": sentence})
        elif isinstance(error, CentralNotTrustedError):
            self._line.failed()
            self._link.refused(str(error))
            _log.error("central not trusted", extra={"detail": error})
        else:
            self._close_line(str(error))

    def _close_line(self, sentence: str) -> None:
        delay_s = self._line.failed()
        self._link.waiting(f"{sentence}. Images are kept here and sent when it works again.")
        _log.warning("central away", extra={"retry_in_s": round(delay_s, 1), "detail": sentence})

    def _own_backoff_s(self, claimed: Claimed) -> float:
        return backoff_s(claimed.attempts, self._ceiling_s, random.uniform)

    def _release(self, object_id: ObjectId, error: str, *, retry_in_s: float, untried: bool = False) -> None:
        try:
            self._queue.release(object_id, error=error, retry_in_s=retry_in_s, untried=untried)
        except SpoolError as fault:
            # The lease lapsed or the spool is closed: either way it is nobody's now and will be claimed anew.
            _log.warning("release failed", extra={"object_id": object_id, "detail": fault})

    def _set_aside(self, object_id: ObjectId, reason: str) -> None:
        _log.error("set aside", extra={"object_id": object_id, "reason": reason})
        try:
            self._queue.set_aside(object_id, reason=reason)
        except SpoolError as fault:
            _log.warning("setting aside failed", extra={"object_id": object_id, "detail": fault})


def check_receipt(token: str, identity: Identity, claimed: Claimed) -> Receipt:
    """Return the receipt if central signed it for this box and these very bytes, else raise ReceiptError."""
    receipt = verify_receipt(token, identity.receipt_keys)
    vouched = (receipt.central_id, receipt.gateway_id, receipt.object_id, receipt.sha256, receipt.size_bytes)
    expected = (
        identity.enrolment.answer.central_id,
        identity.gateway_id,
        claimed.object_id,
        claimed.sha256,
        claimed.size_bytes,
    )
    if vouched != expected:
        raise ReceiptError("the receipt is for another object, another content or another box")
    return receipt
