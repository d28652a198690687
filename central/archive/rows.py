"""What the archive answers: one frozen row a study, a series, an instance, named as DICOM names its attributes.

Text that the data set does not have is ""; numbers it does not have are None. Dates and times are DICOM text
(DA ``YYYYMMDD``, TM), person names VR PN as sent, decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from central.archive.sealed_file import ObjectFile


@dataclass(frozen=True)
class StudyRow:
    """`referring_physician_name` and `patient_name` are as in the first instance that came. `id` is the index's own.
    `mixed`: there is an instance of another patient in it."""

    id: int
    institution: str
    study_instance_uid: str
    patient_name: str
    patient_id: str
    issuer_of_patient_id: str
    patient_birth_date: str
    patient_sex: str
    study_date: str
    study_time: str
    accession_number: str
    study_description: str
    study_id: str
    referring_physician_name: str
    modalities_in_study: tuple[str, ...]
    number_of_study_related_series: int
    number_of_study_related_instances: int
    mixed: bool = False


@dataclass(frozen=True)
class SeriesRow:
    """`request_attributes` is the value of that sequence as DICOM JSON, "" without one."""

    study: StudyRow
    series_instance_uid: str
    modality: str
    series_number: int | None
    series_description: str
    body_part_examined: str
    series_date: str
    series_time: str
    number_of_series_related_instances: int
    performed_procedure_step_start_date: str = ""
    performed_procedure_step_start_time: str = ""
    request_attributes: str = ""


@dataclass(frozen=True)
class InstanceRow:
    """`flagged`: another content came under the same SOP Instance UID and is kept beside this one."""

    series: SeriesRow
    sop_class_uid: str
    sop_instance_uid: str
    instance_number: int | None
    rows: int | None
    columns: int | None
    bits_allocated: int | None
    number_of_frames: int | None
    transfer_syntax_uid: str
    size_bytes: int
    flagged: bool


@dataclass(frozen=True)
class StoredInstance:
    """An instance whose identical Part 10 bytes may be read. They never change."""

    locate: Callable[[], ObjectFile]
    size_bytes: int
    sha256: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @property
    def path(self) -> ObjectFile:
        """A file with the bytes, to be opened at once. From a remote store they come only now.

        Raises
        ------
        NoSuchObjectError, ObjectDamagedError, StoreUnavailableError : as `ObjectStore.path_of`.
        """
        return self.locate()
