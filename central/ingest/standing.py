"""Small routes that keep a box right: the time and the receipt keys, for whoever asks, and the exchange of keys.

Always true: the time is signed with a receipt key and answers the caller's own nonce, and the list of receipt keys is
signed by the root, so both may go to boxes that cannot judge a certificate yet; keys are exchanged with known gateways
only.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.web import source_address
from central.audit.events import Action
from central.audit.refusals import Refusals
from central.identity.receipt_keys import ReceiptKeys
from central.identity.standings import Standings
from central.ingest.caller import Callers, read_body
from central.ingest.errors import RequestRefusedError
from contract.receipt_keys import RECEIPT_KEYS_PATH
from contract.signed_time import NONCE_PARAMETER, SignedTime
from contract.standing import STANDING_PATH, StandingAnswer, StandingReport
from contract.transfer import TIME_PATH, Problem

_MAX_BODY_BYTES: Final = 16_384
_NO_STORE: Final = {"Cache-Control": "no-store"}
_NONCE: Final = re.compile(r"[0-9a-f]{32}")


class StandingDesk:
    """The routes.

    Parameters
    ----------
    key_set : the signed key set of now.
    """

    def __init__(
        self,
        callers: Callers,
        standings: Standings,
        key_set: Callable[[], str],
        refusals: Refusals,
        *,
        central_id: str,
        receipt_keys: ReceiptKeys,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._callers = callers
        self._standings = standings
        self._key_set = key_set
        self._refusals = refusals
        self._central_id = central_id
        self._receipt_keys = receipt_keys
        self._clock = clock

    def routes(self) -> list[BaseRoute]:
        return [
            Route(TIME_PATH, self._time, methods=["GET"]),
            Route(RECEIPT_KEYS_PATH, self._list_receipt_keys, methods=["GET"]),
            Route(STANDING_PATH, self._exchange, methods=["POST"]),
        ]

    async def _time(self, request: Request) -> Response:
        nonce = request.query_params.get(NONCE_PARAMETER, "")
        if not _NONCE.fullmatch(nonce):
            raise RequestRefusedError(Problem.INVALID, "ask with a nonce of 32 lower-case hex digits")
        said = SignedTime(central_id=self._central_id, nonce=nonce, at_utc=self._clock())
        return Response(self._receipt_keys.sign_time(said), media_type="application/jose", headers=_NO_STORE)

    async def _list_receipt_keys(self, _request: Request) -> Response:
        """For whoever asks, like the time: a box that was away for long can verify neither without it."""
        token = await run_in_threadpool(self._receipt_keys.signed_list)
        if token is None:
            return Response(status_code=204, headers=_NO_STORE)
        return Response(token, media_type="application/jose", headers=_NO_STORE)

    async def _exchange(self, request: Request) -> Response:
        gateway_id = await self._callers.gateway_of(request)
        body = await read_body(request, _MAX_BODY_BYTES)
        try:
            report = StandingReport.model_validate_json(body)
        except ValidationError as error:
            raise RequestRefusedError(Problem.INVALID, "this is not a standing report") from error
        answer = await run_in_threadpool(self._answer, gateway_id, report, source_address(request))
        return Response(answer.model_dump_json(), media_type="application/json", headers=_NO_STORE)

    def _answer(self, gateway_id: str, report: StandingReport, address: str) -> StandingAnswer:
        ticket, seen_twice, is_news = self._standings.exchange(gateway_id, report)
        if is_news:
            self._refusals.record(
                Action.IDENTITY_SEEN_TWICE, gateway_id, address, "two boxes report under one identity"
            )
        return StandingAnswer(key_set=self._key_set(), ticket=ticket, seen_twice=seen_twice)
