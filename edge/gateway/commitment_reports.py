"""Judges requests for Storage Commitment and tells the scanners (PS3.4 Annex J.3.3), until each has answered.

One thread judges, woken when an instance became durable or was receipted; a few tell, one scanner at a time each. A
report goes out on the association that asked while it is open, unless the scanner's profile says otherwise, else
on a new one to the address configured for its AE title, under the AE title it had called: scanners refuse reports
from any other. Always true: what a report commits to was as safe when it went out; a request leaves the store only by
the scanner's answer, or by an age at which nobody waits any more, which is logged. A crash leaves the store, from which
the next life goes on; a report whose answer it lost is sent again.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError

from edge.buffer.commitments import (
    TICK_S,
    Commitment,
    CommitmentStore,
    Failure,
    Reference,
)
from edge.buffer.errors import SpoolClosedError, SpoolError
from edge.gateway.addresses import Address
from edge.gateway.commitment import Safety
from edge.gateway.commitment_messages import (
    ALL_COMMITTED,
    FAILURES_EXIST,
    STORAGE_COMMITMENT,
    encode_report,
)
from edge.gateway.commitment_scu import NotToldError, event_report, report_anew
from edge.gateway.commitment_verdicts import Verdicts
from edge.gateway.errors import CannotCallError, GatewayError
from edge.gateway.service import Peer
from edge.gateway.service_settings import CommitmentSettings

_LOG = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.5  # at most: a study that arrives wakes this for each of its images
_TELLERS = 4
# A scanner that wants its report on a new association releases its own at once; one that waits does not mind.
_HOLD_BACK_S = 0.5
_BOUNDARY_TIMEOUT_S = 60.0  # until an association that is busy receiving has a moment for the report
_ANSWER_TIMEOUT_S = 15.0
_FIRST_RETRY_S = 5.0
_RETRY_CEILING_S = 600.0
_DISK_RETRY_S = 10.0


class CommitmentReports:
    """`start`, then `stop`. `look_again` and `asked` may be called from any thread.

    Parameters
    ----------
    find_address : where the scanner with an AE title is called, None if nobody configured it; CannotCallError.
    """

    def __init__(
        self,
        store: CommitmentStore,
        safety: Safety,
        settings: CommitmentSettings,
        *,
        find_address: Callable[[str], Address | None],
        first_retry_s: float = _FIRST_RETRY_S,
    ) -> None:
        self._store = store
        self._verdicts = Verdicts(store, safety, settings)
        self._give_up_s = settings.report_days * 86_400
        self._find_address = find_address
        self._first_retry_s = first_retry_s
        self._changed = threading.Condition()  # guards everything below
        self._look = True
        self._has_waiting = True
        self._stopping = False
        self._telling: dict[int, str] = {}  # AE title by number of the request
        self._peers: dict[str, weakref.ref[Peer]] = {}  # latest association of each scanner that asked
        self._thread = threading.Thread(target=self._run, name="commitment")
        self._tellers = ThreadPoolExecutor(_TELLERS, thread_name_prefix="commitment")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Let reports on the way come to their end; the rest goes on in the next life."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        self._tellers.shutdown()

    def asked(self, calling_ae_title: str, peer: Peer) -> None:
        """A request came on an association that is still open: what waits for this scanner can be told."""
        with self._changed:
            self._peers[calling_ae_title] = weakref.ref(peer)
            self._has_waiting = True
        try:
            self._store.hurry(calling_ae_title)
        except SpoolError as error:  # they keep the time they had
            _LOG.warning("commitment reports cannot be hurried", extra={"reason": str(error)})
        self.look_again()

    def look_again(self) -> None:
        """An instance became durable, or central signed for one. Cheap while nothing waits."""
        if self._has_waiting:
            with self._changed:
                self._look = True
                self._changed.notify_all()

    def _run(self) -> None:
        ticked_s = time.monotonic()
        while True:
            with self._changed:
                if self._stopping:
                    return
                self._look = False
            try:
                next_s = min(self._judge_all(), self._tell_due())
                if time.monotonic() - ticked_s >= TICK_S:
                    ticked_s = time.monotonic()
                    self._store.tick()
            except SpoolClosedError:
                return
            except SpoolError as error:
                _LOG.warning("commitment requests cannot be worked on", extra={"reason": str(error)})
                next_s = _DISK_RETRY_S
            self._pause(min(next_s, TICK_S))

    def _pause(self, timeout_s: float) -> None:
        """Until there is something to do, but not at once again: a burst of wake-ups is one."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, min(timeout_s, _LOOK_EVERY_S))
            left_s = max(0.0, timeout_s - _LOOK_EVERY_S)
            self._changed.wait_for(lambda: self._stopping or self._look, left_s)

    # Judging -----------------------------------------------------------------------------------------------

    def _judge_all(self) -> float:
        """Decide what can be decided; seconds to the next deadline of the rest."""
        waiting = [one for one in self._store.waiting() if not self._judge(one)]
        with self._changed:
            # `asked` sets it first and wakes after: what came in between is looked at next.
            self._has_waiting = bool(waiting) or self._look
        return min((self._verdicts.deadline_in_s(one) for one in waiting), default=TICK_S)

    def _judge(self, commitment: Commitment) -> bool:
        """Decide a request if that can be done."""
        failures = self._verdicts.judge(commitment)
        if failures is None:
            return False
        self._store.decide(commitment.number, failures, due_in_s=self._hold_back_s(commitment))
        _LOG.info(
            "commitment decided",
            extra={
                **_named(commitment),
                "instances": commitment.instances,
                "failed": len(failures),
            },
        )
        return True

    def _hold_back_s(self, commitment: Commitment) -> float:
        peer = self._peer(commitment.asker.calling_ae_title)
        waits = peer is not None and peer.quirks.commitment_reply == "auto"
        return max(0.0, _HOLD_BACK_S - commitment.age_s) if waits else 0.0

    # Telling -----------------------------------------------------------------------------------------------

    def _tell_due(self) -> float:
        """Begin every report whose time has come; seconds to the next one."""
        next_s = TICK_S
        for commitment in self._store.decided():
            if commitment.age_s >= self._give_up_s:
                self._abandon(commitment)
            elif commitment.due_in_s > 0:
                next_s = min(next_s, commitment.due_in_s)
            else:
                self._begin_to_tell(commitment)
        return next_s

    def _begin_to_tell(self, commitment: Commitment) -> None:
        ae_title = commitment.asker.calling_ae_title
        with self._changed:
            if commitment.number in self._telling or ae_title in self._telling.values():
                return  # its end wakes this thread again
            self._telling[commitment.number] = ae_title
        self._tellers.submit(self._tell, commitment)

    def _tell(self, commitment: Commitment) -> None:
        try:
            self._try_to_tell(commitment)
        except SpoolError as error:
            _LOG.warning("a commitment report was not noted", extra={"reason": str(error)})
        except Exception:
            _LOG.exception("a commitment report failed unexpectedly")
            self._retry(commitment, "this box failed unexpectedly")
        finally:
            with self._changed:
                del self._telling[commitment.number]
                self._look = True
                self._changed.notify_all()

    def _try_to_tell(self, commitment: Commitment) -> None:
        committed, failures = self._store.verdict(commitment.number)
        if not self._verdicts.hold(committed):  # days may have gone by since they were judged
            self._store.reconsider(commitment.number)
            _LOG.warning(
                "commitment decided anew",
                extra=_named(commitment),
            )
            return
        try:
            how = self._report(commitment, committed, failures)
        except NotToldError as error:
            self._retry(commitment, str(error))
            return
        self._store.deliver(commitment.number)
        _LOG.info(
            "commitment reported",
            extra={
                **_named(commitment),
                "association": how,
                "failed": len(failures),
            },
        )

    def _report(self, commitment: Commitment, committed: list[Reference], failures: list[Failure]) -> str:
        """Tell the scanner; on which association. NotToldError otherwise."""
        asker = commitment.asker
        event_type = FAILURES_EXIST if failures else ALL_COMMITTED
        peer = self._peer(asker.calling_ae_title)
        if peer is not None and peer.quirks.commitment_reply != "new":
            try:
                _report_on(peer, commitment.transaction_uid, committed, failures, event_type)
            except NotToldError as error:
                _LOG.info(
                    "commitment not reported on the same association",
                    extra={"calling_ae_title": asker.calling_ae_title, "reason": str(error)},
                )
            else:
                return "same"
        try:
            address = self._find_address(asker.calling_ae_title)
        except CannotCallError as error:
            raise NotToldError(str(error)) from error
        if address is None:
            raise NotToldError(
                f"its association is closed and no host is set for {asker.calling_ae_title}: "
                "give it host and port in its entry"
            )
        report_anew(
            address,
            asker,
            event_type,
            lambda syntax: encode_report(commitment.transaction_uid, committed, failures, syntax),
        )
        return "new"

    def _retry(self, commitment: Commitment, error: str) -> None:
        wait_s = min(_RETRY_CEILING_S, self._first_retry_s * 2 ** min(commitment.attempts, 20))
        wait_s *= random.uniform(0.8, 1.2)  # noqa: S311  # spreads retries, guards nothing
        _LOG.warning(
            "commitment not reported",
            extra={
                **_named(commitment),
                "reason": error,
                "retry_in_s": round(wait_s),
            },
        )
        self._store.retry(commitment.number, error=error, retry_in_s=wait_s)

    def _abandon(self, commitment: Commitment) -> None:
        with self._changed:
            if commitment.number in self._telling:
                return
        self._store.abandon(commitment.number, error="the scanner could not be told in time")
        _LOG.error(
            "commitment report given up",
            extra={
                **_named(commitment),
                "attempts": commitment.attempts,
            },
        )

    def _peer(self, calling_ae_title: str) -> Peer | None:
        """The scanner's latest association, if it may be open still."""
        with self._changed:
            reference = self._peers.get(calling_ae_title)
            peer = reference() if reference is not None else None
            if peer is None or not peer.is_open:
                self._peers.pop(calling_ae_title, None)
                return None
            return peer


def _report_on(
    peer: Peer, transaction_uid: str, committed: list[Reference], failures: list[Failure], event_type: int
) -> None:
    """Tell the scanner on the association it asked on. NotToldError if that cannot be done."""
    context_id, context = next(
        (number, one)
        for number, one in peer.contexts.items()
        if one.abstract_syntax_uid == STORAGE_COMMITMENT
    )
    data_set = encode_report(transaction_uid, committed, failures, context.transfer_syntax_uid)
    call = event_report(context_id, event_type, data_set)
    told = peer.submit(lambda peer: peer.call(call, timeout_s=_ANSWER_TIMEOUT_S))
    try:
        try:
            answer = told.result(_BOUNDARY_TIMEOUT_S)
        except NotYetError:
            if told.cancel():
                raise NotToldError("the association is busy") from None
            answer = told.result()  # it has begun, and its own timeout ends it
    except GatewayError as error:
        raise NotToldError(str(error)) from error
    if answer.status != 0:
        raise NotToldError(f"it answered with status 0x{answer.status:04X}")


def _named(commitment: Commitment) -> dict[str, object]:
    return {
        "calling_ae_title": commitment.asker.calling_ae_title,
        "transaction_uid": commitment.transaction_uid,
    }
