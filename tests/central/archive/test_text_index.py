"""Searches for the middle of a text: the same answer with and without the index, whatever was there first."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest

from central.access.policy import Scope
from central.archive import narrowing
from central.archive.query import SeriesQuery, StudyQuery, fold
from central.archive.tables import Study
from central.database import Sqlite
from tests.central.archive.conftest import MakeFile, Stocked
from tests.central.databases import open_archive_in, open_index

EVERYTHING = Scope(everything=True)
NAMES = ["ANANAS^IVO", "BANANA^ANA", "Čapek^Karel", "IVANOVA^MIA=Иванова^Мия", "NO_SUCH%^[X]", "ANA", ""]
PATTERNS = [
    "*ana*",
    "*NANA^*",
    "*apek*",
    "*иванова*",
    "*ванов*",
    "*_SUCH%*",
    "*[X]*",
    "?NA*S*",
    "*xyz*",
    "*a*",
    "*^?v?*",
]


@pytest.fixture
def filled(stocked: Stocked, made: MakeFile) -> Stocked:
    for at, name in enumerate(NAMES):
        content = made(
            PatientName=name,
            PatientID=f"ID{at}",
            Modality="MR" if at % 2 else "CT",
            SpecificCharacterSet="ISO_IR 192",
        )
        stocked.put(content)
    return stocked


def found(stocked: Stocked, **keys: str) -> list[str]:
    rows = stocked.archive.reading.find_studies(EVERYTHING, StudyQuery(limit=None, **keys))  # type: ignore[arg-type]
    return sorted(row.patient_name for row in rows)


def expected(pattern: str) -> list[str]:
    plain = fold(pattern).replace("[", "[[]")
    return sorted(
        name for name in NAMES if any(fnmatch.fnmatchcase(fold(group), plain) for group in name.split("="))
    )


@pytest.mark.parametrize("few", [0, 2, 2000])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_index_changes_nothing_but_the_time(
    filled: Stocked, monkeypatch: pytest.MonkeyPatch, pattern: str, few: int
) -> None:
    monkeypatch.setattr(narrowing, "FEW", few)
    assert found(filled, patient_name=pattern) == expected(pattern)


@pytest.mark.parametrize("few", [0, 2000])
def test_a_modality_is_found_however_many_have_it(
    filled: Stocked, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(narrowing, "FEW", few)
    assert len(found(filled, modalities_in_study="CT")) == 4
    assert found(filled, modalities_in_study="MR", patient_name="*ana*") == ["ANA", "BANANA^ANA"]
    assert found(filled, modalities_in_study="XA") == []
    series = filled.archive.reading.find_series(
        EVERYTHING, SeriesQuery(study=StudyQuery(modalities_in_study="MR"), limit=None)
    )
    assert [row.modality for row in series] == ["MR"] * 3


def test_what_is_filled_in_later_is_found(stocked: Stocked, made: MakeFile) -> None:
    stocked.put(made(StudyInstanceUID="1.2.3", PatientID="P"))
    assert found(stocked, patient_name="*lat*") == []
    stocked.put(made(StudyInstanceUID="1.2.3", PatientID="P", PatientName="COMES^LATER"))
    assert found(stocked, patient_name="*lat*") == ["COMES^LATER"]


def test_an_archive_of_an_older_version_is_indexed_at_the_start(filled: Stocked, tmp_path: Path) -> None:
    db = open_index(tmp_path)
    if isinstance(db, Sqlite):
        for statement in (
            "DROP TRIGGER study_words_insert",
            "DROP TRIGGER study_words_update",
            "DROP TRIGGER study_words_delete",
            "DROP TABLE study_words",
        ):
            db.execute_sql(statement)
    else:
        db.execute_sql("DROP INDEX study_patient_name_key_trigrams")
    again = Stocked(open_archive_in(tmp_path, db), tmp_path)
    assert found(again, patient_name="*nana^*") == ["BANANA^ANA"]
    db.end()


def test_the_index_is_used(filled: Stocked, tmp_path: Path) -> None:
    """Or it would be worth nothing; PostgreSQL is told that reading all rows is dear, for so few of them."""
    db = open_index(tmp_path)
    (key,) = narrowing.study_keys(db, StudyQuery(patient_name="*nana*"))
    query = Study.select(Study.id).where(key.entering)
    sql, params = db.get_sql_context().sql(query).query()
    if isinstance(db, Sqlite):
        plan = db.execute_sql(f"EXPLAIN QUERY PLAN {sql}", params).fetchall()
        assert any("VIRTUAL TABLE INDEX 0:M" in str(line) for line in plan)
    else:
        with db.atomic():
            db.execute_sql("SET LOCAL enable_seqscan = off")
            plan = db.execute_sql(f"EXPLAIN {sql}", params).fetchall()
        assert any("study_patient_name_key_trigrams" in str(line) for line in plan)
    db.end()
