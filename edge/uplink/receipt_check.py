"""Asks central whether it still has what it signed for: it may have been set back to a backup, and does not know it.

Every round shows the receipts that were given since the last round, and the newest of those before. That finds any
loss: what a restored central lost is everything between the backup and the restore, so either it reaches back before
the last round and has the newest of that time in it, or it lies behind that round. Where something is missing every
receipt that is kept is shown, the newest first, and what central does not know is sent again or listed
(`edge.buffer.receipts`; where a central gets a copy, `edge.buffer.copy_receipts`). The cost of a quiet round is one
request; of a busy one, a hundred bytes an image. Each central is asked about what it signed itself.

Always true: an answer that names what was not asked changes nothing. A crash goes on where the last whole batch ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from typing import Final

import httpx

from contract.identifiers import ObjectId
from contract.receipt import Receipt, ReceiptError, kept_receipt
from contract.receipt_check import (
    MAX_CHECK_BYTES,
    MAX_CHECKED,
    RECEIPT_CHECK_PATH,
    ReceiptCheck,
    ReceiptCheckAnswer,
    ShownReceipt,
)
from edge.buffer.receipts import HeldReceipt, LostStudy, Progress, ReceiptLedger
from edge.uplink.client import exchange, refused
from edge.uplink.errors import CentralFailedError
from edge.uplink.identity import Identity

ANCHORS: Final = 16
"""Receipts from before the last round that are shown once more."""
_NOT_OFFERED: Final = (404, 405)
_log = logging.getLogger(__name__)

Tell = Callable[[int, Sequence[LostStudy]], None]
"""Called with how many objects are sent again, and the studies of which something is lost; once for each."""


class _NotOfferedError(Exception):
    """A central of an earlier version, or something on the way that does not let the question through."""


class ReceiptChecker:
    """`check` in every round of the upkeep.

    Parameters
    ----------
    tell : takes what people should know; must return only after it is kept.
    """

    def __init__(self, receipts: ReceiptLedger, tell: Tell) -> None:
        self._receipts = receipts
        self._tell = tell

    def check(self, identity: Identity, client: httpx.Client, should_stop: Callable[[], bool]) -> None:
        """One round. httpx's errors come out as they are.

        Parameters
        ----------
        should_stop : asked between requests; the next round goes on from there.

        Raises
        ------
        CentralFailedError, CertificateRefusedError : central does not answer as it should.
        SpoolError
        """
        progress = self._receipts.progress()
        with suppress(_NotOfferedError):
            if progress.searching_below is None:
                progress = self._look(progress, identity, client, should_stop)
            if progress.searching_below is not None:
                self._search(progress, identity, client, should_stop)
        self._tell_of(0)  # what a crash kept from being told

    def _look(
        self, progress: Progress, identity: Identity, client: httpx.Client, should_stop: Callable[[], bool]
    ) -> Progress:
        """Show what is new, and the anchors; how things stand afterwards."""
        shown = self._receipts.given_before(progress.checked_through + 1, limit=ANCHORS)
        while not should_stop():
            fresh = self._receipts.given_since(progress.checked_through, limit=MAX_CHECKED - ANCHORS)
            shown += fresh
            if not shown:
                break
            if self._unknown(shown, identity, client):
                return self._begin_search()
            if not fresh:
                break
            progress = replace(progress, checked_through=fresh[-1].number)
            self._receipts.advance(progress)
            shown = []
        return progress

    def _begin_search(self) -> Progress:
        newest = self._receipts.newest_number()
        progress = Progress(checked_through=newest, searching_below=newest + 1)
        self._receipts.advance(progress)
        _log.error("central does not know its own receipts", extra={"detail": "it was set back to a backup"})
        return progress

    def _search(
        self, progress: Progress, identity: Identity, client: httpx.Client, should_stop: Callable[[], bool]
    ) -> None:
        """Show every receipt, from where the last round ended, the newest first."""
        recalled = 0
        try:
            while progress.searching_below is not None and not should_stop():
                shown = self._receipts.given_before(progress.searching_below, limit=MAX_CHECKED)
                unknown = self._unknown(shown, identity, client) if shown else frozenset()
                below = shown[-1].number if shown else None
                progress = replace(progress, searching_below=below)
                voided = self._receipts.void(unknown, progress)
                recalled += voided.recalled
        finally:
            self._tell_of(recalled)

    def _unknown(
        self, shown: Sequence[HeldReceipt], identity: Identity, client: httpx.Client
    ) -> frozenset[ObjectId]:
        """What central does not know of these. Receipts of another central are none of its business."""
        ours = [receipt for one in shown if (receipt := _ours(one.token, identity))]
        ours.sort(key=lambda receipt: receipt.gateway_id)
        unknown: frozenset[ObjectId] = frozenset()
        for gateway_id, receipts in groupby(ours, key=lambda receipt: receipt.gateway_id):
            unknown |= _ask(
                ReceiptCheck(
                    gateway_id=gateway_id,
                    receipts=tuple(
                        ShownReceipt(object_id=receipt.object_id, sha256=receipt.sha256)
                        for receipt in receipts
                    ),
                ),
                client,
            )
        return unknown

    def _tell_of(self, recalled: int) -> None:
        lost = self._receipts.lost(untold=True)
        if not recalled and not lost:
            return
        _log.warning("central was set back", extra={"sent_again": recalled, "studies_lost": len(lost)})
        for study in lost:
            _log.error(
                "lost at central and here",
                extra={
                    "study_instance_uid": study.study_instance_uid,
                    "calling_ae_title": study.calling_ae_title,
                    "instances": study.instances,
                    "at_another_central": study.at_another,
                    "received_from_utc": study.first_at_utc.isoformat(),
                    "received_until_utc": study.last_at_utc.isoformat(),
                },
            )
        self._tell(recalled, lost)
        if lost:
            self._receipts.note_told()


def _ours(token: str, identity: Identity) -> Receipt | None:
    try:
        receipt = kept_receipt(token)  # a key that was retired may have signed for what central never had
    except ReceiptError:
        return None
    return receipt if receipt.central_id == identity.enrolment.answer.central_id else None


def _ask(asked: ReceiptCheck, client: httpx.Client) -> frozenset[ObjectId]:
    status, _, body = exchange(
        client,
        "POST",
        RECEIPT_CHECK_PATH,
        MAX_CHECK_BYTES,
        content=asked.model_dump_json(),
        headers={"Content-Type": "application/json"},
    )
    if status in _NOT_OFFERED:
        raise _NotOfferedError
    if status != 200:
        raise refused(status, body)
    try:
        return ReceiptCheckAnswer.model_validate_json(body).of(asked)
    except ValueError as error:
        raise CentralFailedError(
            "central's answer about receipts is not one this box understands", status
        ) from error
