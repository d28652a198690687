"""Which kind of directory record an instance gets, and the keys that kind has: PS3.3 Annex F.4 and F.5 as tables.

A SOP class that stands in none of them is an image where it has rows, and else a PRIVATE record: a directory that
left an instance out would hide it from whoever reads the medium by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pydicom import uid

IMAGE: Final = "IMAGE"
PRIVATE: Final = "PRIVATE"
PRIVATE_RECORD_UID: Final = "2.25.306281172216301928418427719480291176044"
"""Private Record UID (0004,1432): an instance of a SOP class that PS3.3 F.4 has no record for."""


@dataclass(frozen=True)
class Keys:
    """Keywords of a record. `present`: there, empty where the instance has no value (Types 1 and 2, whose difference
    is the instance's own). `if_given`: there where the instance has them (Type 1C)."""

    present: tuple[str, ...]
    if_given: tuple[str, ...] = ()


_NUMBERED: Final = ("InstanceNumber",)
_CONTENT: Final = ("ContentDate", "ContentTime", "InstanceNumber")
_IDENTIFIED: Final = (*_CONTENT, "ContentLabel", "ContentDescription", "ContentCreatorName")

KEYS: Final[Mapping[str, Keys]] = {
    IMAGE: Keys(_NUMBERED),
    "RT DOSE": Keys((*_NUMBERED, "DoseSummationType")),
    "RT STRUCTURE SET": Keys((*_NUMBERED, "StructureSetLabel", "StructureSetDate", "StructureSetTime")),
    "RT PLAN": Keys((*_NUMBERED, "RTPlanLabel", "RTPlanDate", "RTPlanTime")),
    "RT TREAT RECORD": Keys((*_NUMBERED, "TreatmentDate", "TreatmentTime")),
    "RADIOTHERAPY": Keys(
        (*_NUMBERED, "ContentDate", "ContentTime"), ("UserContentLabel", "UserContentLongLabel")
    ),
    "PRESENTATION": Keys(
        (
            "PresentationCreationDate",
            "PresentationCreationTime",
            "InstanceNumber",
            "ContentLabel",
            "ContentDescription",
            "ContentCreatorName",
        ),
        ("ReferencedSeriesSequence", "BlendingSequence"),
    ),
    "WAVEFORM": Keys(_CONTENT),
    "SR DOCUMENT": Keys(
        (*_CONTENT, "CompletionFlag", "VerificationFlag", "ConceptNameCodeSequence"),
        ("ContentSequence",),
    ),
    "KEY OBJECT DOC": Keys((*_CONTENT, "ConceptNameCodeSequence"), ("ContentSequence",)),
    "SPECTROSCOPY": Keys(
        (*_CONTENT, "ImageType", "NumberOfFrames", "Rows", "Columns", "DataPointRows", "DataPointColumns"),
        ("ReferencedImageEvidenceSequence",),
    ),
    "RAW DATA": Keys(_CONTENT),
    "REGISTRATION": Keys(_IDENTIFIED),
    "FIDUCIAL": Keys(_IDENTIFIED),
    "ENCAP DOC": Keys(
        (*_CONTENT, "DocumentTitle", "ConceptNameCodeSequence", "MIMETypeOfEncapsulatedDocument"),
        ("HL7InstanceIdentifier",),
    ),
    "VALUE MAP": Keys(_IDENTIFIED),
    "STEREOMETRIC": Keys(()),
    "MEASUREMENT": Keys(_IDENTIFIED),
    "SURFACE": Keys(_IDENTIFIED),
    "SURFACE SCAN": Keys(("ContentDate", "ContentTime")),
    "TRACT": Keys(_IDENTIFIED),
    "ASSESSMENT": Keys(("InstanceNumber", "InstanceCreationDate"), ("InstanceCreationTime",)),
    PRIVATE: Keys(()),
}

_SOP_CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    "RT DOSE": (uid.RTDoseStorage,),
    "RT STRUCTURE SET": (uid.RTStructureSetStorage,),
    "RT PLAN": (uid.RTPlanStorage, uid.RTIonPlanStorage),
    "RT TREAT RECORD": (
        uid.RTBeamsTreatmentRecordStorage,
        uid.RTBrachyTreatmentRecordStorage,
        uid.RTTreatmentSummaryRecordStorage,
        uid.RTIonBeamsTreatmentRecordStorage,
    ),
    "RADIOTHERAPY": (
        uid.RTPhysicianIntentStorage,
        uid.RTSegmentAnnotationStorage,
        uid.RTRadiationSetStorage,
        uid.CArmPhotonElectronRadiationStorage,
        uid.TomotherapeuticRadiationStorage,
        uid.RoboticArmRadiationStorage,
    ),
    "PRESENTATION": (
        uid.GrayscaleSoftcopyPresentationStateStorage,
        uid.ColorSoftcopyPresentationStateStorage,
        uid.PseudoColorSoftcopyPresentationStateStorage,
        uid.BlendingSoftcopyPresentationStateStorage,
        uid.XAXRFGrayscaleSoftcopyPresentationStateStorage,
        uid.AdvancedBlendingPresentationStateStorage,
        uid.VariableModalityLUTSoftcopyPresentationStateStorage,
        uid.BasicStructuredDisplayStorage,
    ),
    "WAVEFORM": (
        uid.BasicVoiceAudioWaveformStorage,
        uid.TwelveLeadECGWaveformStorage,
        uid.GeneralECGWaveformStorage,
        uid.AmbulatoryECGWaveformStorage,
        uid.HemodynamicWaveformStorage,
        uid.CardiacElectrophysiologyWaveformStorage,
        uid.ArterialPulseWaveformStorage,
        uid.RespiratoryWaveformStorage,
        uid.GeneralAudioWaveformStorage,
        uid.RoutineScalpElectroencephalogramWaveformStorage,
        uid.ElectromyogramWaveformStorage,
        uid.ElectrooculogramWaveformStorage,
        uid.SleepElectroencephalogramWaveformStorage,
        uid.MultichannelRespiratoryWaveformStorage,
        uid.BodyPositionWaveformStorage,
    ),
    "SR DOCUMENT": (
        uid.BasicTextSRStorage,
        uid.EnhancedSRStorage,
        uid.ComprehensiveSRStorage,
        uid.Comprehensive3DSRStorage,
        uid.ExtensibleSRStorage,
        uid.MammographyCADSRStorage,
        uid.ChestCADSRStorage,
        uid.ColonCADSRStorage,
        uid.ProcedureLogStorage,
        uid.XRayRadiationDoseSRStorage,
        uid.RadiopharmaceuticalRadiationDoseSRStorage,
        uid.PatientRadiationDoseSRStorage,
        uid.SpectaclePrescriptionReportStorage,
        uid.MacularGridThicknessAndVolumeReportStorage,
        uid.ImplantationPlanSRStorage,
        uid.AcquisitionContextSRStorage,
        uid.SimplifiedAdultEchoSRStorage,
        uid.PlannedImagingAgentAdministrationSRStorage,
        uid.PerformedImagingAgentAdministrationSRStorage,
    ),
    "KEY OBJECT DOC": (uid.KeyObjectSelectionDocumentStorage,),
    "SPECTROSCOPY": (uid.MRSpectroscopyStorage,),
    "RAW DATA": (uid.RawDataStorage,),
    "REGISTRATION": (uid.SpatialRegistrationStorage, uid.DeformableSpatialRegistrationStorage),
    "FIDUCIAL": (uid.SpatialFiducialsStorage,),
    "ENCAP DOC": (
        uid.EncapsulatedPDFStorage,
        uid.EncapsulatedCDAStorage,
        uid.EncapsulatedSTLStorage,
        uid.EncapsulatedOBJStorage,
        uid.EncapsulatedMTLStorage,
    ),
    "VALUE MAP": (uid.RealWorldValueMappingStorage,),
    "STEREOMETRIC": (uid.StereometricRelationshipStorage,),
    "MEASUREMENT": (
        uid.LensometryMeasurementsStorage,
        uid.AutorefractionMeasurementsStorage,
        uid.KeratometryMeasurementsStorage,
        uid.SubjectiveRefractionMeasurementsStorage,
        uid.VisualAcuityMeasurementsStorage,
        uid.OphthalmicAxialMeasurementsStorage,
        uid.OphthalmicVisualFieldStaticPerimetryMeasurementsStorage,
    ),
    "SURFACE": (uid.SurfaceSegmentationStorage,),
    "SURFACE SCAN": (uid.SurfaceScanMeshStorage, uid.SurfaceScanPointCloudStorage),
    "TRACT": (uid.TractographyResultsStorage,),
    "ASSESSMENT": (uid.ContentAssessmentResultsStorage,),
}
_RECORD_OF: Final = {
    str(sop_class): record for record, sop_classes in _SOP_CLASSES.items() for sop_class in sop_classes
}


def record_type(sop_class_uid: str, *, has_rows: bool) -> str:
    """Directory Record Type (0004,1430) of an instance's record."""
    return _RECORD_OF.get(sop_class_uid) or (IMAGE if has_rows else PRIVATE)
