"""One sealed object, or one pack of them, over tus to central, resumed where the line last broke.

The answer for an object is a receipt, for a pack the fates of what it holds.

Always true: an offset is central's word, never a guess of ours, and nothing here judges the receipt or frees
anything. A crash leaves what central fsynced; the next attempt asks for the offset with HEAD and goes on.
"""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

import httpx
from pydantic import ValidationError

from contract.identifiers import ObjectId, new_object_id
from contract.pack import MAX_ANSWER_BYTES, Pack, PackAnswer
from contract.transfer import (
    CHECKSUM_HEADER,
    OBJECT_ID_METADATA,
    PACK_ID_METADATA,
    PACKS_PATH,
    PATCH_CONTENT_TYPE,
    RECEIPT_HEADER,
    TUS_VERSION,
    UPLOADS_PATH,
    Problem,
)
from edge.uplink.bandwidth import Bandwidth
from edge.uplink.client import line_errors, read_bounded
from edge.uplink.errors import (
    CentralFailedError,
    CertificateRefusedError,
    ObjectDamagedError,
    ObjectRefusedError,
    PackRefusedError,
    SendingStoppedError,
    UplinkPermanentError,
    UplinkTransientError,
)
from edge.uplink.line_pace import LinePace
from edge.uplink.refusals import BY_STATUS, MAX_PROBLEM_BYTES, Refusal, Remedy, read_refusal

_PIECE_BYTES: Final = 256 << 10
_MAX_DETOURS: Final = 4
"""Offset mismatches and vanished uploads tolerated in one attempt before it is called central's fault."""
_NO_PACKS: Final = frozenset({404, 405, 413, 415, 501})
"""Answers to the creation of a pack that say it will not do here; a proxy may give them, too."""


class Source(Protocol):
    """What is sent from: a file, or as if it were one."""

    def seek(self, offset: int, whence: int = ..., /) -> int: ...

    def read(self, size: int, /) -> bytes: ...


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
    pace : decides how much goes into one request, and learns from it.
    bandwidth : what the line may be used for at this hour.
    wait : blocks for so many seconds, or until sending is stopped.
    on_success : called whenever central took a request, so line, central and certificate are as they should be.
    """

    def __init__(
        self,
        client: httpx.Client,
        should_stop: Callable[[], bool],
        pace: LinePace | None = None,
        bandwidth: Bandwidth | None = None,
        wait: Callable[[float], object] = time.sleep,
        on_success: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self.should_stop = should_stop
        self.pace = pace or LinePace()
        self.bandwidth = bandwidth or Bandwidth()
        self.wait = wait
        self._on_success = on_success
        self._central = str(client.base_url).rstrip("/")

    def probe(self) -> None:
        """Ask for an upload that cannot exist: being told so proves line, central and certificate."""
        answer = self.exchange("HEAD", f"{UPLOADS_PATH}/{new_object_id()}", {})
        if answer.status != 404 and not answer.is_success:
            raise _error(_refusal(answer))
        self._on_success()

    def send(
        self,
        object_id: ObjectId,
        source: Source,
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

    def send_pack(
        self, pack: Pack, source: Source, *, resume: bool, stop_at: Callable[[], bool] | None = None
    ) -> PackAnswer:
        """Send a pack, whose bytes are in `source`; return what central says of each object in it.

        Raises
        ------
        PackRefusedError, ObjectDamagedError : permanent.
        UplinkTransientError : everything else.
        """
        attempt = _PackAttempt(self, pack.pack_id, source, pack.length_bytes, stop_at or _never)
        said = attempt.run(resume=resume)
        try:
            answer = PackAnswer.model_validate_json(said)
        except ValidationError as error:
            raise CentralFailedError("central's answer about a pack is malformed") from error
        told = (answer.pack_id, tuple(fate.object_id for fate in answer.objects))
        if told != (pack.pack_id, tuple(entry.object_id for entry in pack.entries)):
            raise CentralFailedError("central's answer is about another pack")
        return answer

    def exchange(
        self,
        method: str,
        path: str,
        headers: dict[str, str],
        body: Iterator[bytes] | None = None,
        *,
        limit_bytes: int = MAX_PROBLEM_BYTES,
    ) -> Answer:
        """One request and its whole answer; httpx's errors come out as this room's."""
        request = self._client.build_request(
            method,
            path,
            headers={"Tus-Resumable": TUS_VERSION, **headers},
            content=body,
            extensions={"trace": _timing_handshakes(self.pace.note_round_trip)},
        )
        with line_errors(self._central):
            response = self._client.send(request, stream=True)
            try:
                answer = Answer(response.status_code, response.headers, read_bounded(response, limit_bytes))
            finally:
                response.close()
        if answer.is_success:
            self._on_success()
        if method == "HEAD" and BY_STATUS.get(answer.status) is Remedy.NEW_CERTIFICATE:
            # An answer to HEAD has no body to say why, and the technician needs to know.
            reason = self.exchange("GET", path, headers)
            return reason if reason.status == answer.status else answer
        return answer


class _Attempt:
    """One run for one object: where central is, and how often it led us astray."""

    collection: ClassVar[str] = UPLOADS_PATH
    id_metadata: ClassVar[str] = OBJECT_ID_METADATA
    answer_limit_bytes: ClassVar[int] = MAX_PROBLEM_BYTES

    def __init__(
        self,
        transfer: Transfer,
        upload_id: str,
        source: Source,
        stored_bytes: int,
        stop_at: Callable[[], bool],
    ) -> None:
        self._transfer = transfer
        self._upload_id = upload_id
        self._path = f"{self.collection}/{upload_id}"
        self._source = source
        self._length = stored_bytes
        self._stop_at = stop_at
        self._detours = 0
        self._began_s = 0.0  # when the last request's first byte was asked for

    def run(self, *, resume: bool) -> str:
        answer = self._ask_offset() if resume else self._create()
        while True:
            if answer.is_success:
                end = self._end(answer)
                if end:
                    return end
                answer = self._append(self._offset(answer))
                continue
            refusal = _refusal(answer)
            if refusal.remedy not in (Remedy.ASK_OFFSET, Remedy.CREATE) or self._detours >= _MAX_DETOURS:
                raise self._error(refusal)
            self._detours += 1
            answer = self._create() if refusal.remedy is Remedy.CREATE else self._ask_offset()

    def _end(self, answer: Answer) -> str | None:
        """What the whole run was for, if this answer brings it."""
        receipt: str | None = answer.headers.get(RECEIPT_HEADER)
        return receipt

    def _error(self, refusal: Refusal) -> UplinkTransientError | UplinkPermanentError:
        return _error(refusal)

    def _create(self) -> Answer:
        """Create the upload; what fits into one chunk goes along in the same request."""
        now = self._length if self._length <= self._transfer.pace.chunk_bytes() else 0
        key = base64.b64encode(self._upload_id.encode()).decode("ascii")
        headers = {
            "Upload-Length": str(self._length),
            "Upload-Metadata": f"{self.id_metadata} {key}",
            "Content-Length": str(now),
        }
        if now:
            headers["Content-Type"] = PATCH_CONTENT_TYPE
        return self._carry("POST", self.collection, headers, 0, now)

    def _ask_offset(self) -> Answer:
        return self._transfer.exchange("HEAD", self._path, {})

    def _append(self, offset: int) -> Answer:
        if offset == self._length:
            return self._ask_end()
        size = min(self._transfer.pace.chunk_bytes(), self._length - offset)
        headers = {
            "Upload-Offset": str(offset),
            "Content-Type": PATCH_CONTENT_TYPE,
            "Content-Length": str(size),
        }
        answer = self._carry("PATCH", self._path, headers, offset, size)
        if answer.is_success and not self._end(answer) and self._offset(answer) <= offset:
            self._detour("central takes bytes and its offset does not move")
        return answer

    def _ask_end(self) -> Answer:
        # Complete, yet no receipt came along: central may have been interrupted just there.
        self._detour("central has the whole object and gives no receipt for it")
        return self._ask_offset()

    def _carry(self, method: str, path: str, headers: dict[str, str], offset: int, size: int) -> Answer:
        """One request with bytes from `offset` on."""
        if size:
            headers[CHECKSUM_HEADER] = f"sha256 {self._checksum(offset, size)}"
        answer = self._transfer.exchange(
            method, path, headers, self._pieces(offset, size), limit_bytes=self.answer_limit_bytes
        )
        if answer.is_success:
            self._transfer.pace.note_sent(size, time.monotonic() - self._began_s)
        return answer

    def _checksum(self, offset: int, size: int) -> str:
        """The SHA-256 of what goes into one request, in base64. The file is in memory when it is read to be sent."""
        digest = hashlib.sha256()
        self._source.seek(offset)
        while size > 0 and (piece := self._source.read(min(_PIECE_BYTES, size))):
            digest.update(piece)
            size -= len(piece)
        return base64.b64encode(digest.digest()).decode("ascii")

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
        self._began_s = time.monotonic()  # not before: a connection may have had to be made
        self._source.seek(offset)
        while size > 0:
            if self._transfer.should_stop() or self._stop_at():
                raise SendingStoppedError("sending was stopped; it goes on where central is")
            piece = self._source.read(min(self._transfer.bandwidth.piece_bytes(_PIECE_BYTES), size))
            if not piece:
                raise ObjectDamagedError("the sealed file on this box became shorter while it was sent")
            size -= len(piece)
            if (delay_s := self._transfer.bandwidth.reserve(len(piece))) > 0:
                self._transfer.wait(delay_s)
            yield piece


class _PackAttempt(_Attempt):
    """The same for a pack: it ends with the fates of its objects, which are asked for if they did not come along."""

    collection = PACKS_PATH
    id_metadata = PACK_ID_METADATA
    answer_limit_bytes = MAX_ANSWER_BYTES

    def _end(self, answer: Answer) -> str | None:
        return answer.body.decode("utf-8", "replace") or None

    def _create(self) -> Answer:
        answer = super()._create()
        if answer.status in _NO_PACKS:
            raise PackRefusedError(_refusal(answer).sentence, takes_none=True)
        return answer

    def _ask_end(self) -> Answer:
        self._detour("central has the whole pack and does not say what became of it")
        return self._transfer.exchange("GET", self._path, {}, limit_bytes=self.answer_limit_bytes)

    def _error(self, refusal: Refusal) -> UplinkTransientError | UplinkPermanentError:
        if refusal.remedy is Remedy.SEND_ALONE:
            return PackRefusedError(refusal.sentence, takes_none=False)
        return super()._error(refusal)


def _never() -> bool:
    return False


def _timing_handshakes(note: Callable[[float], None]) -> Callable[[str, object], None]:
    """A trace for httpcore that tells how long a TLS handshake took: one round trip to central (RFC 8446 section 2),
    through a proxy, too, and little else."""
    began_s = 0.0

    def trace(event: str, _details: object) -> None:
        nonlocal began_s
        if event.endswith("start_tls.started"):
            began_s = time.monotonic()
        elif event.endswith("start_tls.complete"):
            note(time.monotonic() - began_s)

    return trace


def _refusal(answer: Answer) -> Refusal:
    return read_refusal(answer.status, answer.body)


def _error(refusal: Refusal) -> UplinkTransientError | UplinkPermanentError:
    if refusal.remedy is Remedy.NEW_CERTIFICATE:
        return CertificateRefusedError(refusal.sentence)
    if refusal.remedy in (Remedy.SEND_ANEW, Remedy.SET_ASIDE):
        return ObjectRefusedError(refusal.problem or Problem.INVALID, refusal.sentence)
    return CentralFailedError(refusal.sentence, refusal.status)
