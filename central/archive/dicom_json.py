"""An instance's metadata as DICOM JSON (PS3.18 annex F), made once at ingest from the header.

Small binary values are inline; larger ones, those that were not read, and the pixel data are named by a relative
BulkDataURI: ``bulkdata/`` and where the element stands, as tag, or as tag, item number (from 1), tag inside a sequence.
An element that cannot be understood keeps its place with its VR and no value: one broken private element must
not take the rest of the header from the viewer.
"""

from __future__ import annotations

import array
import base64
import json
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag

from central.archive.header import Header
from central.archive.plain_json import plain_json

MAX_INLINE_BYTES: Final = 4096
MAX_DEPTH: Final = 32
_REMEMBERED: Final = 2048  # elements: of a dozen series that come at once
_MAX_REMEMBERED_BYTES: Final = 4096
_WORD_CODES: Final = {"OW": "H", "OF": "I", "OL": "I", "OD": "Q", "OV": "Q"}
_WORDS_AND_BYTES: Final = frozenset({"OB", *_WORD_CODES})
_BINARY: Final = _WORDS_AND_BYTES | {"UN"}  # which pydicom may know another VR for

JsonElement = dict[str, Any]
Within = tuple[str, ...]
"""The items around a data set, from outside in: ``<tag of the sequence>/<number of the item>``."""


def dicom_json(header: Header, filed_under: Mapping[int, str]) -> bytes:
    """The header as one JSON object in UTF-8, ready to be sent.

    Parameters
    ----------
    filed_under : the UIDs (by tag) under which the archive knows the instance. They are those of the data set
        unless it has none or malformed ones; a reader that asks on by what it reads here must find the instance.
    """
    said = _top(header)
    for tag, uid in filed_under.items():
        said[tag] = _dumps({"vr": "UI", "Value": [uid]})
    for tag, sent_vr in header.skipped.items():
        said[tag] = _dumps({"vr": _vr(tag, sent_vr), "BulkDataURI": _bulk_data_uri(tag, ())})
    if header.pixel_data is not None:
        tag, sent_vr = header.pixel_data
        said[tag] = _dumps({"vr": _vr(tag, sent_vr), "BulkDataURI": _bulk_data_uri(tag, ())})
    members = [f'"{tag:08X}":{said[tag]}' for tag in sorted(said)]
    return f"{{{','.join(members)}}}".encode("utf-8", "replace")


def with_bulk_data_at(text: bytes, instance_url: str) -> bytes:
    """What `dicom_json` made, its BulkDataURIs made absolute below `instance_url`."""
    # Quotes inside a JSON string are escaped, so this stands nowhere but at the beginning of such a URI.
    name = b'"BulkDataURI":"'
    return text.replace(name + b"bulkdata/", name + json.dumps(instance_url)[1:-1].encode() + b"/bulkdata/")


def _top(header: Header) -> dict[int, str]:
    """Each element of the data set itself as JSON, by its tag."""
    dataset, little, said = header.dataset, header.is_little_endian, {}
    charset = dataset.original_character_set
    charsets = (charset,) if isinstance(charset, str) else tuple(charset or ())
    for tag, element in dataset.items():
        if tag.element == 0:  # group lengths (PS3.5 section 7.2) say nothing here
            continue
        if isinstance(element, RawDataElement) and _stands_alone(element):
            said[int(tag)] = _remembered(int(tag), element.VR, element.value, little, charsets)
        else:
            said[int(tag)] = _dumps(_one(dataset, element, little, ()))
    return said


def _stands_alone(element: RawDataElement) -> bool:
    """Whether its bytes, its VR and the character sets are all that it means: what has no VR of its own, or UN, takes
    it from other elements."""
    value = element.value
    return (
        value is not None
        and len(value) <= _MAX_REMEMBERED_BYTES
        and not element.is_implicit_VR
        and element.VR not in (None, "UN")
    )


@lru_cache(_REMEMBERED)
def _remembered(tag: int, vr: str, value: bytes, little: bool, charsets: tuple[str, ...]) -> str:
    """The JSON of such an element. Most are the same in one image of a series after the other."""
    element = RawDataElement(BaseTag(tag), vr, len(value), value, 0, False, little)
    dataset = Dataset({element.tag: element})
    dataset.set_original_encoding(False, little, list(charsets))
    return _dumps(_one(dataset, element, little, ()))


def _items(dataset: Dataset, little: bool, within: Within) -> dict[str, JsonElement]:
    return {
        f"{tag:08X}": _one(dataset, element, little, within)
        for tag, element in sorted(dataset.items())
        if tag.element != 0
    }


def _one(
    dataset: Dataset, element: DataElement | RawDataElement, little: bool, within: Within
) -> JsonElement:
    plain = _plain(element, little, within) if isinstance(element, RawDataElement) else None
    return plain or _element(dataset, element.tag, little, within)


def _plain(element: RawDataElement, little: bool, within: Within) -> JsonElement | None:
    """What can be said without pydicom."""
    if element.VR in _WORDS_AND_BYTES and element.value is not None and little:
        return _binary(element.VR, element.value, element.tag, little, within)
    return plain_json(element)


def _element(dataset: Dataset, tag: BaseTag, little: bool, within: Within) -> JsonElement:
    try:
        element = dataset[tag]
        if element.VR == "SQ":
            if len(within) >= MAX_DEPTH:
                return {"vr": "SQ"}
            items = [
                _items(item, little, (*within, f"{tag:08X}/{number}"))
                for number, item in enumerate(element.value or (), 1)
            ]
            return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
        if element.VR in _BINARY:
            return _binary(str(element.VR), element.value or b"", tag, little, within)
        # The methods' own threshold is not used: what is binary was taken care of above.
        return _finite(element.to_json_dict(bulk_data_element_handler=None, bulk_data_threshold=0))
    except Exception:  # see the module's docstring; pydicom raises nearly anything on malformed values
        return {"vr": _vr(tag, dataset.get_item(tag).VR)}


def _binary(vr: str, value: bytes, tag: BaseTag, little: bool, within: Within) -> JsonElement:
    if len(value) > MAX_INLINE_BYTES:
        return {"vr": vr, "BulkDataURI": _bulk_data_uri(tag, within)}
    if not value:
        return {"vr": vr}
    code = _WORD_CODES.get(vr)
    if code is not None and not little:
        words = array.array(code, value)  # bulk and inline data are little endian (PS3.18 section F.2.7)
        words.byteswap()
        value = words.tobytes()
    return {"vr": vr, "InlineBinary": base64.b64encode(value).decode("ascii")}


def _finite(converted: JsonElement) -> JsonElement:
    """JSON has no NaN and no infinities; PS3.18 table F.2.3-1 writes them as strings."""
    if any(isinstance(value, float) and not math.isfinite(value) for value in converted.get("Value", ())):
        converted["Value"] = [
            ("NaN" if math.isnan(value) else "inf" if value > 0 else "-inf")
            if isinstance(value, float) and not math.isfinite(value)
            else value
            for value in converted["Value"]
        ]
    return converted


def _vr(tag: BaseTag, sent: str | None) -> str:
    """The VR as sent (explicit), as the dictionary has it (implicit), else UN."""
    if sent:
        return str(sent)
    try:
        return dictionary_VR(tag).partition(" ")[0]
    except KeyError:
        return "UN"


def _dumps(element: JsonElement) -> str:
    return json.dumps(element, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _bulk_data_uri(tag: BaseTag, within: Within) -> str:
    return "/".join(["bulkdata", *within, f"{tag:08X}"])
