"""Every claim ends here, in exactly one of acknowledge, release and set aside, whatever central and the line do.

Always true: no path frees an object without a verified receipt. Should the process die, the spool drops the lease at
the next start, and the next attempt goes on where central is. What went wrong decides who waits:

| what                                   | the object              | the line                          |
|----------------------------------------|-------------------------|-----------------------------------|
| central was never reached, not trusted | ready at once, untried  | closed, backoff                   |
| certificate refused                    | ready at once, untried  | closed, backoff; state "refused"  |
| central failed, or the line broke      | waits by its own count  | closed, backoff                   |
| the receipt does not fit               | waits by its own count  | closed, backoff                   |
| refused or damaged                     | set aside, kept         | open                              |
| tampered                               | once more from zero, alone, then set aside | open           |
| the pack is refused as such, or cannot be read here | sent by itself | open                          |
| central's program fails over it, others pass | set aside after many attempts | open                    |

A pack that was interrupted by the line is sent again as the same pack, from the byte where central is. One over which
central failed is not: its objects come back one by one, each when its own wait is over.
"""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import BinaryIO, Final, Protocol

from contract.identifiers import ObjectId
from contract.pack import MAX_OBJECTS, MAX_PACK_BYTES, Fate, head_bytes
from contract.receipt import Receipt, ReceiptError
from edge.buffer.errors import SpoolError
from edge.buffer.records import Claimed
from edge.uplink.delivery import Delivery, Route, check_receipt
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
from edge.uplink.line import Line, backoff_s
from edge.uplink.line_pace import LinePace
from edge.uplink.link import Link
from edge.uplink.stumbles import Stumbles

GIVEN_UP_AFTER: Final = 64
"""Attempts of an object over which central's program fails while others pass, until it is set aside: at the longest
backoff half an hour, in which central may be mended."""

_FAULT: Final = 500  # of central's program, over the very request
_log = logging.getLogger(__name__)


class Queue(Protocol):
    """Lends objects: the spool, or what one of several centrals is owed of it. Everything as `SendingQueue` has it.

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


class Dispatch:
    """Claims from `queue`, delivers, and brings each claim to its end. Safe from any thread.

    Parameters
    ----------
    connections : how many workers share the line.
    lease_s : how long a claim holds; the spool gives the object to somebody else after it.
    ceiling_s : the longest wait between two attempts of one object.
    on_receipt : called after each object that was freed.
    paused : whether somebody paused sending.
    """

    def __init__(
        self,
        queue: Queue,
        line: Line,
        link: Link,
        pace: LinePace,
        *,
        connections: int,
        lease_s: float,
        ceiling_s: float,
        on_receipt: Callable[[], None],
        paused: Callable[[], bool],
    ) -> None:
        self._queue = queue
        self._line = line
        self._link = link
        self._pace = pace
        self._connections = connections
        self._lease_s = lease_s
        self._ceiling_s = ceiling_s
        self._on_receipt = on_receipt
        self._delivery = Delivery(queue.open_object, lease_s, paused)
        self._stumbles = Stumbles()
        # Packs to be sent again as they are; a worker puts back one at most.
        self._interrupted: deque[tuple[ObjectId, ...]] = deque(maxlen=connections)
        self.takes_packs = True
        """Whether central takes packs at all, as far as is known: an older version may not."""

    def claim(self, number: int) -> Sequence[Claimed]:
        """What goes in one piece: an interrupted pack, or the next object and what small ones fit beside it."""
        if not self.takes_packs:
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

    def bring_to_ends(self, route: Route, claims: Sequence[Claimed]) -> None:
        """Send, as a pack if they are several; then each is acknowledged, released or set aside."""
        if len(claims) < 2:
            self._forward_each(route, claims)
            return
        object_ids = tuple(claimed.object_id for claimed in claims)
        try:
            answer = self._delivery.several(route, claims)
        except (UplinkPermanentError, SpoolError, OSError) as error:
            # Refused as a pack, or one of its files is damaged: by themselves, each meets its own fate.
            _log.warning("pack not sent", extra={"reason": error, "objects": len(claims)})
            if isinstance(error, PackRefusedError) and error.takes_none:
                self.takes_packs = False
            self._forward_each(route, claims)
        except (SendingStoppedError, CentralUnreachableError, CertificateRefusedError) as error:
            never_there = not isinstance(error, SendingStoppedError)
            if never_there:
                self.blame_line(error)
            self._interrupted.append(object_ids)
            self._release_all(claims, str(error), untried=never_there)
        except UplinkTransientError as error:
            self.blame_line(error)
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
        self, route: Route, claims: Sequence[Claimed], fates: Mapping[str, Fate]
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

    def _forward_each(self, route: Route, claims: Sequence[Claimed]) -> None:
        """One after the other, each by itself, as long as the line holds."""
        for number, claimed in enumerate(claims):
            if not self._forward(route, claimed):
                reason = "the line to central broke before its turn"
                self._release_all(claims[number + 1 :], reason, untried=True)
                return

    def _forward(self, route: Route, claimed: Claimed, fate: Fate | None = None) -> bool:
        """Bring one claim to its end; False if the line is not to be used for the next.

        `fate`: what central said of it in a pack. Whatever happens, the claim is not kept.
        """
        object_id = claimed.object_id
        try:
            receipt, token = (
                self._delivery.redeem(route, claimed, fate) if fate else self._delivery.one(route, claimed)
            )
            self._queue.acknowledge_all([(object_id, token)])
        except SendingStoppedError as error:
            self._release(object_id, str(error), retry_in_s=0.0)
            return False
        except (CentralUnreachableError, CertificateRefusedError) as error:
            self.blame_line(error)
            self._release(object_id, str(error), retry_in_s=0.0, untried=True)
            return False
        except (UplinkTransientError, ReceiptError) as error:
            if self._is_poison(claimed, error):
                reason = f"central failed over it {claimed.attempts} times and took others meanwhile: {error}"
                self._set_aside(object_id, reason)
                return True
            self.blame_line(error)
            self._release(object_id, str(error), retry_in_s=self._own_backoff_s(claimed))
            return False
        except UplinkPermanentError as error:
            if isinstance(error, ObjectRefusedError):
                self.note_central(route.identity)
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

    def _is_poison(self, claimed: Claimed, error: Exception) -> bool:
        """Whether it is this object's fault that central fails, as far as can be told from outside."""
        if not isinstance(error, CentralFailedError) or error.status != _FAULT:
            return False
        return self._stumbles.failed(claimed.object_id) and claimed.attempts >= GIVEN_UP_AFTER

    def _note_receipt(self, claimed: Claimed, receipt: Receipt) -> None:
        self._line.succeeded()
        self._stumbles.passed(claimed.object_id)
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

    def note_central(self, identity: Identity) -> None:
        """Central took something, or refused it for what it is."""
        if self._line.passed():
            self._link.connected()
            _log.info("central connected", extra={"central": identity.central_url})

    def blame_line(self, error: Exception) -> None:
        """Close the line for a while; the link says what to do."""
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
            self.close_line(str(error))

    def close_line(self, sentence: str) -> None:
        delay_s = self._line.failed()
        self._link.waiting(f"{sentence}. Images are kept here and sent when it works again.")
        _log.warning("central away", extra={"retry_in_s": round(delay_s, 1), "detail": sentence})

    def _release_all(self, claims: Sequence[Claimed], reason: str, *, untried: bool) -> None:
        for claimed in claims:
            self._release(claimed.object_id, reason, retry_in_s=0.0, untried=untried)

    def _release(self, object_id: ObjectId, error: str, *, retry_in_s: float, untried: bool = False) -> None:
        try:
            self._queue.release(object_id, error=error, retry_in_s=retry_in_s, untried=untried)
        except SpoolError as fault:
            # The lease lapsed, the spool is closed, or gives it back once the disk lets it: it will be claimed anew.
            _log.warning("release failed", extra={"object_id": object_id, "detail": fault})

    def _set_aside(self, object_id: ObjectId, reason: str) -> None:
        _log.error("set aside", extra={"object_id": object_id, "reason": reason})
        try:
            self._queue.set_aside(object_id, reason=reason)
        except SpoolError as fault:
            _log.warning("setting aside failed", extra={"object_id": object_id, "detail": fault})
            self._release(object_id, reason, retry_in_s=self._ceiling_s)

    def _own_backoff_s(self, claimed: Claimed) -> float:
        return backoff_s(claimed.attempts, self._ceiling_s, random.uniform)
