"""What clients ask for again and again, made once and kept: a series' metadata and pictures as everybody wants them
(frames for thin lines: `central.dicomweb.coded_frames`). `central.archive.renditions` keeps it.

Always true: the policy was asked before anything here is (who calls has a Grant), and what is made is made from what
that grant reaches; what is kept, from an original that was compared with its hash, unless it is very large. What
depends on how central was called, the addresses in metadata, is part of the key.
"""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable, Iterator
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from central.access.policy import Grant
from central.archive.archive import Archive
from central.archive.renditions import ReadyBytes
from central.archive.sources import Source, Sources
from central.dicomweb.accept import takes_gzip
from central.dicomweb.errors import NotAnImageError, NotHereError
from central.dicomweb.multipart import answered
from central.dicomweb.render import Job, Renderer
from central.dicomweb.single_part import Content, not_modified, single_part, strong_etag
from central.dicomweb.view_parameters import ViewParameters

THUMBNAIL: Final = (128, 128)
# Each goes up when the same sources are made into other bytes.
_METADATA: Final = "metadata 1"
_PICTURE: Final = "picture 1"
_PIECE_BYTES: Final = 1 << 16
_VARY: Final = "Accept, Accept-Encoding"
_GZIP: Final = zlib.MAX_WBITS | 16


class ReadyMade:
    """Of one archive. Safe to call from every thread."""

    def __init__(self, archive: Archive, renderer: Renderer) -> None:
        self._archive = archive.reading
        self._renditions = archive.renditions
        self._renderer = renderer

    def series_metadata(self, grant: Grant, series_instance_uid: str, studies_url: str) -> ReadyBytes:
        """The DICOM JSON of a series' instances, with gzip. NotHereError if there are none."""
        sources = self._archive.sources(grant, series_instance_uid)
        if not sources.instances:
            raise NotHereError
        form = f"{_METADATA} {studies_url}"

        def make() -> bytes:
            objects = self._archive.metadata_of(sources, studies_url=studies_url)
            return b"".join(gzipped(json_array(objects)))

        return self._renditions.get(sources, form, make)

    def picture(
        self,
        grant: Grant,
        series_instance_uid: str | None,
        sop_instance_uid: str | None,
        frame: int | None,
        view: ViewParameters,
    ) -> ReadyBytes:
        """One picture: of the middle image of what is named, of its frame (from 1) or, with None, the middle one.

        Raises
        ------
        NotHereError : there is nothing.
        NotAnImageError, UnavailableError : there is no image, or it cannot be drawn.
        """
        sources = self._archive.sources(grant, series_instance_uid, sop_instance_uid)
        chosen = _middle_image(sources, is_named=sop_instance_uid is not None)
        # Somebody's own is not kept: nobody else will ask for it.
        is_kept = view.viewport in (None, THUMBNAIL) and view == ViewParameters(
            view.media_type, viewport=view.viewport
        )

        def make() -> bytes:
            stored = self._archive.open_instance(
                grant, chosen.series_instance_uid, chosen.sop_instance_uid, compared=is_kept
            )
            return self._renderer.render(Job(stored.path, stored.transfer_syntax_uid, frame, view))

        if not is_kept:
            return ReadyBytes.of(make())
        form = f"{_PICTURE} {view.media_type} {frame or 'middle'} {view.viewport}"
        return self._renditions.get(sources.only(chosen), form, make, (NotAnImageError,))


def gzip_answer(request: Request, ready: ReadyBytes, media_type: str) -> Response:
    """What is packed with gzip, packed for who takes it so; 304 for who has it."""
    packed = takes_gzip(request)
    etag = strong_etag(ready.sha256, "gzip" if packed else "identity", media_type.partition("/")[2])
    if answer := not_modified(request, etag, _VARY):
        return answer
    headers = {"ETag": etag, "Vary": _VARY, "Content-Type": media_type}
    if packed:
        return Response(ready.data, headers=headers | {"Content-Encoding": "gzip"})
    return answered(_unpacked(ready.data), headers=headers)


def ready_answer(request: Request, ready: ReadyBytes, media_type: str) -> Response:
    """What is ready, whole or a range of it; 304 for who has it."""

    def chunks(begin: int, end: int) -> Generator[bytes, None, None]:
        yield ready.data[begin:end]

    return single_part(request, Content(media_type, len(ready.data), strong_etag(ready.sha256), chunks))


def json_array(objects: Iterable[bytes]) -> Iterator[bytes]:
    """JSON objects as one JSON array, in pieces of some size: each one costs a call or a change of threads."""
    batch, separator = bytearray(), b"["
    for item in objects:
        batch += separator + item
        separator = b","
        if len(batch) >= _PIECE_BYTES:
            yield bytes(batch)
            batch.clear()
    yield bytes(batch) + b"]"


def gzipped(chunks: Iterable[bytes]) -> Iterator[bytes]:
    packer = zlib.compressobj(6, wbits=_GZIP)
    for chunk in chunks:
        if packed := packer.compress(chunk):
            yield packed
    yield packer.flush()


def _unpacked(packed: bytes) -> Generator[bytes, None, None]:
    opener = zlib.decompressobj(wbits=_GZIP)
    while not opener.eof:
        yield opener.decompress(packed, _PIECE_BYTES)
        packed = opener.unconsumed_tail


def _middle_image(sources: Sources, *, is_named: bool) -> Source:
    """The one that stands for all; one that `is_named` is drawn or refused as what it is."""
    if not sources.instances:
        raise NotHereError
    images = [one for one in sources.instances if one.rows or is_named]
    if not images:
        raise NotAnImageError("there are no images here")
    return images[len(images) // 2]
