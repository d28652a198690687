"""What this service can do, told to machines: as WADL (PS3.18 section 8.9 and Annex H) and as OpenAPI 3.1."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final
from xml.sax.saxutils import quoteattr

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from central.dicomweb.accept import Offer, accept_of, choose
from central.dicomweb.gate import base_url
from central.dicomweb.transactions import (
    ELEMENT,
    FRAME,
    FRAMES,
    TRANSACTIONS,
    UID,
    Parameter,
    Transaction,
    accept,
)

WADL: Final = "application/vnd.sun.wadl+xml"
_OFFERS: Final = (Offer(WADL), Offer("application/json"))
_PLACE: Final = re.compile(r"\{(\w+)(?::path)?\}")
_WITHOUT_CONTENT: Final = (204, 304)
_PROBLEM: Final = "application/problem+json"
_REFUSALS: Final = (400, 401, 404, 406, 413, 503)
_REFUSALS_OF_STORING: Final = (400, 401, 403, 406, 408, 413, 415, 503)
_PLACES: Final = {
    place.name: place
    for place in (
        Parameter("study", "Study Instance UID", schema=UID),
        Parameter("series", "Series Instance UID", schema=UID),
        Parameter("instance", "SOP Instance UID", schema=UID),
        Parameter("frames", "numbers from 1, separated by commas", schema=FRAMES),
        Parameter("frame", "a number from 1", schema=FRAME),
        Parameter("element", "<tag>, or <tag>/<item number>/<tag> inside a sequence", schema=ELEMENT),
    )
}
_DATA_SET: Final = {"$ref": "#/components/schemas/DataSet"}
_SCHEMAS: Final = {
    "Problem": {
        "type": "object",
        "description": "RFC 9457",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
    },
    "DataSet": {
        "type": "object",
        "description": "DICOM JSON (PS3.18 Annex F): elements by tag",
        "propertyNames": {"pattern": "^[0-9A-F]{8}$"},
        "additionalProperties": {"$ref": "#/components/schemas/Element"},
    },
    "Element": {
        "type": "object",
        "required": ["vr"],
        "properties": {
            "vr": {"type": "string", "pattern": "^[A-Z]{2}$"},
            "Value": {"type": "array", "minItems": 1},
            "BulkDataURI": {"type": "string", "format": "uri"},
            "InlineBinary": {"type": "string"},
        },
        "additionalProperties": False,
    },
}


class Capabilities:
    """The two documents. They hold nothing of any patient; who has signed in may read them."""

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/", self.capabilities, methods=["OPTIONS"]),
            Route("/openapi.json", self.open_api),
        ]

    def capabilities(self, request: Request) -> Response:
        offer = choose(accept_of(request), _OFFERS)
        if offer.media_type == WADL:
            return Response(wadl(TRANSACTIONS, base_url(request)), media_type=WADL)
        return self.open_api(request)

    def open_api(self, request: Request) -> Response:
        return JSONResponse(open_api(TRANSACTIONS, base_url(request)))


def open_api(transactions: Sequence[Transaction], service_url: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of `transactions`."""
    paths: dict[str, dict[str, Any]] = {}
    for transaction in transactions:
        path = _shown(transaction.path)
        paths.setdefault(path, {})[transaction.method.lower()] = _operation(transaction)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DICOMweb",
            "version": "1",
            "description": "PS3.18: QIDO-RS, WADO-RS, STOW-RS, WADO-URI. A study that is not here and one that the "
            "caller may not see are answered alike, 404.",
        },
        "servers": [{"url": service_url}],
        "security": [{"bearer": []}, {"session": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "a token of POST /api/auth/token",
                },
                "session": {"type": "apiKey", "in": "cookie", "name": "dicomnet_session"},
            },
            "schemas": _SCHEMAS,
        },
    }


def wadl(transactions: Sequence[Transaction], service_url: str) -> str:
    """The WADL document of `transactions`, but for that which retrieves it (Annex H)."""
    tree: dict[str, Any] = {}
    for transaction in transactions:
        if transaction.method == "OPTIONS":
            continue
        node = tree
        for segment in transaction.path.strip("/").split("/"):
            node = node.setdefault(segment, {})
        node.setdefault("", []).append(transaction)
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<application xmlns="http://wadl.dev.java.net/2009/02" '
        'xmlns:xsd="http://www.w3.org/2001/XMLSchema">'
        f"<resources base={quoteattr(service_url + '/')}>{_resources(tree)}</resources></application>"
    )


def _operation(transaction: Transaction) -> dict[str, Any]:
    clause = f" (PS3.18 section {transaction.clause})" if transaction.clause else ""
    content = {media_type: _content(transaction, media_type) for media_type in transaction.media_types}
    refusals = _REFUSALS_OF_STORING if transaction.takes else _REFUSALS
    if 206 in transaction.statuses:
        refusals = (*refusals, 416)
    said = {name: {"schema": {"type": "string"}} for name in ("ETag", "Content-Range")}
    responses: dict[str, Any] = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            **({"content": content} if status not in _WITHOUT_CONTENT else {}),
            **({"headers": said} if 206 in transaction.statuses else {}),
        }
        for status in transaction.statuses
    }
    for status in refusals:
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {_PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    operation: dict[str, Any] = {
        "operationId": transaction.name,
        "summary": _words(transaction.name) + clause,
        "parameters": [
            *(_parameter(_PLACES[name], "path") for name in _PLACE.findall(transaction.path)),
            *(_parameter(parameter, "query") for parameter in (*transaction.parameters, accept(transaction))),
        ],
        "responses": responses,
    }
    if transaction.takes:
        operation["requestBody"] = {"required": True, "content": {transaction.takes: {}}}
    return operation


def _content(transaction: Transaction, media_type: str) -> dict[str, Any]:
    """What OpenAPI says of an answer of this media type; of others than DICOM JSON it knows nothing."""
    if transaction.name == "RetrieveOpenApi" or "json" not in media_type or transaction.method == "OPTIONS":
        return {}
    one = transaction.method == "POST"  # the answer of STOW-RS is one data set
    return {"schema": _DATA_SET if one else {"type": "array", "items": _DATA_SET}}


def _parameter(parameter: Parameter, where: str) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": where,
        "description": parameter.description,
        "required": parameter.required or where == "path",
        "schema": {"type": parameter.kind, **parameter.schema},
    }


def _shown(path: str) -> str:
    """A path as the router has it, without what is the router's own."""
    return _PLACE.sub(r"{\1}", path)


def _words(name: str) -> str:
    """``RetrieveStudy`` as a title."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)


def _resources(tree: Mapping[str, Any]) -> str:
    return "".join(
        f"<resource path={quoteattr(_shown(segment))}>"
        + "".join(
            f'<param name={quoteattr(name)} style="template" type="xsd:string"/>'
            for name in _PLACE.findall(segment)
        )
        + "".join(_method(transaction) for transaction in below.get("", ()))
        + _resources(below)
        + "</resource>"
        for segment, below in tree.items()
        if segment
    )


def _method(transaction: Transaction) -> str:
    options = "".join(f"<option value={quoteattr(media_type)}/>" for media_type in transaction.media_types)
    default = quoteattr(transaction.media_types[0])
    request = f'<param name="Accept" style="header" default={default}>{options}</param>' + "".join(
        f'<param name={quoteattr(parameter.name)} style="query" type={quoteattr(f"xsd:{parameter.kind}")}'
        f' required="{str(parameter.required).lower()}"/>'
        for parameter in transaction.parameters
    )
    if transaction.takes:
        request += f"<representation mediaType={quoteattr(transaction.takes)}/>"
    body = "".join(
        f"<representation mediaType={quoteattr(media_type)}/>" for media_type in transaction.media_types
    )
    responses = "".join(
        f'<response status="{status}">{"" if status in _WITHOUT_CONTENT else body}</response>'
        for status in transaction.statuses
    )
    return (
        f"<method name={quoteattr(transaction.method)} id={quoteattr(transaction.name)}>"
        f"<request>{request}</request>{responses}</method>"
    )
