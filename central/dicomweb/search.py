"""QIDO-RS: search for studies, series and instances (PS3.18 section 10.6).

Searching inside one study needs no other permission than finding that study: the scope is in the SQL.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.policy import Scope
from central.archive.reading import Reading
from central.dicomweb.accept import Offer, accept_of, choose, takes_gzip
from central.dicomweb.errors import BadRequestError
from central.dicomweb.gate import Gate, base_url, path_uid
from central.dicomweb.results import all_series_json, instances_json, studies_json
from central.dicomweb.search_parameters import DEFAULT_LIMIT, Level, SearchParameters, search_parameters

_JSON_OFFERS: Final = (Offer("application/dicom+json"), Offer("application/json"))
_PACKED_FROM_BYTES: Final = 1024
RowT = TypeVar("RowT")
Find = Callable[[Scope, SearchParameters], list[RowT]]
AsJson = Callable[[Sequence[RowT], str], str]


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
        offer = choose(accept_of(request), _JSON_OFFERS)
        # Inside one study the study is the limit; a viewer must not lose the 101st slice.
        default_limit = None if "study" in request.path_params else DEFAULT_LIMIT
        keys = search_parameters(request.query_params.multi_items(), level, default_limit)
        if "study" in request.path_params:
            _fix(keys.study, "study_instance_uid", path_uid(request, "study"))
        if "series" in request.path_params:
            _fix(keys.series, "series_instance_uid", path_uid(request, "series"))
        detail, study_uid = _detail(request), keys.study.get("study_instance_uid")
        scope = self._gate.scope(request, detail, study_uid)
        service_url = base_url(request)
        found = as_json(find(scope, keys), service_url)
        headers = {"Vary": "Accept-Encoding"}
        if keys.warning:
            headers["Warning"] = f'299 dicomnet "{keys.warning}"'
        body = found.encode("utf-8", "replace")
        self._gate.showing(request, scope, detail, study_uid, body)
        if len(body) > _PACKED_FROM_BYTES and takes_gzip(request):
            body = gzip.compress(body, 6)
            headers["Content-Encoding"] = "gzip"
        return Response(body, headers=headers, media_type=offer.media_type)


def _fix(keys: dict[str, Any], name: str, uid: str) -> None:
    """Search below what the path names.

    Raises
    ------
    BadRequestError : the query names another.
    """
    if keys.get(name, "") not in ("", "*", uid):
        raise BadRequestError("the path names one study or series and the query another")
    keys[name] = uid


def _detail(request: Request) -> str:
    """What was searched for, with its values: the audit record is the protected place for them."""
    return f"QIDO-RS {request.scope['path']}?{urlencode(request.query_params.multi_items())}"
