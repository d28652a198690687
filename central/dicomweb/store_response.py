"""The answer to STOW-RS: which instances are stored and which are not, and why (PS3.18 section 10.5.3, Annex I).

A failure that no SOP instance can be named for (a part that is not DICOM) stands in the Other Failures Sequence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword

from central.dicomweb.deposit import Failed, Stored
from central.dicomweb.native_model import JsonObject

JSON: Final = "application/dicom+json"


def status_of(stored: Sequence[Stored], failed: Sequence[Failed]) -> int:
    """200: all are stored as they were sent; 202: not all, or not all as sent; 409: none (table 10.5.3-1)."""
    if not stored:
        return 409
    return 202 if failed or any(one.warning_reason for one in stored) else 200


def response_module(stored: Sequence[Stored], failed: Sequence[Failed], base_url: str) -> JsonObject:
    """The Store Instances Response as DICOM JSON. `base_url` ends in ``/dicom-web``."""
    studies = {one.study_instance_uid for one in stored}
    named = [one for one in failed if one.sop_instance_uid]
    unnamed = [one for one in failed if not one.sop_instance_uid]
    return _data_set(
        {
            "RetrieveURL": f"{base_url}/studies/{studies.pop()}" if len(studies) == 1 else None,
            "FailedSOPSequence": [
                _data_set(
                    {
                        "ReferencedSOPClassUID": one.sop_class_uid,
                        "ReferencedSOPInstanceUID": one.sop_instance_uid,
                        "FailureReason": one.failure_reason,
                    }
                )
                for one in named
            ],
            "ReferencedSOPSequence": [
                _data_set(
                    {
                        "ReferencedSOPClassUID": one.sop_class_uid,
                        "ReferencedSOPInstanceUID": one.sop_instance_uid,
                        "RetrieveURL": f"{base_url}/studies/{one.study_instance_uid}"
                        f"/series/{one.series_instance_uid}/instances/{one.sop_instance_uid}",
                        "WarningReason": one.warning_reason or None,
                    }
                )
                for one in stored
            ],
            "OtherFailuresSequence": [_data_set({"FailureReason": one.failure_reason}) for one in unnamed],
        }
    )


def as_json(module: JsonObject) -> bytes:
    return json.dumps(module, separators=(",", ":")).encode()


def _data_set(attributes: Mapping[str, object]) -> JsonObject:
    """Attributes without a value are left out."""
    elements = {}
    for keyword, value in attributes.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None, keyword
        if value not in (None, "", []):
            elements[f"{tag:08X}"] = {
                "vr": dictionary_VR(tag),
                "Value": value if isinstance(value, list) else [value],
            }
    return dict(sorted(elements.items()))
