"""Who reads gets what was granted, and finds what is in scope."""

from __future__ import annotations

import pytest

from central.access.policy import NOTHING, PatientKey, Principal, Role
from central.archive.errors import NoSuchInstanceError
from central.archive.query import InstanceQuery, SeriesQuery, StudyQuery
from tests.central.archive.conftest import RADIOLOGIST, MakeFile, Stocked, sample


def test_another_patients_image_in_a_study_is_for_those_only_who_may_see_everything(
    stocked: Stocked, made: MakeFile
) -> None:
    stocked.put(made(StudyInstanceUID="1.1", PatientID="A", IssuerOfPatientID="H", SOPInstanceUID="1.1.1"))
    stocked.put(made(StudyInstanceUID="1.1", PatientID="B", IssuerOfPatientID="H", SOPInstanceUID="1.1.2"))
    patient = Principal("p", "a", Role.PATIENT, patient_ids=(PatientKey("H", "A"),))
    facts = stocked.archive.reading.facts("1.1")
    assert facts is not None
    assert facts.patient_id == "A"
    seen = stocked.archive.reading.instances_of(stocked.grant("1.1", patient))
    assert [row.sop_instance_uid for row in seen] == ["1.1.1"]
    assert len(list(stocked.archive.reading.metadata(stocked.grant("1.1", patient)))) == 1
    with pytest.raises(NoSuchInstanceError):
        stocked.archive.reading.open_instance(
            stocked.grant("1.1", patient), seen[0].series.series_instance_uid, "1.1.2"
        )
    assert len(stocked.archive.reading.instances_of(stocked.grant("1.1", RADIOLOGIST))) == 2


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
