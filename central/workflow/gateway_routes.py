"""What boxes ask of this room, on the gateways' listener (contract.workflow).

Always true: a box gets its own worklist and speaks for its own steps; who it is comes from its certificate, checked
by what the listener is given for that. Nothing is handed out or taken in without a record.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from http import HTTPStatus
from typing import Final

from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.web import source_address
from central.audit.errors import AuditUnavailableError
from central.audit.events import Action, AuditEvent
from central.audit.record import Audit
from central.bodies import body_within
from central.workflow.data_sets import step_facts
from central.workflow.errors import UnusableMessageError
from central.workflow.procedures import ProcedureStore
from central.workflow.worklist import WorklistStore
from contract.transfer import PROBLEM_CONTENT_TYPE, Problem, ProblemDetails
from contract.workflow import (
    HORIZON_PARAMETER,
    MAX_HORIZON_DAYS,
    MAX_MESSAGE_JSON_BYTES,
    PERFORMED_PROCEDURES_PATH,
    WORKLIST_PATH,
    PerformedProcedureMessage,
    ScheduledItem,
    Worklist,
)

GatewayOf = Callable[[Request], Awaitable[str]]
InstitutionOf = Callable[[str], str]
_EXPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2.1"


def gateway_routes(
    worklist: WorklistStore,
    procedures: ProcedureStore,
    audit: Audit,
    gateway_of: GatewayOf,
    institution_of: InstitutionOf,
) -> list[BaseRoute]:
    """`gateway_of` says which gateway a request is from, or raises what the listener answers; `institution_of` says
    whose that gateway is."""
    desk = _Desk(worklist, procedures, audit, gateway_of, institution_of)
    return [
        Route(WORKLIST_PATH, desk.worklist, methods=["GET"]),
        Route(PERFORMED_PROCEDURES_PATH, desk.performed, methods=["POST"]),
    ]


class _Desk:
    def __init__(
        self,
        worklist: WorklistStore,
        procedures: ProcedureStore,
        audit: Audit,
        gateway_of: GatewayOf,
        institution_of: InstitutionOf,
    ) -> None:
        self._worklist = worklist
        self._procedures = procedures
        self._audit = audit
        self._gateway_of = gateway_of
        self._institution_of = institution_of

    async def worklist(self, request: Request) -> Response:
        gateway_id = await self._gateway_of(request)
        asked = request.query_params.get(HORIZON_PARAMETER, "7")
        if not (asked.isascii() and asked.isdigit() and len(asked) < 4 and int(asked) <= MAX_HORIZON_DAYS):
            return _problem(Problem.INVALID, 400, f"{HORIZON_PARAMETER} is 0 to {MAX_HORIZON_DAYS}")
        return await run_in_threadpool(self._answer, request, gateway_id, int(asked))

    def _answer(self, request: Request, gateway_id: str, horizon_days: int) -> Response:
        today = datetime.now().astimezone().date()
        institution = self._institution_of(gateway_id)
        tag = _tag(self._worklist.version(), f"{institution}/{gateway_id}", today, horizon_days)
        headers = {"ETag": tag, "Cache-Control": "no-store"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        # The version was read before the items: a change in between costs one more question, never a missed item.
        items, more = self._worklist.for_gateway(
            gateway_id, today=today, horizon_days=horizon_days, institution=institution
        )
        try:
            self._record(request, gateway_id, Action.WORKLIST_READ, f"{len(items)} items")
        except AuditUnavailableError:
            return _unrecorded()
        answer = Worklist(
            items=[
                ScheduledItem(
                    transfer_syntax_uid=_EXPLICIT_VR_LITTLE_ENDIAN, data_set=base64.b64encode(data_set)
                )
                for data_set in items
            ],
            more=more,
        )
        return Response(answer.model_dump_json(), media_type="application/json", headers=headers)

    async def performed(self, request: Request) -> Response:
        gateway_id = await self._gateway_of(request)
        body = await body_within(request, MAX_MESSAGE_JSON_BYTES)
        if body is None:
            return _problem(Problem.TOO_LARGE, 413, "a message is shorter than this")
        return await run_in_threadpool(self._keep, request, gateway_id, body)

    def _keep(self, request: Request, gateway_id: str, body: bytes) -> Response:
        try:
            message = PerformedProcedureMessage.model_validate_json(body)
            facts = step_facts(message.data_set, message.transfer_syntax_uid, message.operation)
        except (ValidationError, UnusableMessageError):
            return _problem(Problem.NOT_DICOM, 422, "this is no message about a procedure step")
        study = min(facts.study_instance_uids, default=None)
        detail = (
            f"{message.operation} {message.sop_instance_uid} {message.number} {facts.status or ''}".strip()
        )
        try:
            self._record(request, gateway_id, Action.PROCEDURE_STEP, detail, study)
            self._procedures.keep(gateway_id, message, facts)
        except AuditUnavailableError:
            return _unrecorded()
        except UnusableMessageError as error:
            return _problem(Problem.NOT_DICOM, 422, str(error))
        return Response(status_code=204)

    def _record(
        self, request: Request, gateway_id: str, action: Action, detail: str, study: str | None = None
    ) -> None:
        self._audit.record(
            AuditEvent(
                gateway_id,
                "gateway",
                action,
                "success",
                source_address(request),
                study_instance_uid=study,
                detail=detail,
                institutions=frozenset({self._institution_of(gateway_id)}),
            )
        )


def _tag(version: str, gateway_id: str, today: date, horizon_days: int) -> str:
    name = f"{version}\0{gateway_id}\0{today.isoformat()}\0{horizon_days}"
    return f'"{hashlib.sha256(name.encode()).hexdigest()[:32]}"'


def _unrecorded() -> Response:
    return _problem(Problem.UNAVAILABLE, 503, "central cannot keep its record now; try again")


def _problem(problem: Problem, status: int, detail: str) -> Response:
    details = ProblemDetails(type=problem, title=HTTPStatus(status).phrase, status=status, detail=detail)
    return Response(details.model_dump_json(), status, media_type=PROBLEM_CONTENT_TYPE)
