"""An archive on a folder of its own, fed with pydicom's test files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from central.access.policy import Action, Grant, Principal, Role, authorize
from central.archive.archive import Archive
from central.archive.indexing import ObjectOrigin
from central.archive.rows import StudyRow
from central.institution import DEFAULT_INSTITUTION
from contract.identifiers import new_object_id
from contract.receipt import Outcome
from tests.central.databases import open_archive_in, open_index, put_in

RADIOLOGIST = Principal("r", "radiologist", Role.RADIOLOGIST)


@dataclass
class Stocked:
    """An archive with the ways a test needs to fill it and to look into it."""

    archive: Archive
    root: Path

    def put(self, content: bytes, institution: str = DEFAULT_INSTITUTION) -> Outcome:
        origin = ObjectOrigin("gw", new_object_id(), datetime.now(UTC), institution)
        return put_in(self.archive, content, origin)

    def grant(self, study: StudyRow | str, principal: Principal = RADIOLOGIST) -> Grant:
        uid = study if isinstance(study, str) else study.study_instance_uid
        facts = self.archive.reading.facts(uid)
        assert facts is not None
        granted = authorize(principal, Action.VIEW, facts)
        assert isinstance(granted, Grant)
        return granted


@pytest.fixture
def stocked(tmp_path: Path) -> Iterator[Stocked]:
    db = open_index(tmp_path)
    yield Stocked(open_archive_in(tmp_path, db), tmp_path)
    db.close()


def sample(name: str) -> bytes:
    """One of the files that come with pydicom."""
    path = get_testdata_file(name, download=False)
    assert path is not None, name
    return Path(str(path)).read_bytes()


MakeFile = Callable[..., bytes]


@pytest.fixture
def made(tmp_path: Path) -> MakeFile:
    """Makes small Part 10 files: attributes by keyword; UIDs not given are new."""

    def make(
        transfer_syntax: str = ExplicitVRLittleEndian, *, omit: tuple[str, ...] = (), **values: object
    ) -> bytes:
        ds = Dataset()
        ds.SOPClassUID = CTImageStorage
        ds.SOPInstanceUID = generate_uid()
        ds.StudyInstanceUID = generate_uid()
        ds.SeriesInstanceUID = generate_uid()
        ds.Modality = "CT"
        for keyword, value in values.items():
            setattr(ds, keyword, value)
        for keyword in omit:
            delattr(ds, keyword)
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = transfer_syntax
        ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
        ds.file_meta.MediaStorageSOPInstanceUID = values.get(
            "SOPInstanceUID", ds.get("SOPInstanceUID", "1.2")
        )
        path = tmp_path / "made.dcm"
        pydicom.dcmwrite(path, ds, enforce_file_format=True)
        return path.read_bytes()

    return make
