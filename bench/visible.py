"""How long after the last C-STORE is a study found by QIDO-RS? The whole system, real processes, loopback.

Prints the median and the slowest over single-image studies and over studies of 20 images, and beside them, as the
machine's own measure in the same run, how long one C-STORE of such an image took.

    python -m bench.visible [--rounds 15]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import numpy
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

_GIVE_UP_S = 30.0


@contextmanager
def running_system(base_port: int) -> Iterator[dict[str, Any]]:
    """A whole system in a temporary directory; yields the READY object."""
    with tempfile.TemporaryDirectory(prefix="dicomnet-bench-") as state:
        command = [sys.executable, "-m", "demo.app", "demo", "--state", state, "--base-port", str(base_port)]
        process = subprocess.Popen(
            [*command, "--no-sample", "--json-only"], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        try:
            line = next((line for line in process.stdout if line.startswith("READY ")), None)
            if line is None:
                raise SystemExit("the system did not start; run make demo to see why")
            yield json.loads(line.removeprefix("READY "))
        finally:
            process.terminate()
            process.wait(30)


def ct_image(study_uid: str, series_uid: str, number: int) -> Dataset:
    """A 512 × 512 CT image with noise in it, so that it compresses like one."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, series_uid
    ds.PatientName, ds.PatientID = "BENCH^VISIBLE", "bench"
    ds.Modality, ds.InstanceNumber = "CT", number
    ds.Rows = ds.Columns = 512
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    generator = numpy.random.default_rng(number)
    ds.PixelData = generator.normal(1000, 20, (512, 512)).astype("<u2").tobytes()
    return ds


def send(gateway: dict[str, Any], images: list[Dataset]) -> list[float]:
    """Send `images` in one association; seconds each C-STORE took."""
    ae = AE(ae_title="BENCH")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    assoc = ae.associate(gateway["host"], gateway["port"], ae_title=gateway["ae_title"])
    took = []
    for image in images:
        began = time.perf_counter()
        status = assoc.send_c_store(image)
        took.append(time.perf_counter() - began)
        if status.Status != 0x0000:
            raise SystemExit(f"the gateway answered 0x{status.Status:04X}")
    assoc.release()
    return took


def wait_until_visible(http: httpx.Client, study_uid: str, images: int) -> float:
    """Seconds until QIDO-RS shows the whole study."""
    began = time.perf_counter()
    while time.perf_counter() - began < _GIVE_UP_S:
        answer = http.get("/dicom-web/studies", params={"StudyInstanceUID": study_uid}).raise_for_status()
        found = answer.json() if answer.content else []
        if found and found[0]["00201208"]["Value"][0] == images:
            return time.perf_counter() - began
    raise SystemExit(f"the study was not visible after {_GIVE_UP_S:.0f} s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="studies of each kind (default 15)")
    parser.add_argument(
        "--base-port", type=int, default=21112, help="first of the ports used (default 21112)"
    )
    arguments = parser.parse_args()
    with running_system(arguments.base_port) as ready:
        account = ready["accounts"]["radiologist"]
        with httpx.Client(base_url=ready["central"]["url"]) as http:
            token = http.post("/api/auth/token", data=account).raise_for_status().json()["access_token"]
            http.headers["Authorization"] = f"Bearer {token}"
            for images in (1, 20):
                visible, stores = [], []
                for _ in range(arguments.rounds):
                    study_uid, series_uid = generate_uid(), generate_uid()
                    stores += send(
                        ready["gateway"], [ct_image(study_uid, series_uid, n + 1) for n in range(images)]
                    )
                    visible.append(wait_until_visible(http, study_uid, images))
                store = statistics.median(stores)
                median = statistics.median(visible)
                print(
                    f"last C-STORE → whole study in QIDO-RS, {images:>2} images: "
                    f"median {median * 1000:.0f} ms, slowest {max(visible) * 1000:.0f} ms; "
                    f"one C-STORE {store * 1000:.1f} ms, ratio {median / store:.1f}"
                )


if __name__ == "__main__":
    main()
