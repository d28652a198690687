"""The committed schemas are the models', and the examples of the document fit them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from contract.heartbeat_schemas import MESSAGES, schema_text

FORMATS = Path(__file__).parents[2] / "docs" / "formats"
EXAMPLES = re.findall(
    r"^\*\*(\S+)\*\*[^`]*`(\{.*?\})`$", (FORMATS / "heartbeat.md").read_text(), re.MULTILINE | re.DOTALL
)


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((FORMATS / "heartbeat" / f"{name}.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FormatChecker())


@pytest.mark.parametrize("name", MESSAGES)
def test_committed_is_what_the_models_say(name: str) -> None:
    """After a change: python -m contract.heartbeat_schemas docs/formats/heartbeat"""
    assert (FORMATS / "heartbeat" / f"{name}.json").read_text() == schema_text(name)


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_fit(name: str, example: str) -> None:
    value = json.loads(example)
    validator(name).validate(value)
    assert set(value) <= set(MESSAGES[name].model_fields), "and hold nothing the models do not know"
    MESSAGES[name].model_validate_json(example)


def test_every_message_has_an_example() -> None:
    assert {name for name, _ in EXAMPLES} == set(MESSAGES)


@pytest.mark.parametrize(
    ("name", "member", "value"),
    [
        ("up-status", "state", "asleep"),
        ("up-status", "session", "x"),
        ("up-event", "number", 0),
        ("up-telemetry", "queue_objects", -1),
        ("down-command", "id", "../x"),
        ("down-desired", "version", 0),
    ],
)
def test_what_is_wrong_does_not_fit(name: str, member: str, value: object) -> None:
    example = json.loads(next(text for known, text in EXAMPLES if known == name))
    assert not validator(name).is_valid({**example, member: value})
