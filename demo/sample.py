"""What the demonstration's scanner sends: a generated head CT and real single series from pydicom's packages.

The real ones are the files that the packages `pydicom` and `pydicom-data` bring along, as they are on disk:
nothing is downloaded. They are chosen so that each kind of picture is there once: CT, MR, enhanced MR, ultrasound
cine in colour, radiography, nuclear medicine, a report, an ECG, in eleven transfer syntaxes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from pydicom.data import get_testdata_file

from demo import phantom
from demo.scanner import Instance, read_instance

PACKAGED: Final = (
    "693_J2KR.dcm",  # CT head, JPEG 2000 lossless
    "MR-SIEMENS-DICOM-WithOverlays.dcm",  # MR with overlays, Explicit VR Little Endian
    "MR2_J2KI.dcm",  # MR 1024 × 1024, JPEG 2000
    "emri_small_jpeg_ls_lossless.dcm",  # enhanced MR, ten frames, JPEG-LS
    "color3d_jpeg_baseline.dcm",  # ultrasound cine in colour, 120 frames, JPEG baseline
    "gdcm-US-ALOKA-16.dcm",  # ultrasound with a 16 bit palette, Implicit VR Little Endian
    "OBXXXX1A_expb_2frame.dcm",  # ultrasound, two frames, Explicit VR Big Endian
    "JPGLosslessP14SV1_1s_1f_8b.dcm",  # ultrasound, JPEG lossless
    "RG1_J2KR.dcm",  # radiograph, JPEG 2000 lossless
    "RG3_J2KI.dcm",  # radiograph, JPEG 2000
    "JPGExtended.dcm",  # nuclear medicine, JPEG extended, 12 bit
    "rtdose_rle.dcm",  # dose, 15 frames, RLE
    "image_dfl.dcm",  # Deflated Explicit VR Little Endian
    "reportsi.dcm",  # structured report
    "waveform_ecg.dcm",  # ECG
)


def packaged_instances() -> list[Instance]:
    """The files of `PACKAGED` that the installed packages hold."""
    found = (get_testdata_file(name, download=False) for name in PACKAGED)
    read = (read_instance(Path(str(path))) for path in found if path is not None)
    return [instance for instance in read if instance is not None]


def phantom_instances(folder: Path, progress: Callable[[int], None]) -> Iterator[Instance]:
    """Compute the head series into `folder`, which a second start finds and takes as it is."""
    for number in range(1, phantom.SLICES + 1):
        path = phantom.write_slice(folder, number - 1)
        progress(number)
        instance = read_instance(path)
        assert instance is not None, "we wrote it a moment ago"
        yield instance
