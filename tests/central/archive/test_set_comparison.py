"""A set that does not say what the studies say is found, whichever way it errs, and mended."""

from __future__ import annotations

import pytest

from central.access.policy import Scope
from central.archive.postings import Posting, Unfolded, fold, put_members
from central.archive.query import StudyQuery
from central.archive.set_comparison import SetFault, compare_sets
from central.archive.sets import ids_of, unpacked
from central.archive.tables import Study
from central.database import Database
from tests.central.archive.conftest import MakeFile, Stocked
from tests.central.databases import open_index

EVERYTHING = Scope(everything=True)
BY_NAME = StudyQuery(patient_name="*UE*", modalities_in_study="CT")
ANA, MEI = "study 1.2.1 of default", "study 1.2.2 of default"


@pytest.fixture
def folded(stocked: Stocked, made: MakeFile) -> Database:
    """Two studies in the sets and a third that waits, which has changed since it was in some."""
    for uid, name in (("1.2.1", "QUEUX^ANA"), ("1.2.2", "QUEEN^MEI"), ("1.2.3", "OTTO")):
        stocked.put(made(StudyInstanceUID=uid, PatientID="P", PatientName=name, Modality="CT"))
    db = open_index(stocked.root)
    fold(db, 10)
    Study.update(patient_name_key="uwe").where(Study.study_instance_uid == "1.2.3").execute(db)
    assert faults(db) == ([], 0)
    return db


def faults(db: Database, *, mend: bool = False) -> tuple[list[SetFault], int]:
    compared = list(compare_sets(db, mend=mend))
    assert sum(one.studies for one in compared) == 2
    return [fault for one in compared for fault in one.faults], sum(one.unreadable for one in compared)


def rows(db: Database) -> dict[tuple[str, int], int]:
    found = Posting.select().tuples().execute(db)
    return {(term, number): unpacked(members) for term, number, members in found}


def id_of(db: Database, uid: str) -> int:
    return int(Study.select(Study.id).where(Study.study_instance_uid == uid).scalar(db))


def test_a_study_that_a_set_lacks_is_named_and_found_again(stocked: Stocked, folded: Database) -> None:
    def found() -> list[str]:
        return [row.study_instance_uid for row in stocked.archive.reading.find_studies(EVERYTHING, BY_NAME)]

    whole, everybody = rows(folded), found()
    ana = 1 << id_of(folded, "1.2.1")
    put_members(folded, 0, "nue", whole["nue", 0] & ~ana)
    put_members(folded, 0, "mCT", whole["mCT", 0] & 1 << id_of(folded, "1.2.3"))
    assert faults(folded) == (
        [SetFault(ANA, {"patient name", "modality"}), SetFault(MEI, {"modality"})],
        0,
    )
    assert faults(folded, mend=True)[0], "what is mended is told as it was"
    assert faults(folded) == ([], 0)
    assert rows(folded) == whole
    assert found() == everybody
    folded.end()


def test_what_a_set_has_too_much_is_taken_out(folded: Database) -> None:
    """Be it of a study that is not there, and in sets that nobody has a use for."""
    whole = rows(folded)
    mei, gone = 1 << id_of(folded, "1.2.2"), 1 << 4711
    put_members(folded, 0, "nan", whole["nan", 0] | mei | gone)
    put_members(folded, 3, "nzz", 1)
    found, _ = faults(folded)
    assert found == [
        SetFault(MEI, set(), {"patient name"}),
        SetFault("", set(), {"patient name"}),
        SetFault("", set(), {"patient name"}),
    ]
    assert "not here any more" in found[1].sentence()
    assert faults(folded, mend=True)[0] == found
    assert rows(folded) == whole
    folded.end()


def test_a_set_that_cannot_be_read_is_made_again(folded: Database) -> None:
    whole = rows(folded)
    for term in ("nqu", "nzz"):
        put_members(folded, 0, term, 1)
        Posting.update(members=b"torn").where(Posting.term == term).execute(folded)
    assert faults(folded) == ([SetFault(ANA, {"patient name"}), SetFault(MEI, {"patient name"})], 2)
    assert faults(folded, mend=True)[1] == 2
    assert rows(folded) == whole
    folded.end()


def test_what_waits_to_be_folded_is_left_and_then_folded_whole(folded: Database) -> None:
    """Though it was lost that some sets have it."""
    before = rows(folded)
    otto = id_of(folded, "1.2.3")
    put_members(folded, 0, "x", before["x", 0] & ~(1 << otto))
    assert faults(folded, mend=True)[0] == [SetFault("study 1.2.3 of default", {"any key"})]
    assert rows(folded) == before
    assert [at for (at,) in Unfolded.select().tuples().execute(folded)] == [otto]
    fold(folded, 10)
    assert ("not", 0) not in rows(folded)
    assert list(ids_of({0: rows(folded)["nuw", 0]})) == [otto]
    folded.end()


def test_nothing_of_a_patient_is_told(folded: Database) -> None:
    for term, number in rows(folded):
        put_members(folded, number, term, 1 << 4711)
    told = " ".join(fault.sentence() for fault in faults(folded)[0]).lower()
    assert ANA.lower() in told
    assert not any(text in told for text in ("queu", "queen", "ana", "mei", "uwe"))
    folded.end()
