"""What this service offers, as one table: the capabilities and the OpenAPI document are made from it.

What is always true: the table has exactly the router's routes; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from central.dicomweb.gate import INSTANCE, SERIES, STUDY
from central.dicomweb.search_parameters import (
    DEFAULT_LIMIT,
    INSTANCE_KEYS,
    MAX_LIMIT,
    SERIES_KEYS,
    STUDY_KEYS,
)

_JSON: Final = ("application/dicom+json", "application/json")
_DICOM: Final = 'multipart/related; type="application/dicom"'
_ZIP: Final = "application/zip"
_OCTETS: Final = 'multipart/related; type="application/octet-stream"'
_PICTURES: Final = ("image/jpeg", "image/png")
_MANY_PICTURES: Final = tuple(f'multipart/related; type="{picture}"' for picture in _PICTURES)
_FRAME: Final = INSTANCE + "/frames/{frames}"
_CODED: Final = ("image/jpeg", "image/jls", "image/jp2", "image/jphc", "image/dicom-rle")


@dataclass(frozen=True)
class Parameter:
    """A query parameter. `kind` is a type of JSON Schema."""

    name: str
    description: str
    kind: str = "string"
    required: bool = False


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


ACCEPT: Final = Parameter("accept", "as the Accept header, which it stands before")
_CHOSEN_SERIES: Final = Parameter(
    "SeriesInstanceUID", "with application/zip: the series wanted, separated by commas; all without it"
)
_PAGE: Final = (
    Parameter("limit", f"at most so many; {DEFAULT_LIMIT} by default, {MAX_LIMIT} at most", "integer"),
    Parameter("offset", "from this one on", "integer"),
)
_VIEW: Final = (
    Parameter("window", "<centre>,<width>[,linear|linear-exact|sigmoid]"),
    Parameter("viewport", "<columns>,<rows>: what the picture must fit into"),
)
_URI: Final = (
    Parameter("requestType", "WADO", required=True),
    Parameter("studyUID", "Study Instance UID", required=True),
    Parameter("seriesUID", "Series Instance UID", required=True),
    Parameter("objectUID", "SOP Instance UID", required=True),
    Parameter("contentType", "the media type wanted"),
    Parameter("transferSyntax", "with application/dicom: the transfer syntax wanted"),
    Parameter("frameNumber", "of a picture: its frame, from 1", "integer"),
    Parameter("rows", "of a picture: rows it must fit into", "integer"),
    Parameter("columns", "of a picture: columns it must fit into", "integer"),
    Parameter("windowCenter", "of a picture, with windowWidth", "number"),
    Parameter("windowWidth", "of a picture, with windowCenter", "number"),
)


def _keys(*levels: dict[str, str]) -> tuple[Parameter, ...]:
    return tuple(Parameter(keyword, "matching key") for keys in levels for keyword in keys) + _PAGE


_OF_STUDIES: Final = _keys(STUDY_KEYS)
_OF_SERIES: Final = _keys(STUDY_KEYS, SERIES_KEYS)
_OF_INSTANCES: Final = _keys(STUDY_KEYS, SERIES_KEYS, INSTANCE_KEYS)


def _stores(path: str, name: str) -> Transaction:
    answers = (*_JSON, "application/dicom+xml")
    return Transaction("POST", path, name, "10.5", answers, statuses=(200, 202, 409), takes=_DICOM)


TRANSACTIONS: Final = (
    Transaction(
        "OPTIONS", "/", "RetrieveCapabilities", "8.9", ("application/vnd.sun.wadl+xml", "application/json")
    ),
    Transaction("GET", "/openapi.json", "RetrieveOpenApi", "", ("application/json",)),
    Transaction(
        "GET", "/wado", "RetrieveByUri", "9", (*_PICTURES, "application/dicom"), _URI, (200, 206, 304)
    ),
    Transaction("GET", "/studies", "SearchForStudies", "10.6", _JSON, _OF_STUDIES),
    Transaction("GET", "/series", "SearchForSeries", "10.6", _JSON, _OF_SERIES),
    Transaction("GET", "/instances", "SearchForInstances", "10.6", _JSON, _OF_INSTANCES),
    Transaction("GET", STUDY + "/series", "SearchForStudySeries", "10.6", _JSON, _OF_SERIES),
    Transaction("GET", STUDY + "/instances", "SearchForStudyInstances", "10.6", _JSON, _OF_INSTANCES),
    Transaction("GET", SERIES + "/instances", "SearchForStudySeriesInstances", "10.6", _JSON, _OF_INSTANCES),
    _stores("/studies", "StoreInstances"),
    _stores(STUDY, "StoreStudyInstances"),
    Transaction("GET", STUDY, "RetrieveStudy", "10.4", (_DICOM, _ZIP), (_CHOSEN_SERIES,)),
    Transaction("GET", SERIES, "RetrieveSeries", "10.4", (_DICOM, _ZIP)),
    Transaction(
        "GET", INSTANCE, "RetrieveInstance", "10.4", (_DICOM, "application/dicom", _ZIP), (), (200, 206, 304)
    ),
    Transaction("GET", STUDY + "/metadata", "RetrieveStudyMetadata", "10.4", _JSON),
    Transaction("GET", SERIES + "/metadata", "RetrieveSeriesMetadata", "10.4", _JSON),
    Transaction("GET", INSTANCE + "/metadata", "RetrieveInstanceMetadata", "10.4", _JSON),
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
        _FRAME,
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
        for path, of in ((STUDY, "Study"), (SERIES, "Series"), (INSTANCE, "Instance"), (_FRAME, "Frames"))
    ),
    *(
        Transaction("GET", f"{path}/thumbnail", f"Retrieve{of}Thumbnail", "10.4", _PICTURES, _VIEW)
        for path, of in ((STUDY, "Study"), (SERIES, "Series"), (INSTANCE, "Instance"), (_FRAME, "Frame"))
    ),
)
