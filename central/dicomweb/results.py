"""Rows of the archive as DICOM JSON (PS3.18 Annex F), with the attributes that QIDO-RS answers (section 10.6.3)."""

from __future__ import annotations

from typing import Any, Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from central.archive.rows import InstanceRow, SeriesRow, StudyRow

JsonObject = dict[str, Any]
_NAME_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def study_json(row: StudyRow, base_url: str) -> JsonObject:
    """A study; `base_url` ends in ``/dicom-web``."""
    return _json(_study(row) | {"RetrieveURL": _study_url(row, base_url)})


def series_json(row: SeriesRow, base_url: str) -> JsonObject:
    """A series, with the attributes of its study."""
    return _json(_series(row) | {"RetrieveURL": _series_url(row, base_url)})


def instance_json(row: InstanceRow, base_url: str) -> JsonObject:
    """An instance, with the attributes of its study and series."""
    url = f"{_series_url(row.series, base_url)}/instances/{row.sop_instance_uid}"
    attributes = {
        "SOPClassUID": row.sop_class_uid,
        "SOPInstanceUID": row.sop_instance_uid,
        "InstanceNumber": row.instance_number,
        "NumberOfFrames": row.number_of_frames,
        "Rows": row.rows,
        "Columns": row.columns,
        "BitsAllocated": row.bits_allocated,
        "AvailableTransferSyntaxUID": row.transfer_syntax_uid,
        "RetrieveURL": url,
    }
    return _json(_series(row.series) | attributes)


def _study(row: StudyRow) -> dict[str, object]:
    return {
        "SpecificCharacterSet": "ISO_IR 192",
        "InstanceAvailability": "ONLINE",
        "StudyInstanceUID": row.study_instance_uid,
        "StudyDate": row.study_date,
        "StudyTime": row.study_time,
        "StudyID": row.study_id,
        "StudyDescription": row.study_description,
        "AccessionNumber": row.accession_number,
        "ModalitiesInStudy": row.modalities_in_study,
        "ReferringPhysicianName": row.referring_physician_name,
        "PatientName": row.patient_name,
        "PatientID": row.patient_id,
        "IssuerOfPatientID": row.issuer_of_patient_id,
        "PatientBirthDate": row.patient_birth_date,
        "PatientSex": row.patient_sex,
        "NumberOfStudyRelatedSeries": row.number_of_study_related_series,
        "NumberOfStudyRelatedInstances": row.number_of_study_related_instances,
    }


def _series(row: SeriesRow) -> dict[str, object]:
    return _study(row.study) | {
        "SeriesInstanceUID": row.series_instance_uid,
        "Modality": row.modality,
        "SeriesNumber": row.series_number,
        "SeriesDescription": row.series_description,
        "SeriesDate": row.series_date,
        "SeriesTime": row.series_time,
        "BodyPartExamined": row.body_part_examined,
        "NumberOfSeriesRelatedInstances": row.number_of_series_related_instances,
    }


def _study_url(row: StudyRow, base_url: str) -> str:
    return f"{base_url}/studies/{row.study_instance_uid}"


def _series_url(row: SeriesRow, base_url: str) -> str:
    return f"{_study_url(row.study, base_url)}/series/{row.series_instance_uid}"


def _json(attributes: dict[str, object]) -> JsonObject:
    elements = {}
    for keyword, value in attributes.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        elements[f"{tag:08X}"] = _element(dictionary_VR(tag), value)
    return dict(sorted(elements.items()))


def _element(vr: str, value: object) -> JsonObject:
    """One attribute; an empty one has no Value (section F.2.5)."""
    values = value if isinstance(value, tuple) else (value,)
    said = [_name(item) if vr == "PN" else item for item in values if item not in (None, "")]
    return {"vr": vr, "Value": said} if said else {"vr": vr}


def _name(value: object) -> dict[str, str]:
    return {key: group for key, group in zip(_NAME_GROUPS, str(value).split("="), strict=False) if group}
