"""Draws pictures and converts instances in worker processes: a hostile or broken image costs a worker and no more.

Why it exists: decoding pixels runs C code on bytes from outside. A crash, an endless loop or a memory bomb must
not take central with it.

What is always true
-------------------
- A worker has a ceiling of address space, and a job a ceiling of time; a worker over either is ended and
  replaced. It gets a path and view parameters, gives back a file, and holds no connection and no key.
  What is larger than a picture is written to a file that the caller made, which has a ceiling, too.
- Workers end with central, also when central is killed.

What a crash leaves: at most a private temporary file of a conversion.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import resource
import signal
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from enum import Enum
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final

from central.archive.errors import ObjectDamagedError
from central.archive.sealed_file import ObjectFile
from central.dicomweb.conversion import (
    CONVERSION_TIMEOUT_S,
    Conversion,
    Extraction,
    FileJob,
    FrameCoding,
    FrameConversion,
    WrittenFile,
    private_file,
)
from central.dicomweb.errors import NotAnImageError, UnavailableError
from central.dicomweb.view_parameters import ViewParameters

JOB_TIMEOUT_S: Final = 30.0
WORKER_MEMORY_BYTES: Final = 4 << 30
WORKER_FILE_BYTES: Final = 5 << 30  # a native value has 4 GiB at most
FILES_AT_ONCE: Final = 16  # written and not fetched to the end yet
_QUEUE_TIMEOUT_S: Final = 60.0
# spawn: a fork of a process with threads inherits locks that nobody will release.
_PROCESSES: Final = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Job:
    """One picture of the Part 10 file at `path`: of frame `frame` (from 1), or None for the middle one."""

    path: ObjectFile
    transfer_syntax_uid: str
    frame: int | None
    view: ViewParameters


@dataclass(frozen=True)
class _FileTask:
    """What to write, and where to."""

    job: FileJob
    out: Path


class Renderer:
    """A small pool of workers, started when first needed. Safe to call from every thread."""

    def __init__(
        self,
        workers: int = 2,
        job_timeout_s: float = JOB_TIMEOUT_S,
        conversion_timeout_s: float = CONVERSION_TIMEOUT_S,
    ) -> None:
        self._job_timeout_s = job_timeout_s
        self._conversion_timeout_s = conversion_timeout_s
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(_Worker())
        self._places = threading.BoundedSemaphore(FILES_AT_ONCE)
        # A conversion may take minutes: where there are several workers, one is left for pictures.
        self._converting = threading.BoundedSemaphore(max(1, workers - 1))
        self._closed = False

    def render(self, job: Job | FrameCoding) -> bytes:
        """The picture as a JPEG or PNG file, or the coded frame. Waits for a free worker.

        Raises
        ------
        NotAnImageError : the instance is no image, or drawing it failed, took too long or ended the worker.
        UnavailableError : no worker became free in time, or the renderer is closed.
        """
        return self._done(job, self._job_timeout_s)

    @contextmanager
    def converted(self, path: ObjectFile, transfer_syntax_uid: str, wanted: str) -> Iterator[BinaryIO]:
        """The Part 10 file at `path` in Explicit or Implicit VR Little Endian; gone when the block ends.

        Raises
        ------
        NotAnImageError, UnavailableError : as `render`.
        """
        written = self.write(Conversion(path, transfer_syntax_uid, wanted))
        try:
            yield written.opened
        finally:
            written.close()

    def write(self, job: FileJob) -> WrittenFile:
        """What `job` asks for, as a file without a name.

        Raises
        ------
        NotAnImageError, UnavailableError : as `render`.
        """
        if not self._places.acquire(timeout=_QUEUE_TIMEOUT_S):
            raise UnavailableError("too many conversions are being fetched; try again later")
        with ExitStack() as undo:
            undo.callback(self._places.release)
            with tempfile.TemporaryDirectory(prefix="dicomnet-") as folder:
                path = private_file(Path(folder))
                opened = undo.enter_context(path.open("rb"))
                if isinstance(job, Extraction):  # takes no longer than a picture
                    answer = self._done(_FileTask(job, path), self._job_timeout_s)
                else:
                    answer = self._converted(_FileTask(job, path))
            return WrittenFile(opened, answer, os.fstat(opened.fileno()).st_size, undo.pop_all().close)

    def _converted(self, task: _FileTask) -> bytes:
        if not self._converting.acquire(timeout=_QUEUE_TIMEOUT_S):
            raise UnavailableError("too much is being converted; try again later")
        try:
            return self._done(task, self._conversion_timeout_s)
        finally:
            self._converting.release()

    def _done(self, job: Job | FrameCoding | _FileTask, timeout_s: float) -> bytes:
        try:
            worker = self._idle.get(timeout=_QUEUE_TIMEOUT_S)
        except queue.Empty as error:
            raise UnavailableError("too many pictures are being drawn; try again later") from error
        try:
            if self._closed:
                raise UnavailableError("central is stopping")
            return worker.render(job, timeout_s)
        finally:
            self._idle.put(worker)
            if self._closed:
                worker.stop()

    def close(self) -> None:
        """End the workers; pictures being drawn are waited for, at most their time."""
        self._closed = True
        stopped = []
        try:
            while True:
                stopped.append(self._idle.get_nowait())
                stopped[-1].stop()
        except queue.Empty:
            for worker in stopped:
                self._idle.put(worker)  # so that a late caller is told, and does not wait

    def __enter__(self) -> Renderer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Outcome(Enum):
    """How a job ended."""

    DONE = "done"
    REFUSED = "refused"  # this image cannot be; the answer says why
    DAMAGED = "damaged"  # the archive's object is; the answer names it


class _Worker:
    """One worker process, (re)started when it is needed. Used by one thread at a time."""

    def __init__(self) -> None:
        self._process: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def render(self, job: Job | FrameCoding | _FileTask, timeout_s: float) -> bytes:
        pipe = self._ready()
        try:
            pipe.send(job)
            if not pipe.poll(timeout_s):
                self.stop()
                raise NotAnImageError(f"this image could not be drawn within {timeout_s:g} s")
            outcome, answer = pipe.recv()
        except (EOFError, OSError) as error:
            self.stop()
            raise NotAnImageError("drawing this image ended the program that draws it") from error
        if outcome is _Outcome.DAMAGED:
            raise ObjectDamagedError(answer.decode())
        if outcome is _Outcome.REFUSED:
            raise NotAnImageError(answer.decode())
        return bytes(answer)

    def stop(self) -> None:
        if self._process is None or self._pipe is None:
            return
        self._pipe.close()
        self._process.kill()
        self._process.join()
        self._process = self._pipe = None

    def _ready(self) -> Connection:
        if self._pipe is not None and self._process is not None and self._process.is_alive():
            return self._pipe
        self.stop()
        self._pipe, theirs = _PROCESSES.Pipe()
        self._process = _PROCESSES.Process(target=_work, args=(theirs,), name="render", daemon=True)
        self._process.start()
        theirs.close()
        return self._pipe


def _work(pipe: Connection) -> None:
    """The worker's life: one job after the other until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; central ends us in order
    threading.Thread(target=_end_with_parent, daemon=True).start()
    resource.setrlimit(resource.RLIMIT_AS, (WORKER_MEMORY_BYTES, WORKER_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (WORKER_FILE_BYTES, WORKER_FILE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold an image
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_answer(job))


def _answer(job: Job | FrameCoding | _FileTask) -> tuple[_Outcome, bytes]:
    # Here, and not above: central itself never loads the codecs.
    from central.dicomweb.decode import decode_frame
    from central.dicomweb.encode import encode_frame
    from central.dicomweb.extract import extract
    from central.dicomweb.native import write_frames, write_native
    from central.dicomweb.pixel_data import open_image
    from central.dicomweb.presentation import picture

    try:
        if isinstance(job, _FileTask):
            with job.out.open("wb") as out:
                match job.job:
                    case Conversion(path, syntax, wanted):
                        write_native(path, syntax, wanted, out)
                        return _Outcome.DONE, b""
                    case FrameConversion(path, syntax, numbers):
                        return _Outcome.DONE, json.dumps(write_frames(path, syntax, numbers, out)).encode()
                    case Extraction(path, syntax, element):
                        found = extract(path, syntax, element, out)
                        return _Outcome.DONE, json.dumps(found and asdict(found)).encode()
        with open_image(job.path, job.transfer_syntax_uid) as image:
            if isinstance(job, FrameCoding):
                return _Outcome.DONE, encode_frame(image, job.number, job.wanted)
            frame = job.frame or image.pixels.number_of_frames // 2 + 1
            return _Outcome.DONE, picture(image, decode_frame(image, frame), frame, job.view)
    except ObjectDamagedError as error:
        return _Outcome.DAMAGED, error.sha256.encode()
    except NotAnImageError as error:
        return _Outcome.REFUSED, str(error).encode()
    except MemoryError:
        return _Outcome.REFUSED, b"this image needs more memory than a worker may use"
    except Exception as error:  # the border of the sandbox: whatever it is, it is this image's fault
        return _Outcome.REFUSED, f"this image cannot be taken apart ({type(error).__name__})".encode()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(0)
