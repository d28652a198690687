"""DICOM JSON as Native DICOM Model, which is application/dicom+xml (PS3.19 Annex A.1, PS3.18 section 8.7.3.2).

Made from what is kept as JSON, so that both say the same. What XML has no characters for is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final
from xml.sax.saxutils import escape, quoteattr

from pydicom.datadict import keyword_for_tag

from central.audit.spelling import NO_TEXT

XML: Final = "application/dicom+xml"
JsonObject = dict[str, Any]
_HEAD: Final = (
    '<?xml version="1.0" encoding="UTF-8"?>\n'
    '<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM" xml:space="preserve">'
)
_COMPONENTS: Final = ("FamilyName", "GivenName", "MiddleName", "NamePrefix", "NameSuffix")
_GROUPS: Final = ("Alphabetic", "Ideographic", "Phonetic")


def native_model(data_set: Mapping[str, JsonObject]) -> bytes:
    """One data set as a document of its own, in UTF-8."""
    return f"{_HEAD}{''.join(_attributes(data_set))}</NativeDicomModel>".encode()


def _attributes(data_set: Mapping[str, JsonObject]) -> Iterator[str]:
    for tag, element in data_set.items():
        yield f"<DicomAttribute {_named(tag, data_set)} vr={quoteattr(element['vr'])}>"
        if "BulkDataURI" in element:
            yield f"<BulkData uri={quoteattr(_plain(element['BulkDataURI']))}/>"
        elif "InlineBinary" in element:
            yield f"<InlineBinary>{_text(element['InlineBinary'])}</InlineBinary>"
        for number, value in enumerate(element.get("Value", ()), 1):
            if value is not None:  # an empty one among several
                yield _value(element["vr"], number, value)
        yield "</DicomAttribute>"


def _named(tag: str, data_set: Mapping[str, JsonObject]) -> str:
    """The attribute's tag and keyword; of a private one the creator instead, and no block (table A.1.5-2)."""
    group, element = tag[:4], tag[4:]
    if int(group, 16) % 2 and int(element, 16) > 0xFF:
        creator = data_set.get(f"{group}00{element[:2]}", {}).get("Value", ("",))[0]
        if creator:
            return f'tag="{group}00{element[2:]}" privateCreator={quoteattr(_plain(creator))}'
    keyword = keyword_for_tag(int(tag, 16))
    return f'tag="{tag}" keyword="{keyword}"' if keyword else f'tag="{tag}"'


def _value(vr: str, number: int, value: Any) -> str:
    if vr == "SQ":
        return f'<Item number="{number}">{"".join(_attributes(value))}</Item>'
    if vr == "PN":
        groups = "".join(
            f"<{group}>{_components(value[group])}</{group}>" for group in _GROUPS if value.get(group)
        )
        return f'<PersonName number="{number}">{groups}</PersonName>'
    return f'<Value number="{number}">{_text(value)}</Value>'


def _components(group: str) -> str:
    parts = zip(_COMPONENTS, group.split("^"), strict=False)
    return "".join(f"<{name}>{_text(part)}</{name}>" for name, part in parts if part)


def _text(value: object) -> str:
    # A carriage return as it is would be read as a line feed.
    return escape(_plain(value), {"\r": "&#13;"})


def _plain(value: object) -> str:
    return NO_TEXT.sub("", str(value))
