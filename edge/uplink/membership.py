"""The box's membership at a central: enrolled or not, waiting for a yes, renewed, and whom to seal for.

    not enrolled ──enrol──▶ waiting for an administrator ──accepted──▶ enrolled ──upkeep──▶ renewed, and so on
                      └───────────────accepted at once────────────────────▲

Always true: an identity is durable before anything uses it; of two enrolments at once one is told to wait; objects
that only the former central can open keep the box from moving to another. A crash leaves what the files in
identity/ say, and the next start goes on from there.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from contract.enrolment import Pairing, PairingError
from contract.key_set import KeySetError
from contract.sealing import RecipientPublicKey
from edge.buffer.receipts import ReceiptLedger
from edge.buffer.spool import Spool
from edge.uplink.clock import BoxClock
from edge.uplink.enrolment import enrol
from edge.uplink.errors import (
    EnrolmentPendingError,
    EnrolmentRefusedError,
    IdentityError,
    UplinkPermanentError,
    UplinkTransientError,
)
from edge.uplink.held_keys import keys_in_spool
from edge.uplink.identity import Identity, IdentityStore
from edge.uplink.key_book import KeyBook, ids_of
from edge.uplink.key_maker import KeyMaker
from edge.uplink.link import Link
from edge.uplink.pending import EnrolmentWait, PendingFile, delayed_sentence, pending_sentence
from edge.uplink.receipt_check import ReceiptChecker, Tell
from edge.uplink.upkeep import Upkeep

_AFTER_START_S: Final = 1.0
_AFTER_FAILURE_S: Final = 15.0
_STOP_WAIT_S: Final = 2.0
_log = logging.getLogger(__name__)


class Membership:
    """From `start` to `stop`; safe to call from many threads.

    Parameters
    ----------
    folder : identity/ of the box.
    take_up : called with each identity that comes into use.
    seal_for : called with the key to seal for, before `take_up`, and whenever central has a newer one.
    try_now : called when something changed that may let a failed transfer pass.
    tell_set_back : called when central has lost what it signed for (edge.uplink.receipt_check).
    clock : None takes the one of `folder`.
    receipts : those that are checked with this central; None: the spool's.
    waiting : how many objects only this central can be sent; None: all that wait.
    keys : where private keys are made; None makes them in files.
    """

    def __init__(
        self,
        folder: Path,
        spool: Spool,
        link: Link,
        *,
        take_up: Callable[[Identity], None],
        seal_for: Callable[[RecipientPublicKey], None],
        try_now: Callable[[], None],
        tell_set_back: Tell,
        clock: BoxClock | None = None,
        receipts: ReceiptLedger | None = None,
        waiting: Callable[[], int] | None = None,
        keys: KeyMaker | None = None,
    ) -> None:
        keys = keys or KeyMaker()
        self._link = link
        self._take_up = take_up
        self._clock = clock or BoxClock(folder / "clock.json")
        self._store = IdentityStore(folder, self._clock, keys)
        self._pending = PendingFile(folder / "pending.json", keys)
        self._waiting: EnrolmentWait | None = None
        self._enrolling = threading.Lock()
        self._identity: Identity | None = None
        self._unsent = waiting or (lambda: spool.holdings.depth().unsent.objects)
        self._book = KeyBook(folder / "keys.json", lambda: keys_in_spool(spool.holdings))
        self._upkeep = Upkeep(
            self._store,
            self._clock,
            self._book,
            link,
            seal_for=seal_for,
            take_up=self._in_use,
            try_now=try_now,
            checker=ReceiptChecker(receipts or spool.receipts, tell_set_back),
            keys=keys,
        )

    @property
    def gateway_id(self) -> str | None:
        return self._identity.gateway_id if self._identity else None

    @property
    def ca_fingerprint(self) -> str | None:
        return self._identity.ca_fingerprint if self._identity else None

    def key_ids(self) -> frozenset[str]:
        """Of every key that this central has, as its newest key set says; to be called from `seal_for`."""
        return ids_of(self._book.key_set())

    def start(self) -> None:
        """Take up what the last life left. A damaged identity is said, not raised: the box runs on, so that it
        can be enrolled anew where it stands."""
        try:
            identity = self._store.load()
            if identity is not None:
                self._upkeep.use(identity)
        except (IdentityError, KeySetError, OSError) as error:
            _log.critical("identity damaged", extra={"detail": error})
            self._link.not_enrolled(str(error))
        if self._pending.load() is not None:
            self._wait(_AFTER_START_S)
        self._upkeep.start()

    def stop(self) -> None:
        self._stop_waiting(_STOP_WAIT_S)
        self._upkeep.stop()

    def enrol(self, pairing: Pairing) -> None:
        """Buy an identity and begin to use it; or begin to wait, where an administrator decides. After an error that
        may pass it is tried again until central has answered.

        Raises
        ------
        EnrolmentRefusedError, IdentityError, KeyLostError, UplinkTransientError, OSError,
        contract.enrolment.PairingError
        """
        if not self._enrolling.acquire(blocking=False):
            raise EnrolmentRefusedError("another enrolment is under way: wait for it")
        try:
            waiting = self._unsent()
            if waiting and self._identity and self._identity.ca_fingerprint != pairing.ca_fingerprint:
                raise EnrolmentRefusedError(
                    f"this box belongs to {self._identity.central_url}, and {waiting} objects wait that only that "
                    "central can open: let them be sent before the box moves to another central"
                )
            self._stop_waiting()
            key = self._pending.key_for(pairing)
            try:
                _, enrolment = enrol(pairing, key, clock=self._clock)
            except EnrolmentPendingError as error:
                self._link.enrolment(pending_sentence(error.fingerprint))
                self._wait(error.retry_in_s)
            except (UplinkPermanentError, PairingError):
                self._pending.clear(pairing)
                self._link.enrolment("")
                raise
            except UplinkTransientError as error:
                # Central may have the request already, and an administrator accept it, with the technician gone.
                self._link.enrolment(delayed_sentence(error))
                self._wait(_AFTER_FAILURE_S)
                raise
            else:
                self._upkeep.use_new(key, enrolment)
                self._pending.clear(pairing)
                self._link.enrolment("")
        finally:
            self._enrolling.release()

    def _in_use(self, identity: Identity) -> None:
        self._identity = identity
        self._take_up(identity)

    def _wait(self, first_wait_s: float) -> None:
        self._waiting = EnrolmentWait(
            self._pending, self._clock, self._upkeep.use_new, self._link.enrolment, first_wait_s=first_wait_s
        )
        self._waiting.start()

    def _stop_waiting(self, wait_s: float = -1.0) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.stop(wait_s)
