"""WADO-RS: bulk data, the values that the metadata only names (PS3.18 section 10.4.1.1.5; BulkDataURI, section F.2.2).

``bulkdata/<tag>`` is an element of the data set, ``bulkdata/<tag>/<item>/<tag>`` one inside a sequence. Values leave in
little endian; native pixel data in one piece, compressed pixel data frame by frame.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Final

from pydicom.uid import ExplicitVRLittleEndian
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.policy import Action
from central.archive.rows import StoredInstance
from central.dicomweb.accept import Offer, accept_of, choose
from central.dicomweb.conversion import Extracted, Extraction, WrittenFile
from central.dicomweb.errors import BadRequestError, NotHereError
from central.dicomweb.frames import OCTETS, frames_answer
from central.dicomweb.gate import INSTANCE, Gate, base_url
from central.dicomweb.multipart import OpenPart, file_chunks, multipart_of_parts, typed
from central.dicomweb.pixel_data import PIXEL_TAGS, open_image
from central.dicomweb.render import Renderer
from central.dicomweb.single_part import Content, single_part, strong_etag, written_content

ELEMENT: Final = "[0-9A-Fa-f]{8}(/[1-9][0-9]{0,5}/[0-9A-Fa-f]{8}){0,32}"
_OFFERS: Final = (
    Offer(OCTETS, True, ExplicitVRLittleEndian),
    Offer(OCTETS, False, ExplicitVRLittleEndian),
)
_CONTENT_TYPE: Final = typed(OCTETS, ExplicitVRLittleEndian)


class BulkData:
    """The retrieve transaction for single values."""

    def __init__(self, gate: Gate, renderer: Renderer) -> None:
        self._gate = gate
        self._renderer = renderer

    def routes(self) -> list[BaseRoute]:
        return [Route(f"{INSTANCE}/bulkdata/{{element:path}}", self.bulk_data)]

    def bulk_data(self, request: Request) -> Response:
        element = element_of(request.path_params["element"])
        detail = f"WADO-RS bulk data {request.path_params['element']}"
        stored = self._gate.instance(request, Action.VIEW, detail)
        if len(element) == 1 and element[0] in PIXEL_TAGS and _is_compressed(stored):
            return frames_answer(request, self._renderer, stored, None, _uri(request))
        offer = choose(accept_of(request), _OFFERS)
        job = Extraction(stored.path, stored.transfer_syntax_uid, element)
        written = self._renderer.write(job)
        found = json.loads(written.answer)
        if found is None:
            written.close()
            raise NotHereError
        return _answer(request, stored, Extracted(**found), written, offer)


def element_of(text: str) -> tuple[int, ...]:
    """``00420011`` or ``00880200/1/7FE00010`` as tags and item numbers.

    Raises
    ------
    BadRequestError : it is neither.
    """
    if not re.fullmatch(ELEMENT, text):
        raise BadRequestError("bulk data is named by <tag>, or <tag>/<item number>/<tag> inside a sequence")
    return tuple(
        int(part) if position % 2 else int(part, 16) for position, part in enumerate(text.split("/"))
    )


def value_part(
    renderer: Renderer, stored: StoredInstance, element: tuple[int, ...], uri: str
) -> Iterator[OpenPart]:
    """A granted instance's value as a part of a longer answer; none if there is none.

    Raises
    ------
    NotAnImageError, UnavailableError : it cannot be given out by itself, or not now.
    """
    written = renderer.write(Extraction(stored.path, stored.transfer_syntax_uid, element))
    with contextlib.closing(written):
        answer = json.loads(written.answer)
        if answer is None:
            return
        found = Extracted(**answer)
        if found.offset is None:
            yield OpenPart(_CONTENT_TYPE, written.opened, 0, found.size_bytes, uri)
            return
        with stored.path.open("rb") as file:
            yield OpenPart(_CONTENT_TYPE, file, found.offset, found.size_bytes, uri)


def _uri(request: Request) -> str:
    """How the metadata names what is asked for."""
    places = request.path_params
    return (
        f"{base_url(request)}/studies/{places['study']}/series/{places['series']}"
        f"/instances/{places['instance']}/bulkdata/{places['element'].upper()}"
    )


def _is_compressed(stored: StoredInstance) -> bool:
    with open_image(stored.path, stored.transfer_syntax_uid) as image:
        return image.is_encapsulated


def _answer(
    request: Request, stored: StoredInstance, found: Extracted, written: WrittenFile, offer: Offer
) -> Response:
    offset = found.offset
    if offer.multipart:
        file = written.opened if offset is None else stored.path.open("rb")

        def close() -> None:
            file.close()
            written.close()

        part = OpenPart(_CONTENT_TYPE, file, offset or 0, found.size_bytes, _uri(request))
        return multipart_of_parts(OCTETS, iter([part]), close)
    etag = strong_etag(stored.sha256, request.path_params["element"].upper().replace("/", "."))
    if offset is None:
        return single_part(request, written_content(_CONTENT_TYPE, written, etag))
    written.close()
    return single_part(
        request,
        Content(
            _CONTENT_TYPE,
            found.size_bytes,
            etag,
            lambda begin, end: file_chunks(stored.path, offset + begin, offset + end),
        ),
    )
