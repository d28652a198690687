from __future__ import annotations

from pathlib import Path

import numpy as np
from pydicom import dcmread
from pydicom.uid import UID

from demo import phantom


def test_the_slices_make_a_regular_volume() -> None:
    slices = [phantom.slice_dataset(index) for index in (0, 1, 2, phantom.SLICES - 1)]
    heights = [ds.ImagePositionPatient[2] for ds in slices]
    assert heights[1] - heights[0] == heights[2] - heights[1] == phantom.SLICE_SPACING_MM
    assert heights[3] - heights[0] == phantom.SLICE_SPACING_MM * (phantom.SLICES - 1)
    assert {tuple(ds.ImageOrientationPatient) for ds in slices} == {(1, 0, 0, 0, 1, 0)}
    assert {ds.FrameOfReferenceUID for ds in slices} == {slices[0].FrameOfReferenceUID}
    corner = slices[0].ImagePositionPatient[0]
    assert corner == -(phantom.ROWS - 1) / 2 * phantom.PIXEL_SPACING_MM, "the head is in the middle"


def test_the_uids_are_uids_and_differ() -> None:
    uids = [phantom.sop_instance_uid(index) for index in range(phantom.SLICES)]
    uids += [phantom.STUDY_INSTANCE_UID, phantom.SERIES_INSTANCE_UID]
    assert all(UID(uid).is_valid for uid in uids)
    assert len(set(uids)) == phantom.SLICES + 2


def test_the_same_pixels_every_time() -> None:
    assert np.array_equal(phantom.slice_pixels(30), phantom.slice_pixels(30))
    assert not np.array_equal(phantom.slice_pixels(30), phantom.slice_pixels(31))


def test_what_a_reader_looks_for_is_there() -> None:
    index = round((8 - phantom.FIRST_SLICE_Z_MM) / phantom.SLICE_SPACING_MM)
    hu = phantom.slice_pixels(index).astype(float)

    def around(x_mm: float, y_mm: float) -> float:
        column = round(x_mm / phantom.PIXEL_SPACING_MM + (phantom.ROWS - 1) / 2)
        row = round(y_mm / phantom.PIXEL_SPACING_MM + (phantom.ROWS - 1) / 2)
        return float(hu[row - 3 : row + 4, column - 3 : column + 4].mean())

    assert around(-110, -110) < -950, "air around the head"
    assert hu.max() > 800, "compact bone"
    assert 60 < around(24, -4) < 75, "the bleed"
    assert 20 < around(-40, -4) < 45, "the other side is brain"


def test_a_slice_is_written_once_and_whole(tmp_path: Path) -> None:
    path = phantom.write_slice(tmp_path, 5)
    written = path.stat().st_mtime_ns
    assert phantom.write_slice(tmp_path, 5).stat().st_mtime_ns == written
    ds = dcmread(path)
    assert ds.SOPInstanceUID == phantom.sop_instance_uid(5)
    assert ds.pixel_array.shape == (phantom.ROWS, phantom.ROWS)
    assert "generated" in ds.StudyDescription.lower()
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
