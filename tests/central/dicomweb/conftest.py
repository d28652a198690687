from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.central.access.house import OTHER_STUDY, House, open_house, pydicom_file

# One of every transfer syntax and pixel form that pydicom ships.
IMAGES = (
    "CT_small.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "emri_small.dcm",
    "emri_small_big_endian.dcm",
    "emri_small_jpeg_ls_lossless.dcm",
    "emri_small_jpeg_2k_lossless.dcm",
    "emri_small_RLE.dcm",
    "SC_rgb_2frame.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_ybr_full_422_uncompressed.dcm",
    "examples_palette.dcm",
    "JPEG-LL.dcm",
    "JPGExtended.dcm",
    "liver_1frame.dcm",
    "image_dfl.dcm",
    "rtdose_expb.dcm",
)


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """`STUDY` has one of every kind, in a series each; `OTHER_STUDY` has one image and one report."""
    with open_house(tmp_path_factory.mktemp("house")) as opened:
        for number, name in enumerate(IMAGES):
            opened.put(
                pydicom_file(
                    name,
                    SeriesInstanceUID=f"1.2.9.{number}",
                    SOPInstanceUID=f"1.2.9.{number}.1",
                    SeriesNumber=number,
                )
            )
        stranger = {"StudyInstanceUID": OTHER_STUDY, "PatientID": "P9", "ReferringPhysicianName": "Else^Some"}
        opened.put(
            pydicom_file(
                "MR_small.dcm",
                SeriesInstanceUID="1.2.8.1",
                SOPInstanceUID="1.2.8.1.1",
                PatientName="<script>alert(1)</script>^X",
                StudyDate="20250101",
                **stranger,
            )
        )
        opened.put(
            pydicom_file("test-SR.dcm", SeriesInstanceUID="1.2.8.2", SOPInstanceUID="1.2.8.2.1", **stranger)
        )
        yield opened
