"""Whether a worklist item matches a query, and what of it is answered: PS3.4 section C.2.2.2 on data sets.

Single value, wildcard, range of dates and times, list of UIDs, universal and sequence matching; text and names without
regard to case and accents, a name by any of its component groups.

Always true: a key that is not understood matches nothing rather than everything; wildcards do not become regular
expressions, so no key makes a comparison slower than the product of two lengths.
"""

from __future__ import annotations

from typing import Final

from pydicom import Dataset
from pydicom.dataelem import DataElement
from pydicom.multival import MultiValue

from central.archive.query import fold, is_like

MAX_KEY_CHARACTERS: Final = 1024
_CONTROLS: Final = frozenset(("SpecificCharacterSet", "TimezoneOffsetFromUTC", "QueryRetrieveLevel"))
_WILDCARD_VRS: Final = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
_RANGE_VRS: Final = frozenset(("DA", "TM", "DT"))
_FOLDED_VRS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_START: Final = ("ScheduledProcedureStepStartDate", "ScheduledProcedureStepStartTime")


def matches(query: Dataset, item: Dataset) -> bool:
    """True if `item` has every key of `query`; keys of zero length match all."""
    is_period = all("-" in text for text in _start_of(query))
    if is_period and not _starts_within(query, item):
        return False
    for key in query:
        if key.keyword in _CONTROLS or key.is_empty or (is_period and key.keyword in _START):
            continue
        found = item.get(key.tag)
        if key.VR == "SQ":
            inner = key.value[0]
            candidates = list(found.value) if found is not None and found.VR == "SQ" else []
            wants_something = any(not one.is_empty for one in inner)
            if wants_something and not any(matches(inner, candidate) for candidate in candidates):
                return False
        elif found is None or not _value_matches(key, found):
            return False
    return True


def answered(query: Dataset, item: Dataset) -> Dataset:
    """Of `item` what `query` has, empty where the item lacks it; a sequence without keys in it comes whole."""
    answer = Dataset()
    for key in query:
        if key.keyword in _CONTROLS:
            continue
        found = item.get(key.tag)
        if key.VR == "SQ":
            items = list(found.value) if found is not None and found.VR == "SQ" else []
            inner = key.value[0] if key.value else None
            answer.add_new(key.tag, "SQ", [answered(inner, one) if inner else one for one in items])
        else:
            answer.add_new(
                key.tag, key.VR if found is None else found.VR, None if found is None else found.value
            )
    return answer


def _value_matches(key: DataElement, found: DataElement) -> bool:
    values = _texts(found)
    keys = _texts(key)
    if any(len(text) > MAX_KEY_CHARACTERS for text in keys):
        return False
    if key.VR == "UI":
        return any(text in values for text in keys)
    if len(keys) != 1:
        return keys == values
    text = keys[0]
    if key.VR in _RANGE_VRS:
        return any(_within(text.replace(":", ""), value.replace(":", "")) for value in values)
    if key.VR == "PN":
        groups = [group for value in values for group in value.split("=")]
        return any(is_like(_name(text), _name(group)) for group in groups if group)
    if key.VR in _FOLDED_VRS:
        return any(is_like(fold(text), fold(value)) for value in values)
    if key.VR in _WILDCARD_VRS:
        return any(is_like(text, value) for value in values)
    return text in values


def _texts(element: DataElement) -> list[str]:
    value = element.value
    values = list(value) if isinstance(value, (MultiValue, list)) else [value]
    return [str(one).strip() for one in values if one is not None]


def _name(text: str) -> str:
    return fold(text).rstrip("^ ")


def _within(key: str, value: str) -> bool:
    """A day, a time or a range of them; a shorter end includes everything that begins with it."""
    first, dash, last = key.partition("-")
    if not dash:
        return value.startswith(key) if key else False
    if not value or not (first or last):
        return False
    return value >= first and (not last or value[: len(last)] <= last)


def _start_of(step: Dataset) -> list[str]:
    """Day and time as they stand in a scheduled procedure step, or in a query for one."""
    return [str(step.get(keyword) or "").replace(" ", "").replace(":", "") for keyword in _START]


def _starts_within(query: Dataset, item: Dataset) -> bool:
    """A range of days and a range of times are one period, from moment to moment (PS3.4 table K.6-1)."""
    (first_day, _, last_day), (first_time, _, last_time) = (text.partition("-") for text in _start_of(query))
    day, clock = _start_of(item)
    start = day + clock[:6].ljust(6, "0")
    first = first_day.ljust(8, "0") + first_time[:6].ljust(6, "0")
    last = last_day.ljust(8, "9") + last_time[:6].ljust(6, "9")
    return bool(day) and first <= start <= last
