"""Who reads gets what was granted, and finds what is in scope."""

from __future__ import annotations

import pytest

from central.access.policy import NOTHING, Action, Invitation, PatientKey, Principal, Role, Scope, scope_of
from central.archive.errors import NoSuchInstanceError
from central.archive.query import InstanceQuery, SeriesQuery, StudyQuery
from contract.receipt import Outcome
from tests.central.archive.conftest import RADIOLOGIST, MakeFile, Stocked, sample

PATIENT = Principal("p", "a", Role.PATIENT, patient_ids=(PatientKey("H", "A"),))
GUEST = Principal("g", "g", Role.GUEST, invitation=Invitation("1.1", RADIOLOGIST))
ONE_PATIENT = pytest.mark.parametrize("of_one", [PATIENT, GUEST], ids=["patient", "radiologist's guest"])


@ONE_PATIENT
def test_another_patients_image_in_a_study_is_for_those_only_who_may_see_everything(
    stocked: Stocked, made: MakeFile, of_one: Principal
) -> None:
    stocked.put(made(StudyInstanceUID="1.1", PatientID="A", IssuerOfPatientID="H", SOPInstanceUID="1.1.1"))
    stocked.put(made(StudyInstanceUID="1.1", PatientID="B", IssuerOfPatientID="H", SOPInstanceUID="1.1.2"))
    facts = stocked.archive.reading.facts("1.1")
    assert facts is not None
    assert facts.patient_id == "A"
    seen = stocked.archive.reading.instances_of(stocked.grant("1.1", of_one))
    assert [row.sop_instance_uid for row in seen] == ["1.1.1"]
    assert len(list(stocked.archive.reading.metadata(stocked.grant("1.1", of_one)))) == 1
    with pytest.raises(NoSuchInstanceError):
        stocked.archive.reading.open_instance(
            stocked.grant("1.1", of_one), seen[0].series.series_instance_uid, "1.1.2"
        )
    assert len(stocked.archive.reading.sources(stocked.grant("1.1", of_one)).instances) == 1
    assert len(stocked.archive.reading.instances_of(stocked.grant("1.1", RADIOLOGIST))) == 2


def test_a_series_of_another_patients_images_alone_is_for_those_who_may_see_everything(
    stocked: Stocked, made: MakeFile
) -> None:
    of_a, of_b = {"PatientID": "A", "IssuerOfPatientID": "H"}, {"PatientID": "B", "IssuerOfPatientID": "H"}
    stocked.put(made(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", **of_a))
    stocked.put(made(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", **of_b))
    stocked.put(made(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.2", SeriesDescription="B's", **of_b))
    for principal, series in ((PATIENT, ["1.1.1"]), (GUEST, ["1.1.1"]), (RADIOLOGIST, ["1.1.1", "1.1.2"])):
        seen = stocked.archive.reading.series_of(stocked.grant("1.1", principal))
        found = stocked.archive.reading.find_series(scope_of(principal, Action.SEARCH), SeriesQuery())
        assert [row.series_instance_uid for row in seen] == series
        assert [row.series_instance_uid for row in found] == series


def test_a_study_with_two_patients_images_is_told_of_as_it_is_read(stocked: Stocked, made: MakeFile) -> None:
    of_a, of_b = {"PatientID": "A", "IssuerOfPatientID": "H"}, {"PatientID": "B", "IssuerOfPatientID": "H"}
    series = {"StudyInstanceUID": "1.1", "SeriesInstanceUID": "1.1.1"}
    stocked.put(made(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.0", SeriesNumber=0, **of_a))
    stocked.put(made(**series, SeriesNumber=7, SeriesDescription="B's", BodyPartExamined="FOOT", **of_b))
    stocked.put(made(**series, SeriesNumber=8, SeriesDescription="A's", StationName="ROOM", **of_a))
    stocked.put(made(StudyInstanceUID="1.1", SeriesInstanceUID="1.1.2", Modality="MR", **of_b))
    stocked.put(made(StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", Modality="MR", **of_a))
    reading, theirs = stocked.archive.reading, scope_of(PATIENT, Action.SEARCH)
    invited = scope_of(GUEST, Action.SEARCH)

    def found(scope: Scope, modality: str = "") -> list[tuple[str, tuple[str, ...], int, int]]:
        rows = reading.find_studies(scope, StudyQuery(modalities_in_study=modality))
        return [
            (
                row.study_instance_uid,
                row.modalities_in_study,
                row.number_of_study_related_series,
                row.number_of_study_related_instances,
            )
            for row in rows
        ]

    assert found(theirs) == [("1.2", ("MR",), 1, 1), ("1.1", ("CT",), 2, 2)]
    assert found(invited) == found(invited, "CT") == [("1.1", ("CT",), 2, 2)]
    assert found(invited, "MR") == []
    assert found(theirs, "MR") == found(theirs, "M*") == [("1.2", ("MR",), 1, 1)]
    assert found(theirs, "CT") == [("1.1", ("CT",), 2, 2)]
    everything = scope_of(RADIOLOGIST, Action.SEARCH)
    assert found(everything, "MR") == [("1.2", ("MR",), 1, 1), ("1.1", ("CT", "MR"), 3, 4)]
    query = SeriesQuery(series_instance_uid="1.1.1", study=StudyQuery(modalities_in_study="CT"))
    for scope, described in (
        (theirs, ("A's", "", 8, 1)),
        (invited, ("A's", "", 8, 1)),
        (everything, ("B's", "FOOT", 7, 2)),
    ):
        [row] = reading.find_series(scope, query)
        instances = reading.find_instances(scope, InstanceQuery(series=query))
        for one in (row, *(instance.series for instance in instances)):
            counted = one.number_of_series_related_instances
            said = (one.series_description, one.body_part_examined, one.series_number, counted)
            assert said == described
        assert len(instances) == described[-1]
    assert reading.find_instances(
        theirs, InstanceQuery(series=SeriesQuery(study=StudyQuery(modalities_in_study="MR")))
    )


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
