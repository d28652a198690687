"""Which SOP classes a series is likely to hold, by its modality, for sources that do not say them at IMAGE level.

SOP Class UID is optional in a C-FIND (PS3.4 Table C.6-4), and a C-GET takes only what it proposed. What is missing in
here is not sent, which the comparison afterwards finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from pydicom import uid

_ULTRASOUND_RETIRED: Final = "1.2.840.10008.5.1.4.1.1.6"
_ULTRASOUND_MULTIFRAME_RETIRED: Final = "1.2.840.10008.5.1.4.1.1.3"
_NUCLEAR_RETIRED: Final = "1.2.840.10008.5.1.4.1.1.5"
_SECONDARY: Final = uid.SecondaryCaptureImageStorage
_OTHERS: Final = (
    _SECONDARY,
    uid.MultiFrameTrueColorSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleByteSecondaryCaptureImageStorage,
    uid.MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    uid.EncapsulatedPDFStorage,
    uid.RawDataStorage,
)
_BY_MODALITY: Final[Mapping[str, tuple[str, ...]]] = {
    "CT": (
        uid.CTImageStorage,
        uid.EnhancedCTImageStorage,
        uid.LegacyConvertedEnhancedCTImageStorage,
        _SECONDARY,
    ),
    "MR": (uid.MRImageStorage, uid.EnhancedMRImageStorage, uid.MRSpectroscopyStorage, _SECONDARY),
    "CR": (
        uid.ComputedRadiographyImageStorage,
        uid.DigitalXRayImageStorageForPresentation,
        uid.DigitalXRayImageStorageForProcessing,
        _SECONDARY,
    ),
    "DX": (
        uid.DigitalXRayImageStorageForPresentation,
        uid.DigitalXRayImageStorageForProcessing,
        uid.ComputedRadiographyImageStorage,
        _SECONDARY,
    ),
    "MG": (
        uid.DigitalMammographyXRayImageStorageForPresentation,
        uid.DigitalMammographyXRayImageStorageForProcessing,
        uid.BreastTomosynthesisImageStorage,
        _SECONDARY,
    ),
    "US": (
        uid.UltrasoundImageStorage,
        uid.UltrasoundMultiFrameImageStorage,
        uid.EnhancedUSVolumeStorage,
        _ULTRASOUND_RETIRED,
        _ULTRASOUND_MULTIFRAME_RETIRED,
        _SECONDARY,
    ),
    "PT": (uid.PositronEmissionTomographyImageStorage, uid.EnhancedPETImageStorage, _SECONDARY),
    "NM": (uid.NuclearMedicineImageStorage, _NUCLEAR_RETIRED, _SECONDARY),
    "XA": (uid.XRayAngiographicImageStorage, uid.EnhancedXAImageStorage, _SECONDARY),
    "RF": (uid.XRayRadiofluoroscopicImageStorage, uid.EnhancedXRFImageStorage, _SECONDARY),
    "SR": (
        uid.BasicTextSRStorage,
        uid.EnhancedSRStorage,
        uid.ComprehensiveSRStorage,
        uid.Comprehensive3DSRStorage,
        uid.XRayRadiationDoseSRStorage,
        uid.MammographyCADSRStorage,
    ),
    "KO": (uid.KeyObjectSelectionDocumentStorage,),
    "PR": (
        uid.GrayscaleSoftcopyPresentationStateStorage,
        uid.ColorSoftcopyPresentationStateStorage,
        uid.PseudoColorSoftcopyPresentationStateStorage,
        uid.BlendingSoftcopyPresentationStateStorage,
    ),
    "RTDOSE": (uid.RTDoseStorage,),
    "RTPLAN": (uid.RTPlanStorage, uid.RTIonPlanStorage),
    "RTSTRUCT": (uid.RTStructureSetStorage,),
    "RTIMAGE": (uid.RTImageStorage,),
    "SEG": (uid.SegmentationStorage, uid.SurfaceSegmentationStorage),
    "REG": (uid.SpatialRegistrationStorage, uid.DeformableSpatialRegistrationStorage),
    "ECG": (
        uid.TwelveLeadECGWaveformStorage,
        uid.GeneralECGWaveformStorage,
        uid.AmbulatoryECGWaveformStorage,
    ),
}


def likely_classes(modality: str) -> frozenset[str]:
    """SOP classes of a series of `modality`; six at most."""
    return frozenset(map(str, _BY_MODALITY.get(modality, _OTHERS)))
