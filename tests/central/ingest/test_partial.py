"""Uploads on their way in: what a disk that fills, and uploads that nobody ends, leave of them."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from central.ingest.errors import TryAgainError
from central.ingest.partial import Appender, PartialUploads, UploadLimits
from contract.identifiers import ObjectId
from contract.transfer import Problem

ONE = ObjectId("a" * 32)


def test_after_a_write_that_failed_nothing_more_goes_behind_it(tmp_path: Path) -> None:
    """The disk fills in the middle of a piece, and has room again before the request has ended."""
    upload = PartialUploads.open(tmp_path, UploadLimits(1 << 20, 4, 0)).create("gw", ONE, 10_000)
    piece = bytes(range(250)) * 8
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Appender(upload) as appender:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))
        try:
            with pytest.raises(TryAgainError) as full:
                appender.write(piece)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        with pytest.raises(TryAgainError) as still:
            appender.write(piece)
    assert full.value.problem is still.value.problem is Problem.STORAGE
    assert upload.path.read_bytes() == piece[:1500]
    with Appender(upload) as appender:
        appender.write(piece[1500:])
    assert upload.path.read_bytes() == piece
