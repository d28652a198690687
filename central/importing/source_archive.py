"""What another archive says that it has: its studies, in windows of dates that it answers whole, and their instances.

Many archives end a C-FIND at a number of matches, some with a status that says so and some as if that were all. So a
window whose answer ended early, or has a suspiciously round number of matches, is asked again in halves, down to an
hour of a day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Final

from pydicom import Dataset

from central.dimse.asking import Asker, Found
from contract.identifiers import InvalidIdentifierError, check_uid

_ROUND: Final = 100
_FIRST_DAY: Final = date(1980, 1, 1)  # no archive has studies from before there was DICOM's forerunner
_MOST_INSTANCES: Final = 65_535
_UIDS_AT_ONCE: Final = 100
_HOURS: Final = tuple(f"{hour:02}0000-{hour:02}5959.999999" for hour in range(24))


@dataclass(frozen=True)
class Filters:
    """Which studies. Dates include both ends; empty or None is no condition."""

    first: date | None = None
    last: date | None = None
    modalities: frozenset[str] = frozenset()
    patient_id: str = ""
    study_instance_uids: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceStudy:
    """`instances`: how many the other archive counts; None where it does not say."""

    study_instance_uid: str
    instances: int | None


@dataclass(frozen=True)
class SourceSeries:
    """`instances`: SOP Class UID by SOP Instance UID; "" where it is not said."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str = ""
    instances: dict[str, str] = field(default_factory=dict)


class SourceArchive:
    """Asks by `asker`. `remark` takes what the list may lack."""

    def __init__(
        self,
        asker: Asker,
        patiently: Callable[[Callable[[], list[Found]]], list[Found]],
        remark: Callable[[str], None],
    ) -> None:
        self._asker = asker
        self._patiently = patiently
        self._remark = remark

    def studies(self, filters: Filters, today: date) -> Iterator[SourceStudy]:
        """Those that `filters` name, the newest first where dates are asked for; each once."""
        seen: set[str] = set()
        for found in self._found_studies(filters, today):
            for answer in found.answers:
                uid = _uid(answer, "StudyInstanceUID")
                if uid is None or uid in seen or not _has_modality(answer, filters.modalities):
                    continue
                seen.add(uid)
                yield SourceStudy(uid, _count(answer))

    def series_of(self, study_instance_uid: str) -> list[SourceSeries]:
        """The series of a study with their instances."""
        keys = {"StudyInstanceUID": study_instance_uid, "SeriesInstanceUID": "", "Modality": ""}
        [found] = self._find([_identifier("SERIES", keys)], _MOST_INSTANCES)
        modalities = {
            uid: str(answer.get("Modality") or "").strip()
            for answer in found.answers
            if (uid := _uid(answer, "SeriesInstanceUID")) is not None
        }
        asked = [
            _identifier(
                "IMAGE",
                {
                    "StudyInstanceUID": study_instance_uid,
                    "SeriesInstanceUID": uid,
                    "SOPInstanceUID": "",
                    "SOPClassUID": "",
                },
            )
            for uid in modalities
        ]
        listed = self._find(asked, _MOST_INSTANCES) if asked else []
        series = []
        for identifier, answered in zip(asked, listed, strict=True):
            instances = {
                uid: _uid(answer, "SOPClassUID") or ""
                for answer in answered.answers
                if (uid := _uid(answer, "SOPInstanceUID")) is not None
            }
            series_uid = str(identifier.SeriesInstanceUID)
            series.append(SourceSeries(study_instance_uid, series_uid, modalities[series_uid], instances))
        return series

    def _found_studies(self, filters: Filters, today: date) -> Iterator[Found]:
        if filters.study_instance_uids:
            uids = filters.study_instance_uids
            for at in range(0, len(uids), _UIDS_AT_ONCE):
                named = "\\".join(uids[at : at + _UIDS_AT_ONCE])
                yield from self._find([self._study_keys(filters, {"StudyInstanceUID": named})])
            return
        if filters.first is None and filters.last is None:
            [found] = self._find([self._study_keys(filters, {})])
            if not _is_cut(found):
                yield found
                return
            self._remark(
                "the list was cut, so it is asked for by dates: studies without a date are not in it"
            )
        last = filters.last or today + timedelta(days=1)
        yield from self._windows(filters, filters.first or _FIRST_DAY, last)

    def _windows(self, filters: Filters, first: date, last: date) -> Iterator[Found]:
        waiting = [(first, last)]
        while waiting:
            begin, end = waiting.pop()
            [found] = self._find([self._study_keys(filters, {"StudyDate": _range(begin, end)})])
            if not _is_cut(found):
                yield found
            elif begin < end:
                middle = begin + (end - begin) // 2
                waiting += [(begin, middle), (middle + timedelta(days=1), end)]
            else:
                yield found  # for those without a time
                day = {"StudyDate": _day(begin)}
                hours = self._find([self._study_keys(filters, {**day, "StudyTime": hour}) for hour in _HOURS])
                if any(not hour.is_whole for hour in hours):
                    self._remark(f"the studies of one hour of {begin} are more than are listed at once")
                yield from hours

    def _study_keys(self, filters: Filters, more: dict[str, str]) -> Dataset:
        wanted = {
            "StudyDate": "",
            "StudyInstanceUID": "",
            "PatientID": filters.patient_id,
            "ModalitiesInStudy": next(iter(filters.modalities)) if len(filters.modalities) == 1 else "",
            "NumberOfStudyRelatedInstances": "",
        }
        return _identifier("STUDY", {**wanted, **more})

    def _find(self, identifiers: Sequence[Dataset], max_answers: int | None = None) -> list[Found]:
        if max_answers is None:
            return self._patiently(lambda: self._asker.find(identifiers))
        return self._patiently(lambda: self._asker.find(identifiers, max_answers))


def _identifier(level: str, keys: dict[str, str]) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value.split("\\") if "\\" in value else value)
    return identifier


def _is_cut(found: Found) -> bool:
    return not found.is_whole or bool(found.answers and len(found.answers) % _ROUND == 0)


def _day(day: date) -> str:
    return f"{day:%Y%m%d}"


def _range(begin: date, end: date) -> str:
    return _day(begin) if begin == end else f"{_day(begin)}-{_day(end)}"


def _uid(answer: Dataset, keyword: str) -> str | None:
    try:
        return check_uid(str(answer.get(keyword) or ""))
    except InvalidIdentifierError:
        return None


def _count(answer: Dataset) -> int | None:
    try:
        return int(answer.get("NumberOfStudyRelatedInstances"))
    except (TypeError, ValueError):
        return None


def _has_modality(answer: Dataset, wanted: frozenset[str]) -> bool:
    """Whether a study has one of them; one whose modalities are not said may have."""
    said = answer.get("ModalitiesInStudy") or []
    modalities = {said} if isinstance(said, str) else set(map(str, said))
    return not wanted or not modalities or bool(wanted & modalities)
