"""Central as it wires itself: an order by HL7 is in the worklist, what is stored is committed to and converted."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime, timedelta
from io import BytesIO
from pathlib import Path

from hl7.client import MLLPClient
from pydicom import dcmread
from pydicom.uid import UID, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.dsutils import decode
from pynetdicom.presentation import build_role

from central.app import Central
from central.config import Settings
from central.dimse.association import STUDY_ROOT_GET
from central.dimse.commitment import STORAGE_COMMITMENT
from central.dimse.worklist import MODALITY_WORKLIST_FIND
from tests.central.access.house import STUDY, pydicom_file
from tests.central.dimse.house import PEER, identifier

MR = "1.2.840.10008.5.1.4.1.1.4"
RLE = "1.2.840.10008.1.2.5"


def test_from_the_order_to_the_image(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "storage": {"root": tmp_path / "central", "reserve_bytes": 0},
            "people": {"port": 0},
            "gateways": {"port": 0},
            "dicom": {"port": 0, "peers": [PEER]},
            "hl7": {"enabled": True, "port": 0, "senders": ["127.0.0.1"]},
        }
    )
    with ExitStack() as closing:
        central = Central.open(settings, closing)
        assert central.hl7 is not None
        assert central.dicom is not None
        day = format(datetime.now().astimezone() + timedelta(days=1), "%Y%m%d")
        order = (
            "MSH|^~\\&|RIS|HOSP|||20260105||ORM^O01|M1|P|2.3\r"
            "PID|1||P1^^^HOSP||Doe^Jane\r"
            f"ORC|NW|P1|||||^^^{day}0930\r"
            "OBR|1|P1||MR^MR^L||||||||||||||A1|R1|S1|MR1|||MR\r"
        )
        with MLLPClient("127.0.0.1", central.hl7.port) as client:
            assert b"MSA|AA|M1" in client.send_message(order.encode())

        path = tmp_path / "rle.dcm"
        path.write_bytes(pydicom_file("MR_small_RLE.dcm"))
        sent = dcmread(path)
        came: list[bytes] = []
        reported: list[int] = []

        def store(event: evt.Event) -> int:
            came.append(event.request.DataSet.getvalue())
            return 0

        def report(event: evt.Event) -> tuple[int, None]:
            reported.append(event.event_type)
            return 0, None

        ae = AE("PEER")
        ae.add_requested_context(MODALITY_WORKLIST_FIND)
        ae.add_requested_context(STORAGE_COMMITMENT)
        ae.add_requested_context(MR, RLE)
        assoc = ae.associate(
            "127.0.0.1",
            central.dicom.port,
            ae_title="DICOMNET",
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, report)],
        )
        query = identifier(
            {"PatientID": "", "ScheduledProcedureStepSequence": [identifier({"Modality": "MR"})]}
        )
        found = [ds for _, ds in assoc.send_c_find(query, UID(MODALITY_WORKLIST_FIND)) if ds is not None]
        assert [one.PatientID for one in found] == ["P1"]

        assert assoc.send_c_store(sent).Status == 0
        reference = identifier({"ReferencedSOPClassUID": MR, "ReferencedSOPInstanceUID": sent.SOPInstanceUID})
        action = identifier({"TransactionUID": "1.2.3", "ReferencedSOPSequence": [reference]})
        status, _ = assoc.send_n_action(action, 1, UID(STORAGE_COMMITMENT), UID("1.2.840.10008.1.20.1.1"))
        assert status.Status == 0
        assert assoc.send_c_store(sent).Status == 0  # in between: the report is answered by another thread
        assoc.release()
        ae = AE("PEER")
        ae.add_requested_context(STUDY_ROOT_GET)
        ae.add_requested_context(MR, ImplicitVRLittleEndian)
        assoc = ae.associate(
            "127.0.0.1",
            central.dicom.port,
            ae_title="DICOMNET",
            ext_neg=[build_role(MR, scp_role=True)],
            evt_handlers=[(evt.EVT_C_STORE, store)],
        )
        keys = identifier({"QueryRetrieveLevel": "STUDY", "StudyInstanceUID": STUDY})
        statuses = [status.Status for status, _ in assoc.send_c_get(keys, STUDY_ROOT_GET)]
        assoc.release()
    assert statuses[-1] == 0
    assert reported == [1]
    [encoded] = came
    plain = decode(BytesIO(encoded), True, True)
    assert plain.PixelData == dcmread(BytesIO(pydicom_file("MR_small.dcm"))).PixelData
