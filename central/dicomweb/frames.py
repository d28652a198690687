"""WADO-RS: single frames (PS3.18 section 10.4.1.1.6).

A frame leaves as it is stored (big endian and deflated ones as Explicit VR Little Endian), or decoded by a worker
process where Explicit VR Little Endian is asked for. For thin lines, a monochrome one can be had coded without loss
where that is asked for by name (`central.dicomweb.coded_frames`). Who would take it as it is stored, too, gets it so
when it is stored compressed already, and when coding fails or takes longer than the stored bytes would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import chain, repeat
from typing import Final

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
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
from central.archive.reading import Reading
from central.archive.renditions import ReadyBytes
from central.archive.rows import StoredInstance
from central.dicomweb.accept import Offer, accept_of, choose
from central.dicomweb.coded_frames import CodedFrames, FrameCoder
from central.dicomweb.conversion import DECODED, FrameConversion, WrittenFile, coded_anew
from central.dicomweb.errors import BadRequestError, NotAcceptableError, NotAnImageError, NotHereError
from central.dicomweb.gate import INSTANCE, Gate
from central.dicomweb.multipart import BytesPart, OpenPart, multipart_of_parts, typed
from central.dicomweb.pixel_data import StoredImage, open_image
from central.dicomweb.ready_made import ready_answer
from central.dicomweb.render import Renderer
from central.dicomweb.single_part import (
    Content,
    not_modified,
    single_part,
    strong_etag,
    weak_etag,
    written_content,
)

OCTETS: Final = "application/octet-stream"
FRAME_NUMBER: Final = "[1-9][0-9]{0,8}"
MAX_FRAMES_A_REQUEST: Final = 1000
MAX_FRAMES_OF_AN_IMAGE: Final = 100_000
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

# Nobody gains by waiting longer for a frame to be coded than its stored bytes take on the fastest line for which our
# viewer wants it coded (central/viewer/web/src/line.ts).
_THIN_LINE_BYTES_A_SECOND: Final = 2_500_000
_UNNOTICED_S: Final = 0.05


class Frames:
    """The retrieve transaction for frames."""

    def __init__(self, archive: Reading, gate: Gate, renderer: Renderer, coder: FrameCoder) -> None:
        self._archive = archive
        self._gate = gate
        self._renderer = renderer
        self._coder = coder

    def routes(self) -> list[BaseRoute]:
        return [Route(f"{INSTANCE}/frames/{{frames}}", self.frames)]

    def frames(self, request: Request) -> Response:
        asked = request.path_params["frames"]
        numbers = frame_numbers(asked)
        detail = "WADO-RS frames of the series"
        grant, series_uid, sop_uid = self._gate.grant(request, Action.VIEW, detail, goes_on=True)
        assert series_uid is not None and sop_uid is not None, "the path names an instance"  # noqa: PT018
        stored = self._archive.open_instance(grant, series_uid, sop_uid)
        coded = self._coder.of(grant, series_uid, sop_uid)
        return frames_answer(request, self._renderer, stored, numbers, coded=coded)


def frame_numbers(text: str) -> list[int]:
    """``1,2,5`` as numbers.

    Raises
    ------
    BadRequestError : it is not a list of frame numbers, which begin at 1.
    """
    parts = text.split(",")
    if len(parts) > MAX_FRAMES_A_REQUEST:
        raise BadRequestError(f"at most {MAX_FRAMES_A_REQUEST} frames can be asked for at once")
    if not all(re.fullmatch(FRAME_NUMBER, part) for part in parts):
        raise BadRequestError("frames are named by numbers from 1, separated by commas")
    return [int(part) for part in parts]


def frames_answer(
    request: Request,
    renderer: Renderer,
    stored: StoredInstance,
    asked: Sequence[int] | None,
    uri: str = "",
    coded: CodedFrames | None = None,
) -> Response:
    """Frames of a granted instance, by number (from 1) or, with None, all of them, in a form that the request accepts.

    Parameters
    ----------
    uri : said of all of them, when they are asked for as bulk data.
    coded : gives its frames in other compressed transfer syntaxes; None: none is offered.

    Raises
    ------
    NotHereError : there is no frame of that number.
    NotAcceptableError, NotAnImageError : not in that form, or not at all.
    """
    with open_image(stored.path, stored.transfer_syntax_uid) as image:
        number_of_frames = image.pixels.number_of_frames
        if asked is None and number_of_frames > MAX_FRAMES_OF_AN_IMAGE:
            raise NotAnImageError(f"this image has more than {MAX_FRAMES_OF_AN_IMAGE} frames: ask for some")
        numbers = range(1, number_of_frames + 1) if asked is None else asked
        if max(numbers) > number_of_frames:
            raise NotHereError
        as_stored = image.delivered_transfer_syntax_uid
        locations = frame_locations(uri, number_of_frames) if uri else []
        anew = _coded_anew(image) if coded is not None else []
        offers = _offers(image, anew, single=len(numbers) == 1)
        offer = choose(accept_of(request), offers)
        if coded is not None and offer.transfer_syntax_uid in anew and len(numbers) == 1:
            plain = _choice(request, [one for one in offers if one.transfer_syntax_uid not in anew])
            if plain is not None:
                ready = None if image.is_encapsulated else _in_time(coded, image, numbers[0], offer)
                if ready is not None:
                    return _ready(request, ready, offer)
                offer = plain
        if not offer.multipart and offer.transfer_syntax_uid == as_stored:
            return _one(request, stored, numbers[0], image.read_frame(numbers[0]), offer)
    if offer.transfer_syntax_uid == as_stored:
        parts = stored_parts(stored, asked, typed(offer.media_type, as_stored), locations)
        first = next(parts)  # what is wrong shows before the answer begins
        return multipart_of_parts(offer.media_type, chain([first], parts))
    if coded is not None and offer.transfer_syntax_uid in anew:
        return _coded(request, coded, numbers, offer)
    etag = weak_etag(stored.sha256, f"frame{numbers[0]}", ExplicitVRLittleEndian)
    if not offer.multipart and (answer := not_modified(request, etag)):
        return answer
    written = renderer.write(FrameConversion(stored.path, stored.transfer_syntax_uid, tuple(numbers)))
    return _decoded(request, written, etag, offer, locations)


def frame_locations(uri: str, number_of_frames: int) -> list[str]:
    """What names each frame of the bulk data at `uri` (PS3.18 section 10.4.3.3.5)."""
    if number_of_frames == 1:
        return [uri]
    return [f"{uri}/frames/{number}" for number in range(1, number_of_frames + 1)]


def _coded_anew(image: StoredImage) -> list[UID]:
    """The compressed transfer syntaxes that frames are coded in where they are asked for."""
    pixels = image.pixels
    if pixels.samples_per_pixel != 1 or pixels.is_float or pixels.bits_allocated not in (8, 16):
        return []
    return coded_anew(image.transfer_syntax_uid, is_encapsulated=image.is_encapsulated)


def _offers(image: StoredImage, anew: Sequence[UID], *, single: bool) -> list[Offer]:
    """As it is stored, under each name it has; decoded; coded anew, which nobody gets who takes anything; each as a
    part and, when it is the only one, also by itself."""
    syntax = image.delivered_transfer_syntax_uid
    forms: list[tuple[str, UID]] = [(OCTETS, syntax)]
    if image.is_encapsulated and syntax in _FRAME_MEDIA_TYPES:
        forms.append((_FRAME_MEDIA_TYPES[syntax], syntax))
    if image.is_encapsulated and syntax in DECODED:
        forms.append((OCTETS, ExplicitVRLittleEndian))
    for form in anew:
        forms += [(OCTETS, form), (_FRAME_MEDIA_TYPES[form], form)]
    offers = [Offer(media_type, True, form) for media_type, form in forms]
    return offers + [Offer(media_type, False, form) for media_type, form in forms] if single else offers


def _one(request: Request, stored: StoredInstance, number: int, frame: bytes, offer: Offer) -> Response:
    def chunks(begin: int, end: int) -> Generator[bytes, None, None]:
        yield frame[begin:end]

    content_type = typed(offer.media_type, str(offer.transfer_syntax_uid))
    etag = strong_etag(stored.sha256, f"frame{number}")
    return single_part(request, Content(content_type, len(frame), etag, chunks))


def _choice(request: Request, offers: Sequence[Offer]) -> Offer | None:
    """Which of `offers` the request takes, if any."""
    try:
        return choose(accept_of(request), offers)
    except NotAcceptableError:
        return None


def _in_time(coded: CodedFrames, image: StoredImage, number: int, offer: Offer) -> ReadyBytes | None:
    patience_s = max(_UNNOTICED_S, image.pixels.bits_per_frame / 8 / _THIN_LINE_BYTES_A_SECOND)
    return coded.frame_within(patience_s, number, str(offer.transfer_syntax_uid))


def _ready(request: Request, ready: ReadyBytes, offer: Offer) -> Response:
    content_type = typed(offer.media_type, str(offer.transfer_syntax_uid))
    if not offer.multipart:
        return ready_answer(request, ready, content_type)
    return multipart_of_parts(offer.media_type, iter([BytesPart(content_type, ready.data)]))


def _coded(request: Request, coded: CodedFrames, numbers: Sequence[int], offer: Offer) -> Response:
    wanted = str(offer.transfer_syntax_uid)
    first = coded.frame(numbers[0], wanted)  # what is wrong shows before the answer begins
    if len(numbers) == 1:
        return _ready(request, first, offer)
    content_type = typed(offer.media_type, wanted)
    rest = (BytesPart(content_type, coded.frame(number, wanted).data) for number in numbers[1:])
    return multipart_of_parts(offer.media_type, chain([BytesPart(content_type, first.data)], rest))


def stored_parts(
    stored: StoredInstance, asked: Sequence[int] | None, content_type: str, locations: Iterable[str] = ()
) -> Iterator[BytesPart]:
    """Frames as they are stored; `locations` are their URIs, one by one, where they are said."""
    with open_image(stored.path, stored.transfer_syntax_uid) as image:
        frames = image.frames() if asked is None else map(image.read_frame, asked)
        for frame, location in zip(frames, chain(locations, repeat("")), strict=False):
            yield BytesPart(content_type, frame, location)


def decoded_parts(
    renderer: Renderer, stored: StoredInstance, numbers: Sequence[int], locations: Iterable[str]
) -> Iterator[OpenPart]:
    """Frames in Explicit VR Little Endian, with their URIs.

    Raises
    ------
    NotAnImageError, UnavailableError : they cannot be decoded.
    """
    written = renderer.write(FrameConversion(stored.path, stored.transfer_syntax_uid, tuple(numbers)))
    try:
        yield from _parts_in(written, locations)
    finally:
        written.close()


def _decoded(
    request: Request, written: WrittenFile, etag: str, offer: Offer, locations: Iterable[str]
) -> Response:
    content_type = typed(OCTETS, ExplicitVRLittleEndian)
    if not offer.multipart:
        return single_part(request, written_content(content_type, written, etag))

    return multipart_of_parts(OCTETS, _parts_in(written, locations), written.close)


def _parts_in(written: WrittenFile, locations: Iterable[str]) -> Iterator[OpenPart]:
    """The frames that a `FrameConversion` wrote."""
    content_type, offset = typed(OCTETS, ExplicitVRLittleEndian), 0
    for size_bytes, location in zip(json.loads(written.answer), chain(locations, repeat("")), strict=False):
        yield OpenPart(content_type, written.opened, offset, size_bytes, location)
        offset += size_bytes
