"""Which studies have what: for every word of a search the set of studies, as bits, in slices of 32,768.

Why it exists: two things that many studies have, and hardly one has both, are found by no ordinary index. Sets of bits
are intersected in microseconds, whatever they hold (decision 67). `central.archive.candidates` asks them.

Always true
-----------
- A study that is not in `study_unfolded` is in the set of each of its terms, and in no other. The triggers of the
  database put a study there whenever what its terms are made of changes, in the same transaction.
- The sets only say where to look: each study that is answered is compared by SQL, scope and all.
- An erased study leaves every set with its row (`forget`): pairs of letters would tell of the patient.

What a crash leaves: studies that are unfolded still.
"""

from __future__ import annotations

import functools
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Final

import peewee

from central.archive.sets import SLICE, Sets, bits_of, intersection, packed, unpacked
from central.archive.tables import Study
from central.database import Database, Sqlite, Unindexed, make_tables, rows_of
from central.prepared import Prepared, given

_log = logging.getLogger(__name__)

FOLDED_AT_ONCE: Final = 1024
"""Studies: what is unfolded is compared one by one in every search; folding more of them at once costs less each."""
_STILL_CHANGING: Final = 256  # the last that came: their series are arriving
_FILLED_AT_ONCE: Final = 1 << 14
_AT_ONCE: Final = 500  # terms in a statement
_EVERY_ONE: Final = 1 << 62
BEGIN, END = "\x02", "\x03"  # around a text, so that its first and last character are in a pair each

# Which column is under which letter, cut into pairs of characters.
PAIRED: Final = {
    Study.patient_name_key: "n",
    Study.patient_name_other_keys: "o",
    Study.patient_id: "p",
    Study.issuer_of_patient_id: "u",
    Study.accession_number: "a",
    Study.study_id: "s",
    Study.study_description_key: "t",
    Study.referring_physician_key: "r",
}
INSTITUTION, MODALITY, PHYSICIAN, SERVICE, FOLDED = "i", "m", "R", "Q", "x"
YEAR, MONTH, DAY = DATES = ("y", "d", "D")
DATE_LENGTH: Final = {YEAR: 4, MONTH: 6, DAY: 1 << 30}
HOUR, MINUTE = "h", "H"

_COLUMNS: Final = (
    *PAIRED,
    Study.institution,
    Study.modalities,
    Study.requesting_service_key,
    Study.study_date,
    Study.study_time,
)


class Posting(peewee.Model):
    """The studies of a slice that have a term; `members` is packed."""

    term = peewee.TextField()
    slice = peewee.IntegerField()
    members = peewee.BlobField()

    class Meta:
        table_name = "study_posting"
        primary_key = peewee.CompositeKey("term", "slice")
        indexes = ((("slice",), False),)


class Unfolded(peewee.Model):
    """A study whose terms the postings do not say yet, or of which they say what was."""

    study_id = peewee.IntegerField(primary_key=True)

    class Meta:
        table_name = "study_unfolded"


def make_postings(db: Database) -> None:
    """Make the tables where they are missing, and fill them from the studies that are there."""
    with db.writing():
        is_new = Unfolded._meta.table_name not in db.get_tables()
        make_tables(db, (Posting, Unfolded))
        if is_new:
            for statement in (
                *_TRIGGERS[isinstance(db, Sqlite)],
                "INSERT INTO study_unfolded (study_id) SELECT id FROM study",
            ):
                _run(db, statement)
    count = len(unfolded(db))
    is_older = count > 2 * _FILLED_AT_ONCE
    if is_older:
        _log.info("event=folding-for-searches studies=%d about_s=%d", count, count // 10_000)
    while _are_many(db):
        fold(db, _FILLED_AT_ONCE)
    if is_older:
        # PostgreSQL reads a table to its end, and what waits would be there, behind room for all that was folded.
        db.shrink(Unfolded)


_WAITING: Final = Prepared(
    Unfolded.select(Unfolded.study_id).order_by(Unfolded.study_id).limit(given("most"))
)


def unfolded(db: Database, most: int = _EVERY_ONE) -> list[int]:
    """Ids of the studies that are not folded, those that came first, up to `most`."""
    return [at for (at,) in _WAITING.tuples(db, most=most)]


def fold_some(db: Database) -> None:
    """Fold, if there are many to be folded; the writer does it after its own transactions."""
    if _are_many(db):
        fold(db, FOLDED_AT_ONCE)


def _are_many(db: Database) -> bool:
    return len(unfolded(db, FOLDED_AT_ONCE + _STILL_CHANGING)) == FOLDED_AT_ONCE + _STILL_CHANGING


def fold(db: Database, most: int) -> None:
    """Put up to `most` studies into the sets of their terms, those first that came first."""
    with db.writing():
        ids = unfolded(db, most)
        if not ids:
            return
        forget(db, ids)
        for number, terms in terms_of_studies(db, ids).items():
            _add(db, number, terms)


def terms_of_studies(db: Database, ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """For each slice the terms that the studies `ids` have, with the bits of who has them."""
    having: dict[tuple[int, str], list[int]] = defaultdict(list)
    for some in pieces(ids):
        rows = rows_of(db, Study.select(Study.id, *_COLUMNS).where(Study.id.in_(some)))
        for at, *texts in rows:
            number, bit = divmod(at, SLICE)
            for term in _terms(texts):
                having[number, term].append(bit)
    by_slice: dict[int, dict[str, int]] = defaultdict(dict)
    for (number, term), bits in having.items():
        by_slice[number][term] = bits_of(bits)
    return by_slice


def forget(db: Database, ids: Sequence[int]) -> None:
    """Take studies out of every set; inside a transaction."""
    gone: dict[int, list[int]] = defaultdict(list)
    for at in ids:
        number, bit = divmod(at, SLICE)
        gone[number].append(bit)
    for number, bits in gone.items():
        mask = bits_of(bits)
        its = Posting.slice == number
        folded = Posting.select(Posting.members).where(its, Posting.term == FOLDED).scalar(db)
        if folded is None or not unpacked(folded) & mask:
            continue
        rows = Posting.select(Posting.term, Posting.members).where(its).tuples().execute(db)
        for term, members in list(rows):
            known = unpacked(members)
            if known & mask:
                put_members(db, number, term, known & ~mask)
    for some in pieces(ids):
        Unfolded.delete().where(Unfolded.study_id.in_(some)).execute(db)


def pairs(text: str) -> frozenset[str]:
    """What stands side by side in `text`, with its begin and its end."""
    whole = f"{BEGIN}{text}{END}"
    return frozenset(map("".join, pairwise(whole)))


@functools.lru_cache(maxsize=4096)
def _paired(letter: str, text: str) -> tuple[str, ...]:
    return tuple(letter + pair for pair in pairs(text))


def _terms(texts: Sequence[str]) -> Iterator[str]:
    """Of a study, whose `_COLUMNS` are `texts`."""
    for letter, text in zip(PAIRED.values(), texts, strict=False):
        yield from _paired(letter, text)
    institution, modalities, service, date, time = texts[len(PAIRED) :]
    yield FOLDED
    yield INSTITUTION + institution
    yield PHYSICIAN + texts[len(PAIRED) - 1]
    yield SERVICE + service
    for modality in modalities.split("\\"):
        yield MODALITY + modality
    for level in DATES:
        yield level + date[: DATE_LENGTH[level]]
    yield HOUR + time[:2]
    yield MINUTE + time[:4]


def _add(db: Database, number: int, terms: dict[str, int]) -> None:
    for some in pieces(sorted(terms)):
        known = Posting.select(Posting.term, Posting.members).where(
            Posting.slice == number, Posting.term.in_(some)
        )
        for term, members in known.tuples().execute(db):
            terms[term] |= unpacked(members)
        _write(db, number, {term: terms[term] for term in some})


def put_members(db: Database, number: int, term: str, members: int) -> None:
    """Make `members` the studies of slice `number` that have `term`; inside a transaction."""
    if members:
        _write(db, number, {term: members})
    else:
        Posting.delete().where(Posting.term == term, Posting.slice == number).execute(db)


def _write(db: Database, number: int, terms: dict[str, int]) -> None:
    rows = [(term, number, packed(members)) for term, members in terms.items()]
    Posting.insert_many(rows, [Posting.term, Posting.slice, Posting.members]).on_conflict(
        conflict_target=[Posting.term, Posting.slice], preserve=[Posting.members]
    ).execute(db)


def pieces(some: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(some), _AT_ONCE):
        yield some[at : at + _AT_ONCE]


def _run(db: Database, statement: str) -> None:
    db.execute(peewee.SQL(statement))  # type: ignore[no-untyped-call]  # the stubs leave it untyped


_NAMES: Final = tuple(column.name for column in _COLUMNS)
_ANY: Final = ", ".join(_NAMES)


def _changed(differs: str) -> str:
    return " OR ".join(f"old.{name} {differs} new.{name}" for name in _NAMES)


def _sqlite(name: str, when: str, row: str) -> str:
    put = f"INSERT OR IGNORE INTO study_unfolded (study_id) VALUES ({row}.id)"  # noqa: S608  # our own names
    return f"CREATE TRIGGER IF NOT EXISTS study_{name} AFTER {when} BEGIN {put}; END"


def _postgresql(name: str, when: str, differs: str = "") -> list[str]:
    return [
        f"DROP TRIGGER IF EXISTS study_{name} ON study",
        f"CREATE TRIGGER study_{name} AFTER {when} ON study FOR EACH ROW {differs} EXECUTE FUNCTION study_unfold()",
    ]


_TRIGGERS: Final = {
    True: [
        _sqlite("unfolded_insert", "INSERT ON study", "new"),
        _sqlite("unfolded_update", f"UPDATE OF {_ANY} ON study WHEN {_changed('IS NOT')}", "new"),
        _sqlite("unfolded_delete", "DELETE ON study", "old"),
    ],
    False: [
        "CREATE OR REPLACE FUNCTION study_unfold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "INSERT INTO study_unfolded (study_id) VALUES (CASE WHEN TG_OP = 'DELETE' THEN old.id ELSE new.id END) "
        "ON CONFLICT DO NOTHING; RETURN NULL; END $$",
        *_postgresql("unfolded_insert", "INSERT"),
        *_postgresql("unfolded_update", f"UPDATE OF {_ANY}", f"WHEN ({_changed('IS DISTINCT FROM')})"),
        *_postgresql("unfolded_delete", "DELETE"),
    ],
}


_BETWEEN: Final = Prepared(
    Posting.select(Posting.slice, Posting.members).where(
        Posting.term >= given("first"), Posting.term < given("last")
    )
)
_EACH_BETWEEN: Final = Prepared(
    Posting.select(Posting.term, Posting.slice, Posting.members).where(
        Posting.term >= given("first"),
        Posting.term < given("last"),
        Unindexed(Posting.slice) >= given("first_slice"),
        Unindexed(Posting.slice) <= given("last_slice"),
    )
)


@functools.lru_cache(maxsize=64)
def _of_terms(count: int) -> Prepared:
    terms = [given(str(number)) for number in range(count)]
    return Prepared(Posting.select(Posting.slice, Posting.members).where(Posting.term.in_(terms)))


def _rows_of_terms(db: Database, terms: Sequence[str]) -> list[tuple[Any, ...]]:
    named = {str(number): term for number, term in enumerate(terms)}
    return _of_terms(len(terms)).tuples(db, **named) if terms else []


def members(db: Database, terms: Sequence[str], ranges: Sequence[tuple[str, str]] = ()) -> Sets:
    """The studies that have one of `terms`, or one that lies in one of `ranges` (from, up to and without)."""
    rows = _rows_of_terms(db, terms)
    for first, last in ranges:
        rows += _BETWEEN.tuples(db, first=first, last=last)
    found: Sets = {}
    for number, some in rows:
        found[number] = found.get(number, 0) | unpacked(some)
    return found


def with_all(db: Database, terms: Sequence[str]) -> Sets:
    """The studies that have every one of `terms`, of which there is one at least; in one statement."""
    having: dict[int, list[bytes]] = defaultdict(list)
    for number, some in _rows_of_terms(db, terms):
        having[number].append(some)
    found: Sets = {}
    for number, sets in having.items():
        if len(sets) < len(terms):
            continue
        both = -1
        for some in sorted(sets, key=len):  # of the smallest, few are left to be intersected
            both &= unpacked(some)
            if not both:
                break
        else:
            found[number] = both
    return found


def each_between(db: Database, first: str, last: str, found: Sets) -> Iterator[tuple[str, Sets]]:
    """Every term from `first` up to, and without, `last`, and which of `found` have it; the last term first."""
    if not found:
        return
    rows = _EACH_BETWEEN.tuples(db, first=first, last=last, first_slice=min(found), last_slice=max(found))
    having: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    for term, number, some in rows:
        if number in found:
            having[term].append((number, some))
    for term in sorted(having, reverse=True):
        yield term, intersection({number: unpacked(some) for number, some in having[term]}, found)
