"""WADO-RS: stored instances and their metadata (PS3.18 sections 10.4.1.1.1 and 10.4.1.1.2).

Instances leave byte for byte as they came, unless another transfer syntax is asked for by name: then a worker process
writes them anew, one after the other. A study or series can also be had as a ZIP with a DICOMDIR. A series' metadata is
ready-made; a study's or an instance's is put together for each request.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from itertools import chain
from typing import Final

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from central.access.policy import Action
from central.archive.reading import Reading
from central.archive.rows import StoredInstance
from central.dicomweb.accept import Offer, accept_of, choose, takes_gzip
from central.dicomweb.conversion import Conversion, converts_to_native
from central.dicomweb.errors import BadRequestError, NotAcceptableError, NotHereError
from central.dicomweb.gate import INSTANCE, SERIES, STUDY, Gate, base_url, said_uid
from central.dicomweb.multipart import (
    BytesPart,
    FilePart,
    OpenPart,
    Part,
    answered,
    file_chunks,
    multipart_of_files,
    multipart_of_parts,
    typed,
)
from central.dicomweb.native_model import XML, native_model
from central.dicomweb.ready_made import ReadyMade, gzip_answer, gzipped, json_array
from central.dicomweb.render import Renderer
from central.dicomweb.single_part import (
    Content,
    not_modified,
    single_part,
    strong_etag,
    weak_etag,
    written_content,
)
from central.dicomweb.whole_bulk_data import BULK_DATA, WholeBulkData
from central.media.file_set import FileSet

_METADATA_OFFERS: Final = (
    Offer("application/dicom+json"),
    Offer("application/json"),
    Offer(XML, multipart=True),
)
DICOM: Final = "application/dicom"
ZIP: Final = Offer("application/zip")
_SERIES_KEY: Final = "SeriesInstanceUID"
_MAX_SERIES: Final = 500  # as many as a list of UIDs may have in a search
NATIVE_FORMS: Final = (ExplicitVRLittleEndian, ImplicitVRLittleEndian)
_LEVELS: Final = (STUDY, SERIES, INSTANCE)


class Retrieve:
    """The retrieve transactions for instances and metadata on `archive`."""

    def __init__(
        self,
        archive: Reading,
        gate: Gate,
        renderer: Renderer,
        ready_made: ReadyMade,
        bulk_data: WholeBulkData,
    ) -> None:
        self._archive = archive
        self._bulk_data = bulk_data
        self._gate = gate
        self._renderer = renderer
        self._ready_made = ready_made

    def routes(self) -> list[BaseRoute]:
        return [
            *(Route(path, self.instances) for path in _LEVELS),
            *(Route(f"{path}/metadata", self.metadata) for path in _LEVELS),
        ]

    def instances(self, request: Request) -> Response:
        accept = accept_of(request)
        rather = _rather(accept)
        if rather is ZIP:
            return self._zip(request)
        if rather in BULK_DATA:
            return self._bulk_data.bulk_data(request)
        if _SERIES_KEY in request.query_params:
            raise NotAcceptableError(f"{_SERIES_KEY} chooses series for {ZIP.media_type} only")
        grant, series_uid, sop_uid = self._gate.grant(request, Action.EXPORT, "WADO-RS instances")
        if series_uid is not None and sop_uid is not None:
            stored = self._archive.open_instance(grant, series_uid, sop_uid)
            offer = choose(accept, _offers(stored, single=True))
            if offer.multipart:
                return self._multipart([(stored, offer)])
            return instance_answer(request, self._renderer, stored, str(offer.transfer_syntax_uid))
        instances = self._archive.open_instances(grant, series_uid)
        if not instances:
            raise NotHereError
        by_syntax = {stored.transfer_syntax_uid: stored for stored in instances}
        offers = {
            syntax: choose(accept, _offers(stored, single=False)) for syntax, stored in by_syntax.items()
        }
        return self._multipart([(stored, offers[stored.transfer_syntax_uid]) for stored in instances])

    def _zip(self, request: Request) -> Response:
        """A DICOM File-set: of the study, or of the series that path or query name (PS3.18 section 8.6.1.3)."""
        wanted = _series_named(request)
        grant, series_uid, sop_uid = self._gate.grant(request, Action.EXPORT, "WADO-RS ZIP")
        wanted |= {series_uid} if series_uid is not None else set()
        series = [
            row for row in self._archive.series_of(grant) if not wanted or row.series_instance_uid in wanted
        ]
        if not series or len(series) < len(wanted):
            raise NotHereError
        first = self._archive.open_instances(grant, series[0].series_instance_uid, sop_uid)
        if not first:
            raise NotHereError
        _ = first[0].path  # a store that is away shows before the answer begins
        headers = {"Content-Type": ZIP.media_type, "Content-Disposition": 'attachment; filename="dicom.zip"'}
        return answered(FileSet(self._archive, grant, series, sop_uid).zip(), headers=headers)

    def _multipart(self, chosen: Sequence[tuple[StoredInstance, Offer]]) -> Response:
        if all(offer.transfer_syntax_uid == stored.transfer_syntax_uid for stored, offer in chosen):
            return multipart_of_files(DICOM, [_part(stored) for stored, _ in chosen])
        parts = self._parts(chosen)
        first = next(
            parts
        )  # an instance that cannot be converted shows before the answer begins, if it is the first
        return multipart_of_parts(DICOM, chain([first], parts), parts.close)

    def _parts(self, chosen: Sequence[tuple[StoredInstance, Offer]]) -> Generator[Part, None, None]:
        for stored, offer in chosen:
            wanted = str(offer.transfer_syntax_uid)
            if wanted == stored.transfer_syntax_uid:
                yield _part(stored)
                continue
            written = self._renderer.write(Conversion(stored.path, stored.transfer_syntax_uid, wanted))
            try:
                yield OpenPart(typed(DICOM, wanted), written.opened, 0, written.size_bytes)
            finally:
                written.close()

    def metadata(self, request: Request) -> Response:
        offer = choose(accept_of(request), _METADATA_OFFERS)
        grant, series_uid, sop_uid = self._gate.grant(request, Action.VIEW, "WADO-RS metadata")
        if series_uid is not None and sop_uid is None and not offer.multipart:
            ready = self._ready_made.series_metadata(grant, series_uid, f"{base_url(request)}/studies")
            return gzip_answer(request, ready, offer.media_type)
        objects = self._archive.metadata(
            grant, series_uid, sop_uid, studies_url=f"{base_url(request)}/studies"
        )
        first = next(objects, None)
        if first is None:
            raise NotHereError
        objects = chain([first], objects)
        if offer.multipart:
            return multipart_of_parts(XML, (BytesPart(XML, native_model(json.loads(one))) for one in objects))
        body = json_array(objects)
        headers = {"Vary": "Accept-Encoding"}
        if takes_gzip(request):
            body = gzipped(body)
            headers["Content-Encoding"] = "gzip"
        return StreamingResponse(body, headers=headers, media_type=offer.media_type)


def instance_answer(
    request: Request, renderer: Renderer, stored: StoredInstance, transfer_syntax_uid: str
) -> Response:
    """A granted instance by itself, in the transfer syntax it is stored in or a native one.

    Raises
    ------
    NotAnImageError, UnavailableError : it cannot be converted.
    """
    content_type = typed(DICOM, transfer_syntax_uid)
    as_stored = transfer_syntax_uid == stored.transfer_syntax_uid
    etag = strong_etag(stored.sha256) if as_stored else weak_etag(stored.sha256, transfer_syntax_uid)
    if answer := not_modified(request, etag):
        return answer
    if as_stored:
        path = stored.path
        return single_part(
            request,
            Content(content_type, stored.size_bytes, etag, lambda begin, end: file_chunks(path, begin, end)),
        )
    written = renderer.write(Conversion(stored.path, stored.transfer_syntax_uid, transfer_syntax_uid))
    return single_part(request, written_content(content_type, written, etag))


def transfer_syntaxes(stored: StoredInstance) -> list[str]:
    """Those that an instance can be had in, the stored one first."""
    native = [str(uid) for uid in NATIVE_FORMS if uid != stored.transfer_syntax_uid]
    return [
        stored.transfer_syntax_uid,
        *(native if converts_to_native(stored.transfer_syntax_uid) else []),
    ]


def _rather(accept: str | None) -> Offer | None:
    """Whether the client would rather have a ZIP or bulk data than instances."""
    try:
        return choose(accept, (Offer(DICOM, multipart=True), Offer(DICOM), ZIP, *BULK_DATA))
    except NotAcceptableError:
        return None  # it names a transfer syntax, which is for the instances to have or not


def _series_named(request: Request) -> set[str]:
    """The series that the query names, a list or several times; all are wanted where it names none."""
    named = [uid for value in request.query_params.getlist(_SERIES_KEY) for uid in value.split(",")]
    if named and "series" in request.path_params:
        raise BadRequestError(f"the path names a series already: {_SERIES_KEY} is for a study")
    if len(named) > _MAX_SERIES:
        raise BadRequestError(f"at most {_MAX_SERIES} series can be named")
    return {said_uid(uid.strip(), "the series' UID") for uid in named}


def _part(stored: StoredInstance) -> FilePart:
    return FilePart(typed(DICOM, stored.transfer_syntax_uid), stored.locate, stored.size_bytes)


def _offers(stored: StoredInstance, *, single: bool) -> list[Offer]:
    """In every transfer syntax as a part and, when it is the only one, also by itself."""
    syntaxes = transfer_syntaxes(stored)
    offers = [Offer(DICOM, True, syntax) for syntax in syntaxes]
    return offers + [Offer(DICOM, False, syntax) for syntax in syntaxes] if single else offers
