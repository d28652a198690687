"""From a whole pack to the fates of its objects: each is accepted by itself, so that one bad object harms no other.

Always true: an answer that is kept names a receipt or a permanent refusal for every object, and only then does the
pack's file go. What a crash leaves: the pack's file, and receipts for the objects that were done; the next
question about the pack goes on with the rest, since an object that has its receipt is not opened again.
"""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Final

import peewee

from central.audit.events import Action
from central.audit.refusals import Refusals
from central.database import Database, make_tables, put
from central.ingest.acceptance import Acceptance, Opened
from central.ingest.errors import IngestError, ObjectRefusedError, TryAgainError
from central.ingest.partial import KEPT_S, PartialUpload
from contract.pack import (
    HEADER_BYTES,
    Fate,
    Pack,
    PackAnswer,
    PackEntry,
    PackError,
    head_bytes,
    read_count,
    read_head,
)
from contract.transfer import PERMANENT, Problem

_log = logging.getLogger(__name__)
_DETAIL_LENGTH: Final = 200
_OPENERS: Final = 4  # threads of all packs together that open objects
_AT_ONCE: Final = 16
"""Objects indexed in one transaction: bounds the memory that their metadata takes, and how long the index is held."""


class DecidedPack(peewee.Model):
    """A pack whose objects all have their fate, as the box was told or will ask."""

    gateway_id = peewee.TextField()
    pack_id = peewee.TextField()
    length_bytes = peewee.BigIntegerField()
    answer = peewee.TextField()
    decided_at_s = peewee.DoubleField(index=True)

    class Meta:
        table_name = "decided_pack"
        primary_key = peewee.CompositeKey("gateway_id", "pack_id")


class PackAcceptance:
    """Safe to call from many threads for different packs."""

    def __init__(self, db: Database, acceptance: Acceptance, refusals: Refusals) -> None:
        self._db = db
        self._acceptance = acceptance
        self._refusals = refusals
        self._openers = ThreadPoolExecutor(_OPENERS, thread_name_prefix="pack-objects")
        make_tables(db, [DecidedPack])

    def close(self) -> None:
        """To be called when no pack is being decided any more."""
        self._openers.shutdown(wait=True)

    def decided(self, gateway_id: str, pack_id: str) -> tuple[str, int] | None:
        """The kept answer (JSON) and the pack's length; None if there is none. Kept for a week."""
        query = DecidedPack.select(DecidedPack.answer, DecidedPack.length_bytes).where(
            (DecidedPack.gateway_id == gateway_id) & (DecidedPack.pack_id == pack_id)
        )
        row = next(iter(query.dicts().execute(self._db)), None)
        return (self._in_force(row["answer"]), row["length_bytes"]) if row else None

    def _in_force(self, answer: str) -> str:
        """A kept answer with receipts as boxes believe them now."""
        kept = PackAnswer.model_validate_json(answer)
        fates = (
            fate.model_copy(update={"receipt": self._acceptance.in_force(fate.receipt)})
            if fate.receipt
            else fate
            for fate in kept.objects
        )
        now = kept.model_copy(update={"objects": tuple(fates)})
        return answer if now == kept else now.model_dump_json(exclude_none=True)

    def forget(self, gateway_id: str, pack_id: str) -> None:
        """Drop an answer with refusals, because the pack is sent anew: what was refused may be welcome now."""
        DecidedPack.delete().where(
            (DecidedPack.gateway_id == gateway_id) & (DecidedPack.pack_id == pack_id)
        ).execute(self._db)

    def accept_arrived(
        self, gateway_id: str, pack: Pack, upload: PartialUpload, source_address: str, after: int
    ) -> list[Fate]:
        """Give fates, in the pack's order from the `after`-th object on, to a few that are wholly here.

        For a pack of which the rest is still arriving: nothing here relies on the pack's file after a crash.
        """
        here = upload.offset_bytes
        some = pack.entries[after : after + _AT_ONCE]
        arrived = [entry for entry in some if entry.offset_bytes + entry.stored_bytes <= here]
        return self._fates(gateway_id, upload, arrived, source_address)

    def decide(
        self, gateway_id: str, pack_id: str, upload: PartialUpload, source_address: str, known: Sequence[Fate]
    ) -> str:
        """Give every object of a whole pack its fate; the answer as JSON.

        `known`: the fates of the first of them, from `accept_arrived`.

        Raises
        ------
        ObjectRefusedError : it is no pack, or not the one it was announced as; its file is gone.
        TryAgainError : the answer cannot be kept now; the file stays.
        """
        pack = self.read_pack(pack_id, upload)
        assert pack is not None, "a whole pack has its head"
        fates = list(known)
        for at in range(len(known), len(pack.entries), _AT_ONCE):
            fates += self._fates(gateway_id, upload, pack.entries[at : at + _AT_ONCE], source_address)
        answer = PackAnswer(pack_id=pack_id, objects=tuple(fates)).model_dump_json(exclude_none=True)
        if not all(map(is_last_word, fates)):
            return answer  # not the last word: the file stays, and the next question tries the rest again
        now_s = time.time()
        try:
            with self._db.writing():
                row = {
                    "gateway_id": gateway_id,
                    "pack_id": pack_id,
                    "length_bytes": upload.length_bytes,
                    "answer": answer,
                    "decided_at_s": now_s,
                }
                put(self._db, DecidedPack, row)
                DecidedPack.delete().where(DecidedPack.decided_at_s < now_s - KEPT_S).execute(self._db)
        except peewee.OperationalError as error:
            _log.exception("index not writable pack_id=%s", pack_id)
            raise TryAgainError(Problem.UNAVAILABLE, "central's index cannot be written now") from error
        upload.drop()
        return answer

    def read_pack(self, pack_id: str, upload: PartialUpload) -> Pack | None:
        """What the pack says it holds; None while its head is not all here.

        Raises
        ------
        ObjectRefusedError : the head is malformed or not the announced one; the upload is dropped.
        """
        try:
            return peek(pack_id, upload)
        except PackError as error:
            upload.drop()
            raise ObjectRefusedError(Problem.PACK, str(error)) from error

    def _fates(
        self, gateway_id: str, upload: PartialUpload, entries: Sequence[PackEntry], source_address: str
    ) -> list[Fate]:
        """Of a few objects: opened side by side, since most of that is waiting for the disk, and indexed together."""
        receipts = self._acceptance.receipts_of(gateway_id, [entry.object_id for entry in entries])

        def open_one(entry: PackEntry) -> Opened | Fate:
            receipt = receipts.get(entry.object_id)
            if receipt is not None:
                return Fate(object_id=entry.object_id, receipt=receipt)
            return self._open(gateway_id, upload, entry)

        opened = list(self._openers.map(open_one, entries))
        told = {
            fate.object_id: fate for fate in self._index([one for one in opened if isinstance(one, Opened)])
        }
        fates = [
            one if isinstance(one, Fate) else told[entry.object_id]
            for entry, one in zip(entries, opened, strict=True)
        ]
        for fate in fates:
            if fate.problem in PERMANENT:
                detail = f"object {fate.object_id}: {fate.problem} {fate.detail}"
                self._refusals.record(Action.UPLOAD_REFUSED, gateway_id, source_address, detail)
        return fates

    def _open(self, gateway_id: str, upload: PartialUpload, entry: PackEntry) -> Opened | Fate:
        """The object, verified and durable, or why it is not."""
        object_id = entry.object_id
        try:
            return self._acceptance.open_sealed(
                gateway_id, object_id, lambda: _part_of(upload, entry), entry.stored_bytes
            )
        except Exception as error:
            return _failed(object_id, error)

    def _index(self, opened: Sequence[Opened]) -> list[Fate]:
        """All together; each by itself if that fails for a reason that only one of them may have."""
        named = [one.indexable.origin.object_id for one in opened]
        try:
            receipts = self._acceptance.receipt_all(opened)
        except TryAgainError as error:
            return [_failed(object_id, error) for object_id in named]
        except Exception as error:
            if len(opened) == 1:
                return [_failed(named[0], error)]
            _log.warning("objects are indexed one by one objects=%d", len(opened), exc_info=True)
            return [fate for one in opened for fate in self._index([one])]
        return [
            Fate(object_id=object_id, receipt=receipt)
            for object_id, receipt in zip(named, receipts, strict=True)
        ]


def is_last_word(fate: Fate) -> bool:
    """Whether asking again would bring the same."""
    return fate.problem not in (Problem.STORAGE, Problem.UNAVAILABLE)


def peek(pack_id: str, upload: PartialUpload) -> Pack | None:
    """What the pack says it holds; None while its head is not all here. PackError if it is not the announced one."""
    with upload.path.open("rb") as file:
        header = file.read(HEADER_BYTES)
        if len(header) < HEADER_BYTES and not upload.is_whole:
            return None
        length = head_bytes(read_count(header))
        head = header + file.read(length - HEADER_BYTES)
    if len(head) < length and not upload.is_whole:
        return None
    return read_head(head, pack_id=pack_id, length_bytes=upload.length_bytes)


def _failed(object_id: str, error: Exception) -> Fate:
    if isinstance(error, IngestError):
        return Fate(object_id=object_id, problem=error.problem, detail=error.detail[:_DETAIL_LENGTH])
    # As for an object that comes alone: it is tried again, and the rest of the pack goes on.
    _log.error("object of a pack failed object_id=%s", object_id, exc_info=error)
    detail = "central could not do this; it is in central's log"
    return Fate(object_id=object_id, problem=Problem.UNAVAILABLE, detail=detail)


def _part_of(upload: PartialUpload, entry: PackEntry) -> BinaryIO:
    """One object's sealed bytes. In memory: a pack is at most one chunk."""
    with upload.path.open("rb") as file:
        file.seek(entry.offset_bytes)
        return io.BytesIO(file.read(entry.stored_bytes))
