"""WADO-RS: single frames, and pictures drawn from them (PS3.18 sections 10.4.1.1.3 and 10.4.1.1.5).

Frames leave as they are stored (big endian and deflated ones as Explicit VR Little Endian); pictures are drawn
by `Renderer`'s workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.policy import Action
from central.archive.archive import Archive
from central.archive.rows import StoredInstance
from central.dicomweb.accept import Offer, accept_of, choose
from central.dicomweb.errors import BadRequestError, NotAnImageError, NotHereError
from central.dicomweb.gate import Gate, path_uid
from central.dicomweb.multipart import BytesPart, multipart_of_bytes, typed
from central.dicomweb.pixel_data import StoredImage, open_image
from central.dicomweb.render import Job, Renderer
from central.dicomweb.view_parameters import view_parameters

MAX_FRAMES_A_REQUEST: Final = 1000
THUMBNAIL: Final = (128, 128)
_OCTETS: Final = "application/octet-stream"
_PICTURE_OFFERS: Final = (Offer("image/jpeg"), Offer("image/png"))
# PS3.18 table 8.7.3-5: media types of compressed frames.
_FRAME_MEDIA_TYPES: Final = {
    JPEGBaseline8Bit: "image/jpeg",
    JPEGExtended12Bit: "image/jpeg",
    JPEGLossless: "image/jpeg",
    JPEGLosslessSV1: "image/jpeg",
    RLELossless: "image/dicom-rle",
    JPEGLSLossless: "image/jls",
    JPEGLSNearLossless: "image/jls",
    JPEG2000Lossless: "image/jp2",
    JPEG2000: "image/jp2",
    HTJ2KLossless: "image/jphc",
    HTJ2KLosslessRPCL: "image/jphc",
    HTJ2K: "image/jphc",
}
_SERIES: Final = "/studies/{study}/series/{series}"
_INSTANCE: Final = _SERIES + "/instances/{instance}"


class Frames:
    """The transactions on pixels: frames, rendered, thumbnail."""

    def __init__(self, archive: Archive, gate: Gate, renderer: Renderer) -> None:
        self._archive = archive
        self._gate = gate
        self._renderer = renderer

    def routes(self) -> list[BaseRoute]:
        return [
            Route(f"{_INSTANCE}/frames/{{frames}}", self.frames),
            Route(f"{_INSTANCE}/frames/{{frames}}/rendered", self.rendered),
            Route(f"{_INSTANCE}/rendered", self.rendered),
            Route(f"{_INSTANCE}/thumbnail", self.thumbnail),
            Route(f"{_SERIES}/rendered", self.rendered),
            Route(f"{_SERIES}/thumbnail", self.thumbnail),
        ]

    def frames(self, request: Request) -> Response:
        numbers = frame_numbers(request.path_params["frames"])
        stored = self._opened(request, f"WADO-RS frames {request.path_params['frames']}")
        accept = accept_of(request)
        parts = _frame_parts(stored, numbers, accept)
        first = next(parts)  # opens the file: what is wrong shows before the answer begins
        media_type = first.content_type.partition(";")[0]
        return multipart_of_bytes(media_type, chain([first], parts))

    def rendered(self, request: Request) -> Response:
        return self._picture(request, None)

    def thumbnail(self, request: Request) -> Response:
        return self._picture(request, THUMBNAIL)

    def _picture(self, request: Request, viewport: tuple[int, int] | None) -> Response:
        offer = choose(accept_of(request), _PICTURE_OFFERS)
        view = view_parameters(request.query_params, offer.media_type, viewport)
        asked = request.path_params.get("frames")
        numbers = frame_numbers(asked) if asked is not None else []
        if len(numbers) > 1:
            raise BadRequestError("one picture shows one frame")
        stored = self._opened(request, f"WADO-RS picture, frame {asked or 'in the middle'}")
        frame = numbers[0] if numbers else None
        picture = self._renderer.render(Job(stored.path, stored.transfer_syntax_uid, frame, view))
        return Response(picture, media_type=offer.media_type)

    def _opened(self, request: Request, detail: str) -> StoredInstance:
        """The instance that the path names, or the middle image of the series that it names."""
        series_uid = path_uid(request, "series")
        sop_uid = path_uid(request, "instance") if "instance" in request.path_params else None
        grant = self._gate.grant(request, Action.VIEW, detail, series_uid, sop_uid)
        if sop_uid is None:
            rows = self._archive.instances_of(grant, series_uid)
            if not rows:
                raise NotHereError
            images = [row for row in rows if row.rows]
            if not images:
                raise NotAnImageError("this series has no images")
            sop_uid = images[len(images) // 2].sop_instance_uid
        return self._archive.open_instance(grant, series_uid, sop_uid)


def frame_numbers(text: str) -> list[int]:
    """``1,2,5`` as numbers.

    Raises
    ------
    BadRequestError : it is not a list of frame numbers, which begin at 1.
    """
    parts = text.split(",")
    if len(parts) > MAX_FRAMES_A_REQUEST:
        raise BadRequestError(f"at most {MAX_FRAMES_A_REQUEST} frames can be asked for at once")
    if any(not part.isascii() or not part.isdigit() or len(part) > 9 or int(part) < 1 for part in parts):
        raise BadRequestError("frames are named by numbers from 1, separated by commas")
    return [int(part) for part in parts]


def _frame_parts(stored: StoredInstance, numbers: list[int], accept: str | None) -> Iterator[BytesPart]:
    with open_image(stored.path, stored.transfer_syntax_uid) as image:
        if max(numbers) > image.pixels.number_of_frames:
            raise NotHereError
        syntax = image.delivered_transfer_syntax_uid
        content_type = typed(_chosen_type(image, accept), syntax)
        for number in numbers:
            yield BytesPart(content_type, image.read_frame(number))


def _chosen_type(image: StoredImage, accept: str | None) -> str:
    syntax = image.delivered_transfer_syntax_uid
    offers = [Offer(_OCTETS, True, syntax)]
    if image.is_encapsulated and syntax in _FRAME_MEDIA_TYPES:
        offers.append(Offer(_FRAME_MEDIA_TYPES[syntax], True, syntax))
    return choose(accept, offers).media_type
