"""WADO-RS: pictures drawn from images, whole or as thumbnails (PS3.18 sections 10.4.1.1.3 and 10.4.1.1.5).

One picture stands for a study, a series or a multi-frame image: that of the middle image, of its middle frame. Who
accepts ``multipart/related`` gets a picture of every frame. `Renderer`'s workers draw; single pictures as everybody
wants them are kept (`central.dicomweb.ready_made`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.policy import Action, Grant
from central.archive.reading import Reading
from central.archive.rows import InstanceRow
from central.dicomweb.accept import Offer, accept_of, choose
from central.dicomweb.errors import BadRequestError, NotAnImageError, NotHereError
from central.dicomweb.frames import frame_numbers
from central.dicomweb.gate import INSTANCE, SERIES, STUDY, Gate
from central.dicomweb.multipart import BytesPart, multipart_of_parts
from central.dicomweb.ready_made import THUMBNAIL, ReadyMade, ready_answer
from central.dicomweb.render import Job, Renderer
from central.dicomweb.view_parameters import ViewParameters, view_parameters

MAX_PICTURES_A_REQUEST: Final = 1000
PICTURE_OFFERS: Final = (Offer("image/jpeg"), Offer("image/png"))
_MANY_OFFERS: Final = tuple(Offer(offer.media_type, multipart=True) for offer in PICTURE_OFFERS)
_LEVELS: Final = (STUDY, SERIES, INSTANCE)


@dataclass(frozen=True)
class _Drawn:
    """What one of many pictures shows."""

    series_instance_uid: str
    sop_instance_uid: str
    frame: int


class Pictures:
    """The transactions for rendered resources and thumbnails."""

    def __init__(self, archive: Reading, gate: Gate, renderer: Renderer, ready_made: ReadyMade) -> None:
        self._archive = archive
        self._gate = gate
        self._renderer = renderer
        self._ready_made = ready_made

    def routes(self) -> list[BaseRoute]:
        return [
            *(Route(f"{level}/rendered", self.rendered) for level in _LEVELS),
            *(Route(f"{level}/thumbnail", self.thumbnail) for level in _LEVELS),
            Route(f"{INSTANCE}/frames/{{frames}}/rendered", self.rendered),
            Route(f"{INSTANCE}/frames/{{frame}}/thumbnail", self.thumbnail),
        ]

    def rendered(self, request: Request) -> Response:
        numbers = _numbers(request, "frames")
        offers = _MANY_OFFERS if len(numbers) > 1 else PICTURE_OFFERS + _MANY_OFFERS
        offer = choose(accept_of(request), offers)
        view = view_parameters(request.query_params, offer.media_type)
        answer = self._pictures(request, offer, view, numbers)
        if annotations := request.query_params.get("annotation"):
            answer.headers["Warning"] = _not_drawn(annotations)
        return answer

    def thumbnail(self, request: Request) -> Response:
        numbers = _numbers(request, "frame")
        if len(numbers) > 1:
            raise BadRequestError("a thumbnail shows one frame")
        offer = choose(accept_of(request), PICTURE_OFFERS)
        view = view_parameters(request.query_params, offer.media_type, THUMBNAIL)
        return self._pictures(request, offer, view, numbers)

    def _pictures(
        self, request: Request, offer: Offer, view: ViewParameters, numbers: Sequence[int]
    ) -> Response:
        if "instance" in request.path_params:
            detail = "WADO-RS pictures of the series"
        else:
            detail = "WADO-RS pictures" if offer.multipart else "WADO-RS picture of the middle"
        grant, series_uid, sop_uid = self._gate.grant(
            request, Action.VIEW, detail, goes_on="instance" in request.path_params
        )
        if not offer.multipart:
            ready = self._ready_made.picture(
                grant, series_uid, sop_uid, numbers[0] if numbers else None, view
            )
            return ready_answer(request, ready, offer.media_type)
        if series_uid is not None and sop_uid is not None and numbers:
            shown = [_Drawn(series_uid, sop_uid, number) for number in numbers]
        else:
            shown = self._every(grant, series_uid, sop_uid)
        pictures = (self._draw(grant, one, view) for one in shown)
        first = next(pictures)  # what is wrong shows before the answer begins
        parts = (BytesPart(offer.media_type, picture) for picture in chain([first], pictures))
        return multipart_of_parts(offer.media_type, parts)

    def _every(self, grant: Grant, series_uid: str | None, sop_uid: str | None) -> list[_Drawn]:
        rows = self._archive.instances_of(grant, series_uid, sop_uid)
        if not rows:
            raise NotHereError
        images = [row for row in rows if row.rows]
        if not images:
            raise NotAnImageError("there are no images here")
        if sum(_number_of_frames(row) for row in images) > MAX_PICTURES_A_REQUEST:
            raise BadRequestError(
                f"at most {MAX_PICTURES_A_REQUEST} pictures can be asked for at once: ask by series or frame"
            )
        return [
            _Drawn(row.series.series_instance_uid, row.sop_instance_uid, frame)
            for row in images
            for frame in range(1, _number_of_frames(row) + 1)
        ]

    def _draw(self, grant: Grant, shown: _Drawn, view: ViewParameters) -> bytes:
        stored = self._archive.open_instance(grant, shown.series_instance_uid, shown.sop_instance_uid)
        return self._renderer.render(Job(stored.path, stored.transfer_syntax_uid, shown.frame, view))


def _not_drawn(annotations: str) -> str:
    """The Warning of section 8.3.5.1.1: nothing is burned in. It goes into a header, so only names are repeated."""
    names = [name for name in annotations.split(",") if name.isascii() and name.isalpha()] or ["all"]
    return f'299 dicomnet "the following annotation values are not supported: {", ".join(names)[:100]}"'


def _numbers(request: Request, place: str) -> list[int]:
    """The frames that the path names at `place`; none where it names none."""
    return frame_numbers(request.path_params[place]) if place in request.path_params else []


def _number_of_frames(row: InstanceRow) -> int:
    return max(1, row.number_of_frames or 1)
