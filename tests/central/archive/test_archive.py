"""Everything that comes with pydicom goes in, is found, and comes back byte for byte."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pydicom
import pydicom.data

from central.access.policy import Scope
from central.archive.errors import NotDicomError
from central.archive.query import StudyQuery
from contract.receipt import Outcome
from tests.central.archive.conftest import Stocked, sample
from tests.central.databases import arriving_in, contents_in, open_archive_in, open_index

EVERYTHING = Scope(everything=True)


def part_10_files() -> list[Path]:
    """Every one that lies in the installed packages; pydicom's own finder would go and download more."""
    folders = [Path(pydicom.data.__file__).parent]
    more = importlib.util.find_spec("data_store")  # what the distribution pydicom-data installs
    if more is not None and more.submodule_search_locations:
        folders += [Path(folder) for folder in more.submodule_search_locations]
    paths = [path for folder in folders for path in sorted(folder.rglob("*.dcm"))]
    return [path for path in paths if path.read_bytes()[128:132] == b"DICM"]


def test_every_file_that_names_its_instance_comes_back_identical(stocked: Stocked) -> None:
    put: set[bytes] = set()
    for path in part_10_files():
        content = path.read_bytes()
        try:
            stocked.put(content)
            put.add(content)
        except NotDicomError:
            assert "SOPInstanceUID" not in pydicom.dcmread(path, force=True, stop_before_pixels=True), (
                path.name
            )
    assert len(put) > 100
    read: set[bytes] = set()
    instances = 0
    for study in stocked.archive.reading.find_studies(EVERYTHING, StudyQuery(limit=None)):
        grant = stocked.grant(study)
        rows = stocked.archive.reading.instances_of(grant)
        metadata = [json.loads(text) for text in stocked.archive.reading.metadata(grant)]
        assert len(rows) == len(metadata) == study.number_of_study_related_instances
        assert len(stocked.archive.reading.series_of(grant)) == study.number_of_study_related_series
        for row, described in zip(rows, metadata, strict=True):
            stored = stocked.archive.reading.open_instance(
                grant, row.series.series_instance_uid, row.sop_instance_uid
            )
            content = stored.path.read_bytes()
            assert (stored.size_bytes, stored.transfer_syntax_uid) == (len(content), row.transfer_syntax_uid)
            if "00080018" in described:
                assert described["00080018"]["Value"] == [row.sop_instance_uid]
            read.add(content)
            instances += 1
    assert read <= put
    kept = set(contents_in(stocked.root))
    assert kept >= put
    assert instances == len(read)


def test_what_a_crash_left_half_written_is_swept_and_what_it_left_unindexed_is_found_again(
    stocked: Stocked,
) -> None:
    content = sample("CT_small.dcm")
    torn = stocked.archive.receiving.new_object()
    torn.write(content[:100])
    with stocked.archive.receiving.new_object() as sink:  # durable, but the process died before the index
        sink.write(content)
        sink.commit()
    db = open_index(stocked.root)
    try:
        again = Stocked(open_archive_in(stocked.root, db), stocked.root)
        again.archive.sweep()
        assert arriving_in(stocked.root) == []
        assert again.put(content) is Outcome.ARCHIVED
        assert content in contents_in(stocked.root)
    finally:
        db.close()
