"""What comes is kept as it came, whatever came before it; what is refused was never there."""

from __future__ import annotations

import json
import random
import zlib
from datetime import UTC, datetime

import pytest

from central.archive.attributes import MAX_INDEXED_BYTES
from central.archive.errors import NotDicomError
from central.archive.examining import Indexable
from central.archive.indexing import ObjectOrigin
from central.archive.query import InstanceQuery, StudyQuery
from central.dimse.identifiers import field_name
from contract.identifiers import new_object_id
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


# Characters that no index compresses, of three bytes each in UTF-8, folded or not; and such as a code or a date takes.
LONG = "".join(map(chr, random.Random(1).choices(range(0x4E00, 0x9FA0), k=1000)))
LONG_CODE = "".join(random.Random(1).choices("0123456789ABCDEF", k=1000))
LONG_TEXTS = {
    "PatientName": LONG,
    "PatientID": LONG,
    "IssuerOfPatientID": LONG,
    "AccessionNumber": LONG,
    "StudyID": LONG,
    "ReferringPhysicianName": LONG,
    "RequestingService": LONG,
    "InstitutionalDepartmentName": LONG,
    "PatientBirthDate": LONG_CODE,
    "StudyDate": LONG_CODE,
    "StudyTime": LONG_CODE,
    "Modality": LONG_CODE,
}


@pytest.mark.filterwarnings("ignore:The value length", "ignore:The PN component", "ignore:Invalid value")
@pytest.mark.parametrize(
    "keywords", [("PatientName",), ("PatientID",), ("ReferringPhysicianName",), tuple(LONG_TEXTS)], ids=len
)
def test_a_text_of_any_length_is_indexed_and_harms_nobody_who_comes_with_it(
    stocked: Stocked, made: MakeFile, keywords: tuple[str, ...]
) -> None:
    said = {keyword: LONG_TEXTS[keyword] for keyword in keywords}
    long = read_of(stocked, made(StudyInstanceUID="1.9", SpecificCharacterSet="ISO_IR 192", **said))
    others = [read_of(stocked, made(StudyInstanceUID=f"1.8.{n}")) for n in range(2)]
    assert stocked.archive.receiving.index_together([long, *others]) == [Outcome.ARCHIVED] * 3
    (row,) = stocked.archive.reading.find_studies(EVERYTHING, StudyQuery(study_instance_uid="1.9"))
    for keyword in set(keywords) & {"PatientID", "AccessionNumber", "StudyDate", "StudyTime"}:
        kept = getattr(row, field_name(keyword))
        assert LONG_TEXTS[keyword].startswith(kept), "from its beginning, in whole characters"
        assert 0 < len(kept.encode()) <= MAX_INDEXED_BYTES
    if "PatientID" in keywords:
        metadata = json.loads(zlib.decompress(long.metadata))
        assert metadata["00100020"]["Value"] == [LONG], "the metadata says all of it"


def read_of(stocked: Stocked, content: bytes) -> Indexable:
    with stocked.archive.receiving.new_object() as sink:
        sink.write(content)
        origin = ObjectOrigin("gw", new_object_id(), datetime.now(UTC))
        return stocked.archive.receiving.read(sink.commit(), origin)


@pytest.mark.filterwarnings("ignore:The value length")
def test_a_study_of_more_modalities_than_an_index_takes_keeps_those_that_came_first(
    stocked: Stocked, made: MakeFile
) -> None:
    sent = [f"{n:060}" for n in range(20)]
    for modality in sent:
        assert stocked.put(made(StudyInstanceUID="1.9", Modality=modality)) is Outcome.ARCHIVED
    (row,) = stocked.archive.reading.find_studies(EVERYTHING, StudyQuery(study_instance_uid="1.9"))
    assert row.number_of_study_related_series == len(sent)
    assert row.modalities_in_study == tuple(sent[:8])
