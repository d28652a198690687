"""Small generated CT series: a head of soft tissue and bone, different in every slice."""

from __future__ import annotations

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

#: A name as an attacker would send it: were it ever put into the page as markup, it would run.
HOSTILE_NAME = "<img src=x onerror=window.hacked=1>^X"


def ct_head(
    *,
    slices: int = 9,
    size: int = 128,
    patient_name: str = HOSTILE_NAME,
    study_instance_uid: str | None = None,
) -> list[Dataset]:
    """Make a CT series of a head-like object, head first, 0.5 mm pixels, 5 mm slices."""
    study = study_instance_uid or generate_uid()
    series, frame_of_reference = generate_uid(), generate_uid()
    return [
        _slice(index, slices, size, patient_name, study, series, frame_of_reference)
        for index in range(slices)
    ]


def _slice(
    index: int, slices: int, size: int, patient_name: str, study: str, series: str, frame_of_reference: str
) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame_of_reference
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = patient_name, "P-0001", "19500102", "O"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20240229", "101500", "A-17"
    ds.StudyDescription, ds.SeriesDescription = "CT head", "Phantom 5 mm"
    ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT", 2, index + 1
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-size / 4, -size / 4, 5.0 * index]
    ds.SliceThickness, ds.SliceLocation, ds.PixelSpacing = 5, 5.0 * index, [0.5, 0.5]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = size
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
    ds.WindowCenter, ds.WindowWidth = 40, 400
    ds.PixelData = _hounsfield(index, slices, size).astype("<u2").tobytes()
    return ds


def _hounsfield(index: int, slices: int, size: int) -> np.ndarray:
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    radius = np.hypot(x / 0.75, y / 0.9)
    height = (index - (slices - 1) / 2) / slices
    values = np.full((size, size), -1000.0)
    values[radius < np.sqrt(1 - height**2)] = 1200
    brain = radius < np.sqrt(1 - height**2) - 0.09
    values[brain] = (38 + 30 * np.sin(9 * x + 7 * y + index) + 20 * np.cos(13 * y - 3 * index))[brain]
    values[np.hypot(x - 0.2, y + 0.3 * height) < 0.05 + 0.02 * index] = 5
    return np.round(values + 1024)
