"""What comes is kept as it came, whatever came before it; what is refused was never there."""

from __future__ import annotations

import pytest

from central.archive.errors import NotDicomError
from central.archive.query import InstanceQuery, StudyQuery
from contract.receipt import Outcome
from tests.central.archive.conftest import MakeFile, Stocked, sample
from tests.central.archive.test_archive import EVERYTHING
from tests.central.databases import arriving_in


def test_the_first_content_under_a_uid_stays_and_later_ones_are_kept_and_flagged(
    stocked: Stocked, made: MakeFile
) -> None:
    uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5"}
    first, second = made(PatientID="A", **uids), made(PatientID="A", StudyID="9", **uids)
    assert stocked.put(first) is Outcome.ARCHIVED
    assert stocked.put(first) is Outcome.DUPLICATE
    assert stocked.put(second) is Outcome.VERSION
    assert stocked.put(second) is Outcome.DUPLICATE
    (row,) = stocked.archive.reading.instances_of(stocked.grant("1.2.3"))
    assert row.flagged
    stored = stocked.archive.reading.open_instance(stocked.grant("1.2.3"), "1.2.3.4", "1.2.3.4.5")
    assert stored.path.read_bytes() == first
    (study,) = stocked.archive.reading.find_studies(EVERYTHING, StudyQuery())
    assert study.number_of_study_related_instances == 1


def test_one_instance_uid_in_two_studies_hides_neither(stocked: Stocked, made: MakeFile) -> None:
    assert stocked.put(made(StudyInstanceUID="1.1", SOPInstanceUID="1.9")) is Outcome.ARCHIVED
    assert stocked.put(made(StudyInstanceUID="1.2", SOPInstanceUID="1.9")) is Outcome.VERSION
    rows = stocked.archive.reading.find_instances(EVERYTHING, InstanceQuery(sop_instance_uid="1.9"))
    assert [(row.series.study.study_instance_uid, row.flagged) for row in rows] == [
        ("1.2", True),
        ("1.1", True),
    ]


def test_what_the_first_instance_left_empty_a_later_one_fills_in_but_changes_nothing(
    stocked: Stocked, made: MakeFile
) -> None:
    stocked.put(made(StudyInstanceUID="1.1", PatientName="DOE^JANE"))
    stocked.put(made(StudyInstanceUID="1.1", PatientName="ROE^RICHARD", StudyDescription="HEAD"))
    (study,) = stocked.archive.reading.find_studies(EVERYTHING, StudyQuery(study_description="head"))
    assert (study.patient_name, study.study_description) == ("DOE^JANE", "HEAD")


def test_instances_without_study_or_series_uid_are_found_and_not_mixed(
    stocked: Stocked, made: MakeFile
) -> None:
    for patient in ("A", "B"):
        content = made(PatientID=patient, omit=("StudyInstanceUID", "SeriesInstanceUID"))
        assert stocked.put(content) is Outcome.ARCHIVED
    studies = stocked.archive.reading.find_studies(EVERYTHING, StudyQuery())
    assert {study.patient_id for study in studies} == {"A", "B"}
    assert all(study.study_instance_uid.startswith("2.25.") for study in studies)


def test_forget_removes_a_refused_file_and_never_an_indexed_one(stocked: Stocked) -> None:
    with stocked.archive.receiving.new_object() as sink:
        sink.write(b"no DICOM")
        refused = sink.commit()
    stocked.archive.receiving.forget(refused)
    with pytest.raises(FileNotFoundError):
        refused.path.open("rb")
    content = sample("CT_small.dcm")
    stocked.put(content)
    with stocked.archive.receiving.new_object() as sink:
        sink.write(content)
        known = sink.commit()
    stocked.archive.receiving.forget(known)
    (study,) = stocked.archive.reading.find_studies(EVERYTHING, StudyQuery())
    (stored,) = stocked.archive.reading.open_instances(stocked.grant(study))
    assert stored.path.read_bytes() == content


def test_what_is_examined_and_not_taken_was_never_there(stocked: Stocked, made: MakeFile) -> None:
    """Even when the same content is archived at the same time by somebody else."""
    content = made(StudyInstanceUID="1.3", SOPInstanceUID="1.3.1")
    with stocked.archive.receiving.new_object() as refused:
        refused.write(content)
        said = stocked.archive.receiving.examine(refused)
        assert said.is_filed_as_sent
        assert (said.attributes.study_instance_uid, said.attributes.sop_instance_uid) == ("1.3", "1.3.1")
        assert stocked.put(content) is Outcome.ARCHIVED
    [row] = stocked.archive.reading.instances_of(stocked.grant("1.3"))
    stored = stocked.archive.reading.open_instance(
        stocked.grant("1.3"), row.series.series_instance_uid, "1.3.1"
    )
    assert stored.path.read_bytes() == content
    with stocked.archive.receiving.new_object() as nothing:
        nothing.write(b"nothing")
        with pytest.raises(NotDicomError):
            stocked.archive.receiving.examine(nothing)
    assert arriving_in(stocked.root) == []
