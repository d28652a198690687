"""Which of a box's receipts central does not know: it was set back to a backup, and lost what came after it.

Central cannot tell by itself, so it only answers (contract.receipt_check); the box acts. Who asks about another
gateway's objects must know their ids, 128 random bits that only the box which made them has: a box that was enrolled
anew asks about those of its former id.
"""

from __future__ import annotations

import logging

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.web import source_address
from central.audit.events import Action
from central.audit.refusals import Refusals
from central.ingest.acceptance import Acceptance
from central.ingest.caller import Callers, read_body
from central.ingest.errors import RequestRefusedError
from contract.receipt_check import MAX_CHECK_BYTES, RECEIPT_CHECK_PATH, ReceiptCheck, ReceiptCheckAnswer
from contract.transfer import Problem

_log = logging.getLogger(__name__)


class ReceiptDesk:
    """The route."""

    def __init__(self, callers: Callers, acceptance: Acceptance, refusals: Refusals) -> None:
        self._callers = callers
        self._acceptance = acceptance
        self._refusals = refusals

    def routes(self) -> list[BaseRoute]:
        return [Route(RECEIPT_CHECK_PATH, self._check, methods=["POST"])]

    async def _check(self, request: Request) -> Response:
        gateway_id = await self._callers.gateway_of(request)
        body = await read_body(request, MAX_CHECK_BYTES)
        try:
            asked = ReceiptCheck.model_validate_json(body)
        except ValidationError as error:
            raise RequestRefusedError(Problem.INVALID, "this is not a receipt check") from error
        answer = await run_in_threadpool(self._answer, gateway_id, asked, source_address(request))
        return Response(
            answer.model_dump_json(), media_type="application/json", headers={"Cache-Control": "no-store"}
        )

    def _answer(self, gateway_id: str, asked: ReceiptCheck, address: str) -> ReceiptCheckAnswer:
        shown = {one.object_id: one.sha256 for one in asked.receipts}
        unknown = self._acceptance.unknown(asked.gateway_id, shown)
        if unknown:
            sentence = f"{len(unknown)} of {len(shown)} receipts that this box shows are not known here"
            _log.warning(
                "receipts unknown gateway_id=%s unknown=%d of=%d", gateway_id, len(unknown), len(shown)
            )
            self._refusals.record(Action.RECEIPTS_UNKNOWN, gateway_id, address, sentence)
        return ReceiptCheckAnswer(unknown=tuple(sorted(unknown)))
