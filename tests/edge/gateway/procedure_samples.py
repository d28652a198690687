"""Messages about a performed procedure step, as a modality sends them (PS3.4 Table F.7.2-1)."""

from __future__ import annotations

from pydicom.dataset import Dataset


def new_step(
    name: str = "Doe^Jane", study: str = "1.2.826.0.1.1", character_set: str = "ISO_IR 100"
) -> Dataset:
    scheduled = Dataset()
    scheduled.StudyInstanceUID = study
    scheduled.ReferencedStudySequence = []
    scheduled.AccessionNumber = "ACC1"
    scheduled.RequestedProcedureID = "RP1"
    scheduled.RequestedProcedureDescription = "CT thorax"
    scheduled.ScheduledProcedureStepID = "SPS1"
    scheduled.ScheduledProcedureStepDescription = "Thorax"
    scheduled.ScheduledProtocolCodeSequence = []
    ds = Dataset()
    ds.SpecificCharacterSet = character_set
    ds.Modality = "CT"
    ds.PatientName = name
    ds.PatientID = "1"
    ds.PatientBirthDate = "19620410"
    ds.PatientSex = "O"
    ds.ReferencedPatientSequence = []
    ds.StudyID = ""
    ds.PerformedStationAETitle = "CT1"
    ds.PerformedStationName = ""
    ds.PerformedLocation = ""
    ds.PerformedProcedureStepStartDate = "20260102"
    ds.PerformedProcedureStepStartTime = "101112"
    ds.PerformedProcedureStepStatus = "IN PROGRESS"
    ds.PerformedProcedureStepID = "PPS1"
    ds.PerformedProcedureStepDescription = ""
    ds.PerformedProcedureTypeDescription = ""
    ds.PerformedProcedureStepEndDate = ""
    ds.PerformedProcedureStepEndTime = ""
    ds.PerformedProtocolCodeSequence = []
    ds.ScheduledStepAttributesSequence = [scheduled]
    ds.PerformedSeriesSequence = []
    return ds


def ended_step(*instances: str, status: str = "COMPLETED", series: str = "1.2.826.0.1.1.1") -> Dataset:
    """The N-SET that ends a step whose `instances` are in one series."""
    made = Dataset()
    made.PerformingPhysicianName = ""
    made.ProtocolName = "Thorax"
    made.OperatorsName = ""
    made.SeriesInstanceUID = series
    made.SeriesDescription = ""
    made.RetrieveAETitle = ""
    made.ReferencedImageSequence = [reference(uid) for uid in instances]
    made.ReferencedNonImageCompositeSOPInstanceSequence = []
    ds = Dataset()
    ds.PerformedProcedureStepEndDate = "20260102"
    ds.PerformedProcedureStepEndTime = "102030"
    ds.PerformedProcedureStepStatus = status
    ds.PerformedSeriesSequence = [made]
    return ds


def reference(sop_instance_uid: str) -> Dataset:
    ds = Dataset()
    ds.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.ReferencedSOPInstanceUID = sop_instance_uid
    return ds
