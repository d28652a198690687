"""Each record as an AuditEvent that keeps to FHIR R4, whatever came from outside."""

from __future__ import annotations

import re
from typing import Any

import pytest

from central.audit.events import Action
from central.audit.fhir import audit_event
from tests.central.audit.rows import row

STRING = r"[ \r\n\t\S]+"
CODE = r"[^\s]+(\s[^\s]+)*"
URI = r"\S*"
CODING = {"system": (URI, "1"), "code": (CODE, "1"), "display": (STRING, "?")}
IDENTIFIER = {"system": (URI, "?"), "value": (STRING, "1")}
REFERENCE = {"identifier": (IDENTIFIER, "1")}
# The elements that are used, each with its type (https://hl7.org/fhir/R4/auditevent-definitions.html) and how often.
EVENT: dict[str, Any] = {
    "resourceType": ("AuditEvent", "1"),
    "id": (r"[A-Za-z0-9.-]{1,64}", "1"),
    "type": (CODING, "1"),
    "subtype": (CODING, "*"),
    "action": ("C|R|U|D|E", "1"),
    "recorded": (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", "1"),
    "outcome": ("0|4|8|12", "1"),
    "outcomeDesc": (STRING, "?"),
    "agent": (
        {
            "who": (REFERENCE, "1"),
            "role": ({"text": (STRING, "1")}, "*"),
            "requestor": (True, "1"),
            "network": ({"address": (r"[0-9a-f.:]+", "1"), "type": ("2", "1")}, "?"),
        },
        "+",
    ),
    "source": ({"observer": (REFERENCE, "1")}, "1"),
    "entity": (
        {
            "what": (REFERENCE, "1"),
            "type": (CODING, "1"),
            "detail": ({"type": (STRING, "1"), "valueString": (STRING, "1")}, "*"),
        },
        "*",
    ),
}


def require_valid(value: Any, kind: Any) -> None:
    if isinstance(kind, dict):
        assert set(value) <= set(kind), value
        for name, (of, times) in kind.items():
            there = value.get(name)
            assert (there is not None) or times in "?*", name
            if there is not None and times in "+*":
                assert there, "FHIR has no empty lists"
                for one in there:
                    require_valid(one, of)
            elif there is not None:
                require_valid(there, of)
    elif isinstance(kind, str):
        assert re.fullmatch(kind, value), (kind, value)
        assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", value), "R4: no characters below 32 but these"
    else:
        assert value is kind


def event(values: dict[str, Any]) -> dict[str, Any]:
    made = audit_event(values, central_id="central-1")
    require_valid(made, EVENT)
    return made


@pytest.mark.parametrize("action", [action.value for action in Action] + ["of a later version"])
def test_every_action_keeps_to_r4(action: str) -> None:
    made = event(row(action))
    assert made["subtype"][-1] == {"system": "urn:dicomnet:audit-action", "code": action}


def test_a_look_says_who_from_where_and_what() -> None:
    made = event(row())
    assert made["type"] == {
        "system": "http://dicom.nema.org/resources/ontology/DCM",
        "code": "110103",
        "display": "DICOM Instances Accessed",
    }
    (agent,) = made["agent"]
    assert agent["who"] == {"identifier": {"value": "ann"}}
    assert agent["network"] == {"address": "192.0.2.7", "type": "2"}
    assert made["entity"][0]["what"]["identifier"]["value"] == "urn:oid:1.2.3"
    assert (made["outcome"], made["action"]) == ("0", "R")
    assert event(row(outcome="refused"))["outcome"] == "4"


def test_a_command_at_the_machine_has_no_network_address() -> None:
    assert "network" not in event(row("user-change", source_address="local"))["agent"][0]


@pytest.mark.parametrize("text", ["a\x00b", "\x1b[0m\x0c", "", "\ufffe", "two\nlines\t"])
def test_what_comes_from_outside_is_text_there(text: str) -> None:
    made = event(row(actor=text, actor_role=text, detail=text))
    assert made["agent"][0]["who"]["identifier"]["value"] == (
        re.sub("[\x00\x1b\x0c\ufffe]", "\ufffd", text) or "unknown"
    )
