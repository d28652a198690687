"""The shapes of the receipt check, against the example and the limits of docs/formats/receipt-check.md."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from contract.receipt_check import MAX_CHECK_BYTES, MAX_CHECKED, ReceiptCheck, ReceiptCheckAnswer

DOCUMENT = (Path(__file__).parents[2] / "docs" / "formats" / "receipt-check.md").read_text()
ASKED, ANSWERED = re.findall(r"^    (?:200 )?(\{.*?\}$)", DOCUMENT, re.MULTILINE | re.DOTALL)
ONE = {"object_id": "0" * 32, "sha256": "0" * 64}


def test_the_documents_example_is_one() -> None:
    asked = ReceiptCheck.model_validate_json(ASKED)
    assert ReceiptCheckAnswer.model_validate_json(ANSWERED).of(asked) == {asked.receipts[1].object_id}
    assert json.loads(asked.model_dump_json()) == json.loads(ASKED)


def test_the_largest_check_fits_into_the_limit() -> None:
    full = {"gateway_id": "x" * 64, "receipts": [ONE] * MAX_CHECKED}
    assert len(ReceiptCheck.model_validate(full).model_dump_json()) <= 70_000 < MAX_CHECK_BYTES


@pytest.mark.parametrize(
    "asked",
    [
        {"gateway_id": "ct", "receipts": []},
        {"gateway_id": "ct", "receipts": [ONE] * (MAX_CHECKED + 1)},
        {"gateway_id": "", "receipts": [ONE]},
        {"gateway_id": "ct", "receipts": [ONE | {"object_id": "0" * 31 + "G"}]},
        {"gateway_id": "ct", "receipts": [ONE | {"sha256": "0" * 63}]},
        {"gateway_id": "ct", "receipts": [ONE | {"more": 1}]},
        {"gateway_id": "ct", "receipts": [ONE], "more": 1},
        {"receipts": [ONE]},
    ],
)
def test_what_is_no_check_is_refused(asked: object) -> None:
    with pytest.raises(ValidationError):
        ReceiptCheck.model_validate_json(json.dumps(asked))


@pytest.mark.parametrize("unknown", [["1" * 32], ["0" * 32, "1" * 32], ["0" * 32] * 2, ["0" * 33], [None]])
def test_an_answer_about_anything_else_is_refused(unknown: list[object]) -> None:
    asked = ReceiptCheck.model_validate({"gateway_id": "ct", "receipts": [ONE]})
    with pytest.raises(ValueError, match=r"not asked|twice|unknown"):
        ReceiptCheckAnswer.model_validate_json(json.dumps({"unknown": unknown})).of(asked)
