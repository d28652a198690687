"""The query of a QIDO-RS request, as the archive's queries (PS3.18 section 8.3.4).

Attributes are named by keyword or by tag (``00100020``), those in a sequence with a point behind it. What is not
supported is not an error: it is ignored, and the answer says so in a Warning header.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from pydicom.datadict import keyword_for_tag

from central.archive.query import InstanceQuery, SeriesQuery, StudyQuery
from central.dicomweb.errors import BadRequestError
from central.dicomweb.include_fields import TAG, Level, included_tags

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
MAX_OFFSET: Final = 10_000_000
LARGEST_LIMIT_SAID: Final = 10**9  # more than `MAX_LIMIT` may be said, and means it
_SHOWABLE: Final = re.compile(r"[\w.]{1,64}")
_CONTROLS: Final = frozenset({"limit", "offset", "fuzzymatching", "includefield", "accept"})
STUDY_KEYS: Final = {
    "PatientName": "patient_name",
    "PatientID": "patient_id",
    "IssuerOfPatientID": "issuer_of_patient_id",
    "PatientBirthDate": "patient_birth_date",
    "StudyDate": "study_date",
    "StudyTime": "study_time",
    "AccessionNumber": "accession_number",
    "ModalitiesInStudy": "modalities_in_study",
    "StudyInstanceUID": "study_instance_uid",
    "StudyID": "study_id",
    "StudyDescription": "study_description",
    "ReferringPhysicianName": "referring_physician_name",
}
SERIES_KEYS: Final = {
    "SeriesInstanceUID": "series_instance_uid",
    "Modality": "modality",
    "SeriesNumber": "series_number",
    "SeriesDescription": "series_description",
    "BodyPartExamined": "body_part_examined",
    "PerformedProcedureStepStartDate": "performed_procedure_step_start_date",
    "PerformedProcedureStepStartTime": "performed_procedure_step_start_time",
    "RequestAttributesSequence.ScheduledProcedureStepID": "request_scheduled_procedure_step_id",
    "RequestAttributesSequence.RequestedProcedureID": "request_requested_procedure_id",
}
INSTANCE_KEYS: Final = {
    "SOPInstanceUID": "sop_instance_uid",
    "SOPClassUID": "sop_class_uid",
    "InstanceNumber": "instance_number",
}


@dataclass
class SearchParameters:
    """A request's matching keys by level, named as the archive names them; `limit` None: as many as there are.

    `included`: tags of what is answered besides. `used`: the request's parameters without those that are not supported,
    whose names, fit for a header, are `unused`.
    Queries ask for one more than `limit`, which says whether there are more.
    """

    study: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)
    instance: dict[str, Any] = field(default_factory=dict)
    limit: int | None = DEFAULT_LIMIT
    offset: int = 0
    used: list[tuple[str, str]] = field(default_factory=list)
    unused: str = ""
    included: list[str] = field(default_factory=list)

    def study_query(self) -> StudyQuery:
        return StudyQuery(**self.study, limit=self._asked, offset=self.offset)

    def series_query(self) -> SeriesQuery:
        study = StudyQuery(**self.study)
        return SeriesQuery(**self.series, study=study, limit=self._asked, offset=self.offset)

    def instance_query(self) -> InstanceQuery:
        series = SeriesQuery(**self.series, study=StudyQuery(**self.study))
        return InstanceQuery(**self.instance, series=series, limit=self._asked, offset=self.offset)

    @property
    def _asked(self) -> int | None:
        return None if self.limit is None else self.limit + 1


def search_parameters(
    pairs: Iterable[tuple[str, str]], level: Level, default_limit: int | None
) -> SearchParameters:
    """Sort the request's parameters into keys, controls and what is not supported where `level` is searched for.

    Raises
    ------
    BadRequestError : a limit or offset is no number, fuzzymatching neither true nor false, or a key is given twice.
    """
    found = SearchParameters(limit=default_limit)
    seen, ignored, included = set(), list[str](), list[str]()
    levels = [(STUDY_KEYS, found.study), (SERIES_KEYS, found.series), (INSTANCE_KEYS, found.instance)]
    levels = levels[: 1 + get_args(Level).index(level)]
    for name, value in pairs:
        keyword = ".".join(map(_keyword, name.split(".")))
        if keyword == "includefield":
            included.append(value)
            found.used.append((name, value))
            continue
        if keyword in seen:
            raise BadRequestError("a parameter is given twice; values of a list are separated by commas")
        seen.add(keyword)
        for keys, asked in levels:
            if keyword in keys:
                asked[keys[keyword]] = value
                break
        else:
            if keyword not in _CONTROLS:
                ignored.append(name)
                continue
            if keyword == "limit":
                found.limit = min(_count(value, LARGEST_LIMIT_SAID), MAX_LIMIT)
            elif keyword == "offset":
                found.offset = _count(value, MAX_OFFSET)
            elif keyword == "fuzzymatching":
                found.study["fuzzy_names"] = _is_true(value)
        found.used.append((name, value))
    found.included, unknown = included_tags(included, level)
    ignored += unknown
    if ignored:
        # They come from outside and go into a header: only what looks like a name is repeated.
        found.unused = ", ".join(name for name in ignored if _SHOWABLE.fullmatch(name)) or "some"
    return found


def _keyword(name: str) -> str:
    """Of a tag its keyword; what has none is itself, as two tags without one are two."""
    return (keyword_for_tag(int(name, 16)) or name.upper()) if TAG.fullmatch(name) else name


def _is_true(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise BadRequestError("fuzzymatching is true or false")
    return text.lower() == "true"


def _count(text: str, most: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 10 or int(text) > most:
        raise BadRequestError("limit and offset are whole numbers from 0")
    return int(text)
