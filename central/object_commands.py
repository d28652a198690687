"""``dicomnet-central objects``: compare every object with its name and with the index, the index with what searches
go by, encrypt what lies plain."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

import peewee

from central.archive.archive import Archive
from central.archive.comparison import FIRST
from central.archive.errors import ArchiveError
from central.archive.faults import Fault, FaultKind, Faults
from central.archive.scrub import scrub_report
from central.archive.set_comparison import compare_sets
from central.audit.events import Action
from central.command_group import AddCommand, CommandGroup
from central.database import Database
from central.errors import StartError
from central.foundation import Foundation, open_archive, open_record_beside
from central.identity.errors import KeyFileError

_PROGRESS_S: Final = 5.0


class ObjectCommands(CommandGroup):
    """The commands."""

    def add(self, command: AddCommand) -> None:
        """Add every command through `command` (name, what it does, function)."""
        verify = command(
            "verify",
            "read every object at full speed, compare it with its hash and with the index, and the index with what "
            "searches go by, and name what is wrong",
            self._verify,
        )
        verify.add_argument(
            "--known", action="store_true", help="only what is listed as wrong already: is it mended?"
        )
        command(
            "mend-searches",
            "make again what searches go by where it does not say what the studies say; beside a running central",
            self._mend_searches,
        )
        command("faults", "print what is known to be wrong, and when the last scrub ended", self._faults)

        command(
            "encrypt",
            "encrypt every object that came before storage.encrypt was set; can be broken off and begun again",
            self._encrypt,
        )
        command(
            "remove-unindexed",
            "remove the objects that are listed as unindexed: for good, so look at why they are there first",
            self._remove_unindexed,
        )

    def _verify(self, options: argparse.Namespace) -> None:
        settings = self._settings(options)
        with closing(Foundation.open(settings)) as foundation, _one_sentence():
            archive = open_archive(settings.storage, foundation.db)
            foundation.audit.record(self._event(Action.READ_OBJECTS, "verify"))
            damaged = 0 if options.known else _print_damaged_databases(foundation)
            if options.known:
                comparison = archive.comparison(lambda _bytes: None)
                for fault in list(_every(archive.faults)):
                    if comparison.again(fault.sha256):
                        print(f"mended {fault.sha256}")
            else:
                _compare_all(archive)
            while untold := archive.faults.untold(256):
                for fault in untold:
                    foundation.audit.record(fault.event())
                archive.faults.told(untold)
            count = _print_all(archive.faults)
            amiss = 0 if options.known else _print_sets(foundation.db, mend=False)
        if damaged:
            raise StartError("a database file is damaged: copy the folder as it is, then put back a backup")
        if count:
            raise StartError(f"{count} objects are wrong; each line above says what, and how it is mended")
        if amiss:
            raise StartError(
                "the images are whole, but searches may not find every study; "
                "put that right with: dicomnet-central objects mend-searches"
            )
        print("every object is whole, and the index names it")

    def _mend_searches(self, options: argparse.Namespace) -> None:
        settings = self._settings(options)
        with closing(Foundation.open(settings)) as foundation, _one_sentence():
            open_archive(settings.storage, foundation.db)
            foundation.audit.record(self._event(Action.READ_OBJECTS, "mend-searches"))
            count = _print_sets(foundation.db, mend=True)
        print(f"{count} faults were mended: searches find every study")

    def _encrypt(self, options: argparse.Namespace) -> None:
        settings = self._settings(options)
        if not settings.storage.encrypt:
            raise StartError(
                "set storage.encrypt = true first, so that what comes meanwhile is encrypted too"
            )
        with closing(Foundation.open(settings)) as foundation, _one_sentence():
            archive = open_archive(settings.storage, foundation.db)
            foundation.audit.record(self._event(Action.READ_OBJECTS, "encrypt"))
            encrypting, after, count, said_at_s = archive.encrypting(), 0, 0, time.monotonic()
            while True:
                position, done = encrypting.step(after)
                count += done
                if position is None:
                    break
                after = position
                if time.monotonic() - said_at_s >= _PROGRESS_S:
                    said_at_s = time.monotonic()
                    print(f"{count} objects", file=sys.stderr, flush=True)
            left = archive.removal.run()
        print(f"{count} objects were encrypted")
        if left:
            print(
                f"{left} plain ones are removed by central within the hour, or when this is typed again then"
            )

    def _remove_unindexed(self, options: argparse.Namespace) -> None:
        settings = self._settings(options)
        with closing(Foundation.open(settings)) as foundation, _one_sentence():
            archive = open_archive(settings.storage, foundation.db)
            named = [fault.sha256 for fault in _every(archive.faults) if fault.kind is FaultKind.UNINDEXED]
            foundation.audit.record(self._event(Action.REMOVE_OBJECTS, f"{len(named)} that no row names"))
            with foundation.db.writing():
                archive.removal.doom(named, at_once=True)
                archive.faults.end(named)
            archive.removal.run()
        print(f"{len(named)} objects were removed")

    def _faults(self, options: argparse.Namespace) -> None:
        settings = self._settings(options)
        with closing(Foundation.open(settings)) as foundation, _one_sentence():
            _print_all(open_archive(settings.storage, foundation.db).faults)
            report = scrub_report(foundation.db)
        ended = f"{report.finished_at_utc:%Y-%m-%d %H:%M} UTC" if report.finished_at_utc else "never"
        now = f"; one is under way, {_size(report.objects, report.bytes)}" if report.running else ""
        print(f"the last scrub ended: {ended}{now}")


def _print_damaged_databases(foundation: Foundation) -> int:
    """Print what is wrong with the pages of the index and of the audit record; how much."""
    record = open_record_beside(foundation.settings.storage)
    count = 0
    for name, db in (("the index", foundation.db), ("the audit record", record)):
        for sentence in db.damage():
            print(f"damaged database of {name}: {sentence}")
            count += 1
    record.end()
    return count


def _compare_all(archive: Archive) -> None:
    comparison = archive.comparison(lambda _bytes: None)
    expected, position, objects, read_bytes = archive.number_of_objects(), FIRST, 0, 0
    said_at_s = time.monotonic()
    while True:
        step = comparison.step(position)
        objects, read_bytes = objects + step.objects, read_bytes + step.bytes
        if step.position is None:
            break
        position = step.position
        if time.monotonic() - said_at_s >= _PROGRESS_S:
            said_at_s = time.monotonic()
            print(f"{_size(objects, read_bytes)} of {expected}", file=sys.stderr, flush=True)
    print(_size(objects, read_bytes))


def _print_sets(db: Database, *, mend: bool) -> int:
    """Print where the sets of studies that searches go by do not say what the studies say; how many faults."""
    count = studies = 0
    said_at_s = time.monotonic()
    for compared in compare_sets(db, mend=mend):
        studies += compared.studies
        count += len(compared.faults) + compared.unreadable
        for fault in compared.faults:
            print(fault.sentence())
        if compared.unreadable:
            print(f"{compared.unreadable} sets of studies cannot be read: searches that need one fail")
        if time.monotonic() - said_at_s >= _PROGRESS_S:
            said_at_s = time.monotonic()
            print(f"{studies} studies", file=sys.stderr, flush=True)
    return count


def _size(objects: int, read_bytes: int) -> str:
    return f"{objects} objects, {read_bytes / 1e9:.2f} GB read"


def _every(faults: Faults) -> Iterator[Fault]:
    position = FIRST
    while page := faults.listed(position):
        yield from page
        position = page[-1].sha256


def _print_all(faults: Faults) -> int:
    """Print every fault; how many."""
    count = 0
    for fault in _every(faults):
        print(fault.sentence())
        count += 1
    return count


@contextmanager
def _one_sentence() -> Iterator[None]:
    try:
        yield
    except KeyFileError as error:
        raise StartError(str(error)) from error
    except (ArchiveError, peewee.PeeweeException) as error:
        raise StartError(f"the objects cannot be had now: {error}") from error
    except OSError as error:
        raise StartError(f"{error.filename or 'an object'}: {error.strerror or error}") from error
