"""A computed CT of a head: no patient, no scanner, always the same pixels and the same UIDs.

The packages bring single images only; a viewer shows what it can do on a stack. This one has what a radiologist
looks for first: skull, grey and white matter with furrows, ventricles, the falx, air in the sinuses, eyes and a
small fresh bleed beside the left thalamus. Everything is computed from ellipsoids and a few waves, with noise from
a fixed seed, and the study says in its description that it is generated.

Positions are millimetres in the patient's coordinates (PS3.3 C.7.6.2.1.1): x to the left, y to the back, z up.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

SLICES: Final = 96
ROWS: Final = 512
PIXEL_SPACING_MM: Final = 0.46875  # 240 mm field of view
SLICE_SPACING_MM: Final = 1.5
FIRST_SLICE_Z_MM: Final = -66.0
PATIENT_ID: Final = "PHANTOM-1"
ISSUER_OF_PATIENT_ID: Final = "DICOMNET-DEMO"
REFERRING_PHYSICIAN_NAME: Final = "DOCTOR^DEMO"

_NOISE_HU: Final = 5.0
Plane = NDArray[np.floating[Any]]


def _uid(what: str) -> str:
    """A UID made from a name-based UUID (PS3.5 B.2), so that every machine's phantom is the same study."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'dicomnet demo phantom 1: {what}').int}"


STUDY_INSTANCE_UID: Final = _uid("study")
SERIES_INSTANCE_UID: Final = _uid("series")


def sop_instance_uid(index: int) -> str:
    """The UID of slice `index`, 0 at the bottom."""
    return _uid(f"slice {index}")


@dataclass(frozen=True)
class _Ellipsoid:
    """Centre and half axes in mm."""

    centre: tuple[float, float, float]
    half_axes: tuple[float, float, float]

    def depth(self, x: Plane, y: Plane, z: float) -> Plane:
        """1 at the centre, 0 on the surface, negative outside; one slice."""
        (cx, cy, cz), (ax, ay, az) = self.centre, self.half_axes
        radius: Plane = np.sqrt(((x - cx) / ax) ** 2 + ((y - cy) / ay) ** 2 + ((z - cz) / az) ** 2)
        return np.float32(1) - radius


_HEAD = _Ellipsoid((0, 0, -8), (79, 98, 92))
_SKULL = _Ellipsoid((0, 1, -6), (74, 92, 86))
_BRAIN = _Ellipsoid((0, 1, -6), (67.5, 85, 79))
_VENTRICLES = (  # frontal horn, body and occipital horn of each side, then the third
    *(_Ellipsoid((side * 11, -24, 16), (5.5, 17, 9)) for side in (-1, 1)),
    *(_Ellipsoid((side * 14, 6, 19), (6, 24, 7)) for side in (-1, 1)),
    *(_Ellipsoid((side * 21, 30, 10), (5.5, 15, 8)) for side in (-1, 1)),
    _Ellipsoid((0, -3, 4), (2.6, 14, 11)),
)
_THALAMI = tuple(_Ellipsoid((side * 11, 2, 4), (9, 14, 10)) for side in (-1, 1))
_BLEED = _Ellipsoid((24, -4, 8), (9, 13, 10))
_EDEMA = _Ellipsoid((25, -3, 8), (15, 19, 15))
_EYES = tuple(_Ellipsoid((side * 32, -74, -46), (12.5, 12.5, 12.5)) for side in (-1, 1))
_ORBITS = tuple(_Ellipsoid((side * 30, -66, -46), (18, 24, 17)) for side in (-1, 1))
_SINUSES = (
    _Ellipsoid((0, -72, -52), (10, 16, 15)),  # ethmoid cells
    _Ellipsoid((0, -86, -14), (17, 5, 11)),  # frontal
    _Ellipsoid((0, -48, -58), (13, 10, 9)),  # sphenoid
)
_MASTOIDS = tuple(_Ellipsoid((side * 55, 24, -56), (11, 15, 15)) for side in (-1, 1))
_PETROUS = tuple(_Ellipsoid((side * 42, 8, -52), (27, 11, 11)) for side in (-1, 1))


def write_slice(folder: Path, index: int) -> Path:
    """Write slice `index` into `folder` unless it is there; the file appears whole or not at all."""
    path = folder / f"slice-{index:03d}.dcm"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        slice_dataset(index).save_as(part, enforce_file_format=True)
        part.replace(path)
    return path


def slice_pixels(index: int) -> NDArray[np.int16]:
    """One axial slice in Hounsfield units, `ROWS` × `ROWS`, front of the head at the top."""
    centres = (np.arange(ROWS, dtype=np.float32) - (ROWS - 1) / 2) * np.float32(PIXEL_SPACING_MM)
    x, y = np.meshgrid(centres, centres)
    z = FIRST_SLICE_Z_MM + index * SLICE_SPACING_MM
    hu = np.full((ROWS, ROWS), -1000, dtype=np.float32)
    head = _HEAD.depth(x, y, z)
    _paint(hu, head, 35, softness=0.012)
    _paint(hu, np.minimum(head - 0.018, 0.05 - head), -75, softness=0.01)  # fat under the skin
    skull = _SKULL.depth(x, y, z)
    _paint(hu, skull, 950, softness=0.01)
    _paint(hu, np.minimum(skull - 0.025, 0.055 - skull), 480, softness=0.01)  # spongy bone between the tables
    for bone in _PETROUS:
        _paint(hu, bone.depth(x, y, z), 780, softness=0.1)
    _paint_brain(hu, x, y, z)
    for orbit, eye in zip(_ORBITS, _EYES, strict=True):
        _paint(hu, orbit.depth(x, y, z), -85, softness=0.06)
        _paint(hu, eye.depth(x, y, z), 12, softness=0.05)
        _paint(hu, np.minimum(eye.depth(x, y, z), 0.12 - eye.depth(x, y, z)), 40, softness=0.03)
    cells = np.sin(x * 0.9) * np.sin(y * 0.8) * np.sin(np.float32(z * 0.7))
    for mastoid in _MASTOIDS:
        _paint(hu, mastoid.depth(x, y, z), 620, softness=0.08)
        _paint(hu, np.minimum(mastoid.depth(x, y, z), cells - 0.12), -820, softness=0.15)
    for sinus in _SINUSES:
        _paint(hu, sinus.depth(x, y, z) + 0.12 * cells, -990, softness=0.06)
    _paint_table(hu, x, y)
    noise = np.random.default_rng(20_260_101 + index).normal(0, _NOISE_HU, hu.shape)
    return np.clip(np.rint(hu + noise), -1024, 3071).astype(np.int16)


def _paint(hu: Plane, depth: Plane, value: float, *, softness: float) -> None:
    """Blend `value` in where `depth` is positive; the edge is as wide as a scanner's blur."""
    weight = np.clip(depth / np.float32(softness) + np.float32(0.5), 0, 1)
    hu += weight * (np.float32(value) - hu)


def _paint_brain(hu: Plane, x: Plane, y: Plane, z: float) -> None:
    depth = _BRAIN.depth(x, y, z)
    _paint(hu, depth, 8, softness=0.01)  # fluid first; what is not furrow is painted over it
    wz = np.float32(z)
    # Two wandering waves cross; near the surface their zero lines are the furrows, deeper they fade out.
    bend_x, bend_y = 9 * np.sin(y / 13 + wz / 17), 9 * np.sin(x / 11 - wz / 15)
    furrow = np.abs(np.sin((x + bend_x) / 6.5 + wz / 10) * np.sin((y + bend_y) / 7.5 - wz / 12))
    shallow = np.clip((0.2 - depth) / 0.2, 0, 1)
    tissue = np.minimum(depth - 0.02, (furrow - 0.16 * shallow) * 0.2 + np.clip(depth - 0.2, 0, 1))
    _paint(hu, tissue, 38, softness=0.03)
    white = np.minimum(depth - 0.1, furrow * 0.22 + depth - 0.26)
    _paint(hu, white, 28, softness=0.05)
    for thalamus in _THALAMI:
        _paint(hu, thalamus.depth(x, y, z), 37, softness=0.15)
    for ventricle in _VENTRICLES:
        _paint(hu, ventricle.depth(x, y, z), 6, softness=0.12)
    _paint(hu, np.minimum(1.1 - np.abs(x + 0.8 * np.sin(y / 20)), depth * 60) * 0.5, 46, softness=0.6)  # falx
    _paint(hu, _EDEMA.depth(x, y, z), 21, softness=0.3)
    ragged = _BLEED.depth(x, y, z) + 0.1 * np.sin(x * 0.6) * np.sin(y * 0.5 + wz * 0.4)
    _paint(hu, ragged, 68, softness=0.14)


def _paint_table(hu: Plane, x: Plane, y: Plane) -> None:
    """The head rest: two thin arcs of carbon below the head."""
    radius = np.hypot(x, y + 22)
    for arc_mm in (126.0, 131.0):
        shell = 1.2 - np.abs(radius - np.float32(arc_mm))
        _paint(hu, np.minimum(shell, (y - 55) / 8), -250, softness=1.0)


def slice_dataset(index: int) -> Dataset:
    """One slice as a CT image (PS3.3 A.3), Explicit VR Little Endian."""
    z = FIRST_SLICE_Z_MM + index * SLICE_SPACING_MM
    corner_mm = -(ROWS - 1) / 2 * PIXEL_SPACING_MM
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = sop_instance_uid(index)
    ds.StudyInstanceUID = STUDY_INSTANCE_UID
    ds.SeriesInstanceUID = SERIES_INSTANCE_UID
    ds.FrameOfReferenceUID = _uid("frame of reference")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "090000"
    ds.AccessionNumber = "DEMO-0001"
    ds.Modality = "CT"
    ds.Manufacturer = "DICOM Network demo"
    ds.ManufacturerModelName = "Computed phantom"
    ds.InstitutionName = "Demonstration"
    ds.ReferringPhysicianName = REFERRING_PHYSICIAN_NAME
    ds.StudyDescription = "Generated CT head phantom (no patient)"
    ds.SeriesDescription = "Head 1.5 mm, generated"
    ds.PatientName = "DEMO^PHANTOM"
    ds.PatientID = PATIENT_ID
    ds.IssuerOfPatientID = ISSUER_OF_PATIENT_ID
    ds.PatientBirthDate = "19700101"
    ds.PatientSex = "O"
    ds.BodyPartExamined = "HEAD"
    ds.PatientPosition = "HFS"
    ds.StudyID = "1"
    ds.SeriesNumber = 2
    ds.AcquisitionNumber = 1
    ds.InstanceNumber = index + 1
    ds.SliceThickness = SLICE_SPACING_MM
    ds.SpacingBetweenSlices = SLICE_SPACING_MM
    ds.KVP = 120
    ds.ConvolutionKernel = "COMPUTED"
    ds.ImagePositionPatient = [corner_mm, corner_mm, z]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.PositionReferenceIndicator = ""
    ds.SliceLocation = z
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = ds.Columns = ROWS
    ds.PixelSpacing = [PIXEL_SPACING_MM, PIXEL_SPACING_MM]
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit = 15
    ds.PixelRepresentation = 1
    ds.WindowCenter, ds.WindowWidth = 40, 80
    ds.WindowCenterWidthExplanation = "BRAIN"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = 0, 1, "HU"
    ds.PixelData = slice_pixels(index).astype("<i2").tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds
