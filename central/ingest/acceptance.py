"""From a whole sealed object to an archived instance and its receipt.

Always true: a receipt is signed only in the transaction that makes the archived, durable, verified bytes
findable, and is kept with it; so asking again after any crash gives one archived object and the same receipt.
Bytes that do not verify are never in the archive.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import BinaryIO, Final

import peewee

from central.archive.errors import NotDicomError, StorageError, StorageFullError, StudyErasedError
from central.archive.examining import Indexable
from central.archive.indexing import ObjectOrigin
from central.archive.objects import StoredObject
from central.archive.receiving import Receiving
from central.database import Database, make_tables
from central.identity.receipt_keys import ReceiptKeys
from central.ingest.errors import ObjectRefusedError, TryAgainError
from central.ingest.partial import PartialUpload
from contract.identifiers import ObjectId
from contract.receipt import Outcome, Receipt
from contract.sealed_object import Content, SealedObjectError, read_sealed
from contract.sealing import RecipientPrivateKey, SealingKeyError, Unwrapper
from contract.transfer import Problem

_log = logging.getLogger(__name__)


class AcceptedUpload(peewee.Model):
    """An object that was archived, and the receipt that was signed for it."""

    gateway_id = peewee.TextField()
    object_id = peewee.TextField()
    sha256 = peewee.TextField()
    stored_bytes = peewee.BigIntegerField()
    outcome = peewee.TextField()
    receipt = peewee.TextField()

    class Meta:
        table_name = "accepted_upload"
        primary_key = peewee.CompositeKey("gateway_id", "object_id")


MODELS: Final = (AcceptedUpload,)
AcceptedRow = dict[str, str | int]


@dataclass(frozen=True)
class Opened:
    """An object that is verified, durable and read, and not findable yet."""

    indexable: Indexable
    stored_bytes: int


class Acceptance:
    """Opens, verifies, archives, signs. Safe to call from many threads for different objects.

    `institution_of` says whose a gateway is: what it sends is filed there.
    """

    def __init__(
        self,
        db: Database,
        archive: Receiving,
        *,
        central_id: str,
        sealing_keys: Mapping[bytes, RecipientPrivateKey],
        receipt_keys: ReceiptKeys,
        max_object_bytes: int,
        institution_of: Callable[[str], str],
    ) -> None:
        self._db = db
        self._archive = archive
        self._central_id = central_id
        self._unwrap = Unwrapper(sealing_keys)
        self._receipt_keys = receipt_keys
        self._max_object_bytes = max_object_bytes
        self._institution_of = institution_of
        make_tables(db, MODELS)

    def receipt_of(self, gateway_id: str, object_id: ObjectId) -> tuple[str, int] | None:
        """The receipt signed for an object and the size of the sealed object; None if there is none yet."""
        query = AcceptedUpload.select(AcceptedUpload.receipt, AcceptedUpload.stored_bytes).where(
            (AcceptedUpload.gateway_id == gateway_id) & (AcceptedUpload.object_id == object_id)
        )
        row = next(iter(query.dicts().execute(self._db)), None)
        return (self.in_force(row["receipt"]), row["stored_bytes"]) if row else None

    def receipts_of(self, gateway_id: str, object_ids: Sequence[str]) -> dict[str, str]:
        """Those of the objects that have a receipt, with it."""
        # By the whole primary key, or every receipt there is would be read.
        query = AcceptedUpload.select(AcceptedUpload.object_id, AcceptedUpload.receipt).where(
            (AcceptedUpload.gateway_id == gateway_id) & AcceptedUpload.object_id.in_(list(object_ids))
        )
        rows = query.dicts().execute(self._db)
        return {row["object_id"]: self.in_force(row["receipt"]) for row in rows}

    def in_force(self, receipt: str) -> str:
        """A receipt that was kept, as boxes believe it now: a key may have been retired since."""
        return self._receipt_keys.in_force(receipt)

    def unknown(self, gateway_id: str, shown: Mapping[str, str]) -> set[str]:
        """Which of these objects (id → SHA-256) of a gateway central has not signed for, or not with that content."""
        query = AcceptedUpload.select(AcceptedUpload.object_id, AcceptedUpload.sha256).where(
            (AcceptedUpload.gateway_id == gateway_id) & AcceptedUpload.object_id.in_(list(shown))
        )
        known = {row["object_id"]: row["sha256"] for row in query.dicts().execute(self._db)}
        return {object_id for object_id, sha256 in shown.items() if known.get(object_id) != sha256}

    def accept(self, gateway_id: str, object_id: ObjectId, upload: PartialUpload) -> str:
        """Archive a whole upload and return its receipt; the upload's file is gone afterwards.

        Raises
        ------
        ObjectRefusedError : the object does not verify, is for another key, or is no DICOM; its file is gone too.
        TryAgainError : central's disk or database could not take it now; its file stays.
        """
        try:
            opened = self.open_sealed(
                gateway_id, object_id, lambda: upload.path.open("rb"), upload.length_bytes
            )
            (receipt,) = self.receipt_all([opened])
        except ObjectRefusedError:
            upload.drop()
            raise
        upload.drop()
        return receipt

    def open_sealed(
        self, gateway_id: str, object_id: ObjectId, open_sealed: Callable[[], BinaryIO], stored_bytes: int
    ) -> Opened:
        """Verify, make durable and read the sealed object of `stored_bytes` that `open_sealed` gives; `receipt_all`
        makes it findable. Many may run at once.

        Raises
        ------
        ObjectRefusedError, TryAgainError : as `accept`; whatever held the bytes is the caller's to keep or drop.
        """
        try:
            stored = self._verified(object_id, open_sealed)
        except StorageError as error:
            what = "disk is full" if isinstance(error, StorageFullError) else "object store does not answer"
            raise TryAgainError(Problem.STORAGE, f"central's {what}") from error
        try:
            origin = ObjectOrigin(gateway_id, object_id, datetime.now(UTC), self._institution_of(gateway_id))
            return Opened(self._archive.read(stored, origin), stored_bytes)
        except NotDicomError as error:
            self._archive.forget(stored)
            raise ObjectRefusedError(Problem.NOT_DICOM, str(error)) from error

    def receipt_all(self, objects: Sequence[Opened]) -> list[str]:
        """Index opened objects of one gateway and sign for them, in one transaction. Receipts in their order.

        Raises
        ------
        TryAgainError : the index cannot be written now; what was opened stays on the disk for the next attempt. Or it
            is one object alone, which left the store as it came.
        ObjectRefusedError : it is one object alone, and its study was erased.
        StudyErasedError, StorageError : so it is with one among several; nothing was indexed.
        """
        if not objects:
            return []
        receipts: list[str] = []

        def sign_all(outcomes: Sequence[Outcome]) -> None:
            receipts.extend(self._receipts(objects, outcomes))

        try:
            outcomes = self._archive.index_all([one.indexable for one in objects], sign_all)
        except StudyErasedError as error:
            if len(objects) > 1:
                raise
            self._archive.forget(objects[0].indexable.stored)
            raise ObjectRefusedError(Problem.ERASED, str(error)) from error
        except StorageError as error:
            if len(objects) > 1:
                raise
            raise TryAgainError(Problem.STORAGE, str(error)) from error
        except peewee.OperationalError as error:
            _log.exception("index not writable objects=%d", len(objects))
            raise TryAgainError(Problem.UNAVAILABLE, "central's index cannot be written now") from error
        for one, outcome in zip(objects, outcomes, strict=True):
            stored, origin = one.indexable.stored, one.indexable.origin
            _log.info(
                "object archived gateway_id=%s object_id=%s outcome=%s size_bytes=%d stored_bytes=%d",
                origin.gateway_id, origin.object_id, outcome.value, stored.size_bytes, one.stored_bytes,
            )  # fmt: skip
        return receipts

    def _receipts(self, objects: Sequence[Opened], outcomes: Sequence[Outcome]) -> list[str]:
        """Signed and kept, in the caller's transaction. What came twice at once keeps its first receipt."""
        origins = [one.indexable.origin for one in objects]
        known = self.receipts_of(origins[0].gateway_id, [origin.object_id for origin in origins])
        fresh: dict[str, AcceptedRow] = {}
        receipts = []
        for one, outcome in zip(objects, outcomes, strict=True):
            stored, origin = one.indexable.stored, one.indexable.origin
            if origin.object_id in known:
                receipts.append(known[origin.object_id])
                continue
            receipt = Receipt(
                central_id=self._central_id,
                gateway_id=origin.gateway_id,
                object_id=ObjectId(origin.object_id),
                sha256=stored.sha256,
                size_bytes=stored.size_bytes,
                stored_bytes=one.stored_bytes,
                outcome=outcome,
                archived_at_utc=origin.received_at_utc,
            )
            signed = known[origin.object_id] = self._receipt_keys.sign_receipt(receipt)
            fresh[origin.object_id] = {
                "gateway_id": origin.gateway_id,
                "object_id": origin.object_id,
                "sha256": stored.sha256,
                "stored_bytes": one.stored_bytes,
                "outcome": outcome.value,
                "receipt": signed,
            }
            receipts.append(signed)
        if fresh:
            AcceptedUpload.insert_many(fresh.values()).execute(self._db)
        return receipts

    def _verified(self, object_id: ObjectId, open_sealed: Callable[[], BinaryIO]) -> StoredObject:
        """The content, durable; nothing of it stays if a single byte does not verify."""
        content: Content | None = None
        try:
            with open_sealed() as source, self._archive.new_object() as sink:
                for piece in read_sealed(
                    source,
                    self._unwrap,
                    expected_object_id=object_id,
                    max_size_bytes=self._max_object_bytes,
                ):
                    if isinstance(piece, Content):
                        content = piece
                    else:
                        sink.write(piece)
                stored = sink.commit()
        except SealingKeyError as error:
            raise ObjectRefusedError(Problem.UNKNOWN_KEY, str(error)) from error
        except SealedObjectError as error:
            # The root of the tree itself is raised for one thing only: more content than is allowed.
            too_large = type(error) is SealedObjectError
            raise ObjectRefusedError(
                Problem.TOO_LARGE if too_large else Problem.TAMPERED, str(error)
            ) from error
        # `read_sealed` ends with the content's hash or raises, and the archive hashed what it wrote itself.
        if content is None or (content.sha256, content.size_bytes) != (stored.sha256, stored.size_bytes):
            self._archive.forget(stored)
            raise ObjectRefusedError(Problem.TAMPERED, "what was written is not what was sealed")
        return stored
