"""Audit records as FHIR R4 AuditEvent resources, one each (https://hl7.org/fhir/R4/auditevent.html).

Only what was recorded is said: no names are looked up, and a study is named by its UID (urn:oid, RFC 3061).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from central.audit.event_codes import ACTIONS, Code, event_of
from central.audit.spelling import is_address, said

_DICOM: Final = "http://dicom.nema.org/resources/ontology/DCM"
_SYSTEMS: Final = {"DCM": _DICOM, ACTIONS: "urn:dicomnet:audit-action"}
_SUCCESS, _MINOR_FAILURE = "0", "4"


def audit_event(row: Mapping[str, Any], *, central_id: str) -> dict[str, Any]:
    """The resource for one row of the record, as it is given out by `Audit.rows`."""
    event = event_of(row["action"])
    agent: dict[str, Any] = {
        "who": {"identifier": {"value": said(row["actor"]) or "unknown"}},
        "requestor": True,
    }
    if row["actor_role"]:
        agent["role"] = [{"text": said(row["actor_role"])}]
    if is_address(row["source_address"]):
        agent["network"] = {"address": row["source_address"], "type": "2"}  # an IP address
    resource: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": str(row["id"]),
        "type": _coding(event.event_id),
        "subtype": [_coding(code) for code in event.types],
        "action": event.kind,
        "recorded": row["at_utc"],
        "outcome": _SUCCESS if row["outcome"] == "success" else _MINOR_FAILURE,
        "agent": [agent],
        "source": {"observer": {"identifier": {"value": central_id}}},
    }
    if row["study_instance_uid"]:
        entity: dict[str, Any] = {
            "what": {
                "identifier": {"system": "urn:dicom:uid", "value": f"urn:oid:{row['study_instance_uid']}"}
            },
            "type": {"system": "http://terminology.hl7.org/CodeSystem/audit-entity-type", "code": "2"},
        }
        details = [
            {"type": name, "valueString": row[column]}
            for name, column in (
                ("SeriesInstanceUID", "series_instance_uid"),
                ("SOPInstanceUID", "sop_instance_uid"),
            )
            if row[column]
        ]
        if details:
            entity["detail"] = details
        resource["entity"] = [entity]
    if row["detail"]:
        resource["outcomeDesc"] = said(row["detail"])
    return resource


def _coding(code: Code) -> dict[str, str]:
    named = {"system": _SYSTEMS[code.system], "code": code.value}
    return named if code.system == ACTIONS else {**named, "display": code.meaning}
