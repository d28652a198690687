"""Whichever way a search takes to its rows, it finds what the policy covers, in order, page by page."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from bench.anything import any_query
from bench.studies import BIG, INSTITUTIONS, ISSUER, MIDDLE, NOW_S, SMALL, MadeStudy, fill, made_studies
from central.access.consent import Consents
from central.access.policy import (
    Arrivals,
    PatientKey,
    PatientOf,
    Scope,
    StudyFacts,
    StudyKey,
    department_key,
    person_name_key,
)
from central.archive import by_sets, candidates, finding, narrowing, postings
from central.archive.archive import Archive
from central.archive.query import StudyQuery
from central.archive.tables import Study
from central.database import Database
from tests.central.databases import open_archive_in, open_index

STUDIES = 300
MADE = list(made_studies(STUDIES, 3))
WITHDRAWN = "P0000000"
WITHDRAWN_IN_MIDDLE = "P0000002"  # who has studies in the big house as well


def studies_of(made: Sequence[MadeStudy]) -> frozenset[StudyKey]:
    return frozenset(StudyKey(one.institution, one.study_instance_uid) for one in made)


SCOPES = {
    "one house": Scope(everything=True, institutions=frozenset({BIG})),
    "three houses": Scope(
        everything=True,
        institutions=frozenset(INSTITUTIONS),
        refused_studies=studies_of(MADE[100:104]),
        despite_withdrawal_of=frozenset({PatientOf(MIDDLE, PatientKey(ISSUER, WITHDRAWN))}),
    ),
    "every house": Scope(everything=True),
    "doctor": Scope(
        institutions=frozenset({BIG}),
        referring_physician_keys=frozenset(
            person_name_key(one.referring_physician_name) for one in MADE[:40]
        ),
        requesting_service_keys=frozenset(department_key(one.department) for one in MADE[:2]),
        patients=frozenset(
            {
                *(PatientOf(one.institution, PatientKey(ISSUER, one.patient_id)) for one in MADE[50:60]),
                PatientOf(BIG, PatientKey("OTHER", MADE[90].patient_id)),
            }
        ),
        studies=studies_of(MADE[60:70]),
        refused_studies=studies_of([*MADE[:4], MADE[61]]),
        despite_withdrawal_of=frozenset({PatientOf(BIG, PatientKey(ISSUER, WITHDRAWN))}),
    ),
    "technician": Scope(
        institutions=frozenset({BIG}),
        arrivals=Arrivals(NOW_S - 6000, frozenset({"gw-1", "gw-2"}), frozenset()),
    ),
    "patient": Scope(
        institutions=frozenset({SMALL}),
        patients=frozenset(PatientOf(one, PatientKey(ISSUER, "P0000001")) for one in INSTITUTIONS),
    ),
    "guest": Scope(everything=True, institutions=frozenset({BIG}), only_study=MADE[5].study_instance_uid),
    "nobody": Scope(),
}
QUERIES = (
    StudyQuery(),
    StudyQuery(modalities_in_study="SR"),
    StudyQuery(modalities_in_study="CT,MR", study_date="20200101-"),
    StudyQuery(patient_name="b*"),
    StudyQuery(patient_name="*ar*", study_description="*e*"),
    StudyQuery(accession_number="2*", study_time="08-14"),
    StudyQuery(patient_id="P00000*", issuer_of_patient_id=ISSUER, modalities_in_study="DX"),
    StudyQuery(referring_physician_name="*a*", study_id="1*"),
    StudyQuery(patient_name="a b", fuzzy_names=True),
    StudyQuery(patient_name="e", referring_physician_name="ma", fuzzy_names=True, study_date="20200101-"),
)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Archive, Database]]:
    """Most of the studies are in the sets of `central.archive.postings`, some not yet."""
    root: Path = tmp_path_factory.mktemp("filled")
    db = open_index(root)
    archive = open_archive_in(root, db)
    fill(db, STUDIES, 3)
    Consents.open(db).withdraw(PatientKey(ISSUER, WITHDRAWN_IN_MIDDLE), "admin", institution=MIDDLE)
    postings.fold(db, STUDIES - 30)
    yield archive, db
    db.end()


def pages(archive: Archive, scope: Scope, query: StudyQuery, rows: int) -> list[int]:
    found: list[int] = []
    while True:
        page = archive.reading.find_studies(scope, narrowed(query, limit=rows, offset=len(found)))
        found += [row.id for row in page]
        if len(page) < rows:
            return found


def narrowed(query: StudyQuery, *, limit: int | None, offset: int = 0) -> StudyQuery:
    return StudyQuery(**{**vars(query), "limit": limit, "offset": offset})


@pytest.mark.parametrize("who", SCOPES)
def test_a_scope_finds_what_it_covers(filled: tuple[Archive, Database], who: str) -> None:
    archive, db = filled
    rows = list(Study.select().order_by(Study.study_date, Study.study_time, Study.id).execute(db))
    covered = [row.id for row in reversed(rows) if SCOPES[who].why_not(facts(row)) is None]
    assert pages(archive, SCOPES[who], StudyQuery(), 50) == covered
    assert len(covered) > 3 or who in ("guest", "nobody", "patient")


def facts(row: Study) -> StudyFacts:
    return StudyFacts(
        row.study_instance_uid,
        row.patient_id,
        row.issuer_of_patient_id,
        row.referring_physician_name,
        consent_withdrawn=row.patient_id == WITHDRAWN
        or (row.patient_id, row.institution) == (WITHDRAWN_IN_MIDDLE, MIDDLE),
        institution=row.institution,
        requesting_service=row.requesting_service_key,
        institutional_department_name=row.institutional_department_key,
        arrived_from=row.arrived_from,
        arrived_at_utc=row.arrived_at_utc,
    )


@pytest.mark.parametrize("few", [0, 20, 4000])
def test_few_or_the_newest_make_no_difference(
    filled: tuple[Archive, Database], monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    archive, _ = filled
    for scope in SCOPES.values():
        for query in QUERIES:
            monkeypatch.setattr(narrowing, "FEW", 4000)
            whole = [row.id for row in archive.reading.find_studies(scope, narrowed(query, limit=None))]
            monkeypatch.setattr(narrowing, "FEW", few)
            assert pages(archive, scope, query, 90) == whole


@pytest.mark.parametrize("few", [0, 4000])
def test_any_search_finds_what_comparing_every_study_finds(
    filled: tuple[Archive, Database], monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Of keys drawn by chance; what has no limit goes by no set."""
    archive, _ = filled
    chance = random.Random(few)
    monkeypatch.setattr(narrowing, "FEW", 0)
    monkeypatch.setattr(by_sets, "FEW", few)
    monkeypatch.setattr(candidates, "_TOGETHER", 2)
    monkeypatch.setattr(by_sets, "_FIRST", 1)
    something = 0
    for _ in range(120):
        query = any_query(chance, MADE, most_offset=100)
        scope = chance.choice(list(SCOPES.values()))
        assert query.limit is not None
        whole = archive.reading.find_studies(scope, narrowed(query, limit=None))
        page = whole[query.offset : query.offset + query.limit]
        assert archive.reading.find_studies(scope, query) == page, query
        something += bool(page)
    assert something > 20


@pytest.mark.parametrize("who", SCOPES)
def test_a_deep_page_is_the_same_though_what_is_before_it_is_not_looked_at(
    filled: tuple[Archive, Database], monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    """Where sets say all but the date and consent, and where they do not; some studies are not folded yet."""
    archive, db = filled
    for name, value in (("_DEEP", 1), ("_FAR", 1), ("_WALKED", 0)):
        monkeypatch.setattr(finding, name, value)
    monkeypatch.setattr(narrowing, "FEW", 0)
    monkeypatch.setattr(by_sets, "FEW", 0)
    monkeypatch.setattr(by_sets, "_FIRST", 1)
    monkeypatch.setattr(candidates, "_TOGETHER", 2)
    passed = []
    called = by_sets.Passing.__call__
    monkeypatch.setattr(
        by_sets.Passing,
        "__call__",
        lambda self, date, count: called(self, date, count) and not passed.append(count),
    )
    before = MADE[100].study_date
    for query in (
        StudyQuery(),
        StudyQuery(study_date=f"-{before}"),
        StudyQuery(study_date=f"{MADE[20].study_date}-{MADE[280].study_date}"),
        StudyQuery(study_date="20200101-20251231", modalities_in_study="CT,DX"),
        StudyQuery(modalities_in_study="SR"),
        StudyQuery(patient_name="*a*", issuer_of_patient_id="*H*"),
        StudyQuery(patient_name="b*", study_time="08-14"),
        StudyQuery(patient_name="*ar*", study_time="11-"),
        StudyQuery(study_time="-12"),
        StudyQuery(study_description="*ab*do*", referring_physician_name="*a*"),
        StudyQuery(patient_name="?a*"),
        StudyQuery(patient_name="*a*a*"),
        StudyQuery(patient_name="*ć*"),
        StudyQuery(study_time="1130-14"),
    ):
        whole = [row.id for row in archive.reading.find_studies(SCOPES[who], narrowed(query, limit=None))]
        assert pages(archive, SCOPES[who], query, 7) == whole, query
    assert bool(passed) == (who in ("one house", "three houses", "every house", "doctor"))
    waiting = {row.id for row in Study.select().execute(db)} & set(postings.unfolded(db))
    assert len(waiting) == 30
