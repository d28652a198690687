"""Audit records as FHIR R4 AuditEvent resources, one each (https://hl7.org/fhir/R4/auditevent.html).

Only what was recorded is said: no names are looked up, and a study is named by its UID (urn:oid, RFC 3061).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_DICOM: Final = "http://dicom.nema.org/resources/ontology/DCM"
_ACTIONS: Final = "urn:dicomnet:audit-action"
# Event IDs of PS3.15 Table A.5.2-1 (code, meaning), and the kind of action: Create, Read, Update, Delete or Execute.
_AUTHENTICATION: Final = ("110114", "User Authentication", "E")
_SECURITY: Final = ("110113", "Security Alert", "E")
_ATTRIBUTES: Final = ("110136", "Security Roles Changed", "U")
_EVENTS: Final = {
    "sign-in": _AUTHENTICATION,
    "sign-in-failed": _AUTHENTICATION,
    "sign-out": _AUTHENTICATION,
    "search": ("110112", "Query", "E"),
    "view": ("110103", "DICOM Instances Accessed", "R"),
    "export": ("110106", "Export", "R"),
    "store": ("110104", "DICOM Instances Transferred", "C"),
    "guest-sign-in": _AUTHENTICATION,
    "break-glass": ("110127", "Emergency Override Started", "E"),
    "break-glass-review": _SECURITY,
    "access-change": _ATTRIBUTES,
    "consent-change": _ATTRIBUTES,
    "token-change": _ATTRIBUTES,
    "share": _ATTRIBUTES,
    "read-audit": ("110101", "Audit Log Used", "R"),
    "upload-refused": _SECURITY,
    "association-refused": _SECURITY,
    "enrol-refused": _SECURITY,
    "identity-seen-twice": _SECURITY,
    "procedure-step": ("110111", "Procedure Record", "U"),
    "worklist-read": ("110112", "Query", "E"),
    "worklist-change": ("110109", "Order Record", "U"),
}
_SUCCESS, _MINOR_FAILURE = "0", "4"


def event_codes(action: str) -> tuple[str, str, str]:
    """Event ID of PS3.15 Table A.5.2-1, its meaning, and the kind of action, for one of `Action`."""
    return _EVENTS.get(action, ("110100", "Application Activity", "E"))


def audit_event(row: Mapping[str, Any], *, central_id: str) -> dict[str, Any]:
    """The resource for one row of the record, as it is given out by `Audit.rows`."""
    code, display, kind = event_codes(row["action"])
    resource: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": str(row["id"]),
        "type": {"system": _DICOM, "code": code, "display": display},
        "subtype": [{"system": _ACTIONS, "code": row["action"]}],
        "action": kind,
        "recorded": row["at_utc"],
        "outcome": _SUCCESS if row["outcome"] == "success" else _MINOR_FAILURE,
        "agent": [
            {
                "who": {"identifier": {"value": row["actor"] or "unknown"}},
                "role": [{"text": row["actor_role"]}] if row["actor_role"] else [],
                "requestor": True,
                "network": {"address": row["source_address"], "type": "2"},  # an IP address
            }
        ],
        "source": {"observer": {"identifier": {"value": central_id}}},
    }
    if not resource["agent"][0]["role"]:
        del resource["agent"][0]["role"]  # FHIR has no empty lists
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
        resource["outcomeDesc"] = row["detail"]
    return resource
