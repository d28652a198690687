"""The upload protocol of contract.transfer: tus 1.0.0 creation and resumption, over the gateways' listener.

Always true: an offset is answered only after the bytes before it are fsynced, a receipt only after
`Acceptance` has given one. Whatever request finds an upload whole brings it to its end, so an answer lost on
the line is found again by the next HEAD or POST. Opening and indexing run on threads of their own; the event
loop only passes bytes on.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.audit.record import Action
from central.ingest.acceptance import Acceptance
from central.ingest.caller import Callers, source_address
from central.ingest.errors import ObjectRefusedError, RequestRefusedError, TryAgainError
from central.ingest.partial import Appender, PartialUpload, PartialUploads
from central.ingest.refusals import Refusals
from central.ingest.turns import Turns
from contract.identifiers import InvalidIdentifierError, ObjectId, check_object_id
from contract.transfer import (
    OBJECT_ID_METADATA,
    PATCH_CONTENT_TYPE,
    RECEIPT_HEADER,
    TUS_VERSION,
    UPLOADS_PATH,
    Problem,
)

_WRITE_BYTES: Final = 1 << 20  # handed to a thread at a time
_SILENCE_S: Final = 60.0  # a body that brings nothing for so long is given up
_HESITATION_S: Final = 1.0  # for the next bytes, when another request waits for the turn
_PATIENCE_S: Final = 30.0
_NUMBER: Final = re.compile(r"[0-9]{1,15}")


class Uploads:
    """The routes. One per process."""

    def __init__(
        self,
        callers: Callers,
        partials: PartialUploads,
        acceptance: Acceptance,
        refusals: Refusals,
        workers: int,
    ) -> None:
        self._callers = callers
        self._partials = partials
        self._acceptance = acceptance
        self._refusals = refusals
        self._turns = Turns(_PATIENCE_S)
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="ingest")

    def routes(self) -> list[BaseRoute]:
        one = UPLOADS_PATH + "/{object_id}"
        return [
            Route(UPLOADS_PATH, self._create, methods=["POST"]),
            Route(one, self._patch, methods=["PATCH"]),
            Route(one, self._head, methods=["HEAD"]),
        ]

    def close(self) -> None:
        """Let what is being archived finish."""
        self._workers.shutdown(wait=True)

    async def _create(self, request: Request) -> Response:
        gateway_id = await self._callers.gateway_of(request)
        _check_protocol(request)
        object_id = _announced_object_id(request)
        length = _number(request, "upload-length")
        _check_fits(request, length)
        async with self._turns.turn(f"{gateway_id}/{object_id}") as give_way:
            done = await run_in_threadpool(self._acceptance.receipt_of, gateway_id, object_id)
            if done is not None:
                return _answer(201, done[1], done[1], done[0], object_id)
            upload = await run_in_threadpool(self._create_checked, request, gateway_id, object_id, length)
            # The body starts at byte 0. If part of the object is here already, that part is passed over.
            await _append(request, upload, 0, give_way)
            return await self._progress(request, 201, gateway_id, object_id, upload)

    async def _patch(self, request: Request) -> Response:
        gateway_id = await self._callers.gateway_of(request)
        _check_protocol(request)
        object_id = _object_id(request.path_params["object_id"])
        if request.headers.get("content-type") != PATCH_CONTENT_TYPE:
            raise RequestRefusedError(Problem.INVALID, f"PATCH carries {PATCH_CONTENT_TYPE}")
        offset = _number(request, "upload-offset")
        async with self._turns.turn(f"{gateway_id}/{object_id}") as give_way:
            done = await run_in_threadpool(self._acceptance.receipt_of, gateway_id, object_id)
            if done is not None:
                return _answer(204, done[1], done[1], done[0])
            upload = await self._begun(gateway_id, object_id)
            here = upload.offset_bytes
            if offset != here:
                raise RequestRefusedError(
                    Problem.OFFSET_MISMATCH,
                    f"central has {here} bytes of this object: ask HEAD and go on from there",
                    {"Upload-Offset": str(here)},
                )
            await _append(request, upload, offset, give_way)
            return await self._progress(request, 204, gateway_id, object_id, upload)

    async def _head(self, request: Request) -> Response:
        gateway_id = await self._callers.gateway_of(request)
        _check_protocol(request)
        object_id = _object_id(request.path_params["object_id"])
        async with self._turns.turn(f"{gateway_id}/{object_id}"):
            done = await run_in_threadpool(self._acceptance.receipt_of, gateway_id, object_id)
            if done is not None:
                return _answer(200, done[1], done[1], done[0])
            upload = await self._begun(gateway_id, object_id)
            return await self._progress(request, 200, gateway_id, object_id, upload)

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
        location = object_id if status == 201 else None
        if not upload.is_whole:
            return _answer(status, upload.offset_bytes, upload.length_bytes, None, location)
        # Shielded: a box that hangs up must not leave a thread behind that still works on a free turn.
        receipt = await asyncio.shield(
            asyncio.get_running_loop().run_in_executor(
                self._workers, self._accept, request, gateway_id, object_id, upload
            )
        )
        return _answer(status, upload.length_bytes, upload.length_bytes, receipt, location)

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


async def _append(request: Request, upload: PartialUpload, starts_at: int, give_way: asyncio.Event) -> None:
    """The body's bytes, of which the first is byte `starts_at` of the object, onto the end of the upload.

    A body that stops early leaves what came. One that is longer than the object is refused.
    """
    pass_over = upload.offset_bytes - starts_at
    room = upload.length_bytes - upload.offset_bytes
    _check_fits(request, room + pass_over)
    pending = bytearray()
    appender = await run_in_threadpool(Appender, upload)
    try:
        async for piece in _body(request, give_way):
            fresh = piece[pass_over:]
            pass_over -= len(piece) - len(fresh)
            room -= len(fresh)
            if room < 0:
                raise RequestRefusedError(Problem.INVALID, "the body goes beyond the announced length")
            pending += fresh
            if len(pending) >= _WRITE_BYTES:
                await run_in_threadpool(appender.write, pending)
                pending = bytearray()
    finally:
        # Also when the line was cut or another request wants the turn: what came is kept.
        await run_in_threadpool(_finish, appender, pending)


def _finish(appender: Appender, pending: bytearray) -> None:
    with appender:
        appender.write(pending)


async def _body(request: Request, give_way: asyncio.Event) -> AsyncIterator[bytes]:
    """The request's body until it ends, is cut off or falls silent: for long, or while somebody waits for the turn."""
    stream = request.stream()
    asked = asyncio.ensure_future(give_way.wait())
    try:
        while True:
            coming = asyncio.ensure_future(anext(stream, None))
            await asyncio.wait({coming, asked}, timeout=_SILENCE_S, return_when=asyncio.FIRST_COMPLETED)
            if asked.done() and not coming.done():
                # Only who has fallen silent gives way; two live requests would chase each other for ever.
                await asyncio.wait({coming}, timeout=_HESITATION_S)
            if not coming.done():
                coming.cancel()
                raise TryAgainError(
                    Problem.UNAVAILABLE,
                    "another request took this upload over, or the line fell silent",
                    {"Connection": "close"},
                )
            try:
                piece = coming.result()
            except ClientDisconnect:
                return
            if piece is None:
                return
            yield piece
    finally:
        asked.cancel()


def _check_fits(request: Request, room: int) -> None:
    """Refuse a body that says itself that it is too long; one that does not say is counted."""
    announced = request.headers.get("content-length", "0")
    if not _NUMBER.fullmatch(announced) or int(announced) > room:
        raise RequestRefusedError(Problem.INVALID, "the body goes beyond the announced length")


def _check_protocol(request: Request) -> None:
    if request.headers.get("tus-resumable", TUS_VERSION) != TUS_VERSION:
        raise RequestRefusedError(Problem.INVALID, f"this is tus {TUS_VERSION}")


def _announced_object_id(request: Request) -> ObjectId:
    """From ``Upload-Metadata: object_id <base64>``."""
    for pair in request.headers.get("upload-metadata", "").split(","):
        key, _, value = pair.strip().partition(" ")
        if key == OBJECT_ID_METADATA:
            try:
                return _object_id(base64.b64decode(value, validate=True).decode("ascii"))
            except (binascii.Error, UnicodeDecodeError) as error:
                raise RequestRefusedError(Problem.INVALID, "Upload-Metadata is not base64") from error
    raise RequestRefusedError(Problem.INVALID, f"Upload-Metadata names no {OBJECT_ID_METADATA}")


def _object_id(text: str) -> ObjectId:
    try:
        return check_object_id(text)
    except InvalidIdentifierError as error:
        raise RequestRefusedError(Problem.INVALID, str(error)) from error


def _number(request: Request, header: str) -> int:
    text = request.headers.get(header, "")
    if not _NUMBER.fullmatch(text):
        raise RequestRefusedError(Problem.INVALID, f"{header} is missing or not a number")
    return int(text)


def _answer(
    status: int, offset: int, length: int, receipt: str | None, location: ObjectId | None = None
) -> Response:
    headers = {
        "Tus-Resumable": TUS_VERSION,
        "Upload-Offset": str(offset),
        "Upload-Length": str(length),
        "Cache-Control": "no-store",
    }
    if receipt is not None:
        headers[RECEIPT_HEADER] = receipt
    if location is not None:
        headers["Location"] = f"{UPLOADS_PATH}/{location}"
    return Response(status_code=status, headers=headers)
