"""Who reads gets what was granted, and finds what is in scope."""

from __future__ import annotations

import pytest

from central.access.policy import NOTHING, Action, PatientKey, Principal, Role, scope_of
from central.archive.errors import NoSuchInstanceError
from central.archive.query import InstanceQuery, SeriesQuery, StudyQuery
from contract.receipt import Outcome
from tests.central.archive.conftest import RADIOLOGIST, MakeFile, Stocked, sample

PATIENT = Principal("p", "a", Role.PATIENT, patient_ids=(PatientKey("H", "A"),))


def test_another_patients_image_in_a_study_is_for_those_only_who_may_see_everything(
    stocked: Stocked, made: MakeFile
) -> None:
    stocked.put(made(StudyInstanceUID="1.1", PatientID="A", IssuerOfPatientID="H", SOPInstanceUID="1.1.1"))
    stocked.put(made(StudyInstanceUID="1.1", PatientID="B", IssuerOfPatientID="H", SOPInstanceUID="1.1.2"))
    facts = stocked.archive.reading.facts("1.1")
    assert facts is not None
    assert facts.patient_id == "A"
    seen = stocked.archive.reading.instances_of(stocked.grant("1.1", PATIENT))
    assert [row.sop_instance_uid for row in seen] == ["1.1.1"]
    assert len(list(stocked.archive.reading.metadata(stocked.grant("1.1", PATIENT)))) == 1
    with pytest.raises(NoSuchInstanceError):
        stocked.archive.reading.open_instance(
            stocked.grant("1.1", PATIENT), seen[0].series.series_instance_uid, "1.1.2"
        )
    assert len(stocked.archive.reading.instances_of(stocked.grant("1.1", RADIOLOGIST))) == 2


def test_a_series_of_another_patients_images_alone_is_for_those_who_may_see_everything(
    stocked: Stocked, made: MakeFile
) -> None:
    of_a, of_b = {"PatientID": "A", "IssuerOfPatientID": "H"}, {"PatientID": "B", "IssuerOfPatientID": "H"}
    stocked.put(made(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", **of_a))
    stocked.put(made(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", **of_b))
    stocked.put(made(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.2", SeriesDescription="B's", **of_b))
    for principal, series in ((PATIENT, ["1.1.1"]), (RADIOLOGIST, ["1.1.1", "1.1.2"])):
        seen = stocked.archive.reading.series_of(stocked.grant("1.1", principal))
        found = stocked.archive.reading.find_series(scope_of(principal, Action.SEARCH), SeriesQuery())
        assert [row.series_instance_uid for row in seen] == series
        assert [row.series_instance_uid for row in found] == series


@pytest.mark.parametrize("principal", [PATIENT, RADIOLOGIST])
def test_of_two_contents_under_one_uid_everybody_reads_the_first(
    stocked: Stocked, made: MakeFile, principal: Principal
) -> None:
    same = {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1", "SOPInstanceUID": "1.1.1.1"}
    contents = [made(**same, PatientID="A", IssuerOfPatientID="H", Rows=rows) for rows in (1, 2)]
    assert [stocked.put(content) for content in contents] == [Outcome.ARCHIVED, Outcome.VERSION]
    reading, grant = stocked.archive.reading, stocked.grant("1.1", principal)
    (row,) = reading.instances_of(grant)
    assert (row.rows, row.flagged) == (1, True)
    assert len(reading.find_instances(scope_of(principal, Action.SEARCH), InstanceQuery())) == 1
    assert [one.path.read_bytes() for one in reading.open_instances(grant)] == contents[:1]
    assert len(list(reading.metadata(grant))) == 1


def test_a_grant_is_for_one_study(stocked: Stocked, made: MakeFile) -> None:
    stocked.put(made(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", SOPInstanceUID="1.1.1.1"))
    stocked.put(made(StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", SOPInstanceUID="1.2.1.1"))
    grant = stocked.grant("1.1")
    with pytest.raises(NoSuchInstanceError):
        stocked.archive.reading.open_instance(grant, "1.2.1", "1.2.1.1")
    assert list(stocked.archive.reading.metadata(grant, "1.2.1", "1.2.1.1")) == []
    assert stocked.archive.reading.instances_of(grant, "1.2.1") == []
    assert stocked.archive.reading.facts("1.3") is None


def test_nothing_in_scope_finds_nothing(stocked: Stocked) -> None:
    stocked.put(sample("CT_small.dcm"))
    assert stocked.archive.reading.find_studies(NOTHING, StudyQuery()) == []
    assert stocked.archive.reading.find_series(NOTHING, SeriesQuery()) == []
    assert stocked.archive.reading.find_instances(NOTHING, InstanceQuery()) == []
