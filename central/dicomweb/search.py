"""QIDO-RS: search for studies, series and instances (PS3.18 section 10.6).

Searching inside one study needs no other permission than finding that study: the scope is in the SQL.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.policy import Scope
from central.archive.reading import Reading
from central.archive.rows import InstanceRow, SeriesRow, StudyRow
from central.dicomweb.accept import Offer, accept_of, choose, takes_gzip
from central.dicomweb.errors import BadRequestError
from central.dicomweb.gate import Gate, base_url, path_uid
from central.dicomweb.include_fields import Level
from central.dicomweb.multipart import BytesPart, multipart_of_parts
from central.dicomweb.native_model import XML, native_model
from central.dicomweb.results import all_series_json, instances_json, studies_json
from central.dicomweb.search_parameters import DEFAULT_LIMIT, SearchParameters, search_parameters

_OFFERS: Final = (
    Offer("application/dicom+json"),
    Offer("application/json"),
    Offer(XML, multipart=True),
)
_PACKED_FROM_BYTES: Final = 1024
RowT = TypeVar("RowT", StudyRow, SeriesRow, InstanceRow)
Find = Callable[[Scope, SearchParameters], list[RowT]]
AsJson = Callable[[Sequence[RowT], str, Iterable[Mapping[str, object]]], str]


class Search:
    """The search transactions on `archive`."""

    def __init__(self, archive: Reading, gate: Gate) -> None:
        self._archive = archive
        self._gate = gate

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/studies", self.studies),
            Route("/series", self.series),
            Route("/instances", self.instances),
            Route("/studies/{study}/series", self.series),
            Route("/studies/{study}/instances", self.instances),
            Route("/studies/{study}/series/{series}/instances", self.instances),
        ]

    def studies(self, request: Request) -> Response:
        return self._answer(
            request,
            "study",
            lambda scope, keys: self._archive.find_studies(scope, keys.study_query()),
            studies_json,
        )

    def series(self, request: Request) -> Response:
        return self._answer(
            request,
            "series",
            lambda scope, keys: self._archive.find_series(scope, keys.series_query()),
            all_series_json,
        )

    def instances(self, request: Request) -> Response:
        return self._answer(
            request,
            "instance",
            lambda scope, keys: self._archive.find_instances(scope, keys.instance_query()),
            instances_json,
        )

    def _answer(self, request: Request, level: Level, find: Find[RowT], as_json: AsJson[RowT]) -> Response:
        offer = choose(accept_of(request), _OFFERS)
        # Inside one study the study is the limit; a viewer must not lose the 101st slice.
        default_limit = None if "study" in request.path_params else DEFAULT_LIMIT
        keys = search_parameters(request.query_params.multi_items(), level, default_limit)
        if "study" in request.path_params:
            _fix(keys.study, "study_instance_uid", path_uid(request, "study"))
        if "series" in request.path_params:
            _fix(keys.series, "series_instance_uid", path_uid(request, "series"))
        detail, study_uid = _detail(request, keys), keys.study.get("study_instance_uid")
        scope = self._gate.scope(request, detail, study_uid)
        rows = find(scope, keys)
        are_more = keys.limit is not None and len(rows) > keys.limit
        rows = rows[: keys.limit]
        headers = {"Vary": "Accept-Encoding"} | _warning(keys.unused, are_more=are_more and bool(rows))
        more = self._archive.included(scope, rows, keys.included) if keys.included else ()
        body = as_json(rows, base_url(request), more).encode("utf-8", "replace")
        self._gate.showing(request, scope, detail, study_uid, body)
        if not rows:
            return Response(status_code=204, headers=headers)
        if offer.multipart:
            answer = multipart_of_parts(XML, (BytesPart(XML, native_model(one)) for one in json.loads(body)))
            answer.headers.update(headers)
            return answer
        if len(body) > _PACKED_FROM_BYTES and takes_gzip(request):
            body = gzip.compress(body, 6)
            headers["Content-Encoding"] = "gzip"
        return Response(body, headers=headers, media_type=offer.media_type)


def _warning(unused: str, *, are_more: bool) -> dict[str, str]:
    said = [f"these parameters are not supported and were not used: {unused}"] if unused else []
    if are_more:  # how many, as section 8.3.4.4.1 has it, would take longer to know than what is answered
        said.append("there are additional results that can be requested")
    return {"Warning": ", ".join(f'299 dicomnet "{one}"' for one in said)} if said else {}


def _fix(keys: dict[str, Any], name: str, uid: str) -> None:
    """Search below what the path names.

    Raises
    ------
    BadRequestError : the query names another.
    """
    if keys.get(name, "") not in ("", "*", uid):
        raise BadRequestError("the path names one study or series and the query another")
    keys[name] = uid


def _detail(request: Request, keys: SearchParameters) -> str:
    """What was searched for, with its values: the audit record is the protected place for them."""
    return f"QIDO-RS {request.scope['path']}?{urlencode(keys.used)}"
