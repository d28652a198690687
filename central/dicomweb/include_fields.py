"""What ``includefield`` asks for (PS3.18 section 8.3.4.3): attributes besides those that are always answered.

Always true: a study is answered with attributes of patient and study alone, a series with those of series as well
(section 10.6.3.3); which they are is said by the modules of PS3.3, listed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, Literal

from pydicom.datadict import keyword_for_tag, tag_for_keyword

Level = Literal["study", "series", "instance"]
"""What is searched for: its own attributes are matched and answered, and those of the levels above."""

TAG: Final = re.compile(r"[0-9a-fA-F]{8}")
# Patient, Clinical Trial Subject, General Study and Patient Study (PS3.3 C.7.1.1, C.7.1.3, C.7.2.1, C.7.2.2).
_OF_STUDY: Final = """
    TimezoneOffsetFromUTC PatientBirthTime OtherPatientIDs OtherPatientIDsSequence OtherPatientNames
    IssuerOfPatientIDQualifiersSequence TypeOfPatientID EthnicGroup PatientComments
    PatientSpeciesDescription PatientSpeciesCodeSequence PatientBreedDescription PatientBreedCodeSequence
    ResponsiblePerson ResponsiblePersonRole ResponsibleOrganization PatientIdentityRemoved DeidentificationMethod
    DeidentificationMethodCodeSequence QualityControlSubject ClinicalTrialSponsorName ClinicalTrialProtocolID
    ClinicalTrialProtocolName ClinicalTrialSiteID ClinicalTrialSiteName ClinicalTrialSubjectID
    ClinicalTrialSubjectReadingID IssuerOfAccessionNumberSequence ReferringPhysicianIdentificationSequence
    ConsultingPhysicianName PhysiciansOfRecord PhysiciansOfRecordIdentificationSequence NameOfPhysiciansReadingStudy
    PhysiciansReadingStudyIdentificationSequence RequestingService RequestingServiceCodeSequence RequestingPhysician
    ReferencedStudySequence ProcedureCodeSequence ReasonForPerformedProcedureCodeSequence
    AdmittingDiagnosesDescription AdmittingDiagnosesCodeSequence PatientAge PatientSize PatientWeight
    PatientBodyMassIndex MedicalAlerts Allergies SmokingStatus PregnancyStatus LastMenstrualDate PatientState
    Occupation AdditionalPatientHistory AdmissionID ServiceEpisodeID ServiceEpisodeDescription PatientSexNeutered
    """
# General Series, Frame of Reference, General Equipment and Clinical Trial Series (C.7.3.1, C.7.4.1, C.7.5.1, C.7.3.2).
_OF_SERIES: Final = """
    Laterality PerformingPhysicianName PerformingPhysicianIdentificationSequence OperatorsName
    OperatorIdentificationSequence ProtocolName SeriesDescriptionCodeSequence PatientPosition
    AnatomicalOrientationType ReferencedPerformedProcedureStepSequence RelatedSeriesSequence
    PerformedProcedureStepID PerformedProcedureStepDescription PerformedProcedureStepEndDate
    PerformedProcedureStepEndTime PerformedProtocolCodeSequence CommentsOnThePerformedProcedureStep
    FrameOfReferenceUID PositionReferenceIndicator Manufacturer InstitutionName InstitutionAddress StationName
    InstitutionalDepartmentName ManufacturerModelName DeviceSerialNumber SoftwareVersions DeviceUID
    SpatialResolution DateOfLastCalibration TimeOfLastCalibration TreatmentSessionUID
    """
ALLOWED: Final = {
    "study": frozenset(_OF_STUDY.split()),
    "series": frozenset((_OF_STUDY + _OF_SERIES).split()),
}


def included_tags(asked: Iterable[str], level: Level) -> tuple[list[str], list[str]]:
    """The tags that are answered at `level` (of a path its sequence, whole), and what of `asked` is no attribute."""
    tags, unknown = list[str](), list[str]()
    for name in (one.strip() for value in asked for one in value.split(",")):
        if not name or name == "all":  # every attribute that is supported without being asked for by name
            continue
        tag = _tag(name.partition(".")[0])
        if tag is None:
            unknown.append(name)
        elif level == "instance" or keyword_for_tag(tag) in ALLOWED[level]:
            tags.append(f"{tag:08X}")
            if tag >> 16 & 1 and tag & 0xFFFF > 0xFF:  # a private one, with its creator
                tags.append(f"{tag >> 16:04X}00{tag >> 8 & 0xFF:02X}")
    return list(dict.fromkeys(tags)), unknown


def _tag(name: str) -> int | None:
    return int(name, 16) if TAG.fullmatch(name) else tag_for_keyword(name)
