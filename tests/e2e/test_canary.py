"""A patient's name that must turn up nowhere but in the archive: not in a log, a topic, or on the box's disk."""

from __future__ import annotations

import threading
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from tests.e2e.running import RunningDemo, wait_visible
from tests.edge.buffer.instances import contents

pytestmark = pytest.mark.timeout(600)

CANARY = "XQVCANARYWZK"
CANARY_DATE = "19051123"


def canary_image(*, study_uid: str | None) -> Dataset:
    """A small CT that says the canary in every place a person would look for it."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    if study_uid:
        ds.StudyInstanceUID = study_uid
    ds.PatientName = ds.ReferringPhysicianName = f"{CANARY}^PATIENT"
    ds.PatientID = ds.StudyDescription = ds.InstitutionName = ds.AccessionNumber = CANARY
    ds.PatientBirthDate, ds.Modality = CANARY_DATE, "CT"
    ds.Rows = ds.Columns = 16
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.PixelData = bytes(256)
    return ds


def files_with_the_canary(folder: Path) -> list[str]:
    return [
        str(path.relative_to(folder))
        for path, content in contents(folder)
        if any(word.encode() in content for word in (CANARY, CANARY_DATE, CANARY.lower()))
    ]


@pytest.mark.needs("mosquitto")
def test_no_patient_data_outside_the_archive(demo: RunningDemo) -> None:
    heard: list[str] = []
    telemetry_came = threading.Event()

    def on_message(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        heard.append(f"{message.topic} {message.payload.decode()}")
        if message.topic.endswith("/telemetry") and any("/equipment/" in line for line in heard):
            telemetry_came.set()

    listener = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    listener.on_message = on_message
    listener.connect(demo.ready["mqtt"]["host"], demo.ready["mqtt"]["port"])
    listener.subscribe("#")
    listener.loop_start()
    try:
        study_uid = generate_uid()
        good, unidentified = canary_image(study_uid=study_uid), canary_image(study_uid=None)
        ae = AE(ae_title="CANARY_CT")
        ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        assoc = ae.associate(*demo.dicom_address, ae_title=demo.ae_title)
        assert assoc.send_c_store(good).Status == 0x0000
        assert assoc.send_c_store(unidentified).Status >> 12 == 0xC
        assoc.release()
        with demo.client("radiologist") as client:
            wait_visible(client, {study_uid: {good.SOPInstanceUID}})
            found = client.get("/dicom-web/studies", params={"PatientName": f"{CANARY}*"}).json()
            assert len(found) == 1, "the canary must be found where it belongs, or this test proves nothing"
            series = f"/dicom-web/studies/{study_uid}/series/{good.SeriesInstanceUID}"
            assert client.get(f"{series}/metadata").status_code == 200
            assert client.get(f"{series}/instances/{good.SOPInstanceUID}/rendered").status_code == 200
        with demo.client("patient") as stranger:
            assert stranger.get(f"{series}/metadata").status_code == 404
        assert telemetry_came.wait(60)
    finally:
        listener.disconnect()
        listener.loop_stop()
    assert not [line for line in heard if CANARY in line or CANARY_DATE in line]
    assert not files_with_the_canary(demo.state / "logs")
    # The refused one is still on the box, in quarantine: sealed, with no name beside it.
    assert list((demo.state / "edge").rglob("quarantine/*.sealed"))
    assert not files_with_the_canary(demo.state / "edge")
    assert files_with_the_canary(demo.state / "central"), "this is where it belongs"
