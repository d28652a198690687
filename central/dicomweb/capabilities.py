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
from central.dicomweb.transactions import ACCEPT, TRANSACTIONS, Parameter, Transaction

WADL: Final = "application/vnd.sun.wadl+xml"
_OFFERS: Final = (Offer(WADL), Offer("application/json"))
_PLACE: Final = re.compile(r"\{(\w+)(?::path)?\}")
_PROBLEM: Final = "application/problem+json"
_REFUSALS: Final = (400, 401, 404, 406, 503)
_REFUSALS_OF_STORING: Final = (400, 401, 403, 406, 408, 413, 415, 503)
_PLACES: Final = {
    "study": "Study Instance UID",
    "series": "Series Instance UID",
    "instance": "SOP Instance UID",
    "frames": "numbers from 1, separated by commas",
    "element": "<tag>, or <tag>/<item number>/<tag> inside a sequence",
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
            "schemas": {
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
                }
            },
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
    content: dict[str, Any] = {media_type: {} for media_type in transaction.media_types}
    refusals = _REFUSALS_OF_STORING if transaction.takes else _REFUSALS
    said = {name: {"schema": {"type": "string"}} for name in ("ETag", "Content-Range")}
    responses: dict[str, Any] = {
        str(status): {
            "description": HTTPStatus(status).phrase,
            **({"content": content} if status != 304 else {}),
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
            *(_parameter(name, "path", _PLACES[name]) for name in _PLACE.findall(transaction.path)),
            *(_query(parameter) for parameter in (*transaction.parameters, ACCEPT)),
        ],
        "responses": responses,
    }
    if transaction.takes:
        operation["requestBody"] = {"required": True, "content": {transaction.takes: {}}}
    return operation


def _query(parameter: Parameter) -> dict[str, Any]:
    said = _parameter(parameter.name, "query", parameter.description, parameter.kind)
    return {**said, "required": parameter.required}


def _parameter(name: str, where: str, description: str, kind: str = "string") -> dict[str, Any]:
    return {"name": name, "in": where, "description": description, "required": True, "schema": {"type": kind}}


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
    accept = "".join(f"<option value={quoteattr(media_type)}/>" for media_type in transaction.media_types)
    default = quoteattr(transaction.media_types[0])
    request = f'<param name="Accept" style="header" default={default}>{accept}</param>' + "".join(
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
        f'<response status="{status}">{"" if status == 304 else body}</response>'
        for status in transaction.statuses
    )
    return (
        f"<method name={quoteattr(transaction.method)} id={quoteattr(transaction.name)}>"
        f"<request>{request}</request>{responses}</method>"
    )
