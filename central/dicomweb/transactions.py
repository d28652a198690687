"""What this service offers, as one table: the capabilities and the OpenAPI document are made from it.

What is always true: the table has exactly the router's routes; a test compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from pydicom.datadict import dictionary_VR

from central.archive.query import MAX_KEY_CHARACTERS
from central.dicomweb import bulk_data
from central.dicomweb.frames import FRAME_NUMBER
from central.dicomweb.gate import INSTANCE, SERIES, STUDY
from central.dicomweb.native_model import XML
from central.dicomweb.search_parameters import (
    DEFAULT_LIMIT,
    INSTANCE_KEYS,
    LARGEST_LIMIT_SAID,
    MAX_LIMIT,
    MAX_OFFSET,
    SERIES_KEYS,
    STUDY_KEYS,
)
from central.dicomweb.view_parameters import MAX_VIEWPORT

_JSON: Final = ("application/dicom+json", "application/json")
_DATA_SETS: Final = (*_JSON, f'multipart/related; type="{XML}"')
_DICOM: Final = 'multipart/related; type="application/dicom"'
_ZIP: Final = "application/zip"
_OCTETS: Final = 'multipart/related; type="application/octet-stream"'
_PICTURES: Final = ("image/jpeg", "image/png")
_MANY_PICTURES: Final = tuple(f'multipart/related; type="{picture}"' for picture in _PICTURES)
_FRAMES: Final = INSTANCE + "/frames/{frames}"
_FRAME: Final = INSTANCE + "/frames/{frame}"
_CODED: Final = ("image/jpeg", "image/jls", "image/jp2", "image/jphc", "image/dicom-rle")


@dataclass(frozen=True)
class Parameter:
    """A query parameter. `kind` is a type of JSON Schema, `schema` what else JSON Schema can say of its values."""

    name: str
    description: str
    kind: str = "string"
    required: bool = False
    schema: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Transaction:
    """One method of one resource.

    `path` is below the service, as the router has it; `name` and `clause` are those of PS3.18. `statuses` are those of
    success; `takes` is the media type of the request's body.
    """

    method: str
    path: str
    name: str
    clause: str
    media_types: tuple[str, ...]
    parameters: tuple[Parameter, ...] = ()
    statuses: tuple[int, ...] = (200,)
    takes: str = ""


def _whole(*parts: str) -> dict[str, object]:
    """A value that is built of these patterns, and nothing around them."""
    return {"pattern": f"^{''.join(parts)}$"}


_UID: Final = r"(?![0-9.]{65})[0-9]+(\.[0-9]+)*"
UID: Final = {**_whole(r"[0-9]+(\.[0-9]+)*"), "maxLength": 64}
FRAME: Final = _whole(FRAME_NUMBER)
FRAMES: Final = _whole(FRAME_NUMBER, f"(,{FRAME_NUMBER})*")
ELEMENT: Final = _whole(bulk_data.ELEMENT)
_NUMBER: Final = r"[+-]?[0-9]{1,9}(\.[0-9]{1,9})?"
_ABOVE_ZERO: Final = r"(0\.[0-9]{0,8}[1-9]|[1-9][0-9]{0,8}(\.[0-9]{1,9})?)"
_FROM_ZERO: Final = r"([0-9]{1,9}(\.[0-9]{1,9})?)"
_SIDE: Final = "([1-9][0-9]{0,2}|[1-7][0-9]{3}|80[0-9]{2}|81[0-8][0-9]|819[0-2])"  # 1 to MAX_VIEWPORT
_DATE: Final = "[0-9]{8}"
_TIME: Final = r"[0-9]{2}([0-9]{2}([0-9]{2}(\.[0-9]{1,6})?)?)?"
# What `central.archive.query` takes, by value representation; an empty key matches everything.
_KEYS_OF_VR: Final[dict[str, dict[str, object]]] = {
    "UI": _whole(rf"(\*|{_UID}([,\\]{_UID})*)?"),
    "DA": _whole(rf"(\*|{_DATE}|{_DATE}-({_DATE})?|-{_DATE})?"),
    "TM": _whole(rf"(\*|{_TIME}|{_TIME}-({_TIME})?|-{_TIME})?"),
    "IS": _whole(r"(\*|[+-]?[0-9]{1,12})?"),
}
_ANY_KEY: Final[dict[str, object]] = {**_whole(r"[^\x00]*"), "maxLength": MAX_KEY_CHARACTERS}
_CHOSEN_SERIES: Final = Parameter(
    "SeriesInstanceUID",
    "with application/zip: the series wanted, separated by commas; all without it",
    schema=_whole(_UID, f"(,{_UID})*"),
)
_PAGE: Final = (
    Parameter(
        "limit",
        f"at most so many; {DEFAULT_LIMIT} by default, {MAX_LIMIT} at most",
        "integer",
        schema={"minimum": 0, "maximum": LARGEST_LIMIT_SAID},
    ),
    Parameter("offset", "from this one on", "integer", schema={"minimum": 0, "maximum": MAX_OFFSET}),
    Parameter(
        "fuzzymatching",
        "true: each word of a person name begins a word of the name, in any order",
        schema={"enum": ["true", "false"]},
    ),
)
_VIEW: Final = (
    Parameter(
        "window",
        "<centre>,<width>[,linear|linear-exact|sigmoid]",
        schema=_whole(_NUMBER, ",", _ABOVE_ZERO, "(,(linear|linear-exact|sigmoid))?"),
    ),
    Parameter(
        "viewport",
        "<columns>,<rows>: what it must fit into; [,<left>,<top>,<width>,<height>]: of which part of the image",
        schema=_whole(
            _SIDE, ",", _SIDE, f"(,{_FROM_ZERO}?,{_FROM_ZERO}?,(-?{_ABOVE_ZERO})?,(-?{_ABOVE_ZERO})?)?"
        ),
    ),
    Parameter("quality", "of image/jpeg", "integer", schema={"minimum": 1, "maximum": 100}),
)
_OF_A_SIDE: Final = {"minimum": 1, "maximum": MAX_VIEWPORT}
_URI: Final = (
    Parameter("requestType", "WADO", required=True, schema={"const": "WADO"}),
    Parameter("studyUID", "Study Instance UID", required=True, schema=UID),
    Parameter("seriesUID", "Series Instance UID", required=True, schema=UID),
    Parameter("objectUID", "SOP Instance UID", required=True, schema=UID),
    Parameter("contentType", "the media type wanted"),
    Parameter("transferSyntax", "with application/dicom: the transfer syntax wanted", schema=UID),
    Parameter(
        "frameNumber",
        "of a picture: its frame, from 1",
        "integer",
        schema={"minimum": 1, "maximum": 999_999_999},
    ),
    Parameter("rows", "of a picture: rows it must fit into", "integer", schema=_OF_A_SIDE),
    Parameter("columns", "of a picture: columns it must fit into", "integer", schema=_OF_A_SIDE),
    Parameter("imageQuality", "of image/jpeg", "integer", schema={"minimum": 1, "maximum": 100}),
    Parameter("region", "of a picture: <left>,<top>,<right>,<bottom> of the image, from 0.0 to 1.0"),
    Parameter("windowCenter", "of a picture, with windowWidth", "number"),
    Parameter("windowWidth", "of a picture, with windowCenter", "number", schema={"exclusiveMinimum": 0}),
)


def _key(keyword: str) -> Parameter:
    schema = _KEYS_OF_VR.get(dictionary_VR(keyword.rpartition(".")[2]), _ANY_KEY)
    return Parameter(keyword, "matching key", schema=schema)


def _keys(*levels: Mapping[str, str], in_path: tuple[str, ...] = ()) -> tuple[Parameter, ...]:
    """The matching keys of these levels, without those that the path names."""
    return tuple(_key(keyword) for keys in levels for keyword in keys if keyword not in in_path) + _PAGE


def accept(transaction: Transaction) -> Parameter:
    """The parameter that every resource has (PS3.18 section 8.3.3.1)."""
    return Parameter(
        "accept",
        "as the Accept header, which it stands before; lists and weights are taken as well",
        schema={"enum": ["", "*/*", *transaction.media_types]},
    )


_STUDY_IN_PATH: Final = ("StudyInstanceUID",)


def _searches(path: str, name: str, *levels: Mapping[str, str], in_path: tuple[str, ...] = ()) -> Transaction:
    return Transaction(
        "GET", path, name, "10.6", _DATA_SETS, _keys(*levels, in_path=in_path), statuses=(200, 204)
    )


def _stores(path: str, name: str) -> Transaction:
    answers = (*_JSON, XML)
    return Transaction("POST", path, name, "10.5", answers, statuses=(200, 202, 409), takes=_DICOM)


TRANSACTIONS: Final = (
    Transaction(
        "OPTIONS", "/", "RetrieveCapabilities", "8.9", ("application/vnd.sun.wadl+xml", "application/json")
    ),
    Transaction("GET", "/openapi.json", "RetrieveOpenApi", "", ("application/json",)),
    Transaction(
        "GET", "/wado", "RetrieveByUri", "9", (*_PICTURES, "application/dicom"), _URI, (200, 206, 304)
    ),
    _searches("/studies", "SearchForStudies", STUDY_KEYS),
    _searches("/series", "SearchForSeries", STUDY_KEYS, SERIES_KEYS),
    _searches("/instances", "SearchForInstances", STUDY_KEYS, SERIES_KEYS, INSTANCE_KEYS),
    _searches(STUDY + "/series", "SearchForStudySeries", STUDY_KEYS, SERIES_KEYS, in_path=_STUDY_IN_PATH),
    _searches(
        STUDY + "/instances",
        "SearchForStudyInstances",
        STUDY_KEYS,
        SERIES_KEYS,
        INSTANCE_KEYS,
        in_path=_STUDY_IN_PATH,
    ),
    _searches(
        SERIES + "/instances",
        "SearchForStudySeriesInstances",
        STUDY_KEYS,
        SERIES_KEYS,
        INSTANCE_KEYS,
        in_path=(*_STUDY_IN_PATH, "SeriesInstanceUID"),
    ),
    _stores("/studies", "StoreInstances"),
    _stores(STUDY, "StoreStudyInstances"),
    Transaction("GET", STUDY, "RetrieveStudy", "10.4", (_DICOM, _ZIP, _OCTETS), (_CHOSEN_SERIES,)),
    Transaction("GET", SERIES, "RetrieveSeries", "10.4", (_DICOM, _ZIP, _OCTETS)),
    Transaction(
        "GET",
        INSTANCE,
        "RetrieveInstance",
        "10.4",
        (_DICOM, "application/dicom", _ZIP, _OCTETS),
        (),
        (200, 206, 304),
    ),
    Transaction("GET", STUDY + "/metadata", "RetrieveStudyMetadata", "10.4", _DATA_SETS),
    Transaction("GET", SERIES + "/metadata", "RetrieveSeriesMetadata", "10.4", _DATA_SETS),
    Transaction("GET", INSTANCE + "/metadata", "RetrieveInstanceMetadata", "10.4", _DATA_SETS),
    Transaction("GET", STUDY + "/bulkdata", "RetrieveStudyBulkdata", "10.4", (_OCTETS,)),
    Transaction("GET", SERIES + "/bulkdata", "RetrieveSeriesBulkdata", "10.4", (_OCTETS,)),
    Transaction("GET", INSTANCE + "/bulkdata", "RetrieveInstanceBulkdata", "10.4", (_OCTETS,)),
    Transaction(
        "GET",
        INSTANCE + "/bulkdata/{element:path}",
        "RetrieveBulkdata",
        "10.4",
        (_OCTETS, "application/octet-stream"),
        (),
        (200, 206, 304),
    ),
    Transaction(
        "GET",
        _FRAMES,
        "RetrieveFrames",
        "10.4",
        (
            _OCTETS,
            "application/octet-stream",
            *_CODED,
            *(f'multipart/related; type="{each}"' for each in _CODED),
        ),
        (),
        (200, 206, 304),
    ),
    *(
        Transaction(
            "GET", f"{path}/rendered", f"RetrieveRendered{of}", "10.4", _PICTURES + _MANY_PICTURES, _VIEW
        )
        for path, of in ((STUDY, "Study"), (SERIES, "Series"), (INSTANCE, "Instance"), (_FRAMES, "Frames"))
    ),
    *(
        Transaction("GET", f"{path}/thumbnail", f"Retrieve{of}Thumbnail", "10.4", _PICTURES, _VIEW)
        for path, of in ((STUDY, "Study"), (SERIES, "Series"), (INSTANCE, "Instance"), (_FRAME, "Frame"))
    ),
)
