"""Uploads on their way in: what a disk that fills, and uploads that nobody ends, leave of them."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from central.ingest.errors import TryAgainError
from central.ingest.partial import Appender, PartialUploads, UploadLimits
from contract.identifiers import ObjectId
from contract.transfer import Problem

ONE, TWO, THREE, FOUR = (ObjectId(letter * 32) for letter in "abcd")


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


def test_what_was_left_for_longest_makes_way_for_what_begins(tmp_path: Path) -> None:
    """A box that restarts packs its objects anew: what it had begun is never asked for again."""
    partials = PartialUploads.open(tmp_path, UploadLimits(1 << 20, 2, 0))
    left, longest = partials.create("gw", ONE, 10), partials.create("gw", TWO, 10)
    for upload, ago_s in ((left, 600), (longest, 3600)):
        os.utime(upload.path, (time.time() - ago_s,) * 2)
    other = partials.create("other", ONE, 10)
    os.utime(other.path, (0, 0))
    partials.create("gw", THREE, 10)
    assert partials.find("gw", TWO) is None
    assert partials.find("gw", ONE) == left
    partials.create("gw", FOUR, 10)
    with pytest.raises(TryAgainError) as too_many:
        partials.create("gw", ONE, 10)
    assert too_many.value.problem is Problem.UNAVAILABLE, "what may still be on its way stays"
    assert partials.find("gw", THREE) is not None
    assert partials.find("gw", FOUR) is not None
    assert other.path.exists()
