"""WADO-RS: all bulk data of a study, a series or an instance in one answer (PS3.18 sections 10.4.1.1.5 and 10.4.3.3.5).

It is also what instances are in this media type (section 10.4.4, note 2).

What the metadata names by BulkDataURI comes part by part, in the metadata's order, each with that URI as its
Content-Location; compressed pixel data frame by frame, below ``/frames/``. Who asks for everything takes it away, so
this needs the right to export, as retrieving the instances does.

What is always true: one value is open at a time. A value that cannot be given out by itself is left out, which its
missing Content-Location says; one that proves damaged after it has begun cuts the answer.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from pydicom.uid import ExplicitVRLittleEndian
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from central.access.policy import Action
from central.archive.reading import Reading
from central.archive.rows import StoredInstance
from central.dicomweb.accept import Offer, accept_of, choose
from central.dicomweb.bulk_data import element_of, value_part
from central.dicomweb.errors import NotAnImageError, NotHereError
from central.dicomweb.frames import OCTETS, decoded_parts, frame_locations, stored_parts
from central.dicomweb.gate import INSTANCE, SERIES, STUDY, Gate, base_url
from central.dicomweb.multipart import Part, multipart_of_parts, typed
from central.dicomweb.pixel_data import PIXEL_TAGS, open_image
from central.dicomweb.render import Renderer

_AS_STORED: Final = Offer(OCTETS, True)
BULK_DATA: Final = (_AS_STORED, Offer(OCTETS, True, ExplicitVRLittleEndian))
_SOP_INSTANCE_UID: Final = "00080018"
_SERIES_INSTANCE_UID: Final = "0020000E"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Value:
    """One value, and the URI by which the metadata names it."""

    stored: StoredInstance
    uri: str

    @property
    def element(self) -> tuple[int, ...]:
        return element_of(self.uri.rpartition("/bulkdata/")[2])


class WholeBulkData:
    """The retrieve transaction for bulk data of more than one value."""

    def __init__(self, archive: Reading, gate: Gate, renderer: Renderer) -> None:
        self._archive = archive
        self._gate = gate
        self._renderer = renderer

    def routes(self) -> list[BaseRoute]:
        return [Route(f"{level}/bulkdata", self.bulk_data) for level in (STUDY, SERIES, INSTANCE)]

    def bulk_data(self, request: Request) -> Response:
        grant, series_uid, sop_uid = self._gate.grant(request, Action.EXPORT, "WADO-RS bulk data")
        offer = choose(accept_of(request), BULK_DATA)
        stored = {
            (one.series_instance_uid, one.sop_instance_uid): one
            for one in self._archive.open_instances(grant, series_uid, sop_uid)
        }
        metadata = self._archive.metadata(
            grant, series_uid, sop_uid, studies_url=f"{base_url(request)}/studies"
        )
        parts = self._parts(_values(stored, metadata), decoded=offer != _AS_STORED)
        first = next(parts, None)  # what is wrong shows before the answer begins
        if first is None:
            raise NotHereError
        return multipart_of_parts(OCTETS, chain([first], parts), parts.close)

    def _parts(self, values: Iterator[_Value], *, decoded: bool) -> Generator[Part, None, None]:
        has_any, unfit = False, None
        for value in values:
            has_begun = False
            try:
                for part in self._parts_of(value, decoded=decoded):
                    has_any = has_begun = True
                    yield part
            except NotAnImageError as error:
                if has_begun:
                    raise
                unfit = error
                _log.warning(
                    "event=bulk-data-left-out uri=%s why=%s", value.uri.partition("/studies/")[2], error
                )
        if unfit is not None and not has_any:
            raise unfit

    def _parts_of(self, value: _Value, *, decoded: bool) -> Iterator[Part]:
        if len(value.element) != 1 or value.element[0] not in PIXEL_TAGS:
            return value_part(self._renderer, value.stored, value.element, value.uri)
        with open_image(value.stored.path, value.stored.transfer_syntax_uid) as image:
            number_of_frames = image.pixels.number_of_frames
            syntax = image.delivered_transfer_syntax_uid
            if not image.is_encapsulated:
                return value_part(self._renderer, value.stored, value.element, value.uri)
        numbers = range(1, number_of_frames + 1)
        locations = frame_locations(value.uri, number_of_frames)
        if decoded and syntax != ExplicitVRLittleEndian:
            return decoded_parts(self._renderer, value.stored, numbers, locations)
        return stored_parts(value.stored, None, typed(OCTETS, syntax), locations)


def _values(stored: dict[tuple[str, str], StoredInstance], metadata: Iterator[bytes]) -> Iterator[_Value]:
    """What the metadata names. An instance that came in between the two questions is in none of them."""
    for text in metadata:
        found: dict[str, Any] = json.loads(text)
        instance = stored.get((found[_SERIES_INSTANCE_UID]["Value"][0], found[_SOP_INSTANCE_UID]["Value"][0]))
        if instance is not None:
            yield from (_Value(instance, uri) for uri in _named(found))


def _named(found: Any) -> Iterator[str]:
    """Every BulkDataURI in a part of some DICOM JSON, in its order."""
    if isinstance(found, dict):
        if "BulkDataURI" in found:
            yield found["BulkDataURI"]
        found = list(found.values())
    if isinstance(found, list):
        for each in found:
            yield from _named(each)
