"""The sets of studies say what the studies say: after folding, after a change, and after an erasure."""

from __future__ import annotations

import pytest

from central.archive import postings
from central.archive.candidates import AnyOf
from central.archive.postings import (
    Posting,
    Unfolded,
    fold,
    make_postings,
    pairs,
    unfolded,
)
from central.archive.sets import ids_of, unpacked
from central.archive.tables import Study
from central.database import Database, Sqlite
from tests.central.archive.conftest import MakeFile, Stocked
from tests.central.databases import open_index


def test_what_is_folded_is_in_the_sets_of_its_terms_and_in_no_other(stocked: Stocked, made: MakeFile) -> None:
    for uid, name in (("1.2.1", "QUX^ANA"), ("1.2.2", "")):
        stocked.put(made(StudyInstanceUID=uid, PatientID="P", PatientName=name, Modality="CT"))
    db = open_index(stocked.root)
    assert len(unfolded(db)) == 2
    fold(db, 10)
    assert len(unfolded(db)) == 0
    assert of_term(stocked, "nqu") == of_term(stocked, "n\x02q") == ["1.2.1"]
    assert of_term(stocked, "mCT") == ["1.2.1", "1.2.2"]

    # A second modality, and a name where there was none: both are looked for again, and folded anew.
    stocked.put(made(StudyInstanceUID="1.2.2", PatientID="P", PatientName="QUEEN", Modality="SR"))
    assert len(unfolded(db)) == 1
    stocked.put(made(StudyInstanceUID="1.2.1", PatientID="P", PatientName="QUX^ANA", Modality="CT"))
    assert len(unfolded(db)) == 1  # nothing of it has changed
    fold(db, 10)
    assert of_term(stocked, "nqu") == ["1.2.1", "1.2.2"]
    assert of_term(stocked, "mSR") == ["1.2.2"]
    assert of_term(stocked, "n\x02\x03") == []
    db.end()


def test_an_erased_study_is_in_no_set(stocked: Stocked, made: MakeFile) -> None:
    """Pairs of letters would tell of the patient."""
    stocked.put(made(StudyInstanceUID="1.2.1", PatientID="P1", PatientName="QUX^ANA"))
    stocked.put(made(StudyInstanceUID="1.2.2", PatientID="P2", PatientName="MEI"))
    db = open_index(stocked.root)
    fold(db, 10)
    stocked.archive.erasures.erase("1.2.1", "somebody")
    assert len(unfolded(db)) == 0
    left = list(Posting.select(Posting.term, Posting.members).tuples().execute(db))
    assert all(unpacked(members).bit_count() == 1 for _, members in left)
    assert {term[1:] for term, _ in left if term[0] == "n"} == pairs("mei")
    db.end()


def test_the_room_of_what_was_folded_at_the_start_is_given_back(
    stocked: Stocked, made: MakeFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every search by sets asks what waits, and PostgreSQL reads a table to its end."""
    stocked.put(made(StudyInstanceUID="1.2.1", PatientID="P1"))
    db = open_index(stocked.root)
    if isinstance(db, Sqlite):
        pytest.skip("the pages of a file are used again, and read by nobody meanwhile")
    stayed = unfolded(db)
    Unfolded.insert_many([(number,) for number in range(1_000_000, 1_005_000)]).execute(db)
    Unfolded.delete().where(Unfolded.study_id >= 1_000_000).execute(db)
    assert size_of(db) > 100_000
    monkeypatch.setattr(postings, "_FILLED_AT_ONCE", 0)
    make_postings(db)
    assert unfolded(db) == stayed
    assert size_of(db) == 8192
    db.end()


def size_of(db: Database) -> int:
    return int(db.execute_sql("SELECT pg_relation_size('study_unfolded')").fetchone()[0])


def of_term(stocked: Stocked, term: str) -> list[str]:
    db = open_index(stocked.root)
    ids = list(ids_of(AnyOf((term,)).members(db)))
    found = sorted(
        uid for (uid,) in Study.select(Study.study_instance_uid).where(Study.id.in_(ids)).tuples().execute(db)
    )
    db.end()
    return found
