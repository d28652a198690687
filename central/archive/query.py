"""Matching keys of a search, as DICOM text, and how they become SQL (PS3.4 C.2.2.2, PS3.18 section 8.3.4).

Every key is a string as it stands in the request; "" matches everything. Person names and descriptions match
without regard to case and accents. Wildcards are ``*`` and ``?``; dates and times take ranges ``a-b``, ``a-``,
``-b``; UIDs and modalities take lists separated by ``\\`` or ``,``. Values reach SQL as bound parameters only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from operator import or_
from typing import Final

import peewee

from central.access.policy import department_key
from central.archive.errors import QueryError
from central.database import Among, Contains, Wildcard
from contract.identifiers import InvalidIdentifierError, check_uid

MAX_KEY_CHARACTERS: Final = 1024
MAX_LIST_VALUES: Final = 500
MAX_NAME_WORDS: Final = 16
Fold = Callable[[str], str]
Condition = peewee.Expression | Wildcard | Contains | Among
_LAST_CHARACTER: Final = "\U0010ffff"  # nothing sorts after it: the end of a prefix's range
_WORD_ENDS: Final = re.compile(r"[\s^=,*?-]+")
_BEFORE_WORDS: Final = (
    "",
    "*^",
    "* ",
    "*-",
)  # what may stand before a word of a person name; "" is its begin
_BEFORE_WORDS_OF_GROUPS: Final = ("*\n", *_BEFORE_WORDS[1:])
_DATE: Final = re.compile(r"\d{8}")
_TIME: Final = re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")


@dataclass(frozen=True)
class StudyQuery:
    """Keys at study level. `limit` None: no limit (for callers that stream under a cap of their own).

    Attributes
    ----------
    fuzzy_names : person names match fuzzily (PS3.18 section 8.3.4.2): each word of the key begins a word of the name,
        whatever their order and component; wildcards only part words.
    """

    patient_name: str = ""
    patient_id: str = ""
    issuer_of_patient_id: str = ""
    patient_birth_date: str = ""
    study_date: str = ""
    study_time: str = ""
    accession_number: str = ""
    modalities_in_study: str = ""
    study_instance_uid: str = ""
    study_id: str = ""
    study_description: str = ""
    referring_physician_name: str = ""
    fuzzy_names: bool = False
    limit: int | None = 100
    offset: int = 0


@dataclass(frozen=True)
class SeriesQuery:
    """Keys at series level; `study` holds those above (its limit and offset are not looked at). Those that begin with
    ``request`` are of one item of its Request Attributes Sequence."""

    series_instance_uid: str = ""
    modality: str = ""
    series_number: str = ""
    series_description: str = ""
    body_part_examined: str = ""
    performed_procedure_step_start_date: str = ""
    performed_procedure_step_start_time: str = ""
    request_scheduled_procedure_step_id: str = ""
    request_requested_procedure_id: str = ""
    study: StudyQuery = field(default_factory=StudyQuery)
    limit: int | None = 100
    offset: int = 0


@dataclass(frozen=True)
class InstanceQuery:
    """Keys at instance level; `series` holds those above (its limit and offset are not looked at)."""

    sop_instance_uid: str = ""
    sop_class_uid: str = ""
    instance_number: str = ""
    series: SeriesQuery = field(default_factory=SeriesQuery)
    limit: int | None = 100
    offset: int = 0


def fold(text: str) -> str:
    """Case, accents and repeated spaces taken away: what is compared when names and descriptions are."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    return " ".join("".join(char for char in folded if not unicodedata.combining(char)).split())


fold_physician: Final = department_key
"""The same of a referring physician's name: less is taken away, since who is called so may see the study."""


def person_name_groups(pn: str) -> tuple[str, str]:
    """Folded alphabetic group, and the other groups folded, each between newlines (PS3.5 section 6.2.1)."""
    alphabetic, *others = (fold(group).rstrip("^ ") for group in pn.split("="))
    lines = [group for group in others if group]
    return alphabetic, "\n".join(["", *lines, ""]) if lines else ""


def matches_text(column: peewee.ColumnBase, key: str, *, folded: bool = False) -> Condition | None:
    """Single value or wildcard matching; None when `key` matches everything."""
    pattern = fold(_checked(key)) if folded else _checked(key).strip(" ")
    if not pattern.strip("*"):
        return None
    head = pattern.rstrip("*")
    if not has_wildcard(pattern):
        return column == pattern
    if not has_wildcard(head):
        # A prefix written as a range uses the index; GLOB would not.
        return (column >= head) & (column < head + _LAST_CHARACTER)
    return Wildcard(column, pattern)


def matches_person_name(
    alphabetic: peewee.ColumnBase, others: peewee.ColumnBase | None, key: str, folded: Fold = fold
) -> Condition | None:
    """As `matches_text`, folded; `others`, the ideographic and phonetic groups, None where they cannot hold it."""
    pattern = folded(_checked(key)).rstrip("^ ")
    found = matches_text(alphabetic, pattern)
    if found is None or others is None:
        return found
    either: Condition = found | Wildcard(others, group_pattern(pattern))
    return either


def words_of(key: str, folded: Fold = fold) -> list[str]:
    """The words of a person name that is matched fuzzily, folded, each once.

    Raises
    ------
    QueryError : more than `MAX_NAME_WORDS`.
    """
    words = list(dict.fromkeys(word for word in _WORD_ENDS.split(folded(_checked(key))) if word))
    if len(words) > MAX_NAME_WORDS:
        raise QueryError(f"a name that is matched fuzzily has at most {MAX_NAME_WORDS} words")
    return words


def matches_name_word(
    alphabetic: peewee.ColumnBase, others: peewee.ColumnBase | None, word: str
) -> Condition:
    """Whether a word of the name begins with `word`, one of `words_of`; `others` as in `matches_person_name`."""
    begins = [Wildcard(alphabetic, f"{before}{word}*") for before in _BEFORE_WORDS]
    if others is not None:
        begins += [Wildcard(others, f"{before}{word}*") for before in _BEFORE_WORDS_OF_GROUPS]
    either: Condition = reduce(or_, begins)
    return either


def group_pattern(pattern: str) -> str:
    """`pattern` as it stands among the other groups of `person_name_groups`."""
    return f"*\n{pattern}\n*"


def matches_date(column: peewee.ColumnBase, key: str) -> peewee.Expression | None:
    """A day or a range of days (PS3.4 C.2.2.2.5)."""
    return _matches_range(column, key, _DATE, "date", "YYYYMMDD")


def matches_until(column: peewee.ColumnBase, key: str) -> Condition | None:
    """As `matches_date`, of a range its end alone; None where it has none."""
    first, dash, last = key.replace(" ", "").partition("-")
    if first and not dash:
        return matches_date(column, key)
    return column < last + _LAST_CHARACTER if last else None


def matches_time(column: peewee.ColumnBase, key: str) -> peewee.Expression | None:
    """A time or a range of times; a shorter end of a range includes everything that begins with it."""
    return _matches_range(column, key, _TIME, "time", "HHMMSS")


def matches_uids(column: peewee.ColumnBase, key: str) -> peewee.Expression | None:
    """List of UID matching (PS3.4 C.2.2.2.2)."""
    values = _listed(key)
    if not values:
        return None
    try:
        return column.in_([check_uid(value) for value in values])
    except InvalidIdentifierError as error:
        raise QueryError(str(error)) from error


def matches_codes(column: peewee.ColumnBase, key: str) -> Condition | None:
    """A list of code strings such as modalities; each may have wildcards."""
    values = code_list(key)
    patterns = [value for value in values if has_wildcard(value)]
    literal = [value for value in values if value not in patterns]
    either = [matches_text(column, pattern) for pattern in patterns]
    either += [column.in_(literal)] if literal else []
    return reduce(or_, either) if either else None


def code_list(key: str) -> list[str]:
    """Code strings to be compared with; upper case, because VR CS knows nothing else. None: everything matches."""
    return [value.upper() for value in _listed(_checked(key)) if value.strip("*")]


def matches_number(column: peewee.ColumnBase, key: str) -> peewee.Expression | None:
    """A whole number (VR IS)."""
    text = _checked(key).strip()
    if not text.strip("*"):
        return None
    if not re.fullmatch(r"[+-]?\d{1,12}", text):
        raise QueryError("a number was expected")
    return column == int(text)


def _matches_range(
    column: peewee.ColumnBase, key: str, shape: re.Pattern[str], kind: str, form: str
) -> peewee.Expression | None:
    text = _checked(key).replace(" ", "").replace(":", "")
    if not text.strip("*"):
        return None
    first, dash, last = text.partition("-")
    if not (first or last) or any(end and not shape.fullmatch(end) for end in (first, last)):
        raise QueryError(f"a {kind} is {form}, a range {form}-{form}")
    if not dash:
        return column == first
    begins = (column >= first) if first else (column != "")
    return begins & (column < last + _LAST_CHARACTER) if last else begins


def has_wildcard(pattern: str) -> bool:
    """Whether `pattern` stands for more than itself."""
    return "*" in pattern or "?" in pattern


def is_like(pattern: str, text: str) -> bool:
    """Whether `text` is what `pattern` with ``*`` and ``?`` stands for; case counts.

    By the two-pointer walk, linear where there is one star: as a regular expression a key could take for ever.
    """
    star = -1
    at = place = mark = 0
    while place < len(text):
        if at < len(pattern) and pattern[at] in ("?", text[place]) and pattern[at] != "*":
            at, place = at + 1, place + 1
        elif at < len(pattern) and pattern[at] == "*":
            star, mark, at = at, place, at + 1
        elif star >= 0:
            mark += 1
            at, place = star + 1, mark
        else:
            return False
    return all(sign == "*" for sign in pattern[at:])


def _checked(key: str) -> str:
    if len(key) > MAX_KEY_CHARACTERS:
        raise QueryError(f"a matching key has at most {MAX_KEY_CHARACTERS} characters")
    if "\0" in key:
        raise QueryError("a matching key has no NUL character")
    return key


def _listed(key: str) -> list[str]:
    if len(key) > MAX_LIST_VALUES * 65:
        raise QueryError(f"a list has at most {MAX_LIST_VALUES} values")
    values = [value.strip() for value in re.split(r"[\\,]", key)]
    return [value for value in values if value and value != "*"]
