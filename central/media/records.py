"""The keys of directory records (PS3.3 F.5), from what the archive knows of a study and from its instances' headers.

Six keys must have a value in a directory and need none in an instance: Patient ID, Study Date, Time and ID, Series and
Instance Number. Where they are missing the directory makes one up that nobody takes for real, or counts; the
instances are not touched.
"""

from __future__ import annotations

from typing import Final

from pydicom import Dataset
from pydicom.sequence import Sequence

from central.archive.header import read_header
from central.archive.rows import InstanceRow, SeriesRow, StudyRow
from central.archive.sealed_file import ObjectFile
from central.media.record_types import IMAGE, KEYS, PRIVATE, PRIVATE_RECORD_UID, record_type

NO_PATIENT_ID: Final = "UNKNOWN"
NO_DATE: Final = "19000101"
NO_TIME: Final = "000000"
_UTF8: Final = "ISO_IR 192"
_MOST_NUMBER: Final = 2**31 - 1  # VR IS


def patient_keys(study: StudyRow) -> Dataset:
    """Of the PATIENT record (F.5.1)."""
    keys = _in_character_set(study.patient_name, study.patient_id, study.issuer_of_patient_id)
    keys.PatientName = study.patient_name
    keys.PatientID = study.patient_id or NO_PATIENT_ID
    if study.issuer_of_patient_id:
        keys.IssuerOfPatientID = study.issuer_of_patient_id
    keys.PatientBirthDate = study.patient_birth_date
    keys.PatientSex = study.patient_sex
    return keys


def study_keys(study: StudyRow) -> Dataset:
    """Of the STUDY record (F.5.2)."""
    keys = _in_character_set(study.study_description, study.study_id, study.accession_number)
    keys.StudyDate = study.study_date or NO_DATE
    keys.StudyTime = study.study_time or NO_TIME
    keys.AccessionNumber = study.accession_number
    keys.StudyDescription = study.study_description
    keys.StudyInstanceUID = study.study_instance_uid
    keys.StudyID = study.study_id or "1"
    return keys


def series_keys(series: SeriesRow, position: int) -> Dataset:
    """Of the SERIES record (F.5.3). `position` is its Series Number where it has none."""
    keys = _in_character_set(series.series_description)
    keys.Modality = series.modality or "OT"
    keys.SeriesDescription = series.series_description
    keys.SeriesInstanceUID = series.series_instance_uid
    keys.SeriesNumber = _number(series.series_number, position)
    return keys


def instance_record(
    row: InstanceRow, position: int, file_id: tuple[str, ...], path: ObjectFile
) -> tuple[str, Dataset]:
    """Record type and keys of an instance (F.5.4 and following).

    Parameters
    ----------
    position : its Instance Number where it has none.
    file_id : Referenced File ID, by component.
    path : the instance's file, whose header is read unless the index knows all that is needed.
    """
    kind = record_type(row.sop_class_uid, has_rows=row.rows is not None)
    keys = Dataset()
    if kind == IMAGE:
        keys.InstanceNumber = _number(row.instance_number, position)
    elif kind != PRIVATE:
        keys = _from_header(kind, path)
        if "InstanceNumber" in KEYS[kind].present:
            keys.InstanceNumber = _number(row.instance_number, position)
    else:
        return private_record(row, file_id)
    return kind, _referring(keys, row, file_id)


def private_record(row: InstanceRow, file_id: tuple[str, ...]) -> tuple[str, Dataset]:
    """For an instance that no other kind of record is for, or whose own keys cannot be read or written."""
    keys = Dataset()
    keys.PrivateRecordUID = PRIVATE_RECORD_UID
    return PRIVATE, _referring(keys, row, file_id)


def _referring(keys: Dataset, row: InstanceRow, file_id: tuple[str, ...]) -> Dataset:
    keys.ReferencedFileID = list(file_id)
    keys.ReferencedSOPClassUIDInFile = row.sop_class_uid
    keys.ReferencedSOPInstanceUIDInFile = row.sop_instance_uid
    keys.ReferencedTransferSyntaxUIDInFile = row.transfer_syntax_uid
    return keys


def _from_header(kind: str, path: ObjectFile) -> Dataset:
    """Elements as the instance has them, in its own character set."""
    said = read_header(path).dataset
    keys = Dataset()
    if "SpecificCharacterSet" in said:
        keys.SpecificCharacterSet = said.SpecificCharacterSet
    for keyword in KEYS[kind].present:
        setattr(keys, keyword, said.get(keyword))
    for keyword in KEYS[kind].if_given:
        if said.get(keyword):
            setattr(keys, keyword, said.get(keyword))
    verified = [
        str(item.get("VerificationDateTime") or "") for item in said.get("VerifyingObserverSequence") or []
    ]
    if kind == "SR DOCUMENT" and any(verified):
        keys.VerificationDateTime = max(verified)  # the newest (F.5.17)
    if "ContentSequence" in keys:
        # What modifies the title, and nothing of what the document says (F.5.17 and F.5.18).
        modifiers = [
            item
            for item in keys.ContentSequence
            if str(item.get("RelationshipType", "")).strip() == "HAS CONCEPT MOD"
        ]
        del keys.ContentSequence
        if modifiers:
            keys.ContentSequence = Sequence(modifiers)
    return keys


def _in_character_set(*texts: str) -> Dataset:
    keys = Dataset()
    if not "".join(texts).isascii():
        keys.SpecificCharacterSet = _UTF8
    return keys


def _number(number: int | None, position: int) -> str:
    return str(position if number is None or abs(number) > _MOST_NUMBER else number)
