"""The edge's memory stays small while a study passes through that is larger than it."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian

from demo.scanner import Instance, read_instance, send
from tests.e2e.files import small_series
from tests.e2e.running import RunningDemo, wait_visible

pytestmark = [pytest.mark.timeout(900)]

SOAK = bool(os.environ.get("DICOMNET_SOAK"))
MULTI_FRAMES_MB = [400, 300, 280] if SOAK else [120, 60]
LIMIT_MB = 150


def multi_frame(folder: Path, number: int, megabytes: int) -> Instance:
    """An enhanced CT of noise, which compresses badly: the worst case for a box that compresses."""
    frames = megabytes * 2
    ds = dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "2.25.70009", f"2.25.700091{number}"
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"2.25.70009100{number}"
    ds.Rows = ds.Columns = 512
    ds.NumberOfFrames = frames
    ds.PixelData = np.random.default_rng(number).bytes(frames * 512 * 512 * 2)
    path = folder / f"multi-frame-{number}.dcm"
    ds.save_as(path)
    instance = read_instance(path)
    assert instance is not None
    return instance


def peak_memory_mb(pid: int) -> float:
    """The largest resident set the process ever had (proc(5), VmHWM)."""
    match = re.search(r"VmHWM:\s+([0-9]+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match is not None
    return int(match[1]) / 1024


def test_the_gateway_stays_below_its_limit(demo: RunningDemo, tmp_path: Path) -> None:
    instances = [multi_frame(tmp_path, number, size) for number, size in enumerate(MULTI_FRAMES_MB, 1)]
    instances += small_series(tmp_path / "small", 8, 100)
    report = send(instances, demo.dicom_address, demo.ae_title, stop=threading.Event())
    assert len(report.acknowledged) == len(instances), report
    studies: dict[str, set[str]] = {}
    for instance in instances:
        studies.setdefault(instance.study_instance_uid, set()).add(instance.sop_instance_uid)
    with demo.client("radiologist") as client:
        wait_visible(client, studies)
    peak_mb = peak_memory_mb(demo.pid("gateway"))
    assert peak_mb < LIMIT_MB, f"the gateway had {peak_mb:.0f} MB at its peak"
    assert demo.pid("gateway") == demo.ready["gateway"]["pid"], "it was the same process all along"
