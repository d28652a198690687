"""The shapes of docs/formats/workflow.md: its examples are read, and what must be refused is."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from contract.workflow import (
    MAX_MESSAGE_JSON_BYTES,
    MAX_WORKLIST_ITEMS,
    Operation,
    PerformedProcedureMessage,
    ScheduledItem,
    Worklist,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats" / "workflow.md"


def examples() -> list[str]:
    """The indented JSON of the document; its ellipsis stands for more base64."""
    blocks = re.findall(r"(?:^    .*\n)+", DOCUMENT.read_text(), re.MULTILINE)
    return [block.replace("…", "BBBB") for block in blocks if "{" in block]


def message(**changes: object) -> str:
    return json.dumps(json.loads(examples()[1]) | changes)


def test_the_documents_examples_are_what_the_code_reads() -> None:
    worklist, step = examples()
    (item,) = Worklist.model_validate_json(worklist).items
    assert item.data_set.startswith(b"\x08\x00\x05\x00CS")
    read = PerformedProcedureMessage.model_validate_json(step)
    assert (read.number, read.operation) == (0, Operation.CREATE)
    assert PerformedProcedureMessage.model_validate_json(read.model_dump_json()) == read


def test_members_of_a_later_version_are_passed_over() -> None:
    assert PerformedProcedureMessage.model_validate_json(message(later=1)).number == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"sop_instance_uid": "../../x"},
        {"sop_instance_uid": "1" * 65},
        {"number": -1},
        {"operation": "delete"},
        {"calling_ae_title": ""},
        {"received_at_utc": "2026-01-02T10:11:13"},
        {"data_set": "no base64!"},
    ],
)
def test_what_is_no_message(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PerformedProcedureMessage.model_validate_json(message(**changes))


def test_a_worklist_has_an_end() -> None:
    item = {"transfer_syntax_uid": "1.2", "data_set": "AAAA"}
    with pytest.raises(ValidationError):
        Worklist.model_validate({"items": [item] * (MAX_WORKLIST_ITEMS + 1)})
    with pytest.raises(ValidationError):
        ScheduledItem.model_validate({**item, "data_set": base64.b64encode(b"x" * 200_000)})


def test_the_largest_message_of_a_box_fits() -> None:
    largest = message(data_set=base64.b64encode(b"x" * (2 << 20)).decode())
    assert len(largest) < MAX_MESSAGE_JSON_BYTES
