"""WADO-RS: stored instances and their metadata (PS3.18 sections 10.4.1.1.1 and 10.4.1.1.2).

Instances leave byte for byte as they came; nothing is transcoded here.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import chain
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from central.access.policy import Action, Grant
from central.archive.archive import Archive
from central.archive.rows import StoredInstance
from central.dicomweb.accept import Offer, accept_of, choose
from central.dicomweb.errors import NotHereError
from central.dicomweb.gate import Gate, path_uid
from central.dicomweb.multipart import FilePart, file_chunks, multipart_of_files, typed

_METADATA_OFFERS: Final = (Offer("application/dicom+json"), Offer("application/json"))
_BATCH_BYTES: Final = 1 << 16
_INSTANCES: Final = (
    "/studies/{study}",
    "/studies/{study}/series/{series}",
    "/studies/{study}/series/{series}/instances/{instance}",
)


class Retrieve:
    """The retrieve transactions for instances and metadata on `archive`."""

    def __init__(self, archive: Archive, gate: Gate) -> None:
        self._archive = archive
        self._gate = gate

    def routes(self) -> list[BaseRoute]:
        return [
            *(Route(path, self.instances) for path in _INSTANCES),
            *(Route(f"{path}/metadata", self.metadata) for path in _INSTANCES),
        ]

    def instances(self, request: Request) -> Response:
        grant, series_uid, sop_uid = self._granted(request, Action.EXPORT, "WADO-RS instances")
        accept = accept_of(request)
        if series_uid is not None and sop_uid is not None:
            stored = self._archive.open_instance(grant, series_uid, sop_uid)
            part = _part(stored)
            if not choose(accept, _offers(stored, single=True)).multipart:
                headers = {"Content-Length": str(part.size_bytes), "Content-Type": part.content_type}
                return StreamingResponse(file_chunks(part.path), headers=headers)
            return multipart_of_files("application/dicom", [part])
        parts = []
        for row in self._archive.instances_of(grant, series_uid):
            stored = self._archive.open_instance(grant, row.series.series_instance_uid, row.sop_instance_uid)
            choose(accept, _offers(stored, single=False))
            parts.append(_part(stored))
        if not parts:
            raise NotHereError
        return multipart_of_files("application/dicom", parts)

    def metadata(self, request: Request) -> Response:
        offer = choose(accept_of(request), _METADATA_OFFERS)
        grant, series_uid, sop_uid = self._granted(request, Action.VIEW, "WADO-RS metadata")
        objects = self._archive.metadata(grant, series_uid, sop_uid)
        first = next(objects, None)
        if first is None:
            raise NotHereError
        body = _batched(_array(chain([first], objects)))
        headers = {"Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            body = _gzipped(body)
            headers["Content-Encoding"] = "gzip"
        return StreamingResponse(body, headers=headers, media_type=offer.media_type)

    def _granted(self, request: Request, action: Action, detail: str) -> tuple[Grant, str | None, str | None]:
        series_uid, sop_uid = (
            path_uid(request, level) if level in request.path_params else None
            for level in ("series", "instance")
        )
        return self._gate.grant(request, action, detail, series_uid, sop_uid), series_uid, sop_uid


def _part(stored: StoredInstance) -> FilePart:
    content_type = typed("application/dicom", stored.transfer_syntax_uid)
    return FilePart(content_type, stored.path, stored.size_bytes)


def _offers(stored: StoredInstance, *, single: bool) -> list[Offer]:
    """As it is stored: as a part and, when it is the only one, also by itself."""
    offers = [Offer("application/dicom", True, stored.transfer_syntax_uid)]
    return [*offers, Offer("application/dicom", False, stored.transfer_syntax_uid)] if single else offers


def _array(objects: Iterator[bytes]) -> Iterator[bytes]:
    separator = b"["
    for item in objects:
        yield separator
        yield item
        separator = b","
    yield b"]"


def _batched(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Fewer, larger chunks: each one costs a change of threads."""
    batch = bytearray()
    for chunk in chunks:
        batch += chunk
        if len(batch) >= _BATCH_BYTES:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch)


def _gzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(6, wbits=zlib.MAX_WBITS | 16)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()
