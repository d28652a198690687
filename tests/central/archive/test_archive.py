"""Everything that comes with pydicom goes in, is found, and comes back byte for byte."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pydicom
import pydicom.data
import pytest

from central.access.policy import NOTHING, PatientKey, Principal, Role, Scope
from central.archive.errors import NoSuchInstanceError, NotDicomError
from central.archive.query import InstanceQuery, SeriesQuery, StudyQuery
from contract.receipt import Outcome
from tests.central.archive.conftest import RADIOLOGIST, MakeFile, Stocked, sample
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
    for study in stocked.archive.find_studies(EVERYTHING, StudyQuery(limit=None)):
        grant = stocked.grant(study)
        rows = stocked.archive.instances_of(grant)
        metadata = [json.loads(text) for text in stocked.archive.metadata(grant)]
        assert len(rows) == len(metadata) == study.number_of_study_related_instances
        assert len(stocked.archive.series_of(grant)) == study.number_of_study_related_series
        for row, described in zip(rows, metadata, strict=True):
            stored = stocked.archive.open_instance(
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


def test_the_first_content_under_a_uid_stays_and_later_ones_are_kept_and_flagged(
    stocked: Stocked, made: MakeFile
) -> None:
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5"}
    first, second = made(PatientID="A", **uids), made(PatientID="A", StudyID="9", **uids)
    assert stocked.put(first) is Outcome.ARCHIVED
    assert stocked.put(first) is Outcome.DUPLICATE
    assert stocked.put(second) is Outcome.VERSION
    assert stocked.put(second) is Outcome.DUPLICATE
    (row,) = stocked.archive.instances_of(stocked.grant("1.2.3"))
    assert row.flagged
    stored = stocked.archive.open_instance(stocked.grant("1.2.3"), "1.2.3.4", "1.2.3.4.5")
    assert stored.path.read_bytes() == first
    (study,) = stocked.archive.find_studies(EVERYTHING, StudyQuery())
    assert study.number_of_study_related_instances == 1


def test_one_instance_uid_in_two_studies_hides_neither(stocked: Stocked, made: MakeFile) -> None:
    assert stocked.put(made(StudyInstanceUID="1.1", SOPInstanceUID="1.9")) is Outcome.ARCHIVED
    assert stocked.put(made(StudyInstanceUID="1.2", SOPInstanceUID="1.9")) is Outcome.VERSION
    rows = stocked.archive.find_instances(EVERYTHING, InstanceQuery(sop_instance_uid="1.9"))
    assert [(row.series.study.study_instance_uid, row.flagged) for row in rows] == [
        ("1.2", True),
        ("1.1", True),
    ]


def test_another_patients_image_in_a_study_is_for_those_only_who_may_see_everything(
    stocked: Stocked, made: MakeFile
) -> None:
    stocked.put(made(StudyInstanceUID="1.1", PatientID="A", IssuerOfPatientID="H", SOPInstanceUID="1.1.1"))
    stocked.put(made(StudyInstanceUID="1.1", PatientID="B", IssuerOfPatientID="H", SOPInstanceUID="1.1.2"))
    patient = Principal("p", "a", Role.PATIENT, patient_ids=(PatientKey("H", "A"),))
    facts = stocked.archive.facts("1.1")
    assert facts is not None
    assert facts.patient_id == "A"
    seen = stocked.archive.instances_of(stocked.grant("1.1", patient))
    assert [row.sop_instance_uid for row in seen] == ["1.1.1"]
    assert len(list(stocked.archive.metadata(stocked.grant("1.1", patient)))) == 1
    with pytest.raises(NoSuchInstanceError):
        stocked.archive.open_instance(
            stocked.grant("1.1", patient), seen[0].series.series_instance_uid, "1.1.2"
        )
    assert len(stocked.archive.instances_of(stocked.grant("1.1", RADIOLOGIST))) == 2


def test_what_the_first_instance_left_empty_a_later_one_fills_in_but_changes_nothing(
    stocked: Stocked, made: MakeFile
) -> None:
    stocked.put(made(StudyInstanceUID="1.1", PatientName="DOE^JANE"))
    stocked.put(made(StudyInstanceUID="1.1", PatientName="ROE^RICHARD", StudyDescription="HEAD"))
    (study,) = stocked.archive.find_studies(EVERYTHING, StudyQuery(study_description="head"))
    assert (study.patient_name, study.study_description) == ("DOE^JANE", "HEAD")


def test_instances_without_study_or_series_uid_are_found_and_not_mixed(
    stocked: Stocked, made: MakeFile
) -> None:
    for patient in ("A", "B"):
        content = made(PatientID=patient, omit=("StudyInstanceUID", "SeriesInstanceUID"))
        assert stocked.put(content) is Outcome.ARCHIVED
    studies = stocked.archive.find_studies(EVERYTHING, StudyQuery())
    assert {study.patient_id for study in studies} == {"A", "B"}
    assert all(study.study_instance_uid.startswith("2.25.") for study in studies)


def test_a_grant_is_for_one_study(stocked: Stocked, made: MakeFile) -> None:
    stocked.put(made(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", SOPInstanceUID="1.1.1.1"))
    stocked.put(made(StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", SOPInstanceUID="1.2.1.1"))
    grant = stocked.grant("1.1")
    with pytest.raises(NoSuchInstanceError):
        stocked.archive.open_instance(grant, "1.2.1", "1.2.1.1")
    assert list(stocked.archive.metadata(grant, "1.2.1", "1.2.1.1")) == []
    assert stocked.archive.instances_of(grant, "1.2.1") == []
    assert stocked.archive.facts("1.3") is None


def test_nothing_in_scope_finds_nothing(stocked: Stocked) -> None:
    stocked.put(sample("CT_small.dcm"))
    assert stocked.archive.find_studies(NOTHING, StudyQuery()) == []
    assert stocked.archive.find_series(NOTHING, SeriesQuery()) == []
    assert stocked.archive.find_instances(NOTHING, InstanceQuery()) == []


def test_what_a_crash_left_half_written_is_swept_and_what_it_left_unindexed_is_found_again(
    stocked: Stocked,
) -> None:
    content = sample("CT_small.dcm")
    torn = stocked.archive.new_object()
    torn.write(content[:100])
    with stocked.archive.new_object() as sink:  # durable, but the process died before the index
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


def test_forget_removes_a_refused_file_and_never_an_indexed_one(stocked: Stocked) -> None:
    with stocked.archive.new_object() as sink:
        sink.write(b"no DICOM")
        refused = sink.commit()
    stocked.archive.forget(refused)
    with pytest.raises(FileNotFoundError):
        refused.path.open("rb")
    content = sample("CT_small.dcm")
    stocked.put(content)
    with stocked.archive.new_object() as sink:
        sink.write(content)
        known = sink.commit()
    stocked.archive.forget(known)
    (study,) = stocked.archive.find_studies(EVERYTHING, StudyQuery())
    (stored,) = stocked.archive.open_instances(stocked.grant(study))
    assert stored.path.read_bytes() == content


def test_what_is_examined_and_not_taken_was_never_there(stocked: Stocked, made: MakeFile) -> None:
    """Even when the same content is archived at the same time by somebody else."""
    content = made(StudyInstanceUID="1.3", SOPInstanceUID="1.3.1")
    with stocked.archive.new_object() as refused:
        refused.write(content)
        said = stocked.archive.examine(refused)
        assert said.is_filed_as_sent
        assert (said.attributes.study_instance_uid, said.attributes.sop_instance_uid) == ("1.3", "1.3.1")
        assert stocked.put(content) is Outcome.ARCHIVED
    [row] = stocked.archive.instances_of(stocked.grant("1.3"))
    stored = stocked.archive.open_instance(stocked.grant("1.3"), row.series.series_instance_uid, "1.3.1")
    assert stored.path.read_bytes() == content
    with stocked.archive.new_object() as nothing:
        nothing.write(b"nothing")
        with pytest.raises(NotDicomError):
            stocked.archive.examine(nothing)
    assert arriving_in(stocked.root) == []
