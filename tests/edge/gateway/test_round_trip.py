"""What real senders send comes out of the sealed object byte for byte, in every transfer syntax."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import threading
import tracemalloc
import warnings
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.fileset import FileSet
from pynetdicom import AE, build_context
from pynetdicom.presentation import PresentationContext

from contract.part10 import file_meta
from edge.buffer.coding_pace import CodingPace
from edge.buffer.states import State
from tests.edge.gateway.conftest import Gateway
from tests.edge.gateway.samples import data_set_bytes, pydicom_instances
from tests.peers.scripted_scu import (
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    ScriptedScu,
    c_store_rq,
    p_data,
    small_data_set,
)
from tests.peers_installed import program

DATA_SET_TRAILING_PADDING = 0xFFFCFFFC
# Of what zstd makes of them at level 3, header and trailer of the sealed object included.
SERIES = {
    "ct-ge-human": 0.55,
    "ct-philips-head": 0.62,
    "mr-ge-fmri": 1.05,  # 25 KB an image, so the seal's own 1.3 KB tell
    "mr-siemens-dwi": 0.78,
    "mr-siemens-epi": 0.9,
    "mr-siemens-t1": 0.8,
}
DCMTK = {**os.environ, "TCP_NODELAY": "1"}


def quiet_read(path: Path) -> Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(path)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=DCMTK, capture_output=True, text=True, timeout=120, check=False)


def test_every_pydicom_file_in_its_own_transfer_syntax(gateway: Gateway) -> None:
    """Sent verbatim, fragment by fragment, so that what is compared is what was on the wire."""
    seen: Counter[str] = Counter()
    files = pydicom_instances()
    assert len(files) > 60
    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ds = dcmread(path, stop_before_pixels=True)
        syntax, data = str(ds.file_meta.TransferSyntaxUID), data_set_bytes(path)
        with gateway.connect() as scu:
            scu.associate([(1, str(ds.SOPClassUID), [syntax])])
            response = scu.store(
                data, str(ds.SOPInstanceUID), sop_class=str(ds.SOPClassUID), fragment_bytes=200_000
            )
            scu.release()
        assert (response.status, response.comment) == (0x0000, ""), path.name
        newest = [
            row
            for row in gateway.rows(State.READY)
            if row.sop_instance_uid == ds.SOPInstanceUID and row.transfer_syntax_uid == syntax
        ]
        wanted = file_meta(str(ds.SOPClassUID), str(ds.SOPInstanceUID), syntax) + data
        assert any(gateway.unseal(row.object_id) == wanted for row in newest), path.name
        assert newest[-1].study_instance_uid == ds.StudyInstanceUID
        assert newest[-1].series_instance_uid == ds.SeriesInstanceUID
        seen[syntax] += 1
    assert {
        IMPLICIT_LITTLE,
        EXPLICIT_LITTLE,
        "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
        "1.2.840.10008.1.2.1.99",  # Deflated
        "1.2.840.10008.1.2.4.50",  # JPEG Baseline
        "1.2.840.10008.1.2.4.70",  # JPEG Lossless
        "1.2.840.10008.1.2.4.80",  # JPEG-LS
        "1.2.840.10008.1.2.4.90",  # JPEG 2000
        "1.2.840.10008.1.2.5",  # RLE
    } <= set(seen)
    assert not gateway.rows(State.QUARANTINED)


def test_pynetdicom_sends_and_each_element_is_equal(gateway: Gateway) -> None:
    names = ("CT_small.dcm", "MR_small_bigendian.dcm", "JPEG2000.dcm", "image_dfl.dcm", "rtplan.dcm")
    sent = [quiet_read(path) for path in pydicom_instances() if path.name in names]
    assert len(sent) >= len(names)
    ae = AE(ae_title="PYNETDICOM")
    ae.requested_contexts = [build_context(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in sent]
    association = ae.associate("127.0.0.1", gateway.port, ae_title="DICOMNET")
    assert association.is_established
    for ds in sent:
        assert association.send_c_store(ds).Status == 0x0000
    association.release()

    stored = {row.sop_instance_uid: row for row in gateway.rows(State.READY)}
    for ds in sent:
        back = dcmread(io.BytesIO(gateway.unseal(stored[ds.SOPInstanceUID].object_id)))
        assert back == ds
        assert back.file_meta.TransferSyntaxUID == ds.file_meta.TransferSyntaxUID


@pytest.mark.needs("dcmtk")
def test_echoscu(gateway: Gateway) -> None:
    done = run(str(program("echoscu")), "-aec", "DICOMNET", "127.0.0.1", str(gateway.port))
    assert done.returncode == 0, done.stderr


@pytest.mark.needs("dcmtk")
@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("-xi", "MR_small_implicit.dcm"),
        ("-xe", "CT_small.dcm"),
        ("-xb", "MR_small_bigendian.dcm"),
        ("-xd", "image_dfl.dcm"),
        ("-xs", "SC_rgb_jpeg_gdcm.dcm"),
        ("-xw", "JPEG2000.dcm"),
        ("-xr", "MR_small_RLE.dcm"),
    ],
)
def test_storescu_in_transfer_syntax(option: str, name: str, gateway: Gateway) -> None:
    (path,) = [found for found in pydicom_instances() if found.name == name]
    done = run(str(program("storescu")), option, "127.0.0.1", str(gateway.port), str(path))
    assert done.returncode == 0, done.stderr

    (row,) = gateway.rows(State.READY)
    ds = quiet_read(path)
    assert row.transfer_syntax_uid == ds.file_meta.TransferSyntaxUID
    ds.pop(DATA_SET_TRAILING_PADDING, None)  # storescu leaves it out
    assert dcmread(io.BytesIO(gateway.unseal(row.object_id))) == ds


@pytest.mark.needs("dcmtk")
@pytest.mark.samples
@pytest.mark.parametrize("series", ["ct-philips-head", "mr-siemens-dwi"])
def test_storescu_sends_a_real_series(series: str, gateway: Gateway, samples: Path) -> None:
    files = [path for path in (samples / series).iterdir() if path.is_file()]
    sent = {ds.SOPInstanceUID: ds for path in files if "SOPInstanceUID" in (ds := quiet_read(path))}
    done = run(str(program("storescu")), "+sd", "+r", "127.0.0.1", str(gateway.port), str(samples / series))
    assert done.returncode == 0, done.stderr

    rows = gateway.rows(State.READY)
    assert {row.sop_instance_uid for row in rows} == set(sent)
    for row in rows:
        assert row.sop_instance_uid is not None
        assert dcmread(io.BytesIO(gateway.unseal(row.object_id))) == sent[row.sop_instance_uid]


@pytest.mark.samples
@pytest.mark.parametrize("series", SERIES)
def test_a_real_series_is_coded_tightly_and_comes_back_byte_for_byte(
    series: str, gateway: Gateway, samples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As from a scanner that makes images while it sends; and how small they get, beside what zstd makes of them."""
    monkeypatch.setattr(CodingPace, "allows_tight", lambda *_: True)
    sent: dict[str, tuple[str, bytes]] = {}
    with gateway.connect() as scu:
        for path in sorted(path for path in (samples / series).rglob("*") if path.is_file()):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    ds = dcmread(path, stop_before_pixels=True)
                except InvalidDicomError:
                    continue  # a licence, a note
            if "SOPInstanceUID" not in ds:
                continue
            syntax, data = str(ds.file_meta.TransferSyntaxUID), data_set_bytes(path)
            if not sent:
                scu.associate([(1, str(ds.SOPClassUID), [syntax])])
            uid = str(ds.SOPInstanceUID)
            response = scu.store(data, uid, sop_class=str(ds.SOPClassUID), fragment_bytes=16_000)
            assert (response.status, response.comment) == (0x0000, ""), path.name
            sent[uid] = syntax, file_meta(str(ds.SOPClassUID), uid, syntax) + data
    rows = {row.sop_instance_uid: row for row in gateway.rows(State.READY)}
    assert set(rows) == set(sent)
    plain_bytes = 0
    for uid, (_, wanted) in sent.items():
        assert gateway.unseal(rows[uid].object_id) == wanted
        plain_bytes += len(zstandard.compress(wanted, 3))
    stored_bytes = sum(row.stored_bytes for row in rows.values())
    assert stored_bytes < SERIES[series] * plain_bytes, f"{stored_bytes / plain_bytes:.3f} of zstd's"


def test_a_dicomdir_in_a_folder_is_put_apart_and_does_not_stop_the_sender(
    gateway: Gateway, tmp_path: Path
) -> None:
    (image,) = [found for found in pydicom_instances() if found.name == "CT_small.dcm"]
    fs = FileSet()
    fs.add(dcmread(image))
    fs.write(tmp_path / "disc")
    directory = dcmread(tmp_path / "disc" / "DICOMDIR")
    # As some software writes it: its records name images, so storescu takes it for one of them.
    assert "SOPInstanceUID" not in directory
    with gateway.connect() as scu:
        scu.associate()
        named = directory.DirectoryRecordSequence[-1].ReferencedSOPInstanceUIDInFile
        data = data_set_bytes(tmp_path / "disc" / "DICOMDIR")
        answer = scu.store(data, named)
        assert (answer.status, answer.comment) == (
            0xB007,
            "This is a DICOMDIR, not an image; it was not stored",
        )
        uid = "1.2.3.77"
        assert scu.store(small_data_set(uid), uid).status == 0
    assert [row.sop_instance_uid for row in gateway.rows(State.READY)] == [uid]
    assert len(gateway.rows(State.QUARANTINED)) == 1


@pytest.mark.needs("dcmtk")
def test_a_resend_is_answered_with_success_and_stored_once(gateway: Gateway) -> None:
    (path,) = [found for found in pydicom_instances() if found.name == "CT_small.dcm"]
    for _ in range(3):
        assert run(str(program("storescu")), "127.0.0.1", str(gateway.port), str(path)).returncode == 0

    assert len(gateway.rows()) == 1
    assert len(gateway.files()) == 1


def test_four_associations_at_once(gateway: Gateway) -> None:
    def send(lane: int) -> None:
        with gateway.connect() as scu:
            scu.associate()
            for number in range(25):
                uid = f"1.2.3.{lane}.{number}"
                assert scu.store(small_data_set(uid), uid).status == 0
            scu.release()

    threads = [threading.Thread(target=send, args=(lane,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    rows = gateway.rows(State.READY)
    assert len({row.sop_instance_uid for row in rows}) == len(rows) == 100
    for row in rows:
        assert row.sop_instance_uid is not None
        assert gateway.unseal(row.object_id).endswith(small_data_set(row.sop_instance_uid))


def test_memory_does_not_grow_with_the_object(gateway: Gateway) -> None:
    """256 MB in one instance; Python's own allocations at their peak stay within a few buffers."""
    size = 256 << 20
    head = small_data_set(pixels=b"") + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, size)
    block = os.urandom(100_000)
    with ScriptedScu(gateway.port, timeout_s=60) as scu:
        scu.associate()
        tracemalloc.start()
        scu.send(p_data(1, 3, c_store_rq("1.2.840.10008.5.1.4.1.1.2", "1.2.3.1")) + p_data(1, 0, head))
        fragment = p_data(1, 0, block)
        for _ in range(size // len(block)):
            scu.send(fragment)
        scu.send(p_data(1, 2, bytes(size % len(block))))
        response = scu.read_response()
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert response.status == 0
    assert peak_bytes < 12 << 20


def test_contexts_prefer_what_the_scanner_holds(gateway: Gateway) -> None:
    """JPEG offered beside Explicit VR in one context is taken as JPEG; otherwise Explicit before Implicit."""

    def accepted(*syntaxes: str) -> str:
        ae = AE(ae_title="ORDER")
        context = PresentationContext()
        context.abstract_syntax = "1.2.840.10008.5.1.4.1.1.7"
        context.transfer_syntax = list(syntaxes)
        ae.requested_contexts = [context]
        association = ae.associate("127.0.0.1", gateway.port)
        (agreed,) = association.accepted_contexts
        association.release()
        return str(agreed.transfer_syntax[0])

    jpeg, deflated = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1.99"
    assert accepted(IMPLICIT_LITTLE, EXPLICIT_LITTLE, jpeg) == jpeg
    assert accepted(IMPLICIT_LITTLE, deflated, EXPLICIT_LITTLE) == EXPLICIT_LITTLE
    assert accepted("1.2.840.10008.1.2.2", IMPLICIT_LITTLE) == "1.2.840.10008.1.2.2"
    assert accepted("1.3.6.1.4.1.99.1") == "1.3.6.1.4.1.99.1"
