"""From a whole pack to the fates of its objects: each is accepted by itself, so that one bad object harms no other.

Always true: an answer that is kept names a receipt or a permanent refusal for every object, and only then does the
pack's file go. What a crash leaves: the pack's file, and receipts for the objects that were done; the next
question about the pack goes on with the rest, since an object that has its receipt is not opened again.
"""

from __future__ import annotations

import io
import logging
import time
from typing import BinaryIO, Final

import peewee

from central.audit.record import Action
from central.audit.refusals import Refusals
from central.ingest.acceptance import Acceptance
from central.ingest.errors import ObjectRefusedError, TryAgainError
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
from contract.transfer import Problem

_log = logging.getLogger(__name__)
_DETAIL_LENGTH: Final = 200


class DecidedPack(peewee.Model):
    """A pack whose objects all have their fate, as the box was told or will ask."""

    gateway_id = peewee.TextField()
    pack_id = peewee.TextField()
    length_bytes = peewee.BigIntegerField()
    answer = peewee.TextField()
    decided_at_s = peewee.FloatField(index=True)

    class Meta:
        table_name = "decided_pack"
        primary_key = peewee.CompositeKey("gateway_id", "pack_id")


class PackAcceptance:
    """Safe to call from many threads for different packs."""

    def __init__(self, db: peewee.SqliteDatabase, acceptance: Acceptance, refusals: Refusals) -> None:
        self._db = db
        self._acceptance = acceptance
        self._refusals = refusals
        with db.bind_ctx([DecidedPack]):
            db.create_tables([DecidedPack])

    def decided(self, gateway_id: str, pack_id: str) -> tuple[str, int] | None:
        """The kept answer (JSON) and the pack's length; None if there is none. Kept for a week."""
        query = DecidedPack.select(DecidedPack.answer, DecidedPack.length_bytes).where(
            (DecidedPack.gateway_id == gateway_id) & (DecidedPack.pack_id == pack_id)
        )
        row = next(iter(query.dicts().execute(self._db)), None)
        return (row["answer"], row["length_bytes"]) if row else None

    def forget(self, gateway_id: str, pack_id: str) -> None:
        """Drop an answer with refusals, because the pack is sent anew: what was refused may be welcome now."""
        DecidedPack.delete().where(
            (DecidedPack.gateway_id == gateway_id) & (DecidedPack.pack_id == pack_id)
        ).execute(self._db)

    def decide(self, gateway_id: str, pack_id: str, upload: PartialUpload, source_address: str) -> str:
        """Give every object of a whole pack its fate; the answer as JSON.

        Raises
        ------
        ObjectRefusedError : it is no pack, or not the one it was announced as; its file is gone.
        TryAgainError : the answer cannot be kept now; the file stays.
        """
        pack = self.read_pack(pack_id, upload)
        assert pack is not None, "a whole pack has its head"
        fates = [self._fate(gateway_id, upload, entry, source_address) for entry in pack.entries]
        answer = PackAnswer(pack_id=pack_id, objects=tuple(fates)).model_dump_json(exclude_none=True)
        if any(fate.problem in (Problem.STORAGE, Problem.UNAVAILABLE) for fate in fates):
            return answer  # not the last word: the file stays, and the next question tries the rest again
        now_s = time.time()
        try:
            with self._db.atomic():
                DecidedPack.insert(
                    gateway_id=gateway_id,
                    pack_id=pack_id,
                    length_bytes=upload.length_bytes,
                    answer=answer,
                    decided_at_s=now_s,
                ).on_conflict_replace().execute(self._db)
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
            with upload.path.open("rb") as file:
                header = file.read(HEADER_BYTES)
                if len(header) < HEADER_BYTES and not upload.is_whole:
                    return None
                length = head_bytes(read_count(header))
                head = header + file.read(length - HEADER_BYTES)
            if len(head) < length and not upload.is_whole:
                return None
            return read_head(head, pack_id=pack_id, length_bytes=upload.length_bytes)
        except PackError as error:
            upload.drop()
            raise ObjectRefusedError(Problem.PACK, str(error)) from error

    def _fate(self, gateway_id: str, upload: PartialUpload, entry: PackEntry, source_address: str) -> Fate:
        object_id = entry.object_id
        try:
            known = self._acceptance.receipt_of(gateway_id, object_id)
            if known is not None:
                return Fate(object_id=object_id, receipt=known[0])
            receipt = self._acceptance.accept_sealed(
                gateway_id, object_id, lambda: _part_of(upload, entry), entry.stored_bytes
            )
            return Fate(object_id=object_id, receipt=receipt)
        except ObjectRefusedError as error:
            detail = f"object {object_id}: {error.problem} {error.detail}"
            self._refusals.record(Action.UPLOAD_REFUSED, gateway_id, source_address, detail)
            return Fate(object_id=object_id, problem=error.problem, detail=error.detail[:_DETAIL_LENGTH])
        except TryAgainError as error:
            return Fate(object_id=object_id, problem=error.problem, detail=error.detail[:_DETAIL_LENGTH])
        except Exception:
            # As for an object that comes alone: it is tried again, and the rest of the pack goes on.
            _log.exception("object of a pack failed object_id=%s", object_id)
            detail = "central could not do this; it is in central's log"
            return Fate(object_id=object_id, problem=Problem.UNAVAILABLE, detail=detail)


def _part_of(upload: PartialUpload, entry: PackEntry) -> BinaryIO:
    """One object's sealed bytes. In memory: a pack is at most one chunk."""
    with upload.path.open("rb") as file:
        file.seek(entry.offset_bytes)
        return io.BytesIO(file.read(entry.stored_bytes))
