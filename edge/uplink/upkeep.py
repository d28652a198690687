"""Keeps the box's standing with central right, by itself: the time, the keys to seal for, the certificate.

Each round, every quarter of an hour with jitter: learn the receipt keys → learn the time → exchange keys → check
receipts → renew the certificate when two thirds of its life are over. Always true: a failure of one leaves the others
and the sending alone; a new identity is durable before anything uses it, and none that was superseded is put into its
place; the certificate is asked for anew until it is there, with a third of its life left to do so. After its end only a
person helps (a pairing string that replaces the box), and the status says so.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from pydantic import ValidationError

from contract.key_set import KeySetError
from contract.sealing import RecipientPublicKey
from contract.standing import STANDING_PATH, StandingAnswer
from edge.buffer.errors import SpoolError
from edge.uplink.box_key import BoxKey
from edge.uplink.client import exchange, line_errors, open_client, refused
from edge.uplink.clock import BoxClock
from edge.uplink.enrolment import renew
from edge.uplink.errors import (
    CentralFailedError,
    CertificateRefusedError,
    KeyUnavailableError,
    UplinkPermanentError,
    UplinkTransientError,
)
from edge.uplink.identity import Enrolment, Identity, IdentityStore
from edge.uplink.key_book import KeyBook
from edge.uplink.key_maker import KeyMaker
from edge.uplink.line import backoff_s
from edge.uplink.link import Link
from edge.uplink.receipt_check import ReceiptChecker
from edge.uplink.receipt_key_book import ask_receipt_keys
from edge.uplink.timekeeping import ask_time

INTERVAL_S: Final = 900.0
_TIMEOUT_S: Final = 15.0
_ANSWER_MAX_BYTES: Final = 128 << 10
_STOP_WAIT_S: Final = 2.0
_JITTER: Final = 0.2
SEEN_TWICE: Final = (
    "Two boxes use this box's identity, or its disk was copied or restored: enrol one of them again with a pairing "
    "string of its own."
)
_log = logging.getLogger(__name__)


class Upkeep:
    """One thread for the box's life; it begins to work with the first identity in use.

    Parameters
    ----------
    seal_for : called with the key to seal for, after the book has it: with each identity, and with a newer key.
    take_up : called with each identity that comes into use, renewed ones too, after the store has it.
    try_now : called when the time was learned: what failed for the clock's sake may work now.
    checker : finds out whether central still has what it signed for.
    keys : makes the key of a renewed certificate.
    """

    def __init__(
        self,
        store: IdentityStore,
        clock: BoxClock,
        book: KeyBook,
        link: Link,
        *,
        seal_for: Callable[[RecipientPublicKey], None],
        take_up: Callable[[Identity], None],
        try_now: Callable[[], None],
        checker: ReceiptChecker,
        keys: KeyMaker,
        interval_s: float = INTERVAL_S,
        timeout_s: float = _TIMEOUT_S,
    ) -> None:
        self._store = store
        self._clock = clock
        self._book = book
        self._link = link
        self._seal_for = seal_for
        self._take_up = take_up
        self._try_now = try_now
        self._checker = checker
        self._keys = keys
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._identity: Identity | None = None
        self._list_notice = ""  # what is wrong with the list of receipt keys
        self._working = threading.Lock()  # a round and a change of identity exclude each other
        # A change of identity waits: the round ends with its present step.
        self._superseded = threading.Event()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="upkeep", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def use(self, identity: Identity) -> None:
        """Bring this identity into use, with `seal_for` and `take_up`, and look after it from now on.

        Raises
        ------
        KeySetError, IdentityError : what is kept about keys does not fit the identity.
        """
        with self._superseding():
            self._bring_into_use(identity, anew=False)

    def use_new(self, key: BoxKey, enrolment: Enrolment) -> None:
        """Keep what a person bought just now with a pairing string, and bring it into use as `use` does.

        Raises
        ------
        OSError : the disk does not take it.
        KeySetError, IdentityError : as `use`, or the enrolment's parts do not fit together.
        """
        with self._superseding():  # or a renewal under way would put the former identity in its place
            self._bring_into_use(self._store.save(key, enrolment), anew=True)

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()
        self._thread.join(_STOP_WAIT_S)
        self._clock.keep()

    @contextmanager
    def _superseding(self) -> Iterator[None]:
        """What is under way for the former identity ends first."""
        self._superseded.set()
        with self._working:
            self._superseded.clear()
            yield

    def _bring_into_use(self, identity: Identity, *, anew: bool) -> None:
        answer = identity.enrolment.answer
        self._book.open(answer.root_key, answer.key_set, anew=anew)
        if anew:
            identity.receipt_book.forget()
        self._identity = identity
        self._link.standing(renew_at_utc=identity.renew_at_utc, key_place=identity.key.place, notice="")
        self._seal_for(self._book.recipient())
        self._take_up(identity)
        self._wake.set()

    def _work(self) -> None:
        failures = 0
        wait_s: float | None = None
        while True:
            self._wake.wait(wait_s)
            self._wake.clear()
            if self._stopping.is_set():
                return
            with self._working:
                identity = self._identity
                if identity is None:
                    continue
                well = self._round(identity)
            failures = 0 if well else failures + 1
            pause_s = self._interval_s * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311  # spreads load; hides nothing
            wait_s = (
                pause_s if well else min(pause_s, backoff_s(failures + 2, self._interval_s, random.uniform))
            )

    def _round(self, identity: Identity) -> bool:
        """Whether all of it went well. Later steps go on where an earlier one failed: they may not need it."""
        steps = (
            self._learn_receipt_keys,
            self._learn_time,
            self._exchange_keys,
            self._check_receipts,
            self._renew_when_due,
        )
        troubles = [
            trouble for step in steps if not self._should_stop() and (trouble := self._tried(step, identity))
        ]
        if not troubles:
            return True
        _log.warning("upkeep", extra={"detail": "; ".join(dict.fromkeys(troubles))})
        return False

    def _should_stop(self) -> bool:
        return self._superseded.is_set() or self._stopping.is_set()

    def _tried(self, step: Callable[[Identity], None], identity: Identity) -> str:
        try:
            step(identity)
        except CertificateRefusedError as error:
            self._link.refused(str(error))
            return str(error)
        except (UplinkTransientError, SpoolError) as error:
            return str(error)
        except (UplinkPermanentError, KeySetError, OSError) as error:
            self._link.standing(notice=str(error))
            return str(error)
        except Exception:
            _log.exception("upkeep failed")
            return "a fault in this program"
        return ""

    def _learn_receipt_keys(self, identity: Identity) -> None:
        """First, and like the time without a look at dates: it is the root's word, and the time is signed with them."""
        url = identity.central_url
        with (
            open_client(url, identity.timeless_context(), timeout_s=self._timeout_s, connections=1) as client,
            line_errors(url),
        ):
            token = ask_receipt_keys(client)
        self._list_notice = ""
        if token is None:
            return
        try:
            news = identity.receipt_book.take(token, identity.root_key, identity.enrolment.answer.central_id)
        except KeySetError as error:
            self._list_notice = str(error)
            raise
        if news:
            self._try_now()  # what was receipted with a key that was not known yet

    def _learn_time(self, identity: Identity) -> None:
        was_learned = self._clock.is_learned
        url = identity.central_url
        with (
            open_client(url, identity.timeless_context(), timeout_s=self._timeout_s, connections=1) as client,
            line_errors(url),
        ):
            central_id = identity.enrolment.answer.central_id
            self._clock.learn(ask_time(client, identity.receipt_keys, central_id=central_id))
        self._link.standing(clock_offset_s=self._clock.offset_s())
        if not was_learned:
            self._try_now()

    def _exchange_keys(self, identity: Identity) -> None:
        self._require_certificate(identity)
        url = identity.central_url
        report = self._book.report()
        with (
            open_client(url, identity.tls_context(), timeout_s=self._timeout_s, connections=1) as client,
            line_errors(url),
        ):
            status, _, body = exchange(
                client,
                "POST",
                STANDING_PATH,
                _ANSWER_MAX_BYTES,
                content=report.model_dump_json(),
                headers={"Content-Type": "application/json"},
            )
        if status != 200:
            raise refused(status, body)
        try:
            answer = StandingAnswer.model_validate_json(body)
        except ValidationError as error:
            raise CentralFailedError("central's answer on keys is not one this box understands") from error
        if self._book.take(answer.key_set, answer.ticket):
            self._seal_for(self._book.recipient())
        self._link.standing(notice=SEEN_TWICE if answer.seen_twice else self._list_notice)
        if answer.seen_twice:
            _log.error("identity in two places", extra={"detail": SEEN_TWICE})

    def _require_certificate(self, identity: Identity) -> None:
        """CertificateRefusedError after the certificate's end; it names the clocks where they do not agree on that."""
        begins, ends = identity.certificate.not_valid_before_utc, identity.certificate_expires_at_utc
        now, ahead_s = self._clock.now(), self._clock.offset_s()
        if now <= ends:
            return
        doubt, here_s = "", now.timestamp() + (ahead_s or 0.0)
        if begins.timestamp() <= here_s <= ends.timestamp():
            here = datetime.fromtimestamp(here_s, UTC)
            doubt = (
                f"clock: central says that it is {now:%Y-%m-%d}, this machine {here:%Y-%m-%d}. Put right the one that "
                "is wrong. By central's "
            )
        raise CertificateRefusedError(
            f"{doubt}this box's certificate ended on {ends:%Y-%m-%d}: ask the administrator for a pairing string that "
            f"replaces {identity.gateway_id}. Images are kept here and sent afterwards."
        )

    def _check_receipts(self, identity: Identity) -> None:
        url = identity.central_url
        with (
            open_client(url, identity.tls_context(), timeout_s=self._timeout_s, connections=1) as client,
            line_errors(url),
        ):
            self._checker.check(identity, client, self._should_stop)

    def _renew_when_due(self, identity: Identity) -> None:
        now = self._clock.now()
        if not identity.renew_at_utc <= now <= identity.certificate_expires_at_utc:
            return
        try:
            key = self._keys.make()
            enrolment = renew(identity, key, timeout_s=self._timeout_s)
        except KeyUnavailableError as error:
            self._link.standing(notice=f"The certificate is not renewed yet: {error}.")
            raise
        if self._superseded.is_set():
            return  # a person has enrolled the box anew meanwhile
        renewed = self._store.save(key, enrolment)
        self._identity = renewed
        self._link.standing(renew_at_utc=renewed.renew_at_utc, key_place=renewed.key.place)
        _log.info("certificate renewed", extra={"until_utc": renewed.certificate_expires_at_utc.isoformat()})
        self._take_up(renewed)
