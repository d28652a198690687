"""Matching as DICOM says it, at SQL level."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from central.access.consent import Consents
from central.access.policy import Arrivals, PatientKey, PatientOf, Scope, StudyKey, physician_key
from central.archive import finding
from central.archive.archive import Archive
from central.archive.errors import QueryError
from central.archive.query import InstanceQuery, SeriesQuery, StudyQuery
from central.database import open_sqlite
from central.identity.storage_keys import StorageKeys
from tests.central.archive.conftest import MakeFile, Stocked

EVERYTHING = Scope(everything=True)
FUZZY = {"fuzzy_names": True}


@pytest.fixture
def hospital(stocked: Stocked, made: MakeFile) -> Stocked:
    common = {"SpecificCharacterSet": "ISO_IR 192"}
    stocked.put(
        made(
            StudyInstanceUID="1.1", SeriesInstanceUID="1.1.1", SOPInstanceUID="1.1.1.1", PatientName="Müller^Jörg",
            PatientID="A[1]", IssuerOfPatientID="H1", StudyDate="20240105", StudyTime="101500.5",
            PatientBirthDate="19600229",
            AccessionNumber="ACC1", ReferringPhysicianName="Weiß^Anna^^Dr", StudyDescription="Schädel nativ",
            SeriesNumber=2, InstanceNumber=1, **common,
        )
    )  # fmt: skip
    stocked.put(
        made(
            StudyInstanceUID="1.1", SeriesInstanceUID="1.1.2", SOPInstanceUID="1.1.2.1", PatientName="Müller^Jörg",
            PatientID="A[1]", IssuerOfPatientID="H1", Modality="MR", SeriesNumber=1,
            SeriesDescription="T1 Axial", BodyPartExamined="Head", **common,
        )
    )  # fmt: skip
    stocked.put(
        made(
            StudyInstanceUID="1.2", PatientName="Yamada^Tarou=山田^太郎=やまだ^たろう", PatientID="A1",
            IssuerOfPatientID="H2", StudyDate="20240106", StudyTime="0900", Modality="US",
            ReferringPhysicianName="WEISS^ANNA", **common,
        )
    )  # fmt: skip
    stocked.put(made(StudyInstanceUID="1.3", PatientName="MULLER^JANE", PatientID="B", Modality="CT"))
    return stocked


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, ["1.2", "1.1", "1.3"]),  # newest first
        ({"patient_name": "muller*"}, ["1.1", "1.3"]),
        ({"patient_name": "MÜLLER^JÖRG"}, ["1.1"]),
        ({"patient_name": "muller"}, []),
        ({"patient_name": "*j?rg"}, ["1.1"]),
        ({"patient_name": "山田*"}, ["1.2"]),
        ({"patient_name": "*太郎"}, ["1.2"]),
        ({"patient_name": "yamada^tarou"}, ["1.2"]),
        ({"patient_name": "*"}, ["1.2", "1.1", "1.3"]),
        ({"patient_id": "A[1]"}, ["1.1"]),
        ({"patient_id": "A[*"}, ["1.1"]),
        ({"patient_id": "?[1]"}, ["1.1"]),
        ({"patient_id": "A1"}, ["1.2"]),
        ({"patient_id": "A*", "issuer_of_patient_id": "H2"}, ["1.2"]),
        ({"study_date": "20240105"}, ["1.1"]),
        ({"study_date": "20240101-20240105"}, ["1.1"]),
        ({"study_date": "20240106-"}, ["1.2"]),
        ({"study_date": "-20240105"}, ["1.1"]),  # no date is in no range
        ({"study_time": "1015-1016"}, ["1.1"]),
        ({"study_time": "-09"}, ["1.2"]),
        ({"accession_number": "ACC1"}, ["1.1"]),
        ({"patient_birth_date": "19600229"}, ["1.1"]),
        ({"patient_birth_date": "19600301"}, []),
        ({"patient_birth_date": "19600101-19601231", "patient_name": "m*"}, ["1.1"]),
        ({"patient_birth_date": "-19600229"}, ["1.1"]),
        ({"modalities_in_study": "MR"}, ["1.1"]),
        ({"modalities_in_study": "mr\\US"}, ["1.2", "1.1"]),
        ({"modalities_in_study": "M*"}, ["1.1"]),
        ({"modalities_in_study": "?S\\MR"}, ["1.2", "1.1"]),
        ({"modalities_in_study": "?T"}, ["1.1", "1.3"]),
        ({"modalities_in_study": "X*"}, []),
        ({"study_instance_uid": "1.3,1.1"}, ["1.1", "1.3"]),
        ({"study_description": "*schadel*"}, ["1.1"]),
        ({"referring_physician_name": "weiss^anna"}, ["1.2", "1.1"]),
        ({"referring_physician_name": "Weiß*"}, ["1.2", "1.1"]),
        ({"limit": 1}, ["1.2"]),
        ({"limit": 1, "offset": 1}, ["1.1"]),
        ({"limit": None, "offset": 2}, ["1.3"]),
        ({"patient_name": "' OR 1=1 --"}, []),
        ({"patient_name": "jör mull", **FUZZY}, ["1.1"]),
        ({"patient_name": "J", **FUZZY}, ["1.1", "1.3"]),
        ({"patient_name": "uller", **FUZZY}, []),  # no word begins so
        ({"patient_name": "MULLER^JA*", **FUZZY}, ["1.3"]),
        ({"patient_name": "muller jane x", **FUZZY}, []),
        ({"patient_name": "太郎 ya", **FUZZY}, ["1.2"]),
        ({"patient_name": "郎", **FUZZY}, []),
        ({"patient_name": "*", **FUZZY}, ["1.2", "1.1", "1.3"]),
        ({"referring_physician_name": "anna, weiss", **FUZZY}, ["1.2", "1.1"]),
        ({"patient_name": "[m%_ müller", **FUZZY}, []),
    ],
)
def test_study_keys(hospital: Stocked, keys: dict[str, object], expected: list[str]) -> None:
    found = hospital.archive.reading.find_studies(EVERYTHING, StudyQuery(**keys))  # type: ignore[arg-type]
    assert [study.study_instance_uid for study in found] == expected


@pytest.mark.parametrize(
    "keys",
    [
        {"study_date": "2024"},
        {"study_date": "yesterday"},
        {"study_date": "-"},
        {"study_time": "25h"},
        {"study_instance_uid": "1.2; DROP TABLE study"},
        {"patient_name": "x" * 2000},
        {"patient_name": " ".join("abcdefghijklmnopq"), **FUZZY},
        {"patient_id": "a\0b"},
        {"modalities_in_study": "C\0T"},  # which PostgreSQL does not take
    ],
)
def test_malformed_keys_are_refused(hospital: Stocked, keys: dict[str, str]) -> None:
    with pytest.raises(QueryError):
        hospital.archive.reading.find_studies(EVERYTHING, StudyQuery(**keys))


def _of(issuer: str, patient_id: str) -> PatientOf:
    return PatientOf("default", PatientKey(issuer, patient_id))


def test_scopes_become_sql(hospital: Stocked) -> None:
    def found(scope: Scope) -> set[str]:
        studies = hospital.archive.reading.find_studies(scope, StudyQuery())
        series = hospital.archive.reading.find_series(scope, SeriesQuery())
        instances = hospital.archive.reading.find_instances(scope, InstanceQuery())
        uids = {study.study_instance_uid for study in studies}
        assert {row.study.study_instance_uid for row in series} == uids
        assert {row.series.study.study_instance_uid for row in instances} == uids
        return uids

    assert found(Scope(referring_physician_keys=frozenset({"weiss^anna"}))) == {"1.1", "1.2"}
    assert found(Scope(patients=frozenset({_of("H1", "A[1]")}))) == {"1.1"}
    assert found(Scope(patients=frozenset({_of("", "A[1]")}))) == set()
    assert found(Scope(patients=frozenset({_of("", "B"), _of("H2", "A1")}))) == {"1.2", "1.3"}


def test_a_physician_is_found_as_the_policy_knows_the_name(stocked: Stocked, made: MakeFile) -> None:
    named = {
        "1.1": "ﾅｶﾞﾀ^ｹﾝ=永田^健=ながた^けん",
        "1.2": "ﾅｶﾀ^ｹﾝ=中田^健=なかた^けん",
        "1.3": "ナガタ^ケン=長田^健",
        "1.4": "ナガタ^ケン",
    }
    for uid, name in named.items():
        values = {"StudyInstanceUID": uid, "SpecificCharacterSet": "ISO_IR 192"}
        stocked.put(made(**values, ReferringPhysicianName=name))
        stocked.put(made(**values, ReferringPhysicianName="Other^Name=別^名"))  # changes nothing

    def found(scope: Scope, **keys: Any) -> set[str]:
        rows = stocked.archive.reading.find_studies(scope, StudyQuery(**keys))
        assert not rows or stocked.archive.reading.find_studies(scope, StudyQuery(**keys, limit=None)) == rows
        return {row.study_instance_uid for row in rows}

    nagata = Scope(referring_physician_keys=frozenset({physician_key(named["1.1"])}))
    assert found(nagata) == found(nagata, modalities_in_study="CT", patient_id="*") == {"1.1", "1.4"}
    assert found(Scope(referring_physician_keys=frozenset({physician_key(named["1.4"])}))) == {
        "1.1",
        "1.3",
        "1.4",
    }
    for key in ("ﾅｶﾞﾀ^ｹﾝ", "ナガタ*", "*ガタ^ケ*"):
        assert found(EVERYTHING, referring_physician_name=key) == {"1.1", "1.3", "1.4"}
    assert found(EVERYTHING, referring_physician_name="ケン ナガ", **FUZZY) == {"1.1", "1.3", "1.4"}
    assert found(EVERYTHING, referring_physician_name="ナカタ^ケン") == {"1.2"}


def test_a_study_tells_what_it_holds(hospital: Stocked) -> None:
    (study,) = hospital.archive.reading.find_studies(EVERYTHING, StudyQuery(study_instance_uid="1.1"))
    assert study.modalities_in_study == ("CT", "MR")
    assert (study.number_of_study_related_series, study.number_of_study_related_instances) == (2, 2)
    assert study.referring_physician_name == "Weiß^Anna^^Dr"


def test_series_and_instance_keys(hospital: Stocked) -> None:
    study = StudyQuery(study_instance_uid="1.1")
    series = hospital.archive.reading.find_series(EVERYTHING, SeriesQuery(study=study))
    assert [row.series_number for row in series] == [1, 2]

    def uids(**keys: str) -> list[str]:
        rows = hospital.archive.reading.find_series(EVERYTHING, SeriesQuery(study=study, **keys))  # type: ignore[arg-type]
        return [row.series_instance_uid for row in rows]

    assert (
        uids(modality="MR") == uids(series_description="t1*") == uids(body_part_examined="head") == ["1.1.2"]
    )
    assert uids(body_part_examined="HE?D") == uids(body_part_examined="chest,HEA*") == ["1.1.2"]
    assert uids(body_part_examined="Head") == ["1.1.2"]
    assert uids(series_number="2") == ["1.1.1"]
    instances = hospital.archive.reading.find_instances(
        EVERYTHING, InstanceQuery(instance_number="1", series=SeriesQuery(study=study))
    )
    assert [row.sop_instance_uid for row in instances] == ["1.1.1.1"]


def test_a_series_is_found_by_what_it_was_requested_as(stocked: Stocked, made: MakeFile) -> None:
    def request(step: str, procedure: str) -> Dataset:
        ds = Dataset()
        ds.ScheduledProcedureStepID, ds.RequestedProcedureID = step, procedure
        return ds

    for number, requests in enumerate(
        ([request("S1", "P1"), request("S2", "P2")], [request("S1", "")], []), 1
    ):
        day = {
            "PerformedProcedureStepStartDate": f"2024010{number}",
            "PerformedProcedureStepStartTime": "0930",
        }
        stocked.put(
            made(
                StudyInstanceUID="1.7", SeriesInstanceUID=f"1.7.{number}", SeriesNumber=number,
                RequestAttributesSequence=requests, **(day if requests else {}),
            )
        )  # fmt: skip

    def found(**keys: str) -> list[str]:
        rows = stocked.archive.reading.find_series(EVERYTHING, SeriesQuery(**keys))  # type: ignore[arg-type]
        return [row.series_instance_uid for row in rows]

    def of_request(step: str, procedure: str = "") -> list[str]:
        return found(request_scheduled_procedure_step_id=step, request_requested_procedure_id=procedure)

    assert of_request("S1") == of_request("?1") == ["1.7.1", "1.7.2"]
    assert of_request("S1", "P1") == of_request("", "P*") == of_request("*2", "P2") == ["1.7.1"]
    assert (
        of_request("S1", "P2") == of_request("S*1", "P2") == of_request("s1") == []
    )  # of one item, as it is written
    assert of_request("*", "*") == ["1.7.1", "1.7.2", "1.7.3"]
    assert found(performed_procedure_step_start_date="20240102-") == ["1.7.2"]
    assert found(performed_procedure_step_start_time="09-10") == ["1.7.1", "1.7.2"]
    [row] = stocked.archive.reading.find_series(EVERYTHING, SeriesQuery(series_instance_uid="1.7.2"))
    assert json.loads(row.request_attributes) == [
        {"00400009": {"vr": "SH", "Value": ["S1"]}, "00401001": {"vr": "SH"}}
    ]


OURS = Scope(everything=True, institutions=frozenset({"default"}))


@pytest.mark.parametrize("institutions", [{"default"}, {"north"}, {"default", "north"}])
def test_what_retrievals_ask_is_answered_like_any_search(
    hospital: Stocked, made: MakeFile, institutions: set[str]
) -> None:
    at_north = {"StudyInstanceUID": "1.1", "StudyDate": "20250101", "SeriesNumber": 1}
    hospital.put(made(**at_north, SeriesInstanceUID="1.1.1", SOPInstanceUID="1.1.1.1"), "north")
    hospital.put(made(**at_north, SeriesInstanceUID="1.1.9", SOPInstanceUID="1.1.9.1"), "north")
    db, scope = hospital.archive._db, Scope(everything=True, institutions=frozenset(institutions))

    def agree(study: str, series: str = "", instance: str = "") -> int:
        named = SeriesQuery(series_instance_uid=series, study=StudyQuery(study_instance_uid=study))
        quick = finding._by_uids(db, scope, InstanceQuery(instance, series=named, limit=None))
        assert quick is not None
        assert quick == finding.find_instances(db, scope, InstanceQuery(instance, series=named, limit=1000))
        return len(quick)

    expected = {"default": 2, "north": 2}
    assert agree("1.1") == sum(expected[one] for one in institutions)
    assert agree("1.1", "1.1.1") == agree("1.1", "1.1.1", "1.1.1.1") == len(institutions)
    assert agree("1.1", instance="1.1.2.1") == ("default" in institutions)
    assert agree("1.2") == ("default" in institutions)
    assert agree("1.99") == 0
    # Consent that a patient withdrew is of one institution.
    Consents.open(db).withdraw(PatientKey("H1", "A[1]"), "admin", institution="default")
    assert agree("1.1") == (2 if "north" in institutions else 0)

    for more in (
        InstanceQuery(series=SeriesQuery(study=StudyQuery(study_instance_uid="1.1\\1.2")), limit=None),
        InstanceQuery(
            series=SeriesQuery(study=StudyQuery(study_instance_uid="1.1", patient_id="A")), limit=None
        ),
        InstanceQuery(
            series=SeriesQuery(modality="CT", study=StudyQuery(study_instance_uid="1.1")), limit=None
        ),
        InstanceQuery(series=SeriesQuery(study=StudyQuery()), limit=None),
    ):
        assert finding._by_uids(db, scope, more) is None
    plain = InstanceQuery(series=SeriesQuery(study=StudyQuery(study_instance_uid="1.1")), limit=None)
    for less in (
        EVERYTHING,
        Scope(institutions=scope.institutions),
        replace(scope, refused_studies=frozenset({StudyKey("default", "1.1")})),
        replace(scope, only_study="1.2"),
        replace(scope, despite_withdrawal_of=frozenset({_of("H1", "A[1]")})),
    ):
        assert finding._by_uids(db, less, plain) is None


DOCTOR = Scope(
    institutions=frozenset({"default"}),
    referring_physician_keys=frozenset({"a^b"}),
    requesting_service_keys=frozenset({"ward"}),
    patients=frozenset({_of("H1", "A")}),
    studies=frozenset({StudyKey("default", "1.1")}),
)
TECHNICIAN = Scope(
    institutions=frozenset({"default"}), arrivals=Arrivals(5, frozenset({"gw"}), frozenset({"x-ray"}))
)


@pytest.mark.parametrize(
    ("scope", "query", "entered"),
    [
        (OURS, StudyQuery(), {"institution"}),
        (OURS, StudyQuery(study_date="20260101-"), {"institution"}),
        (OURS, StudyQuery(patient_id="A"), {"patient_id"}),
        (OURS, StudyQuery(accession_number="A"), {"accession_number"}),
        (OURS, StudyQuery(study_instance_uid="1.1"), {"study_instance_uid"}),
        (OURS, StudyQuery(patient_name="weiss*"), {"patient_name_key"}),
        (
            DOCTOR,
            StudyQuery(),
            {
                "referring_physician_key",
                "requesting_service_key",
                "patient_id",
                "study_instance_uid",
            },
        ),
        (TECHNICIAN, StudyQuery(), {"arrived_at_utc"}),
    ],
)
def test_a_search_enters_an_index_that_leads_to_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scope: Scope, query: StudyQuery, entered: set[str]
) -> None:
    """On SQLite, which has no statistics to go by; PostgreSQL plans by its own."""
    db = open_sqlite(tmp_path / "index.sqlite3")
    archive = Archive.open(tmp_path, db, StorageKeys(tmp_path / "keys"), encrypts=False)
    asked: list[tuple[str, Any]] = []
    execute = db.execute_sql
    monkeypatch.setattr(db, "execute_sql", lambda *said: asked.append(said) or execute(*said))  # type: ignore[func-returns-value]
    archive.reading.find_studies(scope, query)
    sql, values = asked[-1]
    plan = " ".join(row[3] for row in execute(f"EXPLAIN QUERY PLAN {sql}", values))
    assert set(re.findall(r"INDEX study_\w+ \((\w+)", plan)) == entered, plan
    assert "SCAN t1" not in plan, plan
    db.end()
