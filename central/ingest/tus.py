"""The parts of tus 1.0.0 that objects and packs share: a request's headers, its body onto an upload, the answer.

Always true: bytes are appended in the order they come and fsynced before this returns, also when the line was cut; who
is let in no more is cut off in the middle of a body, within two seconds.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from central.ingest.checksum import ALGORITHMS, Checksum
from central.ingest.errors import RequestRefusedError, TryAgainError
from central.ingest.partial import Appender, PartialUpload
from contract.identifiers import InvalidIdentifierError, ObjectId, check_object_id
from contract.transfer import PATCH_CONTENT_TYPE, RECEIPT_HEADER, TUS_EXTENSIONS, TUS_VERSION, Problem

PATIENCE_S: Final = 20.0
"""How long a request waits for its turn, or for a decision, before it is told to ask again."""

_WRITE_BYTES: Final = 128 << 10  # handed to a thread at a time
_SILENCE_S: Final = 60.0  # a body that brings nothing for so long is given up
_HESITATION_S: Final = 1.0  # for the next bytes, when another request waits for the turn
_ASKED_AGAIN_S: Final = 2.0  # whether the box may still send, while its body comes
_NUMBER: Final = re.compile(r"[0-9]{1,15}")


async def append(
    request: Request,
    upload: PartialUpload,
    starts_at: int,
    give_way: asyncio.Event,
    still_admitted: Callable[[Request], Awaitable[object]],
    on_bytes: Callable[[], None] = lambda: None,
) -> None:
    """The body's bytes, of which the first is byte `starts_at` of the object, onto the end of the upload.

    A body that stops early leaves what came. One that is longer than the object is refused, and so is one that is not
    what its checksum says, which leaves what was there before. `still_admitted` raises once the box is let in no more;
    it is asked where the last time is two seconds old. `on_bytes` is called whenever more of them can be read from the
    upload's file; they are durable only at the end.
    """
    checksum = Checksum.announced(request)
    begun_at, is_complete = upload.offset_bytes, False
    pass_over = upload.offset_bytes - starts_at
    room = upload.length_bytes - upload.offset_bytes
    check_fits(request, room + pass_over)
    pending = bytearray()
    appender = await run_in_threadpool(Appender, upload)
    asked_at_s = time.monotonic()
    try:
        async for piece in _body(request, give_way):
            if time.monotonic() - asked_at_s >= _ASKED_AGAIN_S:
                await _ask(still_admitted, request)
                asked_at_s = time.monotonic()
            is_complete = not piece
            if checksum is not None:
                checksum.update(piece)
            fresh = piece[pass_over:]
            pass_over -= len(piece) - len(fresh)
            room -= len(fresh)
            if room < 0:
                raise RequestRefusedError(Problem.INVALID, "the body goes beyond the announced length")
            pending += fresh
            if len(pending) >= _WRITE_BYTES:
                await run_in_threadpool(appender.write, pending)
                pending = bytearray()
                on_bytes()
    finally:
        # Also when the line was cut or another request wants the turn: what came is kept.
        await run_in_threadpool(_finish, appender, pending)
    if is_complete and checksum is not None and not checksum.fits:
        await run_in_threadpool(upload.cut_back, begun_at)
        raise RequestRefusedError(
            Problem.CHECKSUM,
            f"what came is not what was sent: go on from byte {begun_at}",
            {"Upload-Offset": str(begun_at)},
        )


async def _ask(still_admitted: Callable[[Request], Awaitable[object]], request: Request) -> None:
    try:
        await still_admitted(request)
    except RequestRefusedError as error:
        raise RequestRefusedError(error.problem, error.detail, {"Connection": "close"}) from error


def _finish(appender: Appender, pending: bytearray) -> None:
    with appender:
        appender.write(pending)


async def _body(request: Request, give_way: asyncio.Event) -> AsyncIterator[bytes]:
    """The request's body until it ends, is cut off or falls silent: for long, or while somebody waits for the turn.

    One that came to its end ends with an empty piece.
    """
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


def offered() -> Response:
    """The answer to OPTIONS: what of tus there is here."""
    headers = {
        "Tus-Resumable": TUS_VERSION,
        "Tus-Version": TUS_VERSION,
        "Tus-Extension": TUS_EXTENSIONS,
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }
    return Response(status_code=204, headers=headers)


def check_fits(request: Request, room: int) -> None:
    """Refuse a body that says itself that it is too long; one that does not say is counted."""
    announced = request.headers.get("content-length", "0")
    if not _NUMBER.fullmatch(announced) or int(announced) > room:
        raise RequestRefusedError(Problem.INVALID, "the body goes beyond the announced length")


def check_protocol(request: Request) -> None:
    """Refuse another version of tus."""
    if request.headers.get("tus-resumable", TUS_VERSION) != TUS_VERSION:
        raise HTTPException(412, f"this is tus {TUS_VERSION}", {"Tus-Version": TUS_VERSION})


def announced_id(request: Request, key: str) -> ObjectId:
    """The id under `key` in ``Upload-Metadata: key <base64>``."""
    for pair in request.headers.get("upload-metadata", "").split(","):
        name, _, value = pair.strip().partition(" ")
        if name == key:
            try:
                return checked_id(base64.b64decode(value, validate=True).decode("ascii"))
            except (binascii.Error, UnicodeDecodeError) as error:
                raise RequestRefusedError(Problem.INVALID, "Upload-Metadata is not base64") from error
    raise RequestRefusedError(Problem.INVALID, f"Upload-Metadata names no {key}")


def metadata(key: str, upload_id: ObjectId) -> str:
    """``Upload-Metadata`` as the upload was created with it, for the answer to HEAD."""
    return f"{key} {base64.b64encode(upload_id.encode()).decode('ascii')}"


def checked_id(text: str) -> ObjectId:
    """`text` if it may be the id of an object or a pack, which look alike."""
    try:
        return check_object_id(text)
    except InvalidIdentifierError as error:
        raise RequestRefusedError(Problem.INVALID, str(error)) from error


def patch_offset(request: Request) -> int:
    """Where a PATCH says that its body goes on."""
    if request.headers.get("content-type") != PATCH_CONTENT_TYPE:
        raise HTTPException(415, f"PATCH carries {PATCH_CONTENT_TYPE}")
    return number(request, "upload-offset")


def offset_mismatch(here: int, *, what: str) -> RequestRefusedError:
    """The client believes something else than what central has; `what` it is, for the sentence."""
    return RequestRefusedError(
        Problem.OFFSET_MISMATCH,
        f"central has {here} bytes of this {what}: ask HEAD and go on from there",
        {"Upload-Offset": str(here)},
    )


def number(request: Request, header: str) -> int:
    """The whole number in a header."""
    text = request.headers.get(header, "")
    if not _NUMBER.fullmatch(text):
        raise RequestRefusedError(Problem.INVALID, f"{header} is missing or not a number")
    return int(text)


def upload_answer(
    status: int,
    offset: int,
    length: int,
    receipt: str | None = None,
    *,
    location: str | None = None,
    expires_at_s: float | None = None,
    body: str | None = None,
) -> Response:
    """How far an upload is. `expires_at_s` (seconds since 1970): when what is unfinished is swept."""
    headers = {
        "Tus-Resumable": TUS_VERSION,
        "Upload-Offset": str(offset),
        "Upload-Length": str(length),
        "Cache-Control": "no-store",
    }
    if receipt is not None:
        headers[RECEIPT_HEADER] = receipt
    if location is not None:
        headers["Location"] = location
    if expires_at_s is not None:
        headers["Upload-Expires"] = formatdate(expires_at_s, usegmt=True)
    return Response(body, status, headers, "application/json" if body is not None else None)


def unfinished_answer(status: int, upload: PartialUpload, location: str | None = None) -> Response:
    """How far an upload is that is not whole yet."""
    return upload_answer(
        status, upload.offset_bytes, upload.length_bytes, location=location, expires_at_s=upload.expires_at_s
    )
