"""C-FIND identifiers to the archive's queries, and its rows back to identifiers (PS3.4 Annex C).

The archive names its fields as DICOM names its attributes, so a keyword is turned into a field's name by rule
(``StudyInstanceUID`` → ``study_instance_uid``) and no table has to be kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Final

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.multival import MultiValue
from pydicom.uid import UID

from central.archive.query import InstanceQuery, SeriesQuery, StudyQuery
from central.archive.rows import InstanceRow, SeriesRow, StudyRow

# Patient Root and Study Root Query/Retrieve Information Model - FIND (PS3.4 C.6)
PATIENT_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.1.1")
STUDY_ROOT_FIND: Final = UID("1.2.840.10008.5.1.4.1.2.2.1")
Row = StudyRow | SeriesRow | InstanceRow
_LEVELS: Final = {
    STUDY_ROOT_FIND: ("STUDY", "SERIES", "IMAGE"),
    PATIENT_ROOT_FIND: ("PATIENT", "STUDY", "SERIES", "IMAGE"),
}
# The unique keys above a level, which a query without relational matching must name (C.4.1.2.1).
_KEYS_ABOVE: Final = {
    "PATIENT": (),
    "STUDY": (),
    "SERIES": ("StudyInstanceUID",),
    "IMAGE": ("StudyInstanceUID", "SeriesInstanceUID"),
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
_CONTROLS: Final = frozenset({"QueryRetrieveLevel", "SpecificCharacterSet", "TimezoneOffsetFromUTC"})
_WORD: Final = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


class IdentifierError(Exception):
    """Permanent: the identifier does not fit the information model; DIMSE status 0xA900."""


@dataclass(frozen=True)
class Find:
    """A C-FIND request understood: its level, its matching keys by field name, and what it wants to know."""

    level: str
    keys: dict[str, str]
    wanted: tuple[str, ...]

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
        """`row` as the identifier of a pending response: what was asked for, "" where it is not known."""
        values = dict(_values(row))
        identifier = Dataset()
        identifier.SpecificCharacterSet = "ISO_IR 192"
        identifier.QueryRetrieveLevel = self.level
        identifier.RetrieveAETitle = ae_title
        identifier.InstanceAvailability = "ONLINE"
        for keyword in dict.fromkeys((*_UNIQUE_KEYS[self.level], *self.wanted)):
            name = field_name(keyword)
            if self.level == "PATIENT" and name not in _PATIENT_FIELDS:
                continue
            value = values.get(name, "")
            setattr(identifier, keyword, list(value) if isinstance(value, tuple) else value)
        return identifier

    def _keys_of(self, query: type[StudyQuery | SeriesQuery | InstanceQuery]) -> dict[str, str]:
        return {field.name: self.keys[field.name] for field in fields(query) if field.name in self.keys}


def understood(identifier: Dataset, sop_class_uid: str) -> Find:
    """Read the identifier of a C-FIND request.

    Raises
    ------
    IdentifierError : no such level in this information model, or a unique key above it is missing.
    """
    level = str(identifier.get("QueryRetrieveLevel", "")).strip()
    if level not in _LEVELS.get(UID(sop_class_uid), ()):
        raise IdentifierError("there is no such Query/Retrieve Level in this information model")
    for keyword in _KEYS_ABOVE[level]:
        if not identifier.get(keyword):
            raise IdentifierError(f"{keyword} is needed at level {level}")
    keys, wanted = {}, []
    for element in identifier:
        keyword = keyword_for_tag(element.tag)
        if keyword in _CONTROLS or not keyword or element.VR == "SQ":
            continue
        value = element.value
        text = "\\".join(str(part) for part in value) if isinstance(value, MultiValue) else str(value or "")
        keys[field_name(keyword)] = text
        wanted.append(keyword)
    return Find(level, {name: text for name, text in keys.items() if text}, tuple(wanted))


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
