"""WADO-URI: one instance by the parameters of its URL (PS3.18 section 9), for clients from before WADO-RS.

The same grant, record, conversion and pictures as in WADO-RS; only the way of asking is another. A parameter that would
change what is shown and is not supported is refused: who asks for an anonymised image must not get another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.policy import Action, Grant
from central.archive.reading import Reading
from central.archive.rows import StoredInstance
from central.dicomweb.accept import Offer, choose
from central.dicomweb.errors import BadRequestError, NotAcceptableError
from central.dicomweb.frames import frame_numbers
from central.dicomweb.gate import Gate, said_uid
from central.dicomweb.render import Job, Renderer
from central.dicomweb.retrieve import DICOM, instance_answer, transfer_syntaxes
from central.dicomweb.view_parameters import MAX_VIEWPORT, view_parameters

_NAMES: Final = {
    "studyUID": "the study's UID",
    "seriesUID": "the series' UID",
    "objectUID": "the instance's UID",
}
_PICTURES: Final = (Offer("image/jpeg"), Offer("image/png"))
_OFFERS: Final = (*_PICTURES, Offer(DICOM))
_OF_PICTURES: Final = (
    "frameNumber",
    "rows",
    "columns",
    "windowCenter",
    "windowWidth",
    "imageQuality",
    "region",
)
_NOT_SUPPORTED: Final = ("anonymize", "annotation", "presentationUID", "presentationSeriesUID")


class WadoUri:
    """The one route of the URI service."""

    def __init__(self, archive: Reading, gate: Gate, renderer: Renderer) -> None:
        self._archive = archive
        self._gate = gate
        self._renderer = renderer

    def routes(self) -> list[BaseRoute]:
        return [Route("/wado", self.wado)]

    def wado(self, request: Request) -> Response:
        query = _checked(request)
        study_uid, series_uid, sop_uid = (said_uid(query.get(key, ""), name) for key, name in _NAMES.items())
        uids = (study_uid, series_uid, sop_uid)
        accept = query.get("contentType") or request.headers.get("accept")
        if _leaves_open(accept):
            # What it will be depends on the instance, so the right to take it away is asked for.
            grant = self._gate.grant_for(request, Action.EXPORT, "WADO-URI", *uids)
            offer = self._default(grant, series_uid, sop_uid)
        else:
            offer = choose(accept, _OFFERS)
            action = Action.EXPORT if offer.media_type == DICOM else Action.VIEW
            grant = self._gate.grant_for(request, action, f"WADO-URI {offer.media_type}", *uids)
        stored = self._archive.open_instance(grant, series_uid, sop_uid)
        if offer.media_type == DICOM:
            return self._instance(request, query, stored)
        return self._picture(query, stored, offer)

    def _default(self, grant: Grant, series_uid: str, sop_uid: str) -> Offer:
        """A picture of what is one image, else the instance itself (PS3.18 section 9.4)."""
        rows = self._archive.instances_of(grant, series_uid, sop_uid)
        is_one_image = any(row.rows and (row.number_of_frames or 1) == 1 for row in rows)
        return _PICTURES[0] if is_one_image else Offer(DICOM)

    def _instance(self, request: Request, query: Mapping[str, str], stored: StoredInstance) -> Response:
        wanted = query.get("transferSyntax", stored.transfer_syntax_uid)
        possible = transfer_syntaxes(stored)
        if wanted not in possible:
            raise NotAcceptableError("this can be had in transfer syntax " + ", ".join(possible))
        if any(name in query for name in _OF_PICTURES):
            raise BadRequestError("frame, size and window are of pictures: ask for image/jpeg or image/png")
        return instance_answer(request, self._renderer, stored, wanted)

    def _picture(self, query: Mapping[str, str], stored: StoredInstance, offer: Offer) -> Response:
        if "transferSyntax" in query:
            raise BadRequestError("a transfer syntax is of contentType=application/dicom")
        numbers = frame_numbers(query["frameNumber"]) if "frameNumber" in query else [None]
        if len(numbers) != 1:
            raise BadRequestError("one picture shows one frame")
        view = view_parameters(_view_query(query), offer.media_type)
        job = Job(stored.path, stored.transfer_syntax_uid, numbers[0], view)
        return Response(self._renderer.render(job), media_type=offer.media_type)


def _checked(request: Request) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    query = dict(pairs)
    if len(query) != len(pairs):
        raise BadRequestError("a parameter is given twice")
    if query.get("requestType") != "WADO":
        raise BadRequestError("requestType must be WADO")
    refused = [name for name in _NOT_SUPPORTED if query.get(name, "no") != "no"]
    if refused:
        raise BadRequestError(f"not supported here: {', '.join(refused)}")
    return query


def _leaves_open(accept: str | None) -> bool:
    """Whether the client takes anything, as a browser or a program does that says nothing of its own."""
    return accept is None or accept.strip() in ("", "*/*")


def _view_query(query: Mapping[str, str]) -> dict[str, str]:
    """The parameters of section 9.4 as those of section 8.3.5, which mean the same."""
    view = {}
    if "windowCenter" in query or "windowWidth" in query:
        view["window"] = f"{query.get('windowCenter', '')},{query.get('windowWidth', '')}"
    if "rows" in query or "columns" in query:
        view["viewport"] = f"{query.get('columns', MAX_VIEWPORT)},{query.get('rows', MAX_VIEWPORT)}"
    if "imageQuality" in query:
        view["quality"] = query["imageQuality"]
    if "region" in query:
        view["region"] = query["region"]
    return view
