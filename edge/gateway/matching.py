"""Whether an item matches a query: PS3.4 section C.2.2.2, on raw values, each decoded by its own character set.

Single value, wildcard, date and time range, list of UIDs, universal, and sequence matching. Person names are
compared without regard to case, and a key of one component group matches any of the item's groups, so that a
query in Latin letters finds a name that is kept in Latin and in ideographs.

Always true: a key this code does not understand matches nothing rather than everything; no key makes a
comparison slower than the product of the two lengths (wildcards do not become regular expressions).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydicom.charset import decode_bytes, default_encoding, python_encoding
from pydicom.valuerep import PN_DELIMS, TEXT_VR_DELIMS

from edge.gateway.data_set import DataSet, Element, ascii_value

SPECIFIC_CHARACTER_SET: Final = 0x00080005
TIMEZONE_OFFSET: Final = 0x00080201
QUERY_CONTROL: Final = frozenset({SPECIFIC_CHARACTER_SET, TIMEZONE_OFFSET, 0x00080052, 0x00080053})
"""Elements of an identifier that are no keys."""

_WILDCARD_VRS: Final = frozenset(("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"))
_DECODED_VRS: Final = frozenset(("LO", "LT", "PN", "SH", "ST", "UC", "UT"))
_ONE_VALUE_VRS: Final = frozenset(("LT", "ST", "UT", "UR"))
_RANGE_VRS: Final = frozenset(("DA", "TM", "DT"))
_DIGITS: Final = {"DA": 8, "TM": 6, "DT": 14}

_ESCAPE: Final = b"\x1b"
_BACKSLASH: Final = frozenset({0x5C})
MAX_KEY_BYTES: Final = 1024
"""Longer keys match nothing (but lists of UIDs): no attribute that is searched for holds more."""

_STANDALONE: Final = frozenset(("UTF8", "GB18030", "GBK"))  # without code extensions, whatever else is named


def character_set(data_set: DataSet, inherited: Sequence[str] = ("iso8859",)) -> Sequence[str]:
    """The Python encodings of a data set's text; an item of a sequence inherits (PS3.3 section C.12.1.1.2)."""
    if SPECIFIC_CHARACTER_SET not in data_set:
        return inherited
    return encodings_of(ascii_value(data_set, SPECIFIC_CHARACTER_SET))


def encodings_of(named: str) -> Sequence[str]:
    """The Python encodings for a value of Specific Character Set."""
    encodings = [python_encoding.get(name.strip(), default_encoding) for name in named.split("\\")]
    return encodings[:1] if encodings[0] in _STANDALONE else encodings


def matches(query: DataSet, item: DataSet) -> bool:
    """True if `item` has every key of `query`. What only asks for a value back matches all (C.2.2.2.3)."""
    return _matches(query, character_set(query), item, character_set(item))


def _matches(query: DataSet, query_set: Sequence[str], item: DataSet, item_set: Sequence[str]) -> bool:
    combined = _combined_range(query)
    for tag, key in query.items():
        if tag in QUERY_CONTROL or tag in combined or _is_universal(key):
            continue
        found = item.get(tag)
        if found is None:
            return False
        if key.vr == "SQ":
            if not _sequence_matches(key, query_set, found, item_set):
                return False
        elif not _value_matches(key, query_set, found, item_set):
            return False
    return not combined or _start_is_within(query, item)


def _is_universal(key: Element) -> bool:
    """Whether a key says nothing of the value: empty, nothing but ``*``, or a sequence of such keys alone.

    Then it matches whatever has no such element, too: modalities ask for codes with one item of empty keys.
    """
    if key.vr == "SQ":
        inner = (one for item in key.items for one in item.items() if one[0] not in QUERY_CONTROL)
        return all(_is_universal(element) for _, element in inner)
    return key.is_empty or (key.vr in _WILDCARD_VRS and not key.value.strip(b" \0*"))


def _sequence_matches(
    key: Element, query_set: Sequence[str], found: Element, item_set: Sequence[str]
) -> bool:
    """PS3.4 section C.2.2.2.6: one item of the key, matched by any item of the entity."""
    wanted = key.items[0]
    if found.vr != "SQ":
        return False
    wanted_set = character_set(wanted, query_set)
    return any(
        _matches(wanted, wanted_set, candidate, character_set(candidate, item_set))
        for candidate in found.items
    )


def _value_matches(key: Element, query_set: Sequence[str], found: Element, item_set: Sequence[str]) -> bool:
    vr = found.vr if key.vr == "UN" else key.vr
    wanted = decode(key.value, vr, query_set)
    values = decode(found.value, vr, item_set)
    if vr == "UI":
        return not set(wanted.split("\\")).isdisjoint(values.split("\\"))
    if len(wanted) > MAX_KEY_BYTES:
        return False
    many = [values] if vr in _ONE_VALUE_VRS else values.split("\\")
    if vr in _RANGE_VRS:
        return any(_is_within(wanted, value.strip(), vr) for value in many)
    if vr == "PN":
        return any(_name_matches(wanted, value) for value in many)
    if vr in _WILDCARD_VRS:
        return any(is_like(wanted.strip(" "), value.strip(" ")) for value in many)
    return any(wanted.strip(" ") == value.strip(" ") for value in many)


def decode(value: bytes, vr: str, encodings: Sequence[str]) -> str:
    """The text of a raw value without its padding; what its character set cannot hold is replaced."""
    value = value.rstrip(b"\0 ")
    if vr not in _DECODED_VRS:
        return value.decode("latin-1")
    if _ESCAPE not in value:
        return value.decode(encodings[0], "replace")
    if vr != "PN":
        return decode_bytes(value, encodings, TEXT_VR_DELIMS | _BACKSLASH)
    # Code extensions end at "^" and "=" (PS3.5 section 6.1.2.5.3).
    return "=".join(decode_bytes(group, encodings, PN_DELIMS | _BACKSLASH) for group in value.split(b"="))


def _name_matches(wanted: str, value: str) -> bool:
    pattern = _name(wanted)
    if "=" in pattern or "=" not in value:
        return is_like(pattern, _name(value))
    groups = [_name(group) for group in value.split("=")]
    return any(is_like(pattern, group) for group in (*groups, _name(value)))


def _name(name: str) -> str:
    """Folded, without the separators that trail a group, which mean nothing (PS3.5 section 6.2.1)."""
    return "=".join(group.strip(" ").rstrip("^ ") for group in name.casefold().split("=")).rstrip("=")


def is_like(pattern: str, text: str) -> bool:
    """Wildcard matching (C.2.2.2.4): ``*`` any run of characters, ``?`` one."""
    at = mark = 0
    star = -1
    i = 0
    while i < len(text):
        if at < len(pattern) and (pattern[at] == "?" or pattern[at] == text[i]) and pattern[at] != "*":
            at, i = at + 1, i + 1
        elif at < len(pattern) and pattern[at] == "*":
            star, mark = at, i
            at += 1
        elif star >= 0:
            mark += 1
            at, i = star + 1, mark
        else:
            return False
    return pattern[at:].strip("*") == ""


def _is_within(wanted: str, value: str, vr: str) -> bool:
    """Range matching (C.2.2.2.5): ``a-b``, ``a-``, ``-b``, or one value; times match to the precision of the key."""
    if not value:
        return False
    digits = _DIGITS[vr]
    exact = _plain(value, vr)
    # A DT may end in an offset such as -0500; a range's hyphen stands after at least a year, or first.
    if "-" not in wanted or (vr == "DT" and len(wanted) > 5 and wanted[-5] == "-" and "-" not in wanted[:-5]):
        return exact.startswith(_plain(wanted, vr))
    low, _, high = wanted.partition("-")
    lowest = _plain(low, vr).ljust(digits, "0")
    highest = _plain(high, vr).ljust(digits, "9") if high.strip() else "9" * digits
    return lowest <= exact[:digits].ljust(digits, "0") <= highest


def _plain(value: str, vr: str) -> str:
    """Digits only, down to the second: ``2026.01.02`` and ``10:11:12.5`` were legal once (PS3.5 section 6.2)."""
    value = value.strip()
    if vr == "DA":
        return value.replace(".", "")
    return value.partition(".")[0].partition("+")[0].replace(":", "")


_START: Final = (0x00400002, 0x00400003)


def _combined_range(query: DataSet) -> tuple[int, ...]:
    """Scheduled start date and time, both ranges, are one range from moment to moment (PS3.4 Table K.6-1)."""
    if all("-" in ascii_value(query, tag) for tag in _START):
        return _START
    return ()


def _start_is_within(query: DataSet, item: DataSet) -> bool:
    dates, times = (ascii_value(query, tag).partition("-") for tag in _START)
    date, time = (_plain(ascii_value(item, tag), vr) for tag, vr in zip(_START, ("DA", "TM"), strict=True))
    if not date:
        return False
    start = date + time[:6].ljust(6, "0")
    lowest = _plain(dates[0], "DA").ljust(8, "0") + _plain(times[0], "TM").ljust(6, "0")
    highest = _plain(dates[2], "DA").ljust(8, "9") + _plain(times[2], "TM").ljust(6, "9")
    return lowest <= start <= highest
