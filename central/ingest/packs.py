"""Packs on the gateways' listener: tus 1.0.0 as for objects, and GET for the fates of what a pack holds.

Always true: a pack is stored as it arrives and resumed at any byte; its head is checked when the request ends. A POST
that brings the last byte answers with the fates, a PATCH that does answers at once while they are decided; GET and POST
find them later, after a crash too. Packs lie in a folder of their own, since their ids look like objects'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.web import source_address
from central.ingest.arriving_pack import ArrivingPack
from central.ingest.caller import Callers
from central.ingest.errors import RequestRefusedError, TryAgainError
from central.ingest.pack_acceptance import PackAcceptance
from central.ingest.partial import PartialUpload, PartialUploads
from central.ingest.turns import Turns
from central.ingest.tus import (
    PATIENCE_S,
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
from contract.pack import Fate, PackAnswer
from contract.transfer import PACK_ID_METADATA, PACKS_PATH, Problem


class Packs:
    """The routes. One per process."""

    def __init__(
        self,
        callers: Callers,
        partials: PartialUploads,
        acceptance: PackAcceptance,
        workers: int,
        turns: Turns,
    ) -> None:
        self._callers = callers
        self._partials = partials
        self._acceptance = acceptance
        self._turns = turns
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="packs")
        self._deciding: dict[str, asyncio.Future[str]] = {}

    def routes(self) -> list[BaseRoute]:
        one = PACKS_PATH + "/{pack_id}"
        return [
            Route(PACKS_PATH, self._create, methods=["POST"]),
            Route(PACKS_PATH, self._offer, methods=["OPTIONS"]),
            Route(one, self._patch, methods=["PATCH"]),
            Route(one, self._fates, methods=["GET", "HEAD"]),
        ]

    def close(self) -> None:
        """Let what is being decided finish."""
        self._workers.shutdown(wait=True)
        self._acceptance.close()

    async def _offer(self, request: Request) -> Response:
        await self._callers.gateway_of(request)
        return offered()

    async def _create(self, request: Request) -> Response:
        gateway_id = await self._callers.gateway_of(request)
        check_protocol(request)
        pack_id = announced_id(request, PACK_ID_METADATA)
        length = number(request, "upload-length")
        check_fits(request, length)
        location = f"{PACKS_PATH}/{pack_id}"
        async with self._turns.turn(f"{gateway_id}/{pack_id}") as give_way:
            done = await self._decided(gateway_id, pack_id)
            if done is not None and _all_receipted(done[0]):
                return upload_answer(201, done[1], done[1], location=location, body=done[0])
            if done is not None:
                await run_in_threadpool(self._acceptance.forget, gateway_id, pack_id)
            upload = await run_in_threadpool(self._partials.create, gateway_id, pack_id, length)
            known = await self._append(request, gateway_id, pack_id, upload, 0, give_way)
            if not upload.is_whole:
                return unfinished_answer(201, upload, location)
            answer = await self._wait(self._decide(request, gateway_id, pack_id, upload, known))
            return upload_answer(201, length, length, location=location, body=answer)

    async def _patch(self, request: Request) -> Response:
        gateway_id = await self._callers.gateway_of(request)
        check_protocol(request)
        pack_id = checked_id(request.path_params["pack_id"])
        offset = patch_offset(request)
        async with self._turns.turn(f"{gateway_id}/{pack_id}") as give_way:
            done = await self._decided(gateway_id, pack_id)
            if done is not None:
                return upload_answer(204, done[1], done[1])
            upload = await self._begun(gateway_id, pack_id)
            here = upload.offset_bytes
            if offset != here:
                raise offset_mismatch(here, what="pack")
            known = await self._append(request, gateway_id, pack_id, upload, offset, give_way)
            if not upload.is_whole:
                return unfinished_answer(204, upload)
            self._decide(request, gateway_id, pack_id, upload, known)
            return upload_answer(204, upload.length_bytes, upload.length_bytes)

    async def _fates(self, request: Request) -> Response:
        """HEAD: how far the pack is. GET: what became of it, once it is whole."""
        gateway_id = await self._callers.gateway_of(request)
        check_protocol(request)
        pack_id = checked_id(request.path_params["pack_id"])
        async with self._turns.turn(f"{gateway_id}/{pack_id}"):
            answer = await self._told(request, gateway_id, pack_id)
        answer.headers["Upload-Metadata"] = metadata(PACK_ID_METADATA, pack_id)
        return answer

    async def _told(self, request: Request, gateway_id: str, pack_id: ObjectId) -> Response:
        wants_fates = request.method == "GET"
        done = await self._decided(gateway_id, pack_id)
        if done is not None:
            return upload_answer(200, done[1], done[1], body=done[0] if wants_fates else None)
        upload = await self._begun(gateway_id, pack_id)
        if not wants_fates:
            return unfinished_answer(200, upload)
        if not upload.is_whole:
            raise offset_mismatch(upload.offset_bytes, what="pack")
        length = upload.length_bytes
        answer = await self._wait(self._decide(request, gateway_id, pack_id, upload, ()))
        return upload_answer(200, length, length, body=answer)

    async def _append(
        self,
        request: Request,
        gateway_id: str,
        pack_id: ObjectId,
        upload: PartialUpload,
        offset: int,
        give_way: asyncio.Event,
    ) -> list[Fate]:
        """Take the request's body, and what objects it brings as they come; their fates, in the pack's order."""
        arriving = ArrivingPack(
            self._acceptance, self._workers, gateway_id, pack_id, upload, source_address(request)
        )
        try:
            await append(request, upload, offset, give_way, self._callers.gateway_of, arriving.note_bytes)
        finally:
            known = await arriving.settled()
        await run_in_threadpool(self._acceptance.read_pack, pack_id, upload)
        return known

    async def _decided(self, gateway_id: str, pack_id: ObjectId) -> tuple[str, int] | None:
        """The kept answer, after whatever is being decided just now."""
        deciding = self._deciding.get(f"{gateway_id}/{pack_id}")
        if deciding is not None:
            await asyncio.wait({deciding}, timeout=PATIENCE_S)
            if not deciding.done():
                raise _ask_again()
        return await run_in_threadpool(self._acceptance.decided, gateway_id, pack_id)

    async def _begun(self, gateway_id: str, pack_id: ObjectId) -> PartialUpload:
        upload = await run_in_threadpool(self._partials.find, gateway_id, pack_id)
        if upload is None:
            raise RequestRefusedError(Problem.NO_SUCH_UPLOAD, "no pack under this id: create it (again)")
        return upload

    def _decide(
        self,
        request: Request,
        gateway_id: str,
        pack_id: ObjectId,
        upload: PartialUpload,
        known: Sequence[Fate],
    ) -> asyncio.Future[str]:
        """Have it decided on a thread, whoever may still be listening then. To be called in the pack's turn."""
        key = f"{gateway_id}/{pack_id}"
        deciding = asyncio.get_running_loop().run_in_executor(
            self._workers,
            self._acceptance.decide,
            gateway_id,
            pack_id,
            upload,
            source_address(request),
            known,
        )
        self._deciding[key] = deciding
        leave = self._turns.keep(key)

        def end(ended: asyncio.Future[str]) -> None:
            del self._deciding[key]
            leave()
            if not ended.cancelled():
                ended.exception()  # whoever waits gets it; where nobody does, the next question tries again

        deciding.add_done_callback(end)
        return deciding

    async def _wait(self, deciding: asyncio.Future[str]) -> str:
        await asyncio.wait({deciding}, timeout=PATIENCE_S)
        if not deciding.done():
            raise _ask_again()
        return deciding.result()


def _all_receipted(answer: str) -> bool:
    return all(fate.receipt for fate in PackAnswer.model_validate_json(answer).objects)


def _ask_again() -> TryAgainError:
    return TryAgainError(Problem.UNAVAILABLE, "this pack is being worked on; ask again", {"Retry-After": "5"})
