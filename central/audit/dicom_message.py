"""Audit records as DICOM audit messages (PS3.15 Annex A.5), one each, in XML.

Always true: the same record gives the same text, byte for byte, so that a receiver can tell a message that came twice.
Only what was recorded is said, and of the patient the ID alone: no name is looked up. What came from outside and is no
text in XML 1.0 becomes U+FFFD; search values travel in base64, as the schema wants it.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from xml.etree.ElementTree import Element, SubElement, tostring

from central.audit.event_codes import ACTIONS, Code, event_of
from central.audit.spelling import is_address, said


class PatientObject(NamedTuple):
    """The patient of a study: Patient ID and its issuer ("" when none is said)."""

    patient_id: str
    issuer: str


_AUDIT_LOG_USED: Final = "110101"
_EXPORT: Final = "110106"
_MEDIA: Final = Code("110154", "DCM", "Destination Media")
_URI_AS_MEDIA: Final = Code("110037", "DCM", "URI")
_SOURCE: Final = Code("110153", "DCM", "Source Role ID")
_DESTINATION: Final = Code("110152", "DCM", "Destination Role ID")
# Where data goes between two processes: the roles of who asks and of central (A.5.3).
_DIRECTIONS: Final[Mapping[str, tuple[Code, Code]]] = {
    "110112": (_SOURCE, _DESTINATION),  # who sends the query, and who answers it
    "110104": (_SOURCE, _DESTINATION),
    "110106": (_DESTINATION, _SOURCE),
}
_STUDY_UID: Final = Code("110180", "DCM", "Study Instance UID")
_PATIENT_NUMBER: Final = Code("2", "RFC-3881", "Patient Number")
_SEARCH_CRITERIA: Final = Code("10", "RFC-3881", "Search Criteria")
_URI: Final = Code("12", "RFC-3881", "URI")
_QUERIES: Final = frozenset({"search", "worklist-read"})


def audit_message(row: Mapping[str, Any], *, central_id: str, patient: PatientObject | None) -> bytes:
    """The AuditMessage for one row of the record, as it is given out by `Audit.rows`; UTF-8, without a declaration.

    Parameters
    ----------
    patient : whose study it is, where that is known.
    """
    event_id, kind, types = event_of(row["action"])
    message = Element("AuditMessage")
    event = SubElement(
        message,
        "EventIdentification",
        EventActionCode=kind,
        EventDateTime=row["at_utc"],
        EventOutcomeIndicator="0" if row["outcome"] == "success" else "4",  # 4: minor failure
    )
    _coded(event, "EventID", event_id)
    for code in types:
        _coded(event, "EventTypeCode", code)
    if row["detail"] and row["action"] not in _QUERIES:
        SubElement(event, "EventOutcomeDescription").text = said(row["detail"])
    _participants(message, row, central_id, event_id.value)
    source = SubElement(message, "AuditSourceIdentification", AuditSourceID=central_id)
    SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})  # application server process
    _objects(message, row, central_id, event_id.value, patient)
    xml: bytes = tostring(message, encoding="utf-8", xml_declaration=False)
    return xml


def _participants(message: Element, row: Mapping[str, Any], central_id: str, event_id: str) -> None:
    """Who asked, and central, which answered."""
    theirs, ours = _DIRECTIONS.get(event_id, (None, None))
    who = SubElement(
        message, "ActiveParticipant", UserID=said(row["actor"]) or "unknown", UserIsRequestor="true"
    )
    if is_address(row["source_address"]):
        who.attrib |= {"NetworkAccessPointID": row["source_address"], "NetworkAccessPointTypeCode": "2"}
    if theirs is not None:
        _coded(who, "RoleIDCode", theirs)
    if row["actor_role"]:
        role = said(row["actor_role"])
        _coded(who, "RoleIDCode", Code(role, ACTIONS, role))
    central = SubElement(message, "ActiveParticipant", UserID=central_id, UserIsRequestor="false")
    if ours is not None:
        _coded(central, "RoleIDCode", ours)
    if event_id == _EXPORT:
        _media(message, row)


def _media(message: Element, row: Mapping[str, Any]) -> None:
    """Where the data went (PS3.15 A.5.3.4): to an address, or into a file at central's own machine."""
    where = SubElement(
        message, "ActiveParticipant", UserID=said(row["source_address"]), UserIsRequestor="false"
    )
    _coded(where, "RoleIDCode", _MEDIA)
    if is_address(row["source_address"]):
        where.attrib |= {"NetworkAccessPointID": row["source_address"], "NetworkAccessPointTypeCode": "2"}
    else:
        _coded(SubElement(where, "MediaIdentifier"), "MediaType", _URI_AS_MEDIA)


def _objects(
    message: Element, row: Mapping[str, Any], central_id: str, event_id: str, patient: PatientObject | None
) -> None:
    study = said(row["study_instance_uid"] or "")
    if study:
        about = _object(message, study, _STUDY_UID, "2", "3", name=study)
        for name in ("series_instance_uid", "sop_instance_uid"):
            if row[name]:
                kind = "SeriesInstanceUID" if name.startswith("series") else "SOPInstanceUID"
                SubElement(about, "ParticipantObjectDetail", type=kind, value=_base64(row[name]))
    if patient is not None and patient.patient_id:
        # As HL7 v2 writes it (CX): the ID, and in its fourth component who issued it.
        whole = f"{patient.patient_id}^^^{patient.issuer}" if patient.issuer else patient.patient_id
        _object(message, said(whole), _PATIENT_NUMBER, "1", "1", name=said(whole))
    if row["action"] in _QUERIES:
        # The record has the words of the query, whatever its protocol, and no data set of a SOP Class (A.5.3.10).
        asked = _object(message, row["action"], _SEARCH_CRITERIA, "2", "3")
        SubElement(asked, "ParticipantObjectQuery").text = _base64(row["detail"])
    if event_id == _AUDIT_LOG_USED:
        _object(message, f"urn:dicomnet:audit:{central_id}", _URI, "2", "13", name="Security Audit Log")


def _object(
    message: Element, object_id: str, id_type: Code, type_code: str, role: str, name: str = ""
) -> Element:
    found = SubElement(
        message,
        "ParticipantObjectIdentification",
        ParticipantObjectID=object_id,
        ParticipantObjectTypeCode=type_code,
        ParticipantObjectTypeCodeRole=role,
    )
    _coded(found, "ParticipantObjectIDTypeCode", id_type)
    if name:
        SubElement(found, "ParticipantObjectName").text = name
    return found


def _coded(parent: Element, name: str, code: Code) -> None:
    SubElement(
        parent,
        name,
        {"csd-code": code.value, "codeSystemName": code.system, "originalText": code.meaning},
    )


def _base64(value: str) -> str:
    return base64.b64encode(value.encode()).decode("ascii")
