"""Identifiers of C-FIND, C-MOVE and C-GET to the archive's queries, and its rows back to identifiers (PS3.4 Annex C).

The archive names its fields as DICOM names its attributes, so a keyword is turned into a field's name by rule
(``StudyInstanceUID`` → ``study_instance_uid``) and no table has to be kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

from pydicom import Dataset
from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.multival import MultiValue

from central.archive.query import InstanceQuery, SeriesQuery, StudyQuery
from central.archive.rows import InstanceRow, SeriesRow, StudyRow
from central.dimse.association import PATIENT_ROOT_FIND, PATIENT_ROOT_GET, PATIENT_ROOT_MOVE
from central.dimse.errors import IdentifierError
from contract.identifiers import InvalidIdentifierError, check_uid

Row = StudyRow | SeriesRow | InstanceRow


def _names(kind: type[Row | StudyQuery | SeriesQuery | InstanceQuery]) -> frozenset[str]:
    return frozenset(field.name for field in fields(kind))


_PATIENT_ROOT: Final = frozenset({PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE, PATIENT_ROOT_GET})
_LEVELS: Final = ("STUDY", "SERIES", "IMAGE")
_MAX_UIDS: Final = 500  # in one list, as the archive's searches have it
_UTF8: Final = "ISO_IR 192"
# The unique keys above a level, which a query without relational matching must name. C.4.1.2.1 wants the series of
# images, too; many clients leave it away, and all answers are of the one study still.
_KEYS_ABOVE: Final = {
    "PATIENT": (),
    "STUDY": (),
    "SERIES": ("StudyInstanceUID",),
    "IMAGE": ("StudyInstanceUID",),
}
_UNIQUE_KEYS: Final = {
    "PATIENT": ("PatientID", "IssuerOfPatientID"),
    "STUDY": ("StudyInstanceUID",),
    "SERIES": ("StudyInstanceUID", "SeriesInstanceUID"),
    "IMAGE": ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}
_PATIENT_FIELDS: Final = frozenset(
    {"patient_name", "patient_id", "issuer_of_patient_id", "patient_birth_date", "patient_sex"}
)
_OF_STUDIES: Final = _names(StudyQuery)
_OF_SERIES: Final = _OF_STUDIES | _names(SeriesQuery)
_MATCHED: Final = {
    "PATIENT": _OF_STUDIES,
    "STUDY": _OF_STUDIES,
    "SERIES": _OF_SERIES,
    "IMAGE": _OF_SERIES | _names(InstanceQuery),
}
_ALWAYS: Final = frozenset({"retrieve_ae_title", "instance_availability"})
_KNOWN: Final = {
    "PATIENT": _PATIENT_FIELDS | _ALWAYS,
    "STUDY": _names(StudyRow) | _ALWAYS,
    "SERIES": _names(StudyRow) | _names(SeriesRow) | _ALWAYS,
    "IMAGE": _names(StudyRow) | _names(SeriesRow) | _names(InstanceRow) | _ALWAYS,
}
_CONTROLS: Final = frozenset({"QueryRetrieveLevel", "SpecificCharacterSet", "TimezoneOffsetFromUTC"})
_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class Find:
    """A C-FIND request understood: its level, its matching keys by field name, and what it wants to know.

    `is_whole` False: it has an optional key that is not matched, or not known, at this level.
    """

    level: str
    keys: dict[str, str]
    wanted: tuple[str, ...]
    character_set: str
    is_whole: bool

    def query(self, limit: int, offset: int) -> StudyQuery | SeriesQuery | InstanceQuery:
        page: dict[str, Any] = {"limit": limit, "offset": offset}
        study: dict[str, Any] = self._keys_of(StudyQuery)
        series: dict[str, Any] = self._keys_of(SeriesQuery)
        instance: dict[str, Any] = self._keys_of(InstanceQuery)
        if self.level in ("PATIENT", "STUDY"):
            return StudyQuery(**study, **page)
        if self.level == "SERIES":
            return SeriesQuery(**series, study=StudyQuery(**study), **page)
        return InstanceQuery(**instance, series=SeriesQuery(**series, study=StudyQuery(**study)), **page)

    def answer(self, row: Row, ae_title: str) -> Dataset:
        """`row` as the identifier of a pending response: what was asked for, "" where it is not known.

        Text is in the character set of the request where it fits in there, else in UTF-8.
        """
        values = dict(_values(row))
        identifier = Dataset()
        identifier.SpecificCharacterSet = _UTF8
        identifier.QueryRetrieveLevel = self.level
        identifier.RetrieveAETitle = ae_title
        identifier.InstanceAvailability = "ONLINE"
        for keyword in dict.fromkeys((*_UNIQUE_KEYS[self.level], *self.wanted)):
            name = field_name(keyword)
            if self.level == "PATIENT" and name not in _PATIENT_FIELDS:
                continue
            if name not in values:  # pixels, too: of some VRs nothing but None is written as empty
                identifier.add_new(keyword, dictionary_VR(keyword).partition(" ")[0], None)
                continue
            value = values[name]
            setattr(identifier, keyword, list(value) if isinstance(value, tuple) else value)
        if _fits(identifier, self.character_set):
            identifier.SpecificCharacterSet = self.character_set
        return identifier

    def _keys_of(self, query: type[StudyQuery | SeriesQuery | InstanceQuery]) -> dict[str, str]:
        return {field.name: self.keys[field.name] for field in fields(query) if field.name in self.keys}


def understood(identifier: Dataset, sop_class_uid: str, *, relational: bool = False) -> Find:
    """Read the identifier of a C-FIND request; `relational`: unique keys above its level may be missing.

    Raises
    ------
    IdentifierError : no such level in this information model, or a unique key above it is missing.
    """
    level = _level(identifier, sop_class_uid)
    if not relational:
        for keyword in _KEYS_ABOVE[level]:
            if not identifier.get(keyword):
                raise IdentifierError(f"{keyword} is needed at level {level}")
    keys, wanted, is_whole = {}, [], True
    matched, known = _MATCHED[level], _KNOWN[level]
    for element in identifier:
        keyword = keyword_for_tag(element.tag)
        if keyword in _CONTROLS:
            continue
        # Of a repeating group there is no one tag; group 2 is not of a data set.
        if not keyword or element.VR == "SQ" or tag_for_keyword(keyword) is None or element.tag.group == 2:
            is_whole = False
            continue
        name, text = field_name(keyword), _text(element.value)
        is_whole = is_whole and name in (matched if text.strip("* ") else known)
        if text:
            keys[name] = text
        wanted.append(keyword)
    character_set = str(identifier.get("SpecificCharacterSet") or "")
    return Find(level, keys, tuple(wanted), character_set, is_whole)


def selection(identifier: Dataset, sop_class_uid: str, *, relational: bool = False) -> InstanceQuery:
    """What the identifier of a C-MOVE or C-GET names, by unique keys alone (PS3.4 C.4.2.1.4, C.4.3.1.3).

    Raises
    ------
    IdentifierError : no such level, a unique key missing, or a value that names more than one thing by a wildcard.
    """
    level = _level(identifier, sop_class_uid)
    patient_id = _text(identifier.get("PatientID")).strip()
    if level == "PATIENT" and not patient_id:
        raise IdentifierError("PatientID is needed at level PATIENT")
    if any(sign in patient_id for sign in "*?\\"):
        raise IdentifierError("one PatientID, without wildcards")
    named = {"StudyInstanceUID": "", "SeriesInstanceUID": "", "SOPInstanceUID": ""}
    needed = () if level == "PATIENT" else _UNIQUE_KEYS[level]
    for keyword in needed:
        is_own = keyword == needed[-1]
        text = _text(identifier.get(keyword))
        if not text:
            if is_own or not relational:
                raise IdentifierError(f"{keyword} is needed at level {level}")
            continue
        named[keyword] = _uids(text, keyword, 1 if not is_own else _MAX_UIDS)
    return InstanceQuery(
        sop_instance_uid=named["SOPInstanceUID"],
        series=SeriesQuery(
            series_instance_uid=named["SeriesInstanceUID"],
            study=StudyQuery(
                study_instance_uid=named["StudyInstanceUID"],
                patient_id=patient_id,
                issuer_of_patient_id=_text(identifier.get("IssuerOfPatientID")) if level == "PATIENT" else "",
            ),
        ),
        limit=None,
    )


def field_name(keyword: str) -> str:
    """``SOPInstanceUID`` → ``sop_instance_uid``"""
    return _WORD.sub("_", keyword).lower()


def _values(row: Row) -> Iterator[tuple[str, object]]:
    """Fields of `row` and of the rows above it, those above first."""
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, (StudyRow, SeriesRow)):
            yield from _values(value)
        else:
            yield field.name, "" if value is None else value


def _level(identifier: Dataset, sop_class_uid: str) -> str:
    level = str(identifier.get("QueryRetrieveLevel", "")).strip()
    if level in _LEVELS or (level == "PATIENT" and sop_class_uid in _PATIENT_ROOT):
        return level
    raise IdentifierError("there is no such Query/Retrieve Level in this information model")


def _text(value: object) -> str:
    if isinstance(value, MultiValue):
        return "\\".join(map(str, value))
    return "" if value is None else str(value)


def _uids(text: str, keyword: str, limit: int) -> str:
    values = [value.strip() for value in text.split("\\")]
    if len(values) > limit:
        raise IdentifierError(f"at most {limit} of {keyword} here")
    try:
        return "\\".join(check_uid(value, keyword) for value in values)
    except InvalidIdentifierError as error:
        raise IdentifierError(str(error)) from error


def _fits(identifier: Dataset, character_set: str) -> bool:
    """Whether every text can be said in `character_set`. Sets with code extensions are not tried."""
    encoding = python_encoding.get(character_set) if character_set else None
    if encoding is None:
        return False
    try:
        for element in identifier:
            _text(element.value).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
