"""How a box finds out that central lost what it signed for: it shows receipts, central names those it does not know.

    POST /ingest/v1/receipts/check   ReceiptCheck → ReceiptCheckAnswer          (client certificate)

A central that was set back to a backup does not know that it was. The box does: it keeps its receipts for a stated
time. Always true: an answer names nothing that was not asked, so it can cause nothing but a resend of what this very
box sent.
Normative text: docs/formats/receipt-check.md.
"""

from __future__ import annotations

from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from contract.identifiers import ObjectId

RECEIPT_CHECK_PATH: Final = "/ingest/v1/receipts/check"
MAX_CHECKED: Final = 500
MAX_CHECK_BYTES: Final = 98_304
"""Of a question; `MAX_CHECKED` receipts take 68,000 bytes. An answer is shorter."""

Hex32 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ShownReceipt(BaseModel):
    """What a receipt vouches for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    object_id: Hex32
    sha256: Sha256


class ReceiptCheck(BaseModel):
    """Receipts that the box keeps. `gateway_id`: whom they were given to, the caller itself or what it was before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gateway_id: str = Field(min_length=1, max_length=64)
    receipts: tuple[ShownReceipt, ...] = Field(min_length=1, max_length=MAX_CHECKED)


class ReceiptCheckAnswer(BaseModel):
    """Of those that were shown, the objects that central has not, or not with this content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unknown: tuple[Hex32, ...] = Field(max_length=MAX_CHECKED)

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        if len(set(self.unknown)) != len(self.unknown):
            raise ValueError("an object is named twice")
        return self

    def of(self, asked: ReceiptCheck) -> frozenset[ObjectId]:
        """What is unknown of `asked`. ValueError if the answer names anything else."""
        unknown = frozenset(ObjectId(one) for one in self.unknown)
        if not unknown <= {one.object_id for one in asked.receipts}:
            raise ValueError("central names objects that it was not asked about")
        return unknown
