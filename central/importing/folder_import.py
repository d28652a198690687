"""Folders and ZIP files into the archive, beside a running central: workers read and store, this process indexes.

What is always true
-------------------
- The order is that of every way in: the file is durable under its content, then its row, then it counts as
  imported. The ledger's row is written in the transaction that indexes the file.
- Each study that gets instances is on record before its rows are committed; without a record nothing is indexed.
- What is under way is bounded, however many files there are.

What a crash leaves: nothing that the next run does not absorb. It skips what the ledger has, and finds again what was
durable and not yet indexed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from central.archive.errors import StorageError, StudyErasedError
from central.archive.receiving import Receiving
from central.archive.settings import StorageSettings
from central.importing.errors import NoRoomError, WorkerLostError
from central.importing.examination import Failed, Ignored, Listed, Result, Taken, begin, examine_all
from central.importing.ledger import Ledger
from central.importing.sources import Candidate, Unreadable, candidates
from central.importing.tally import Tally
from central.institution import DEFAULT_INSTITUTION

_BATCH_FILES: Final = 32  # read by one worker, indexed in one transaction
_BATCH_BYTES: Final = 256 << 20
_LOOKED_UP: Final = 500
_MOST_WORKERS: Final = 8


@dataclass(frozen=True)
class Run:
    """One run of an import, by whom, as what, and whose the studies become."""

    run_id: str
    imported_by: str
    storage: StorageSettings
    max_object_bytes: int
    workers: int
    institution: str = DEFAULT_INSTITUTION


def default_workers() -> int:
    """One a processor, at most eight: beyond that disks are what waits."""
    return min(_MOST_WORKERS, os.cpu_count() or 1)


class FolderImport:
    """Imports into `archive`.

    Parameters
    ----------
    record : writes to the audit record that a study gets so many instances; raises if it cannot.
    has_room : whether the archive may take more.
    is_stopped : asked between batches; what is under way is finished.
    """

    def __init__(
        self,
        archive: Receiving,
        ledger: Ledger,
        tally: Tally,
        run: Run,
        record: Callable[[str, int], None],
        has_room: Callable[[], bool],
        is_stopped: Callable[[], bool],
    ) -> None:
        self._archive = archive
        self._ledger = ledger
        self._tally = tally
        self._run = run
        self._record = record
        self._has_room = has_room
        self._is_stopped = is_stopped

    def run(self, sources: Sequence[Path]) -> None:
        """Import all that is new.

        Raises
        ------
        NoRoomError, WorkerLostError : what was under way is imported or will be found again.
        AuditUnavailableError, StorageError, peewee.PeeweeException : as above.
        """
        run = self._run
        pool = ProcessPoolExecutor(
            run.workers,
            multiprocessing.get_context("spawn"),
            begin,
            (run.storage, run.max_object_bytes, run.imported_by, run.run_id, run.institution),
        )
        under_way: deque[Future[list[Result]]] = deque()
        try:
            for batch in _batches(self._new(candidates(sources))):
                if self._is_stopped():
                    break
                if not self._has_room():
                    raise NoRoomError
                under_way.append(pool.submit(examine_all, batch))
                if len(under_way) > 2 * run.workers:
                    self._index(under_way.popleft().result())
            while under_way:
                self._index(under_way.popleft().result())
        except BrokenProcessPool as error:
            raise WorkerLostError from error
        finally:
            pool.shutdown(cancel_futures=True)

    def _new(self, found: Iterable[Candidate | Unreadable]) -> Iterator[Candidate]:
        """Candidates that no earlier run imported."""
        while chunk := list(islice(found := iter(found), _LOOKED_UP)):
            known = self._ledger.known([one.key for one in chunk if isinstance(one, Candidate)])
            for one in chunk:
                if isinstance(one, Unreadable):
                    self._tally.left("failed", one.shown, one.reason)
                elif one.key in known:
                    self._tally.known()
                else:
                    yield one

    def _index(self, results: Sequence[Result]) -> None:
        taken = [result for result in results if isinstance(result, Taken)]
        for study, count in Counter(one.indexable.attributes.study_instance_uid for one in taken).items():
            self._record(study, count)
        self._take_in(taken)
        for result in results:
            match result:
                case Ignored():
                    self._tally.left("no DICOM", result.candidate.shown, result.reason)
                case Failed():
                    self._tally.left("failed", result.shown, result.reason)
                case Listed():
                    self._tally.left("DICOMDIR", result.candidate.shown, "the directory of a medium")
                    for file_id in result.missing:
                        shown = f"{result.candidate.shown}: {file_id}"
                        self._tally.left("failed", shown, "named by the DICOMDIR, and not there")
                case Taken():
                    pass
        for result in results:
            if isinstance(result, Failed) and result.ends_run:
                raise StorageError(result.reason)

    def _take_in(self, taken: Sequence[Taken]) -> None:
        """Index these in one transaction; what is of a study that was erased here is left out, and named."""
        try:
            outcomes = self._archive.index_all(
                [one.indexable for one in taken],
                lambda _outcomes: self._ledger.add([one.candidate.key for one in taken]),
            )
        except StudyErasedError as error:
            rest = []
            for one in taken:
                if one.indexable.attributes.study_instance_uid == error.study_instance_uid:
                    self._archive.forget(one.indexable.stored)
                    self._tally.left("failed", one.candidate.shown, str(error))
                else:
                    rest.append(one)
            self._take_in(rest)
            return
        for one, outcome in zip(taken, outcomes, strict=True):
            self._tally.imported(one.indexable.stored.size_bytes, outcome)


def _batches(new: Iterable[Candidate]) -> Iterator[list[Candidate]]:
    batch: list[Candidate] = []
    size_bytes = 0
    for one in new:
        batch.append(one)
        size_bytes += one.size_bytes
        if len(batch) == _BATCH_FILES or size_bytes >= _BATCH_BYTES:
            yield batch
            batch, size_bytes = [], 0
    if batch:
        yield batch
