"""The upload protocol of contract.transfer: tus 1.0.0 creation and resumption, over the gateways' listener.

Always true: an offset is answered only after the bytes before it are fsynced, a receipt only after
`Acceptance` has given one. Whatever request finds an upload whole brings it to its end, so an answer lost on
the line is found again by the next HEAD or POST. Opening and indexing run on threads of their own; the event
loop only passes bytes on.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.web import source_address
from central.audit.events import Action
from central.audit.refusals import Refusals
from central.ingest.acceptance import Acceptance
from central.ingest.caller import Callers
from central.ingest.errors import ObjectRefusedError, RequestRefusedError
from central.ingest.partial import PartialUpload, PartialUploads
from central.ingest.turns import Turns
from central.ingest.tus import (
    announced_id,
    append,
    check_fits,
    check_protocol,
    checked_id,
    metadata,
    number,
    offered,
    offset_mismatch,
    patch_offset,
    unfinished_answer,
    upload_answer,
)
from contract.identifiers import ObjectId
from contract.transfer import OBJECT_ID_METADATA, UPLOADS_PATH, Problem


class Uploads:
    """The routes. One per process."""

    def __init__(
        self,
        callers: Callers,
        partials: PartialUploads,
        acceptance: Acceptance,
        refusals: Refusals,
        workers: int,
        turns: Turns,
    ) -> None:
        self._callers = callers
        self._partials = partials
        self._acceptance = acceptance
        self._refusals = refusals
        self._turns = turns
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="ingest")

    def routes(self) -> list[BaseRoute]:
        one = UPLOADS_PATH + "/{object_id}"
        return [
            Route(UPLOADS_PATH, self._create, methods=["POST"]),
            Route(UPLOADS_PATH, self._offer, methods=["OPTIONS"]),
            Route(one, self._patch, methods=["PATCH"]),
            Route(one, self._head, methods=["HEAD"]),
            Route(one, self._refuse_get, methods=["GET"]),
        ]

    def close(self) -> None:
        """Let what is being archived finish."""
        self._workers.shutdown(wait=True)

    async def _refuse_get(self, request: Request) -> Response:
        """An upload cannot be read. But a box whose HEAD was refused asks here why: HEAD's answer has no body."""
        await self._callers.gateway_of(request)
        raise HTTPException(405, headers={"Allow": "HEAD, PATCH"})

    async def _offer(self, request: Request) -> Response:
        await self._callers.gateway_of(request)
        return offered()

    async def _create(self, request: Request) -> Response:
        gateway_id = await self._callers.gateway_of(request)
        check_protocol(request)
        object_id = announced_id(request, OBJECT_ID_METADATA)
        length = number(request, "upload-length")
        check_fits(request, length)
        async with self._turns.turn(f"{gateway_id}/{object_id}") as give_way:
            done = await run_in_threadpool(self._acceptance.receipt_of, gateway_id, object_id)
            if done is not None:
                return upload_answer(201, done[1], done[1], done[0], location=f"{UPLOADS_PATH}/{object_id}")
            upload = await run_in_threadpool(self._create_checked, request, gateway_id, object_id, length)
            # The body starts at byte 0. If part of the object is here already, that part is passed over.
            await append(request, upload, 0, give_way, self._callers.gateway_of)
            return await self._progress(request, 201, gateway_id, object_id, upload)

    async def _patch(self, request: Request) -> Response:
        gateway_id = await self._callers.gateway_of(request)
        check_protocol(request)
        object_id = checked_id(request.path_params["object_id"])
        offset = patch_offset(request)
        async with self._turns.turn(f"{gateway_id}/{object_id}") as give_way:
            done = await run_in_threadpool(self._acceptance.receipt_of, gateway_id, object_id)
            if done is not None:
                return upload_answer(204, done[1], done[1], done[0])
            upload = await self._begun(gateway_id, object_id)
            here = upload.offset_bytes
            if offset != here:
                raise offset_mismatch(here, what="object")
            await append(request, upload, offset, give_way, self._callers.gateway_of)
            return await self._progress(request, 204, gateway_id, object_id, upload)

    async def _head(self, request: Request) -> Response:
        gateway_id = await self._callers.gateway_of(request)
        check_protocol(request)
        object_id = checked_id(request.path_params["object_id"])
        async with self._turns.turn(f"{gateway_id}/{object_id}"):
            done = await run_in_threadpool(self._acceptance.receipt_of, gateway_id, object_id)
            if done is not None:
                answer = upload_answer(200, done[1], done[1], done[0])
            else:
                upload = await self._begun(gateway_id, object_id)
                answer = await self._progress(request, 200, gateway_id, object_id, upload)
        answer.headers["Upload-Metadata"] = metadata(OBJECT_ID_METADATA, object_id)
        return answer

    def _create_checked(
        self, request: Request, gateway_id: str, object_id: ObjectId, length: int
    ) -> PartialUpload:
        try:
            return self._partials.create(gateway_id, object_id, length)
        except ObjectRefusedError as error:
            self._record(request, gateway_id, object_id, error)
            raise

    async def _begun(self, gateway_id: str, object_id: ObjectId) -> PartialUpload:
        upload = await run_in_threadpool(self._partials.find, gateway_id, object_id)
        if upload is None:
            raise RequestRefusedError(Problem.NO_SUCH_UPLOAD, "no upload under this id: create it (again)")
        return upload

    async def _progress(
        self, request: Request, status: int, gateway_id: str, object_id: ObjectId, upload: PartialUpload
    ) -> Response:
        """How far the upload is; if it is whole, what becomes of it."""
        location = f"{UPLOADS_PATH}/{object_id}" if status == 201 else None
        if not upload.is_whole:
            return unfinished_answer(status, upload, location)
        # Shielded: a box that hangs up must not leave a thread behind that still works on a free turn.
        receipt = await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(
                self._workers, self._accept, request, gateway_id, object_id, upload
            )
        )
        return upload_answer(status, upload.length_bytes, upload.length_bytes, receipt, location=location)

    def _accept(self, request: Request, gateway_id: str, object_id: ObjectId, upload: PartialUpload) -> str:
        try:
            return self._acceptance.accept(gateway_id, object_id, upload)
        except ObjectRefusedError as error:
            self._record(request, gateway_id, object_id, error)
            raise

    def _record(
        self, request: Request, gateway_id: str, object_id: ObjectId, error: ObjectRefusedError
    ) -> None:
        detail = f"object {object_id}: {error.problem} {error.detail}"
        self._refusals.record(Action.UPLOAD_REFUSED, gateway_id, source_address(request), detail)
