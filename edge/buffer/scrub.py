"""Reads what lies in the spool, slowly and again and again: damage is found while the scanner still has the image.

Always true: nothing is condemned on one reading, and nothing that central does not have is deleted. A pass reads
the files in the order they came, those first that start-up took in from their labels alone; it reads at a set pace
while nothing is being received, and in between so slowly that nobody notices. Where it stands is written now and
then while it runs, and never otherwise; a crash repeats what was read since.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

from contract.identifiers import ObjectId
from edge.buffer.damage import MISSING, Inspection, find_damage
from edge.buffer.durable_file import replace_file
from edge.buffer.errors import SpoolClosedError, SpoolError
from edge.buffer.label import UnlabelledError
from edge.buffer.records import SealedRow
from edge.buffer.states import State
from edge.buffer.tables import utc_from_text, utc_text

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

QUIET_S: Final = 5.0
"""So long nothing may have been received before the disk is read at the set pace."""

BUSY_BYTES_PER_S: Final = 1 << 18
"""What is read on a box that never rests for so long: a hundredth of what a disk writes beside it, 21 GB a day."""

_BATCH: Final = 64
_LEAST_CHARGE_BYTES: Final = 1 << 16  # opening a file costs a disk as much as reading this
_LEAST_WAIT_S: Final = 0.05
_SAVE_EVERY_S: Final = 900.0
_RETRY_S: Final = 600.0
_LOOK_AGAIN_S: Final = 3600.0  # the wall clock may jump; and an hour is soon enough
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ScrubReport:
    """One pass.

    Attributes
    ----------
    files : compared with their labels.
    damaged : of those and of the rows, what was condemned, or freed because central has it.
    unlabelled : files of an older program, or not ours to judge: not compared.
    finished_at_utc : None while it runs.
    """

    files: int = 0
    damaged: int = 0
    unlabelled: int = 0
    finished_at_utc: datetime | None = None


@dataclass(frozen=True)
class Damage:
    """What was found, for whoever has to be told. `state` is the object's new one."""

    object_id: ObjectId
    calling_ae_title: str
    sop_instance_uid: str | None
    state: State
    reason: str


class _StoppedError(Exception):
    """`Scrub.stop` was called."""


@dataclass(frozen=True)
class _Progress:
    """What is written down. `todo`: ranges of the order of arrival, each from behind its first number."""

    todo: tuple[tuple[int, int], ...] = ()
    running: ScrubReport = field(default_factory=ScrubReport)
    last: ScrubReport | None = None


class Scrub:
    """The scrubbing thread: `start`, then `stop`.

    Parameters
    ----------
    state_path : a file of its own.
    quiet_s : how long nothing has been received.
    unverified_from : where those begin that start-up took in unread; 0 if there are none.
    interval : from the end of a pass to the start of the next.
    on_damage : called on the scrubbing thread, after the object was taken out of the queue.
    """

    def __init__(
        self,
        inspection: Inspection,
        state_path: Path,
        *,
        quiet_s: Callable[[], float],
        unverified_from: int,
        bytes_per_s: int,
        interval: timedelta,
        on_damage: Callable[[Damage], None],
    ) -> None:
        self._inspection = inspection
        self._quiet_s = quiet_s
        self._state_path = state_path
        self._bytes_per_s = bytes_per_s
        self._interval = interval
        self._on_damage = on_damage
        self._stopping = threading.Event()
        self._owed_s = 0.0
        self._saved_at_s = time.monotonic()
        self._progress = _read_progress(state_path)
        self._unverified_from = unverified_from
        self._thread = threading.Thread(target=self._run, name="spool-scrub", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """To be called before the spool is closed."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def last_pass(self) -> ScrubReport | None:
        """The last one that came to its end; None if none has yet."""
        return self._progress.last

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                if not self._progress.todo and (wait_s := self._due_in_s()) > 0:
                    self._stopping.wait(min(wait_s, _LOOK_AGAIN_S))
                    continue
                self._go_on()
            except (_StoppedError, SpoolClosedError):
                break
            except (SpoolError, OSError) as error:
                _LOG.warning("scrubbing was interrupted", extra={"reason": error, "again_in_s": _RETRY_S})
                self._stopping.wait(_RETRY_S)
        if self._progress.todo:
            self._save()

    def _due_in_s(self) -> float:
        last = self._progress.last
        if self._unverified_from or last is None or last.finished_at_utc is None:
            return 0.0
        since = datetime.now(UTC) - last.finished_at_utc
        # A pass that ended in the future was dated by a clock that was wrong: it says nothing.
        return (self._interval - since).total_seconds() if since >= timedelta(0) else 0.0

    def _go_on(self) -> None:
        """Begin a pass or take up the one that was interrupted, and bring it to its end."""
        first, self._unverified_from = self._unverified_from, 0
        if first:
            last = self._inspection.last_sequence()
            others = self._progress.todo or ((0, first - 1),)
            self._progress = replace(self._progress, todo=((first - 1, last), *others))
        elif not self._progress.todo:
            self._progress = replace(
                self._progress, todo=((0, self._inspection.last_sequence()),), running=ScrubReport()
            )
        while self._progress.todo:
            after, through = self._progress.todo[0]
            rest = self._progress.todo[1:]
            rows = self._inspection.sealed_after(after, limit=_BATCH) if after < through else []
            for row in rows:
                if row.sequence > through:
                    break
                self._check(row)
                self._progress = replace(self._progress, todo=((row.sequence, through), *rest))
                if time.monotonic() - self._saved_at_s >= _SAVE_EVERY_S:
                    self._save()
            else:
                if rows:
                    continue
            self._progress = replace(self._progress, todo=rest)
        finished = replace(self._progress.running, finished_at_utc=datetime.now(UTC))
        self._progress = _Progress(last=finished)
        self._save()
        _LOG.info("the spool was scrubbed", extra=asdict(finished))

    def _check(self, row: SealedRow) -> None:
        running = self._progress.running
        try:
            damage = self._read(row) and self._read(
                row
            )  # memory and cables err as well: it takes two readings
        except UnlabelledError:
            self._progress = replace(
                self._progress, running=replace(running, unlabelled=running.unlabelled + 1)
            )
            return
        running = replace(running, files=running.files + 1)
        state = self._inspection.condemn(row.object_id, damage) if damage else None
        if damage and state is not None:
            running = replace(running, damaged=running.damaged + 1)
        self._progress = replace(self._progress, running=running)
        if damage and state is not None:
            _LOG.error(
                "damaged on the disk",
                extra={"object_id": row.object_id, "reason": damage, "state": state.value},
            )
            self._on_damage(Damage(row.object_id, row.calling_ae_title, row.sop_instance_uid, state, damage))

    def _read(self, row: SealedRow) -> str | None:
        self._pay(_LEAST_CHARGE_BYTES)
        file = self._inspection.open_file(row.object_id)
        if file is None:
            return MISSING
        with file:
            _read_from_disk(file.fileno())
            with io.BufferedReader(_Paced(file, self._pay)) as paced:
                return find_damage(paced, row)

    def _pay(self, size_bytes: int) -> None:
        """Wait for as long as reading so much may take, which is longer while something is being received."""
        self._owed_s += size_bytes / self._bytes_per_s
        if self._owed_s >= _LEAST_WAIT_S:
            owed_s, self._owed_s = self._owed_s, 0.0
            self._stopping.wait(owed_s)
        rested_at_s = time.monotonic() + size_bytes / BUSY_BYTES_PER_S
        while not self._stopping.is_set():
            left_s = min(QUIET_S - self._quiet_s(), rested_at_s - time.monotonic())
            if left_s <= 0:
                break
            self._stopping.wait(left_s)
        if self._stopping.is_set():
            raise _StoppedError

    def _save(self) -> None:
        self._saved_at_s = time.monotonic()
        try:
            replace_file(self._state_path, _encode(self._progress))
        except OSError as error:
            _LOG.warning("where the scrub stands could not be written", extra={"reason": error.strerror})


class _Paced(io.RawIOBase):
    """A file that is read no faster than it is paid for. Does not close it."""

    def __init__(self, file: BinaryIO, pay: Callable[[int], None]) -> None:
        self._file = file
        self._pay = pay

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, buffer: WriteableBuffer) -> int:
        taken: int = self._file.readinto(buffer)  # type: ignore[attr-defined]  # BinaryIO leaves it out
        self._pay(taken)
        return taken


def _read_from_disk(descriptor: int) -> None:
    """Past what memory still holds of the file, and without writing down that it was read."""
    with contextlib.suppress(OSError):  # a file system that knows neither is read all the same
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, fcntl.fcntl(descriptor, fcntl.F_GETFL) | os.O_NOATIME)


def _encode(progress: _Progress) -> bytes:
    def plain(report: ScrubReport | None) -> dict[str, object] | None:
        if report is None:
            return None
        finished = report.finished_at_utc
        return {**asdict(report), "finished_at_utc": finished and utc_text(finished)}

    fields = {"todo": progress.todo, "running": plain(progress.running), "last": plain(progress.last)}
    return json.dumps(fields).encode("ascii")


def _read_progress(path: Path) -> _Progress:
    """What was written down; a new beginning where that cannot be read."""

    def report(fields: dict[str, object]) -> ScrubReport:
        finished = fields["finished_at_utc"]
        return ScrubReport(
            files=int(str(fields["files"])),
            damaged=int(str(fields["damaged"])),
            unlabelled=int(str(fields["unlabelled"])),
            finished_at_utc=None if finished is None else utc_from_text(str(finished)),
        )

    try:
        fields = json.loads(path.read_bytes())
        return _Progress(
            todo=tuple((int(after), int(through)) for after, through in fields["todo"]),
            running=report(fields["running"]),
            last=None if fields["last"] is None else report(fields["last"]),
        )
    except FileNotFoundError:
        return _Progress()
    except (OSError, ValueError, KeyError, TypeError):
        _LOG.warning("what was written of the last scrub cannot be read; it begins anew")
        return _Progress()
