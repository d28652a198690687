"""Frames coded for thin lines: made at the first request, kept (`central.archive.renditions`), and never waited for
longer than they save.

Always true: the policy was asked before anything here is (who calls has a Grant). A frame that somebody no longer
waits for is made and kept all the same, for who asks next.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass
from typing import Final

from central.access.policy import Grant
from central.archive.archive import Archive
from central.archive.renditions import ReadyBytes
from central.dicomweb.conversion import FrameCoding
from central.dicomweb.errors import NotAnImageError, UnavailableError
from central.dicomweb.render import Renderer

_FRAME: Final = "frame 1"  # goes up when the same frame is coded into other bytes
_AT_ONCE: Final = 4  # threads that wait for a worker
_AT_MOST: Final = 64  # frames with and before them; of more, nobody would see the end


class FrameCoder:
    """Of one archive. Safe to call from every thread. `renderer` is closed by the caller, which ends the waiting."""

    def __init__(self, archive: Archive, renderer: Renderer) -> None:
        self._archive = archive.reading
        self._renditions = archive.renditions
        self._renderer = renderer
        self._threads = ThreadPoolExecutor(_AT_ONCE, "frame-coder")
        self._places = threading.BoundedSemaphore(_AT_MOST)

    def of(self, grant: Grant, series_instance_uid: str, sop_instance_uid: str) -> CodedFrames:
        return CodedFrames(self, grant, series_instance_uid, sop_instance_uid)

    def kept(self, frames: CodedFrames, number: int, wanted: str) -> ReadyBytes | None:
        sources = self._archive.sources(frames.grant, frames.series_instance_uid, frames.sop_instance_uid)
        return self._renditions.kept(sources, _form(number, wanted))

    def make(self, frames: CodedFrames, number: int, wanted: str) -> ReadyBytes:
        named = (frames.grant, frames.series_instance_uid, frames.sop_instance_uid)
        sources = self._archive.sources(*named)

        def make() -> bytes:
            stored = self._archive.open_instance(*named, compared=True)
            return self._renderer.render(FrameCoding(stored.path, stored.transfer_syntax_uid, number, wanted))

        return self._renditions.get(sources, _form(number, wanted), make, (NotAnImageError,))

    def make_soon(self, frames: CodedFrames, number: int, wanted: str) -> Future[ReadyBytes] | None:
        """None: too many wait already."""
        if not self._places.acquire(blocking=False):
            return None
        coding = self._threads.submit(self.make, frames, number, wanted)
        coding.add_done_callback(lambda _: self._places.release())
        return coding


@dataclass(frozen=True)
class CodedFrames:
    """The frames of one granted image, in transfer syntaxes of `central.dicomweb.conversion.CODED_ANEW`."""

    coder: FrameCoder
    grant: Grant
    series_instance_uid: str
    sop_instance_uid: str

    def frame(self, number: int, wanted: str) -> ReadyBytes:
        """Frame `number` (from 1) in the transfer syntax `wanted`, however long it takes.

        Raises
        ------
        NotHereError : there is no such image.
        NotAnImageError, UnavailableError : it cannot be coded, or not now.
        """
        return self.coder.make(self, number, wanted)

    def frame_within(self, patience_s: float, number: int, wanted: str) -> ReadyBytes | None:
        """The same for who would rather have other bytes than wait longer.

        None: it cannot be coded, or is not ready then.
        """
        kept = self.coder.kept(self, number, wanted)
        coding = None if kept else self.coder.make_soon(self, number, wanted)
        if coding is None:
            return kept
        try:
            return coding.result(patience_s)
        except (NotYetError, NotAnImageError, UnavailableError):
            return None


def _form(number: int, wanted: str) -> str:
    return f"{_FRAME} {wanted} {number}"
