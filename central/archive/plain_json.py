"""The DICOM JSON, or the text, of values that need no interpretation, straight from their bytes: most of a header.

Always true: what this returns is what pydicom's own conversion returns for the same bytes; where that is not plain to
see, it returns None and pydicom is asked. So text goes this way only if it reads the same in every character set
(PS3.5 section 6.1: ASCII without escape sequences, and without the two characters that ISO_IR 13 has otherwise),
numbers only if each is written as PS3.5 section 6.2 wants it.
"""

from __future__ import annotations

import math
import re
import struct
from functools import lru_cache
from typing import Any, Final

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement

_CODES: Final = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}
_SPLIT: Final = frozenset({"CS", "DA", "TM", "DT", "UI"})  # fixed repertoire, `\\` between values
_TEXT: Final = frozenset({"SH", "LO", "UC", "ST", "LT", "UT"})
_OTHERWISE_IN_ISO_IR_13: Final = ("\\", "~", "\x1b")
_OTHERWISE_IN_PN: Final = (*_OTHERWISE_IN_ISO_IR_13, "=")  # which parts a name's groups
_UIDS: Final = re.compile(r"[0-9.\\]*[ \0]*")
_INTEGER: Final = re.compile(r" *[+-]?[0-9]{1,9} *")
_DECIMAL: Final = re.compile(r" *[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})? *")
_MAX_DS_CHARACTERS: Final = 16


def plain_json(element: RawDataElement) -> dict[str, Any] | None:
    """The element as DICOM JSON (PS3.18 section F.2.2); None if pydicom has to look at it."""
    vr = element.VR or _public_vr(element.tag)
    raw = element.value
    if raw is None:
        return None
    code = _CODES.get(vr)
    if code is not None:
        return _numbers(vr, code, raw, little=element.is_little_endian)
    if not raw.isascii():
        return None
    text = raw.decode("ascii")
    if vr == "UI" and not _UIDS.fullmatch(text):
        return None
    if vr in _SPLIT:
        return _with(vr, text.rstrip(" \0").split("\\"))
    if vr in _TEXT:
        if any(character in text for character in _OTHERWISE_IN_ISO_IR_13):
            return None
        return _with(vr, [text.rstrip("\0 ")])
    if vr == "PN":
        name = _name(text)
        return None if name is None else _with(vr, [name and {"Alphabetic": name}])
    if vr == "IS":
        return _parsed(vr, text, _INTEGER, int)
    if vr == "DS":
        return _parsed(vr, text, _DECIMAL, float)
    return None


def plain_text(element: RawDataElement) -> str | None:
    """The one value of the element as text, a number as it is written; "" without one. None as `plain_json`."""
    vr, raw = element.VR or _public_vr(element.tag), element.value
    if vr == "PN":
        return _name(raw.decode("ascii")) if raw is not None and raw.isascii() else None
    if vr in ("DS", "AT", "FL", "FD"):  # which pydicom writes in ways of its own
        return None
    found = plain_json(element)
    if found is None or raw is None:
        return None
    values = found.get("Value", [""])
    if len(values) > 1:
        return None
    if vr == "IS" and str(values[0]) != raw.strip(b" \0").decode():  # as "007" and "+7" are
        return None
    return str(values[0])


def _with(vr: str, values: list[Any]) -> dict[str, Any]:
    return {"vr": vr} if values == [""] else {"vr": vr, "Value": values}


def _name(text: str) -> str | None:
    """Of one person, in one group of components; None if it may be more."""
    return None if any(character in text for character in _OTHERWISE_IN_PN) else text.rstrip(" \0")


def _parsed(
    vr: str, text: str, form: re.Pattern[str], number: type[int] | type[float]
) -> dict[str, Any] | None:
    parts = text.rstrip(" \0").split("\\")
    if not all(form.fullmatch(part) and len(part) <= _MAX_DS_CHARACTERS for part in parts):
        return None
    values = [number(part) for part in parts]
    return {"vr": vr, "Value": values} if all(map(math.isfinite, values)) else None


def _numbers(vr: str, code: str, raw: bytes, *, little: bool) -> dict[str, Any] | None:
    count, rest = divmod(len(raw), struct.calcsize(f"<{code}"))
    if not count or rest:
        return None
    values = struct.unpack(f"{'<' if little else '>'}{count}{code}", raw)
    return {"vr": vr, "Value": list(values)} if all(map(math.isfinite, values)) else None


@lru_cache(maxsize=8192)
def _public_vr(tag: int) -> str:
    """Of an implicit element of the standard; "" for one whose VR depends on something."""
    if (tag >> 16) & 1:
        return ""
    try:
        return dictionary_VR(tag)
    except KeyError:
        return ""
