"""The header is a pure function and readable by others."""

from __future__ import annotations

import hashlib
import io

import pytest
from pydicom import dcmread

from contract.part10 import IMPLEMENTATION_CLASS_UID, file_meta
from tests.peers.scripted_scu import CT_STORAGE, EXPLICIT_LITTLE, small_data_set


@pytest.mark.parametrize("sop_instance_uid", ["1.2.3.1", "1.2.3.41", "1" * 64])
def test_pydicom_reads_it(sop_instance_uid: str) -> None:
    ds = dcmread(
        io.BytesIO(
            file_meta(CT_STORAGE, sop_instance_uid, EXPLICIT_LITTLE) + small_data_set(sop_instance_uid)
        )
    )
    assert ds.file_meta.MediaStorageSOPClassUID == CT_STORAGE
    assert ds.file_meta.MediaStorageSOPInstanceUID == sop_instance_uid
    assert ds.file_meta.TransferSyntaxUID == EXPLICIT_LITTLE
    assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert ds.file_meta.FileMetaInformationVersion == b"\0\1"
    assert ds.SOPInstanceUID == sop_instance_uid
    assert len(ds.file_meta) == 6
    assert ds.preamble == bytes(128)


def test_it_never_changes() -> None:
    """Its bytes are part of every stored file's hash: a change would turn every resend into a new version."""
    header = file_meta(CT_STORAGE, "1.2.3.1", EXPLICIT_LITTLE)
    assert (
        hashlib.sha256(header).hexdigest()
        == "4717e8a454753ee608a4b6e2758d60b459c31b97f542ef24ee080f0961af6f4a"
    )
