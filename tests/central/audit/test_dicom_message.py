"""Each record as an AuditMessage that keeps to the schema of PS3.15 A.5.1, whatever came from outside."""

from __future__ import annotations

import base64
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from central.audit.dicom_message import PatientObject, audit_message
from central.audit.events import Action
from tests.central.audit.rows import row

CODED = {"csd-code", "codeSystemName", "originalText"}
# PS3.15 A.5.1.1: the children of an element in their order, each with how often; then required and optional attributes.
CHILDREN: dict[str, list[tuple[str, str]]] = {
    "AuditMessage": [
        ("EventIdentification", "1"),
        ("ActiveParticipant", "+"),
        ("AuditSourceIdentification", "1"),
        ("ParticipantObjectIdentification", "*"),
    ],
    "EventIdentification": [("EventID", "1"), ("EventTypeCode", "*"), ("EventOutcomeDescription", "?")],
    "ActiveParticipant": [("RoleIDCode", "*"), ("MediaIdentifier", "?")],
    "MediaIdentifier": [("MediaType", "1")],
    "AuditSourceIdentification": [("AuditSourceTypeCode", "*")],
    "ParticipantObjectIdentification": [
        ("ParticipantObjectIDTypeCode", "1"),
        ("ParticipantObjectName|ParticipantObjectQuery", "1"),
        ("ParticipantObjectDetail", "*"),
    ],
}
ATTRIBUTES: dict[str, tuple[set[str], set[str]]] = {
    "EventIdentification": ({"EventDateTime", "EventOutcomeIndicator"}, {"EventActionCode"}),
    "EventID": (CODED, set()),
    "EventTypeCode": (CODED, set()),
    "RoleIDCode": (CODED, set()),
    "MediaType": (CODED, set()),
    "ParticipantObjectIDTypeCode": (CODED, set()),
    "ActiveParticipant": (
        {"UserID", "UserIsRequestor"},
        {"NetworkAccessPointID", "NetworkAccessPointTypeCode"},
    ),
    "AuditSourceIdentification": ({"AuditSourceID"}, {"AuditEnterpriseSiteID"}),
    "AuditSourceTypeCode": ({"csd-code"}, set()),
    "ParticipantObjectIdentification": (
        {"ParticipantObjectID"},
        {"ParticipantObjectTypeCode", "ParticipantObjectTypeCodeRole"},
    ),
    "ParticipantObjectDetail": ({"type", "value"}, set()),
}
VALUES = {
    "EventActionCode": "[CRUDE]",
    "EventOutcomeIndicator": "0|4|8|12",
    "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00",
    "UserIsRequestor": "true|false",
    "NetworkAccessPointTypeCode": "[1-5]",
    "ParticipantObjectTypeCode": "[1-4]",
    "ParticipantObjectTypeCodeRole": "[1-9]|1[0-9]|2[0-6]",
}
CID_400 = {
    "110100",
    "110101",
    "110103",
    "110104",
    "110105",
    "110106",
    "110109",
    "110111",
    "110112",
    "110113",
    "110114",
}
TIMES = {"1": range(1, 2), "?": range(2), "+": range(1, 99), "*": range(99)}


def require_valid(element: ElementTree.Element) -> None:
    """That `element`, and everything in it, is as the schema has it."""
    required, optional = ATTRIBUTES.get(element.tag, (set(), set()))
    assert required <= set(element.attrib) <= required | optional, element.tag
    for name, value in element.attrib.items():
        assert re.fullmatch(VALUES.get(name, r"(?s).+"), value), (name, value)
    left = list(element)
    for name, times in CHILDREN.get(element.tag, []):
        count = 0
        while left and left[0].tag in name.split("|"):
            require_valid(left.pop(0))
            count += 1
        assert count in TIMES[times], (element.tag, name)
    assert left == [], element.tag


def message(values: dict[str, Any], patient: PatientObject | None = None) -> ElementTree.Element:
    found = ElementTree.fromstring(audit_message(values, central_id="central-1", patient=patient))
    require_valid(found)
    return found


def codes(found: ElementTree.Element, path: str) -> list[str]:
    return [code.attrib["csd-code"] for code in found.findall(path)]


@pytest.mark.parametrize("action", [action.value for action in Action] + ["of a later version"])
def test_every_action_keeps_to_the_schema(action: str) -> None:
    found = message(row(action), PatientObject("P1", "HOSP"))
    *types, own = codes(found, "EventIdentification/EventTypeCode")
    assert own == action
    [event_id] = codes(found, "EventIdentification/EventID")
    assert event_id in CID_400
    # PS3.16 CID 401: types from 110126 to 110139 belong to an alert, 110122 and 110123 to an authentication, which has
    # to have one (PS3.15 A.5.3.12).
    assert (event_id == "110114") == (types in (["110122"], ["110123"]))
    assert all(event_id == "110113" for kind in types if kind in map(str, range(110126, 110140)))


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7", "local"])
def test_an_export_says_who_gave_it_who_has_it_and_where_it_went(address: str) -> None:
    """PS3.15 A.5.3.4: the one that receives, the one that exports, and one medium, which asks for nothing."""
    taker, central, media = message(row("export", source_address=address)).findall("ActiveParticipant")
    assert [codes(one, "RoleIDCode")[0] for one in (taker, central, media)] == ["110152", "110153", "110154"]
    assert [one.attrib["UserIsRequestor"] for one in (taker, central, media)] == ["true", "false", "false"]
    kinds = codes(media, "MediaIdentifier/MediaType")
    assert (media.attrib.get("NetworkAccessPointID"), kinds) == (
        (None, ["110037"]) if address == "local" else (address, [])
    )


def test_an_erased_study_is_a_study_that_was_deleted_and_asking_for_it_is_not() -> None:
    deleted = message(row("erase"), PatientObject("P1", "HOSP"))
    assert codes(deleted, "EventIdentification/EventID") == ["110105"]  # PS3.15 A.5.3.8
    event = deleted.find("EventIdentification")
    assert event is not None
    assert event.attrib["EventActionCode"] == "D"
    for action in ("erase-request", "readmit"):
        assert codes(message(row(action)), "EventIdentification/EventID") == ["110100"]


def test_a_look_names_who_from_where_the_study_and_the_patient() -> None:
    found = message(row(), PatientObject("P1", "HOSP"))
    assert codes(found, "EventIdentification/EventID") == ["110103"]
    event = found.find("EventIdentification")
    assert event is not None
    assert event.attrib["EventActionCode"] == "R"
    assert event.attrib["EventDateTime"] == "2026-11-27T09:30:00.123456+00:00"
    who, central = found.findall("ActiveParticipant")
    assert (who.attrib["UserID"], who.attrib["UserIsRequestor"]) == ("ann", "true")
    assert (who.attrib["NetworkAccessPointID"], who.attrib["NetworkAccessPointTypeCode"]) == (
        "192.0.2.7",
        "2",
    )
    assert codes(who, "RoleIDCode") == ["doctor"]
    assert central.attrib == {"UserID": "central-1", "UserIsRequestor": "false"}
    study, patient = found.findall("ParticipantObjectIdentification")
    assert study.attrib == {
        "ParticipantObjectID": "1.2.3",
        "ParticipantObjectTypeCode": "2",
        "ParticipantObjectTypeCodeRole": "3",
    }
    assert codes(study, "ParticipantObjectIDTypeCode") == ["110180"]
    details = [
        (detail.attrib["type"], base64.b64decode(detail.attrib["value"]))
        for detail in study.iter("ParticipantObjectDetail")
    ]
    assert details == [("SeriesInstanceUID", b"1.2.3.4")]
    assert patient.attrib["ParticipantObjectID"] == "P1^^^HOSP"
    assert patient.attrib["ParticipantObjectTypeCodeRole"] == "1"


def test_a_search_carries_its_keys_where_the_schema_wants_them() -> None:
    found = message(row("search", study_instance_uid=None, detail='PatientName=Dö*<&"'))
    assert "Dö" not in ElementTree.tostring(found, encoding="unicode")
    # No data set of a SOP Class, as (110181, DCM) would promise (PS3.15 A.5.3.10).
    assert codes(found, "ParticipantObjectIdentification/ParticipantObjectIDTypeCode") == ["10"]
    query = found.find("ParticipantObjectIdentification/ParticipantObjectQuery")
    assert query is not None
    assert base64.b64decode(query.text or "").decode() == 'PatientName=Dö*<&"'
    assert [codes(who, "RoleIDCode")[0] for who in found.findall("ActiveParticipant")] == ["110153", "110152"]


def test_a_refusal_is_a_minor_failure_and_says_why() -> None:
    found = message(row("sign-in-failed", outcome="refused", study_instance_uid=None, source_address="local"))
    event = found.find("EventIdentification")
    assert event is not None
    assert event.attrib["EventOutcomeIndicator"] == "4"
    assert codes(found, "EventIdentification/EventTypeCode") == ["110122", "sign-in-failed"]
    assert event.findtext("EventOutcomeDescription") == "x"
    assert "NetworkAccessPointID" not in found.findall("ActiveParticipant")[0].attrib


def test_who_reads_the_record_used_the_audit_log() -> None:
    found = message(row("read-audit", study_instance_uid=None))
    [log] = found.findall("ParticipantObjectIdentification")
    assert log.attrib["ParticipantObjectTypeCodeRole"] == "13"
    assert log.findtext("ParticipantObjectName") == "Security Audit Log"


@pytest.mark.parametrize("actor", ["a\x00b", "\ufffe", "</AuditMessage>", '"><x', "", "\U0010ffff\x1b[0m"])
def test_what_comes_from_outside_stays_text(actor: str) -> None:
    found = message(row(actor=actor, actor_role=actor, study_instance_uid=actor, detail=actor or "-"))
    said = found.findall("ActiveParticipant")[0].attrib["UserID"]
    assert said == (re.sub("[\x00\x1b\ufffe]", "\ufffd", actor) or "unknown")
