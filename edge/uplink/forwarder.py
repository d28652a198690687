"""Takes what the spool holds to central, and frees an object only against a receipt that fits it.

Each worker: wait until the line may be used → claim → send → verify the receipt against the pinned keys and
this very object → acknowledge. Always true: no path frees an object without a verified receipt; every claim
ends in exactly one of acknowledge, release and set aside, unless the process dies, and then the spool drops
the lease at the next start and the next attempt goes on where central is. What went wrong decides who waits:

| what                                   | the object              | the line                          |
|----------------------------------------|-------------------------|-----------------------------------|
| central was never reached, not trusted | ready at once           | closed, backoff                   |
| certificate refused                    | ready at once           | closed, backoff; state "refused"  |
| central failed, or the line broke      | waits by its own count  | closed, backoff                   |
| the receipt does not fit               | waits by its own count  | closed, backoff                   |
| refused or damaged                     | set aside, kept         | open                              |
| tampered                               | once more from zero, then set aside | open                  |
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import httpx

from contract.identifiers import ObjectId
from contract.receipt import Receipt, ReceiptError, verify_receipt
from contract.transfer import Problem
from edge.buffer.errors import SpoolError
from edge.buffer.records import Claimed
from edge.buffer.spool import Spool
from edge.uplink.client import open_client
from edge.uplink.errors import (
    CentralNotTrustedError,
    CentralUnreachableError,
    CertificateRefusedError,
    ObjectRefusedError,
    SendingStoppedError,
    UplinkPermanentError,
    UplinkTransientError,
)
from edge.uplink.identity import Identity
from edge.uplink.line import Line, Pass, backoff_s
from edge.uplink.link import Link
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


class Forwarder:
    """`connections` worker threads over one spool. Receives its identity later if the box is not enrolled yet.

    Parameters
    ----------
    lease_s : how long a claim holds; the spool gives the object to somebody else after it.
    backoff_ceiling_s : the longest wait between two attempts, of the line and of one object.
    timeout_s : for each connect, send and wait for bytes.
    on_receipt : called after each object that was freed.
    """

    def __init__(
        self,
        spool: Spool,
        link: Link,
        *,
        connections: int,
        lease_s: float,
        backoff_ceiling_s: float,
        timeout_s: float,
        on_receipt: Callable[[], None] = lambda: None,
    ) -> None:
        self._spool = spool
        self._link = link
        self._connections = connections
        self._lease_s = lease_s
        self._ceiling_s = backoff_ceiling_s
        self._timeout_s = timeout_s
        self._on_receipt = on_receipt
        self._line = Line(backoff_ceiling_s)
        self._route: _Route | None = None
        self._stopping = threading.Event()
        self._busy = 0
        self._idle = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, name=f"uplink-{number}", daemon=True)
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
        self._route = _Route(identity, client, Transfer(client, self._stopping.is_set))
        self._link.enrolled(identity.central_url, identity.certificate_expires_at_utc)
        self._line.begin()

    def try_now(self) -> None:
        """Something else got through to central's side: do not wait out the backoff."""
        self._line.try_now()

    def stop(self, grace_s: float) -> None:
        """Let go of what is being sent, within `grace_s`; idle workers end when the spool is closed."""
        self._stopping.set()
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

    def _work(self) -> None:
        while (permit := self._line.enter()) is not Pass.STOP:
            route = self._route
            assert route is not None, "the line opens only after `use`"
            if permit is Pass.PROBE:
                self._probe(route)
                continue
            try:
                claimed = self._spool.claim(lease_s=self._lease_s)
                if claimed is None:
                    self._spool.wait_for_work(None)
                    continue
            except SpoolError as error:
                if self._stopping.is_set():
                    return
                self._close_line(f"the spool on this box fails: {error}")
                continue
            with self._idle:
                self._busy += 1
            try:
                self._forward(route, claimed)
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
            self._line.passed()
            self._link.connected()
            _log.info("central connected", extra={"central": route.identity.central_url})

    def _forward(self, route: _Route, claimed: Claimed) -> None:
        """Bring one claim to its end. Whatever happens, the claim is not kept."""
        object_id = claimed.object_id
        try:
            receipt, token = self._deliver(route, claimed)
            self._spool.acknowledge(object_id, token)
        except SendingStoppedError as error:
            self._release(object_id, str(error), retry_in_s=0.0)
        except (CentralUnreachableError, CertificateRefusedError) as error:
            self._blame_line(error)
            self._release(object_id, str(error), retry_in_s=0.0)
        except (UplinkTransientError, ReceiptError) as error:
            self._blame_line(error)
            self._release(object_id, str(error), retry_in_s=self._own_backoff_s(claimed))
        except UplinkPermanentError as error:
            self._set_aside(object_id, str(error))
        except (SpoolError, OSError) as error:
            # This box's own disk; the object waits, the others may be well.
            self._release(object_id, f"this box failed: {error}", retry_in_s=self._own_backoff_s(claimed))
        except Exception:
            _log.exception("forwarding failed", extra={"object_id": object_id})
            self._release(object_id, "a fault in this program; see its log", retry_in_s=self._ceiling_s)
        else:
            self._line.succeeded()
            self._link.receipted(datetime.now(UTC))
            _log.info(
                "freed",
                extra={
                    "object_id": object_id,
                    "outcome": receipt.outcome,
                    "size_bytes": claimed.size_bytes,
                    "stored_bytes": claimed.stored_bytes,
                    "attempts": claimed.attempts,
                },
            )
            self._on_receipt()

    def _deliver(self, route: _Route, claimed: Claimed) -> tuple[Receipt, str]:
        give_up_at = time.monotonic() + self._lease_s * _LEASE_MARGIN
        with self._spool.open_object(claimed.object_id) as source:

            def send(*, resume: bool) -> str:
                return route.transfer.send(
                    claimed.object_id,
                    source,
                    claimed.stored_bytes,
                    resume=resume,
                    stop_at=lambda: time.monotonic() > give_up_at,
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

    def _release(self, object_id: ObjectId, error: str, *, retry_in_s: float) -> None:
        try:
            self._spool.release(object_id, error=error, retry_in_s=retry_in_s)
        except SpoolError as fault:
            # The lease lapsed or the spool is closed: either way it is nobody's now and will be claimed anew.
            _log.warning("release failed", extra={"object_id": object_id, "detail": fault})

    def _set_aside(self, object_id: ObjectId, reason: str) -> None:
        _log.error("set aside", extra={"object_id": object_id, "reason": reason})
        try:
            self._spool.set_aside(object_id, reason=reason)
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
