"""Compares the sets that searches go by (`central.archive.postings`) with the studies, slice by slice, and mends them.

Why it exists: a study that a set lacks is not found by some searches, and nobody sees that. One that is in a set too
much costs time, and may tell of a patient who was erased.

Always true: nothing is told or changed on one reading, for folding goes on meanwhile: what differs is read once more
where nobody else writes. What is told names studies and columns, and nothing of a patient. A study that is not folded
is left as it is: a search compares it by itself.

What a crash leaves: slices that are mended, and others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import peewee

from central.archive.postings import (
    DAY,
    FOLDED,
    HOUR,
    INSTITUTION,
    MINUTE,
    MODALITY,
    MONTH,
    PAIRED,
    PHYSICIAN,
    SERVICE,
    YEAR,
    Posting,
    Unfolded,
    pieces,
    put_members,
    terms_of_studies,
)
from central.archive.sets import SLICE, DamagedSetError, ids_of, of_ids, unpacked
from central.archive.tables import Study
from central.database import Database

_FOUND_BY: Final = {
    **{letter: column.name.removesuffix("_key").replace("_", " ") for column, letter in PAIRED.items()},
    INSTITUTION: "institution",
    MODALITY: "modality",
    PHYSICIAN: "referring physician",
    SERVICE: "requesting service",
    **dict.fromkeys((YEAR, MONTH, DAY), "date"),
    **dict.fromkeys((HOUR, MINUTE), "time"),
    FOLDED: "any key",
}


@dataclass
class SetFault:
    """A study, and by what searches do not find it, or look at it in vain. `named` is "" where it is gone."""

    named: str
    missing: set[str] = field(default_factory=set)
    surplus: set[str] = field(default_factory=set)

    def sentence(self) -> str:
        """Nothing in it is of a patient."""
        said = [
            f"{what} by {', '.join(sorted(columns))}"
            for what, columns in (
                ("is not found", self.missing),
                ("is looked at in vain", self.surplus),
            )
            if columns
        ]
        return f"{self.named or 'a study that is not here any more'}: in searches it {', and '.join(said)}"


@dataclass(frozen=True)
class SliceComparison:
    """`studies` were compared. `unreadable`: sets whose bytes are damaged, so that searches which need one fail."""

    studies: int
    unreadable: int
    faults: list[SetFault]


class _Sets(NamedTuple):
    """For each term the members that are kept and that ought to be; `lost` are terms whose row cannot be read."""

    kept: dict[str, int]
    right: dict[str, int]
    lost: list[str]
    studies: int

    @property
    def differing(self) -> list[str]:
        return [
            term
            for term in self.kept.keys() | self.right.keys()
            if self.kept.get(term, 0) != self.right.get(term, 0)
        ]


def compare_sets(db: Database, *, mend: bool = False) -> Iterator[SliceComparison]:
    """Compare every slice, and with `mend` put it right. What is mended is told as it was."""
    for number in _slices(db):
        sets = _read(db, number)
        if not (sets.differing or sets.lost):
            yield SliceComparison(sets.studies, 0, [])
        elif mend:
            with db.erasing([Posting]):
                sets = _read(db, number)
                found = _told(db, number, sets)
                for term in {*sets.differing, *sets.lost}:
                    put_members(db, number, term, sets.right.get(term, 0))
            yield found
        else:
            with db.writing():
                found = _told(db, number, _read(db, number))
            yield found


def _slices(db: Database) -> list[int]:
    kept = {number for (number,) in Posting.select(Posting.slice).distinct().tuples().execute(db)}
    last = Study.select(peewee.fn.MAX(Study.id)).scalar(db)
    return sorted(kept.union(range(last // SLICE + 1) if last is not None else ()))


def _read(db: Database, number: int) -> _Sets:
    between = (number * SLICE, (number + 1) * SLICE - 1)
    waiting = Unfolded.select(Unfolded.study_id).where(Unfolded.study_id.between(*between))
    unfolded = {at for (at,) in waiting.tuples().execute(db)}
    here = Study.select(Study.id).where(Study.id.between(*between))
    ids = [at for (at,) in here.tuples().execute(db) if at not in unfolded]
    kept: dict[str, int] = {}
    lost = []
    rows = Posting.select(Posting.term, Posting.members).where(Posting.slice == number)
    for term, members in rows.tuples().execute(db):
        try:
            kept[term] = unpacked(members)
        except DamagedSetError:
            lost.append(term)
    right = terms_of_studies(db, ids).get(number, {})
    # What is not folded stays, and is known to be in some set, so that folding takes it out.
    mask = of_ids(unfolded).get(number, 0)
    if mask:
        somewhere = 0
        for term, bits in kept.items():
            if bits & mask:
                somewhere |= bits & mask
                right[term] = right.get(term, 0) | bits & mask
        if somewhere:
            right[FOLDED] = right.get(FOLDED, 0) | somewhere
    return _Sets(kept, right, lost, len(ids))


def _told(db: Database, number: int, sets: _Sets) -> SliceComparison:
    missing: dict[int, set[str]] = defaultdict(set)
    surplus: dict[int, set[str]] = defaultdict(set)
    for term in sets.differing:
        kept, right = sets.kept.get(term, 0), sets.right.get(term, 0)
        for at in ids_of({number: right & ~kept}):
            missing[at].add(_FOUND_BY.get(term[:1], "nothing"))
        for at in ids_of({number: kept & ~right}):
            surplus[at].add(_FOUND_BY.get(term[:1], "nothing"))
    names = _names(db, missing.keys() | surplus.keys())
    faults = [
        SetFault(names.get(at, ""), missing[at], surplus[at])
        for at in sorted(missing.keys() | surplus.keys())
    ]
    return SliceComparison(sets.studies, len(sets.lost), faults)


def _names(db: Database, ids: Iterable[int]) -> dict[int, str]:
    names = {}
    for some in pieces(sorted(ids)):
        columns = (Study.id, Study.study_instance_uid, Study.institution)
        for at, uid, institution in Study.select(*columns).where(Study.id.in_(some)).tuples().execute(db):
            names[at] = f"study {uid} of {institution}"
    return names
