"""`dicomnet-central import …`: folders and ZIP files into the archive, beside a running central.

Exit code 0: everything is here. 1: something is not, or it was stopped; the summary says what, and the same command
goes on from there.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import peewee

from central.archive.errors import StorageError
from central.audit.events import Action
from central.command_group import AddCommand, CommandGroup
from central.errors import StartError
from central.foundation import Foundation, has_room, lock_folder, open_archive
from central.importing.errors import NoRoomError, WorkerLostError
from central.importing.examination import INCOMING
from central.importing.folder_import import (
    FolderImport,
    Run,
    default_workers,
)
from central.importing.ledger import Ledger
from central.importing.sources import require_readable
from central.importing.tally import Tally
from central.institution import DEFAULT_INSTITUTION

REASONS_SHOWN: Final = 10


class ImportCommands(CommandGroup):
    """The commands."""

    def add(self, add: AddCommand) -> None:
        folder = add(
            "import",
            "import every DICOM file in folders and ZIP files; what was imported before is skipped",
            self._import,
        )
        folder.add_argument("sources", nargs="+", type=Path, metavar="FOLDER|FILE.zip")
        folder.add_argument(
            "--workers", type=int, choices=range(1, 65), default=default_workers(), metavar="N",
            help="processes that read files; default: one a processor, at most 8",
        )  # fmt: skip
        folder.add_argument(
            "--institution", default=DEFAULT_INSTITUTION, metavar="I",
            help="whose the studies become; default: the default one's",
        )  # fmt: skip

    def _import(self, options: argparse.Namespace) -> int:
        settings = self._settings(options)
        require_readable(options.sources)
        root = settings.storage.root
        run_id = new_run_id()
        with (
            closing(Foundation.open(settings)) as foundation,
            import_lock(root, "import"),
            stop_by_signal() as stopped,
            closing(Tally(root / "imports" / f"{run_id}.tsv", say)) as tally,
        ):
            audit, by = foundation.audit, self._event(Action.STORE, "").actor
            institution = foundation.doorkeeper.institutions.require(options.institution)
            concerned = frozenset({institution})

            def record(study_instance_uid: str, instances: int) -> None:
                event = self._event(Action.STORE, f"import {run_id}: {instances} instances", concerned)
                audit.record(replace(event, study_instance_uid=study_instance_uid))

            named = ", ".join(str(source.resolve()) for source in options.sources)
            audit.record(self._event(Action.STORE, f"import {run_id} begins: {named}", concerned))
            try:
                archive = open_archive(settings.storage, foundation.db, INCOMING, sweeps=True)
                importing = FolderImport(
                    archive.receiving,
                    Ledger(foundation.db, institution),
                    tally,
                    Run(
                        run_id,
                        by,
                        settings.storage,
                        settings.limits.max_object_bytes,
                        options.workers,
                        institution,
                    ),
                    record,
                    has_room(settings.storage),
                    stopped.is_set,
                )
                importing.run(options.sources)
            except NoRoomError as error:
                raise StartError(
                    f"stopped: no more than storage.reserve_bytes is free below {root}. Make room and give the same "
                    f"command again; so far {tally.line}"
                ) from error
            except WorkerLostError as error:
                raise StartError(
                    "a process that reads files was ended, for want of memory or by somebody; give the same command "
                    f"again; so far {tally.line}"
                ) from error
            except (StorageError, OSError, peewee.PeeweeException) as error:
                raise StartError(f"stopped: {error}; give the same command again") from error
            audit.record(self._event(Action.STORE, f"import {run_id} ends: {tally.line}", concerned))
            return _summary(tally, is_stopped=stopped.is_set())


def new_run_id() -> str:
    """What a run is called in the audit record, in the archive and in the name of its list."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def stop_by_signal() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second one ends the program as usual."""
    stopped = threading.Event()

    def stop(number: int, _frame: object) -> None:
        stopped.set()
        signal.signal(number, former[signal.Signals(number)])
        say("stopping: what is under way is finished first")

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def import_lock(root: Path, name: str) -> Iterator[None]:
    """One import of a kind at a time: each sweeps what another left half written."""
    descriptor = lock_folder(root, f"{name}.lock", f"dicomnet-central {name}")
    try:
        yield
    finally:
        os.close(descriptor)


def _summary(tally: Tally, *, is_stopped: bool) -> int:
    print(tally.line)
    if tally.versions:
        print(f"{tally.versions:,} are another content under a UID that was here: both are kept and flagged")
    for reason, count in tally.reasons.most_common(REASONS_SHOWN):
        print(f"failed, {count:,}: {reason}")
    print(f"what was not imported, file by file: {tally.listed_in}")
    if is_stopped:
        print("stopped before the end: give the same command again")
    return 1 if is_stopped or tally.counts["failed"] else 0
