"""DCMTK's dcmqrti, a technician's terminal on an archive of dcmqrscp: it echoes to central, and sends what it has."""

from __future__ import annotations

import subprocess
from io import BytesIO
from pathlib import Path

import pytest
from dicomweb_client.api import DICOMwebClient
from pydicom import Dataset, dcmread

from tests.central.access.house import pydicom_file
from tests.central.dimse.house import dcmtk, dcmtk_listening
from tests.clients.house import Served, central_with_studies
from tests.peers_installed import program
from tests.ports import free_base_port

TRAILING_PADDING = 0xFFFCFFFC
NEW_STUDY = "1.2.7"
TERMINAL = {"ae_title": "TERMINAL", "address": "127.0.0.1", "may": ["store"]}
SENT = ("CT_small.dcm", "MR_small.dcm", "emri_small.dcm")


def study_of(served: Served) -> dict[str, Dataset]:
    """What central gives out of the new study, by SOP Instance UID."""
    client = DICOMwebClient(f"{served.url}/dicom-web")
    client._session.headers["Authorization"] = f"Bearer {served.session('radiologist')}"
    return {ds.SOPInstanceUID: ds for ds in client.retrieve_study(NEW_STUDY)}


@pytest.mark.needs("dcmtk")
def test_a_terminal_sends_a_study_series_by_series(tmp_path: Path) -> None:
    for folder in ("files", "db"):
        (tmp_path / folder).mkdir()
    sent = {}
    for number, name in enumerate(SENT):
        uids = {"SeriesInstanceUID": f"{NEW_STUDY}.{number}", "SOPInstanceUID": f"{NEW_STUDY}.{number}.1"}
        content = pydicom_file(name, StudyInstanceUID=NEW_STUDY, **uids)
        (tmp_path / "files" / f"{number}.dcm").write_bytes(content)
        sent[uids["SOPInstanceUID"]] = dcmread(BytesIO(content))
        sent[uids["SOPInstanceUID"]].pop(TRAILING_PADDING, None)  # DCMTK leaves it away
    dicom = {"enabled": True, "port": 0, "peers": [TERMINAL]}
    with central_with_studies(tmp_path / "central", dicom=dicom) as served:
        port = free_base_port(1)
        settings = tmp_path / "qr.cfg"
        settings.write_text(
            f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
            f"HostTable BEGIN\ncentral = (DICOMNET, localhost, {served.dicom_port})\nHostTable END\n"
            'VendorTable BEGIN\n"Central" = central\nVendorTable END\n'
            f"AETable BEGIN\nTERMINAL {tmp_path / 'db'} RW (20, 100mb) ANY\nAETable END\n"
        )
        with dcmtk_listening(port, "dcmqrscp", "-c", settings):
            filled = dcmtk("storescu", "-aec", "TERMINAL", "+sd", "127.0.0.1", port, tmp_path / "files")
            assert filled.returncode == 0, filled.stderr
        path = program("dcmqrti")
        assert path is not None
        said = subprocess.run(
            [path, "-v", "-c", settings, "-aet", "TERMINAL", "central"],
            input="echo\nstudy 0\nsend study 0\nquit\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert said.returncode == 0, said.stderr
        assert "Echo, Complete [Status: Success]" in said.stdout
        assert said.stdout.count("Complete [Status: Success]") == 1 + len(SENT)
        assert study_of(served) == sent
