"""DICOMweb under ``/dicom-web``: the routes, and the border where errors become problem details (RFC 9457)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from inspect import iscoroutinefunction
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route

from central.access.problems import problem, router_problem
from central.archive.archive import Archive
from central.archive.errors import (
    ArchiveError,
    NoSuchInstanceError,
    NoSuchObjectError,
    ObjectDamagedError,
    QueryError,
    StorageError,
)
from central.audit.errors import AuditUnavailableError
from central.audit.record import Audit
from central.dicomweb.bulk_data import BulkData
from central.dicomweb.capabilities import Capabilities
from central.dicomweb.coded_frames import FrameCoder
from central.dicomweb.deposit import DepositLimits
from central.dicomweb.errors import BadRequestError, DicomwebError, NotHereError, UnavailableError
from central.dicomweb.frames import Frames
from central.dicomweb.gate import MOUNTED_AT, Gate, once_recorded
from central.dicomweb.pictures import Pictures
from central.dicomweb.ready_made import ReadyMade
from central.dicomweb.render import Renderer
from central.dicomweb.retrieve import Retrieve
from central.dicomweb.search import Search
from central.dicomweb.store import Store
from central.dicomweb.wado_uri import WadoUri
from central.dicomweb.whole_bulk_data import WholeBulkData

_SAID: Final = (DicomwebError, ArchiveError, AuditUnavailableError, HTTPException)
"""Errors that are answers; any other is a fault of the program."""
_log = logging.getLogger(__name__)


def routes(archive: Archive, audit: Audit, renderer: Renderer, limits: DepositLimits) -> list[BaseRoute]:
    """Everything under ``/dicom-web``. Must be behind `RequireSignIn`. `renderer` is closed by the caller."""
    reading = archive.reading
    gate, ready_made = Gate(reading, audit), ReadyMade(archive, renderer)
    bulk_data = WholeBulkData(reading, gate, renderer)
    looks = [
        *Search(reading, gate).routes(),
        *Retrieve(reading, gate, renderer, ready_made, bulk_data).routes(),
        *BulkData(gate, renderer).routes(),
        *bulk_data.routes(),
        *Frames(reading, gate, renderer, FrameCoder(archive, renderer)).routes(),
        *Pictures(reading, gate, renderer, ready_made).routes(),
        *WadoUri(reading, gate, renderer).routes(),
    ]
    app = Starlette(
        routes=[
            *once_recorded(looks),
            *Store(archive.receiving, audit, limits).routes(),
            *Capabilities().routes(),
        ],
        exception_handlers={
            **dict.fromkeys(_SAID, _answer),
            HTTPException: router_problem,
            Exception: _answer,
        },
    )
    return [Mount(MOUNTED_AT, app=app)]


def at_once(routes: Iterable[BaseRoute]) -> Callable[[Request], Response | None]:
    """Answers, on the thread that calls it, what an endpoint of `routes` (DICOMweb's) answers that is no coroutine.

    The router would find the same endpoint, and call it on another thread. None: it is for the router.
    """
    (mount,) = routes
    assert isinstance(mount, Mount), "as `routes` makes it"
    endpoints = [
        route
        for route in mount.routes
        if isinstance(route, Route) and not iscoroutinefunction(route.endpoint)
    ]

    def answer(request: Request) -> Response | None:
        match, below = mount.matches(request.scope)
        if match is not Match.FULL:
            return None
        scope = {**request.scope, **below}
        for route in endpoints:
            match, found = route.matches(scope)
            if match is Match.FULL:
                return _of(route, Request({**scope, **found}))
        return None

    return answer


def _of(route: Route, request: Request) -> Response:
    try:
        answer: Response = route.endpoint(request)
    except _SAID as error:
        return _answer(request, error)
    except Exception as error:
        _log.exception("event=not-answered endpoint=%s", route.name)
        return _answer(request, error)
    return answer


def _answer(_request: Request, error: Exception) -> Response:
    match error:
        case HTTPException():
            return problem(error.status_code, error.detail)
        case QueryError():
            error = BadRequestError(str(error))
        case NoSuchInstanceError():
            error = NotHereError()
        case StorageError():
            _log.error("the archive's objects cannot be had: %s", error)
            error = UnavailableError("the archive cannot read or write its objects now; try again later")
        case NoSuchObjectError() | ObjectDamagedError():
            _log.error("an object is lost or damaged: %s", error)
            return problem(500, "this instance is damaged in the archive; its log names the object")
        case AuditUnavailableError():
            error = UnavailableError(
                "the audit record cannot be written, so nothing is shown or kept; try again later"
            )
    if isinstance(error, DicomwebError):
        return problem(error.status, str(error), error.headers)
    return problem(500, "central could not answer this; its log says why")
