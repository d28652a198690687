"""A study as a ZIP with a DICOMDIR, read by those who read discs: pydicom, DCMTK, unzip; and who may have it."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections import deque
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from pydicom import Dataset, dcmread
from pydicom.fileset import FileSet, is_conformant_file_id

from central.access.policy import PatientKey
from central.audit.reading import Wanted
from central.media import zip_stream
from central.media.zip_stream import Member, zipped
from tests.central.access.house import STUDY, House, open_house, pydicom_file
from tests.central.dimse.house import dcmtk
from tests.peers_installed import program

ZIP = {"Accept": "application/zip"}
BARE_STUDY = f"{STUDY}.77"
# A file of each kind of directory record that pydicom has one for, and what the record must hold besides.
KINDS = {
    "CT_small.dcm": ("IMAGE", {"InstanceNumber": 1}),
    "JPEG-LL.dcm": ("IMAGE", {}),
    "test-SR.dcm": ("SR DOCUMENT", {"CompletionFlag": "COMPLETE", "VerificationFlag": "VERIFIED"}),
    "rtplan.dcm": ("RT PLAN", {"RTPlanLabel": "Plan1"}),
    "rtdose_1frame.dcm": ("RT DOSE", {"DoseSummationType": "BEAM"}),
    "waveform_ecg.dcm": ("WAVEFORM", {"ContentTime": "105919"}),
}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """`STUDY` with a series of each of `KINDS`, and a presentation state and a strange object made of one."""
    with open_house(tmp_path_factory.mktemp("house")) as opened:
        for number, name in enumerate(KINDS, 1):
            opened.put(file_of(name, number))
        state = {
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1",
            "PresentationCreationDate": "20260102",
            "PresentationCreationTime": "1030",
            "ContentLabel": "MARK",
            "ContentDescription": "Märkung",
            "Modality": "PR",
            "Rows": None,
        }
        opened.put(file_of("CT_small.dcm", 50, **state))
        opened.put(file_of("CT_small.dcm", 51, SOPClassUID="2.25.4711", Modality="XX", Rows=None))
        bare = {"StudyInstanceUID": BARE_STUDY, "PatientID": "", "StudyDate": "", "StudyTime": ""}
        bare |= {"StudyID": "", "SeriesInstanceUID": f"{BARE_STUDY}.1"}
        for uid in (1, 2):
            more = {"SOPInstanceUID": f"{BARE_STUDY}.1.{uid}", "SeriesNumber": None, "InstanceNumber": None}
            opened.put(pydicom_file("MR_small.dcm", **bare, **more))
        yield opened


def file_of(name: str, number: int, **more: object) -> bytes:
    uid = f"{STUDY}.{number}"
    content = pydicom_file(
        name, SeriesInstanceUID=uid, SOPInstanceUID=f"{uid}.1", SeriesNumber=number, **more
    )
    if "SOPClassUID" in more:  # the header says it, too
        ds = dcmread(BytesIO(content))
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        out = BytesIO()
        ds.save_as(out)
        return out.getvalue()
    return content


def unpacked(house: House, path: str, folder: Path, user: str = "radiologist") -> Path:
    """The ZIP at `path`, unpacked by Python and found whole by unzip."""
    with house.client(user) as client:
        answer = client.get(f"/dicom-web{path}", headers=ZIP)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    assert "attachment" in answer.headers["content-disposition"]
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist()[-1] == "DICOMDIR"
        archive.extractall(folder)
    if unzip := program("unzip"):
        whole = folder.with_suffix(".zip")
        whole.write_bytes(answer.content)
        subprocess.run([unzip, "-tq", whole], check=True, capture_output=True)
    return folder


def leaves(directory: Dataset) -> list[Dataset]:
    return [record for record in directory.DirectoryRecordSequence if "ReferencedFileID" in record]


def test_a_study_is_a_file_set_with_each_file_as_it_came(house: House, tmp_path: Path) -> None:
    folder = unpacked(house, f"/studies/{STUDY}", tmp_path / "out")
    found = FileSet(folder / "DICOMDIR")
    assert len(found) == len(KINDS) + 2
    assert {instance.PatientID for instance in found} == {"P1"}
    assert found.find_values("StudyInstanceUID") == [STUDY]
    for number, name in enumerate(KINDS, 1):
        [instance] = found.find(SeriesInstanceUID=f"{STUDY}.{number}")
        assert Path(instance.path).read_bytes() == file_of(name, number)
        assert is_conformant_file_id(Path(instance.path).relative_to(folder))
        kind, keys = KINDS[name]
        assert instance.node.record_type == kind
        assert {keyword: instance.node._record[keyword].value for keyword in keys} == keys
    [state] = found.find(SeriesInstanceUID=f"{STUDY}.50")
    assert state.node.record_type == "PRESENTATION"
    assert state.node._record.ContentDescription == "Märkung"
    [strange] = found.find(SeriesInstanceUID=f"{STUDY}.51")
    assert strange.node.record_type == "PRIVATE"
    assert str(next(iter(found)).PatientName) == "Doe^Jané"


def test_what_a_directory_must_say_and_instances_need_not(house: House, tmp_path: Path) -> None:
    folder = unpacked(house, f"/studies/{BARE_STUDY}", tmp_path / "out")
    directory = dcmread(folder / "DICOMDIR")
    patient, study, series, first, second = directory.DirectoryRecordSequence
    assert patient.PatientID == "UNKNOWN"
    assert (study.StudyDate, study.StudyTime, study.StudyID) == ("19000101", "000000", "1")
    assert series.SeriesNumber == 1
    assert [first.InstanceNumber, second.InstanceNumber] == [1, 2]


def test_series_that_are_chosen(house: House, tmp_path: Path) -> None:
    chosen = f"/studies/{STUDY}?SeriesInstanceUID={STUDY}.1,{STUDY}.3"
    both = unpacked(house, chosen, tmp_path / "both")
    assert [r.ReferencedSOPInstanceUIDInFile for r in leaves(dcmread(both / "DICOMDIR"))] == [
        f"{STUDY}.1.1",
        f"{STUDY}.3.1",
    ]
    one = unpacked(house, f"/studies/{STUDY}/series/{STUDY}.2", tmp_path / "one")
    assert len(leaves(dcmread(one / "DICOMDIR"))) == 1
    single = unpacked(house, f"/studies/{STUDY}/series/{STUDY}.2/instances/{STUDY}.2.1", tmp_path / "single")
    assert len(leaves(dcmread(single / "DICOMDIR"))) == 1
    with house.client("radiologist") as client:

        def status(path: str, accept: str = "application/zip") -> int:
            return client.get(f"/dicom-web/studies/{STUDY}{path}", headers={"Accept": accept}).status_code

        assert status("?SeriesInstanceUID=1.2.3") == 404
        assert status(f"?SeriesInstanceUID={STUDY}.1,1.2.3") == 404
        assert status("?SeriesInstanceUID=..") == 400
        assert status(f"?SeriesInstanceUID={STUDY}.1", "multipart/related") == 406
        assert status(f"/series/{STUDY}.1?SeriesInstanceUID={STUDY}.1") == 400
        assert status(f"/series/{STUDY}.1/instances/1.2.3") == 404
        by_query = client.get(f"/dicom-web/studies/{STUDY}?accept=application/zip")
        assert by_query.headers["content-type"] == "application/zip"


@pytest.mark.needs("dcmtk")
def test_dcmtk_makes_the_same_directory_of_the_files(house: House, tmp_path: Path) -> None:
    folder = unpacked(house, f"/studies/{STUDY}", tmp_path / "out")
    ours = dcmread(folder / "DICOMDIR")
    shown = dcmtk("dcmdump", "+E", folder / "DICOMDIR")
    assert shown.returncode == 0, shown.stderr
    assert "error" not in shown.stderr.lower()
    made = dcmtk(
        "dcmmkdir", "+r", "-W", "+I", "-Nxc", "-Nec", "+id", folder, "+D", tmp_path / "theirs", "DICOM"
    )
    assert made.returncode == 0, made.stderr
    theirs = {r.ReferencedSOPInstanceUIDInFile: r for r in leaves(dcmread(tmp_path / "theirs"))}
    for record in leaves(ours):
        other = theirs.get(record.ReferencedSOPInstanceUIDInFile)
        if record.DirectoryRecordType == "PRIVATE":
            continue
        assert other is not None
        assert other.DirectoryRecordType == record.DirectoryRecordType
        assert other.ReferencedFileID == record.ReferencedFileID
        assert other.ReferencedTransferSyntaxUIDInFile == record.ReferencedTransferSyntaxUIDInFile
        ours_has = {element.keyword for element in record if element.tag.group > 4}
        theirs_has = {element.keyword for element in other if element.tag.group > 4}
        optional = {"ImageType", "ReferencedImageSequence", "SpecificCharacterSet"}
        assert theirs_has - optional <= ours_has, record.DirectoryRecordType


def test_only_who_may_export_gets_it_and_each_is_on_record(house: House) -> None:
    path = f"/dicom-web/studies/{STUDY}"
    expected = {"radiologist": 200, "doctor": 200, "patient": 200, "doctor-other": 404, "patient-other": 404,
                "admin": 404, "service": 404, None: 401}  # fmt: skip
    for user, status in expected.items():
        with house.client(user) as client:
            answer = client.get(path, headers=ZIP)
        assert answer.status_code == status, user
        if user is not None:
            [row] = house.audit.newest(Wanted(), limit=1)
            assert row.event.actor == user
            assert row.event.action == "export"
            assert row.event.study_instance_uid == STUDY
            assert row.event.outcome == ("success" if status == 200 else "refused")
            assert row.event.detail.startswith("WADO-RS ZIP")


def test_withdrawn_consent_and_refusals_hold(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.put(pydicom_file("CT_small.dcm"))
        house.doorkeeper.consents.withdraw(PatientKey("HOSP", "P1"), "admin")
        with house.client("radiologist") as client:
            assert client.get(f"/dicom-web/studies/{STUDY}", headers=ZIP).status_code == 404


def test_without_a_record_nothing_leaves(tmp_path: Path) -> None:
    with open_house(tmp_path) as house:
        house.put(pydicom_file("CT_small.dcm"))
        with house.client("radiologist") as client:
            house.audit.close()
            answer = client.get(f"/dicom-web/studies/{STUDY}", headers=ZIP)
        assert answer.status_code == 503
        assert not answer.content.startswith(b"PK")


def test_a_lost_file_leaves_a_zip_that_nobody_takes_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_house(tmp_path) as house:
        for number in (1, 2):
            house.put(file_of("CT_small.dcm", number))
        with house.client("radiologist") as client:
            newest = sorted((tmp_path / "objects").rglob("*.dcm"), key=lambda path: path.stat().st_mtime_ns)
            if not newest:
                pytest.skip("objects are on S3")
            newest[-1].unlink()
            small = client.get(f"/dicom-web/studies/{STUDY}", headers=ZIP)
            assert small.status_code == 500, "it shows before the answer begins"
            monkeypatch.setattr("central.dicomweb.multipart.CHUNK_BYTES", 1)  # as if it were long
            monkeypatch.setattr("central.media.zip_stream.CHUNK_BYTES", 1)
            received = bytearray()
            whole = client.stream("GET", f"/dicom-web/studies/{STUDY}", headers=ZIP)
            with whole as answer, pytest.raises(httpx.RemoteProtocolError):
                deque(map(received.extend, answer.iter_raw()))
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(BytesIO(received))


def test_zip64_where_it_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As above 4 GiB, with the bounds lowered; a whole of more than that is among the long proofs."""
    monkeypatch.setattr(zip_stream, "_LARGE_BYTES", 1000)
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 1000)
    content = os.urandom(5000)
    members = [
        Member(name, 5000, packed, lambda: iter([content])) for name, packed in (("A", True), ("B", False))
    ]
    whole = tmp_path / "large.zip"
    whole.write_bytes(b"".join(zipped(members)))
    monkeypatch.undo()
    assert b"PK\x06\x06" in whole.read_bytes()  # the ZIP64 end of central directory record
    with zipfile.ZipFile(whole) as archive:
        assert [archive.read(name) for name in ("A", "B")] == [content, content]
    if unzip := program("unzip"):
        subprocess.run([unzip, "-tq", whole], check=True, capture_output=True)
