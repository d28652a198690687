"""Storage Commitment, Push Model, as SCP (PS3.4 Annex J): takes the request and keeps it.

Always true: N-ACTION is answered with success only after the request is durable. Judging it and telling the scanner is
`edge.gateway.commitment_reports`; a scanner that asks again is told again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from edge.buffer.commitments import (
    Asker,
    CommitmentStore,
    DuplicateTransactionError,
    TooManyPendingError,
)
from edge.buffer.errors import DiskFullError, SpoolError
from edge.buffer.standing import Standing
from edge.gateway.command_set import CommandField, Element
from edge.gateway.commitment_messages import (
    REQUEST_COMMITMENT,
    STORAGE_COMMITMENT,
    STORAGE_COMMITMENT_INSTANCE,
    BadRequestError,
    TooManyInstancesError,
    decode_request,
)
from edge.gateway.errors import ProtocolError
from edge.gateway.service import Peer, Reply, Request

_LOG = logging.getLogger(__name__)

SUCCESS = Reply(0x0000)
NO_SUCH_INSTANCE = Reply(0x0112, "Not the well-known Storage Commitment instance")
INVALID_ARGUMENT = 0x0115
NO_SUCH_ACTION = Reply(0x0123, "Only Request Storage Commitment (1)")
DUPLICATE_TRANSACTION = Reply(0x0131, "This Transaction UID is in use for other instances")
RESOURCE_LIMITATION = 0x0213
FAILED = Reply(0x0110, "The disk of this box fails; ask again later")


class Reports(Protocol):
    """Who judges the requests that are kept here, and tells the scanners."""

    def asked(self, calling_ae_title: str, peer: Peer) -> None:
        """A request came on an association that is still open."""


class Safety(Protocol):
    """What Storage Commitment asks of the spool."""

    def standing(self, sop_instance_uids: Collection[str]) -> Mapping[str, Standing]:
        """Standing by SOP Instance UID; what is not in it is not here."""
        ...


class CommitmentService:
    """A `Service` for the Storage Commitment Push Model SOP Class."""

    def __init__(self, store: CommitmentStore, reports: Reports) -> None:
        self._store = store
        self._reports = reports
        # As a tree a request is twenty times its size: one of them is enough.
        self._reading = threading.Lock()

    @property
    def operations(self) -> Mapping[str, frozenset[int]]:
        return {STORAGE_COMMITMENT: frozenset((CommandField.N_ACTION_RQ,))}

    def handle(self, request: Request, peer: Peer) -> Iterator[Reply]:
        reply = self._take(request)
        try:
            yield reply
        finally:
            # After the answer is on its way: the report should not overtake it.
            if reply is SUCCESS:
                self._reports.asked(request.calling_ae_title, peer)

    def _take(self, request: Request) -> Reply:
        refusal = _refusal(request)
        if refusal is not None:
            return refusal
        try:
            with self._reading:
                transaction_uid, references = decode_request(
                    request.data_set, request.context.transfer_syntax_uid
                )
            asker = Asker(request.calling_ae_title, request.called_ae_title, request.peer_address)
            self._store.add(transaction_uid, asker, references)
        except BadRequestError as error:
            return Reply(INVALID_ARGUMENT, str(error))
        except TooManyInstancesError as error:
            return Reply(RESOURCE_LIMITATION, str(error))
        except DuplicateTransactionError:
            return DUPLICATE_TRANSACTION
        except (TooManyPendingError, DiskFullError) as error:
            _LOG.warning("commitment refused", extra={"reason": str(error)})
            return Reply(RESOURCE_LIMITATION, "Too much waits for commitment already; ask again later")
        except SpoolError:
            _LOG.exception("a commitment request could not be kept")
            return FAILED
        _LOG.info(
            "commitment requested",
            extra={
                "calling_ae_title": request.calling_ae_title,
                "transaction_uid": transaction_uid,
                "instances": len(references),
            },
        )
        return SUCCESS


def _refusal(request: Request) -> Reply | None:
    if request.command.uid(Element.REQUESTED_SOP_INSTANCE_UID) != STORAGE_COMMITMENT_INSTANCE:
        return NO_SUCH_INSTANCE
    try:
        action = request.command.number(Element.ACTION_TYPE_ID)
    except ProtocolError:
        return NO_SUCH_ACTION
    return None if action == REQUEST_COMMITMENT else NO_SUCH_ACTION
