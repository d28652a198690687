"""From a header to the columns of the index: text decoded, cleaned and bounded, UIDs checked.

What the database indexes is bounded in bytes as well, since PostgreSQL has room for 2,704 of them in a row of an index.
No attribute that conforms comes near; the whole text stays in the object and in its metadata.

An instance whose Study or Series Instance UID is missing or malformed is against PS3.3 but must not vanish: it
is filed under a UID derived from what stands there, the same for the same text; where nothing stands, under
one of its own, so that no two patients meet in a study that neither names. Without a SOP Instance UID nothing
can be filed.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataelem import RawDataElement

from central.access.policy import department_key, ideographic_key, person_name_key
from central.archive.errors import NotDicomError
from central.archive.header import Header
from central.archive.plain_json import plain_text
from central.archive.query import fold, person_name_groups
from contract.identifiers import InvalidIdentifierError, check_uid

MAX_TEXT_CHARACTERS: Final = 1024
MAX_INDEXED_BYTES: Final = 500  # of a text in UTF-8; two stand in one index at most, beside dates
_MAX_CODE_BYTES: Final = 64  # of a date, a time or a code: none that conforms has more than 26
SOP_INSTANCE_UID: Final = 0x00080018
STUDY_INSTANCE_UID: Final = 0x0020000D
SERIES_INSTANCE_UID: Final = 0x0020000E
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Attributes:
    """Columns of one instance and of the series and study it says it belongs to."""

    study: dict[str, Any]
    series: dict[str, Any]
    instance: dict[str, Any]

    @property
    def study_instance_uid(self) -> str:
        return str(self.study["study_instance_uid"])

    @property
    def series_instance_uid(self) -> str:
        return str(self.series["series_instance_uid"])

    @property
    def sop_instance_uid(self) -> str:
        return str(self.instance["sop_instance_uid"])

    @property
    def filed_under(self) -> dict[int, str]:
        """Study, Series and SOP Instance UID by tag, as the archive knows them."""
        return {
            STUDY_INSTANCE_UID: self.study_instance_uid,
            SERIES_INSTANCE_UID: self.series_instance_uid,
            SOP_INSTANCE_UID: self.sop_instance_uid,
        }

    @property
    def modality(self) -> str:
        return str(self.series["modality"])


def attributes_of(header: Header) -> Attributes:
    """The index columns for `header`.

    Raises
    ------
    NotDicomError : neither the data set nor the file meta information names a SOP instance.
    """
    sop_instance_uid = text_of(header, SOP_INSTANCE_UID) or header.media_storage_sop_instance_uid
    if not sop_instance_uid:
        raise NotDicomError("it names no SOP instance")
    study_instance_uid = _uid(text_of(header, STUDY_INSTANCE_UID), "study", otherwise=sop_instance_uid)
    series_instance_uid = _uid(text_of(header, SERIES_INSTANCE_UID), "series", otherwise=study_instance_uid)
    patient_name = text_of(header, 0x00100010)
    alphabetic, others = person_name_groups(patient_name)
    referring_physician_name = text_of(header, 0x00080090)
    study_description = text_of(header, 0x00081030)
    series_description = text_of(header, 0x0008103E)
    study = {
        "study_instance_uid": study_instance_uid,
        "patient_name": patient_name,
        "patient_name_key": indexed(alphabetic),
        "patient_name_other_keys": others,
        "patient_id": indexed(text_of(header, 0x00100020)),
        "issuer_of_patient_id": indexed(text_of(header, 0x00100021)),
        "patient_birth_date": _date(header, 0x00100030),
        "patient_sex": text_of(header, 0x00100040),
        "study_date": _date(header, 0x00080020),
        "study_time": _time(header, 0x00080030),
        "accession_number": indexed(text_of(header, 0x00080050)),
        "study_description": study_description,
        "study_description_key": fold(study_description),
        "study_id": indexed(text_of(header, 0x00200010)),
        "referring_physician_name": referring_physician_name,
        "referring_physician_key": indexed(person_name_key(referring_physician_name)),
        "referring_physician_ideographic_key": ideographic_key(referring_physician_name),
        "requesting_service_key": indexed(department_key(text_of(header, 0x00321033))),
        "institutional_department_key": indexed(department_key(text_of(header, 0x00081040))),
    }
    series = {
        "series_instance_uid": series_instance_uid,
        "modality": indexed(text_of(header, 0x00080060).upper(), _MAX_CODE_BYTES),
        "series_number": _number(header, 0x00200011),
        "series_description": series_description,
        "series_description_key": fold(series_description),
        "body_part_examined": text_of(header, 0x00180015),
        "series_date": _date(header, 0x00080021),
        "series_time": _time(header, 0x00080031),
    }
    instance = {
        "sop_instance_uid": _uid(sop_instance_uid, "instance", otherwise=""),
        "sop_class_uid": text_of(header, 0x00080016) or header.media_storage_sop_class_uid,
        "instance_number": _number(header, 0x00200013),
        "rows": _number(header, 0x00280010),
        "columns": _number(header, 0x00280011),
        "bits_allocated": _number(header, 0x00280100),
        "number_of_frames": _number(header, 0x00280008),
        "transfer_syntax_uid": header.transfer_syntax_uid,
        "unread_because": header.incomplete_because,
    }
    return Attributes(study, series, instance)


def text_of(header: Header, tag: int) -> str:
    """The value at `tag`, cleaned and bounded; "" where there is none that can be read."""
    if tag not in header.dataset:
        return ""
    element: object = header.dataset.get_item(tag)  # raw, against what the stubs say
    plain = plain_text(element) if isinstance(element, RawDataElement) else None
    if plain is not None:
        return _bounded(plain)
    try:
        value = header.dataset[tag].value
    except Exception:  # malformed in one of the many ways pydicom reports: not known either way
        return ""
    if value is None:
        return ""
    parts = [str(value)] if isinstance(value, (str, int, float)) or not _is_list(value) else map(str, value)
    return _bounded("\\".join(parts))


def indexed(text: str, most_bytes: int = MAX_INDEXED_BYTES) -> str:
    """As much of `text`, from its beginning, as an index takes; whole characters."""
    return text.encode(errors="ignore")[:most_bytes].decode(errors="ignore")


def _bounded(text: str) -> str:
    return _CONTROL.sub("", text).strip(" ")[:MAX_TEXT_CHARACTERS]


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue"


def _number(header: Header, tag: int) -> int | None:
    text = text_of(header, tag).partition("\\")[0].strip()
    return int(text) if re.fullmatch(r"[+-]?\d{1,15}", text, re.ASCII) else None


def _date(header: Header, tag: int) -> str:
    """``YYYYMMDD``; the older form with dots (ACR-NEMA, PS3.5 section 6.2 note) is brought to it."""
    text = text_of(header, tag).partition("\\")[0].replace(".", "").strip()
    return indexed(text, _MAX_CODE_BYTES)


def _time(header: Header, tag: int) -> str:
    text = text_of(header, tag).partition("\\")[0].replace(":", "").strip()
    return indexed(text, _MAX_CODE_BYTES)


def _uid(text: str, level: str, *, otherwise: str) -> str:
    try:
        return check_uid(text)
    except InvalidIdentifierError:
        digest = hashlib.sha256(f"{level}\0{text or otherwise}".encode()).digest()
        return f"2.25.{int.from_bytes(digest[:16], 'big')}"  # PS3.5 section B.2
