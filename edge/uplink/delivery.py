"""One object, or several as a pack, go to one central; what comes back is a receipt that fits, or an error.

Nothing here knows of queues' rows or of waiting: see `dispatch` for what becomes of a claim.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

import httpx

from contract.identifiers import ObjectId
from contract.pack import Fate, PackAnswer, make_pack
from contract.receipt import Receipt, ReceiptError, verify_receipt
from contract.transfer import PERMANENT, Problem
from edge.buffer.records import Claimed
from edge.uplink.errors import CentralFailedError, ObjectRefusedError
from edge.uplink.identity import Identity
from edge.uplink.pack_source import PackSource
from edge.uplink.refusals import printable
from edge.uplink.transfer import Transfer

_log = logging.getLogger(__name__)

_LEASE_MARGIN: Final = 0.5
"""A worker gives an object back after this part of its lease, so that no two workers ever hold one."""


@dataclass(frozen=True)
class Route:
    """Everything that comes with an identity; replaced as a whole when the box is enrolled anew."""

    identity: Identity
    client: httpx.Client
    transfer: Transfer


class Delivery:
    """Sends what is claimed. Safe from any thread.

    Parameters
    ----------
    open_object : gives the sealed bytes of an object; raises SpoolError.
    paused : asked between chunks; what central has of an object stays there.
    """

    def __init__(
        self, open_object: Callable[[ObjectId], BinaryIO], lease_s: float, paused: Callable[[], bool]
    ) -> None:
        self._open_object = open_object
        self._lease_s = lease_s
        self._paused = paused

    def several(self, route: Route, claims: Sequence[Claimed]) -> PackAnswer:
        """As a pack. Receipts in the answer are unchecked: `redeem` each.

        Raises
        ------
        SendingStoppedError, UplinkTransientError, UplinkPermanentError, SpoolError, OSError
        """
        pack = make_pack((claimed.object_id, claimed.stored_bytes) for claimed in claims)
        with PackSource(pack, self._open_object) as source:
            return route.transfer.send_pack(
                pack,
                source,
                resume=any(claimed.attempts > 1 for claimed in claims),
                stop_at=self._stop_at(),
            )

    def one(self, route: Route, claimed: Claimed) -> tuple[Receipt, str]:
        """By itself. Returns the receipt, checked, and its token. Raises as `several`, and ReceiptError."""
        stop_at = self._stop_at()
        with self._open_object(claimed.object_id) as source:

            def send(*, resume: bool) -> str:
                return route.transfer.send(
                    claimed.object_id, source, claimed.stored_bytes, resume=resume, stop_at=stop_at
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

    def redeem(self, route: Route, claimed: Claimed, fate: Fate) -> tuple[Receipt, str]:
        """What central said of this object in its pack, as if it had come by itself."""
        if fate.receipt is not None:
            return check_receipt(fate.receipt, route.identity, claimed), fate.receipt
        sentence = f"central refused it: {fate.problem}" + (
            f": {printable(fate.detail)}" if fate.detail else ""
        )
        if fate.problem is Problem.TAMPERED:
            # Changed on the way, or here? Sent by itself, from zero, it tells.
            _log.warning("sending anew", extra={"object_id": claimed.object_id, "reason": sentence})
            return self.one(route, claimed)
        if fate.problem in PERMANENT:
            raise ObjectRefusedError(fate.problem, sentence)
        raise CentralFailedError(sentence)

    def _stop_at(self) -> Callable[[], bool]:
        give_up_at = time.monotonic() + self._lease_s * _LEASE_MARGIN
        return lambda: self._paused() or time.monotonic() > give_up_at


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
