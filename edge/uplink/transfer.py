"""One sealed object over tus to central, resumed where the line last broke; the answer is a receipt.

Always true: an offset is central's word, never a guess of ours, and nothing here judges the receipt or frees
anything. A crash leaves what central fsynced; the next attempt asks for the offset with HEAD and goes on.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import httpx

from contract.identifiers import ObjectId, new_object_id
from contract.transfer import (
    CHUNK_BYTES,
    OBJECT_ID_METADATA,
    PATCH_CONTENT_TYPE,
    RECEIPT_HEADER,
    TUS_VERSION,
    UPLOADS_PATH,
    Problem,
)
from edge.uplink.client import line_errors, read_bounded
from edge.uplink.errors import (
    CentralFailedError,
    CertificateRefusedError,
    ObjectDamagedError,
    ObjectRefusedError,
    SendingStoppedError,
    UplinkPermanentError,
    UplinkTransientError,
)
from edge.uplink.refusals import Refusal, Remedy, read_refusal

_PIECE_BYTES: Final = 256 << 10
_MAX_DETOURS: Final = 4
"""Offset mismatches and vanished uploads tolerated in one attempt before it is called central's fault."""


@dataclass(frozen=True)
class Answer:
    """A response that was read to its end, or to the cap."""

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


class Transfer:
    """Sends objects with one client; safe to use from many threads.

    Parameters
    ----------
    client : pinned to central; its base URL is central's.
    should_stop : asked between pieces of 256 KiB; True ends the attempt with SendingStoppedError.
    """

    def __init__(self, client: httpx.Client, should_stop: Callable[[], bool]) -> None:
        self._client = client
        self.should_stop = should_stop
        self._central = str(client.base_url).rstrip("/")

    def probe(self) -> None:
        """Ask for an upload that cannot exist: being told so proves line, central and certificate."""
        answer = self.exchange("HEAD", f"{UPLOADS_PATH}/{new_object_id()}", {})
        if answer.status != 404 and not answer.is_success:
            raise _error(_refusal(answer))

    def send(
        self,
        object_id: ObjectId,
        source: BinaryIO,
        stored_bytes: int,
        *,
        resume: bool,
        stop_at: Callable[[], bool] | None = None,
    ) -> str:
        """Send the sealed bytes in `source`; return central's receipt, not yet verified.

        Parameters
        ----------
        resume : begin by asking how far central is (after any earlier attempt), instead of creating.
        stop_at : a second reason to stop, for this object alone (its lease is nearly over).

        Raises
        ------
        ObjectRefusedError, ObjectDamagedError : permanent.
        UplinkTransientError : everything else.
        """
        if source.seek(0, os.SEEK_END) != stored_bytes:
            raise ObjectDamagedError("the sealed file on this box has not the length it was sealed with")
        attempt = _Attempt(self, object_id, source, stored_bytes, stop_at or _never)
        return attempt.run(resume=resume)

    def exchange(
        self, method: str, path: str, headers: dict[str, str], body: Iterator[bytes] | None = None
    ) -> Answer:
        """One request and its whole answer; httpx's errors come out as this room's."""
        request = self._client.build_request(
            method, path, headers={"Tus-Resumable": TUS_VERSION, **headers}, content=body
        )
        with line_errors(self._central):
            response = self._client.send(request, stream=True)
            try:
                return Answer(response.status_code, response.headers, read_bounded(response))
            finally:
                response.close()


class _Attempt:
    """One run for one object: where central is, and how often it led us astray."""

    def __init__(
        self,
        transfer: Transfer,
        object_id: ObjectId,
        source: BinaryIO,
        stored_bytes: int,
        stop_at: Callable[[], bool],
    ) -> None:
        self._transfer = transfer
        self._object_id = object_id
        self._path = f"{UPLOADS_PATH}/{object_id}"
        self._source = source
        self._length = stored_bytes
        self._stop_at = stop_at
        self._detours = 0

    def run(self, *, resume: bool) -> str:
        answer = self._ask_offset() if resume else self._create()
        while True:
            if answer.is_success:
                receipt = answer.headers.get(RECEIPT_HEADER)
                if receipt:
                    return str(receipt)
                answer = self._append(self._offset(answer))
                continue
            refusal = _refusal(answer)
            if refusal.remedy not in (Remedy.ASK_OFFSET, Remedy.CREATE) or self._detours >= _MAX_DETOURS:
                raise _error(refusal)
            self._detours += 1
            answer = self._create() if refusal.remedy is Remedy.CREATE else self._ask_offset()

    def _create(self) -> Answer:
        """Create the upload; an object that fits into one chunk goes along in the same request."""
        now = self._length if self._length <= CHUNK_BYTES else 0
        key = base64.b64encode(self._object_id.encode()).decode("ascii")
        headers = {
            "Upload-Length": str(self._length),
            "Upload-Metadata": f"{OBJECT_ID_METADATA} {key}",
            "Content-Length": str(now),
        }
        if now:
            headers["Content-Type"] = PATCH_CONTENT_TYPE
        return self._transfer.exchange("POST", UPLOADS_PATH, headers, self._pieces(0, now))

    def _ask_offset(self) -> Answer:
        return self._transfer.exchange("HEAD", self._path, {})

    def _append(self, offset: int) -> Answer:
        if offset == self._length:
            # Complete, yet no receipt came along: central may have been interrupted just there.
            self._detour("central has the whole object and gives no receipt for it")
            return self._ask_offset()
        size = min(CHUNK_BYTES, self._length - offset)
        headers = {
            "Upload-Offset": str(offset),
            "Content-Type": PATCH_CONTENT_TYPE,
            "Content-Length": str(size),
        }
        answer = self._transfer.exchange("PATCH", self._path, headers, self._pieces(offset, size))
        if answer.is_success and RECEIPT_HEADER not in answer.headers and self._offset(answer) <= offset:
            self._detour("central takes bytes and its offset does not move")
        return answer

    def _detour(self, sentence: str) -> None:
        self._detours += 1
        if self._detours > _MAX_DETOURS:
            raise CentralFailedError(sentence)

    def _offset(self, answer: Answer) -> int:
        text = answer.headers.get("Upload-Offset", "")
        if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) <= self._length):
            raise CentralFailedError("central answers an offset that cannot be", answer.status)
        return int(text)

    def _pieces(self, offset: int, size: int) -> Iterator[bytes]:
        self._source.seek(offset)
        while size > 0:
            if self._transfer.should_stop() or self._stop_at():
                raise SendingStoppedError("sending was stopped; it goes on where central is")
            piece = self._source.read(min(_PIECE_BYTES, size))
            if not piece:
                raise ObjectDamagedError("the sealed file on this box became shorter while it was sent")
            size -= len(piece)
            yield piece


def _never() -> bool:
    return False


def _refusal(answer: Answer) -> Refusal:
    return read_refusal(answer.status, answer.body)


def _error(refusal: Refusal) -> UplinkTransientError | UplinkPermanentError:
    if refusal.remedy is Remedy.NEW_CERTIFICATE:
        return CertificateRefusedError(refusal.sentence)
    if refusal.remedy in (Remedy.SEND_ANEW, Remedy.SET_ASIDE):
        return ObjectRefusedError(refusal.problem or Problem.INVALID, refusal.sentence)
    return CentralFailedError(refusal.sentence, refusal.status)
