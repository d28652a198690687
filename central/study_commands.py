"""``dicomnet-central study …``: hold a study, erase it for good, and let an erased one in again.

Always true: each change is on the audit record, with its reason, before it is made; a refusal is as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import peewee

from central.archive.archive import Archive
from central.archive.errors import ErasureRefusedError, StorageError
from central.audit.record import Action, AuditEvent, Outcome
from central.command_group import AddCommand, CommandGroup
from central.errors import StartError
from central.foundation import Foundation, open_archive
from central.identity.errors import KeyFileError
from contract.identifiers import InvalidIdentifierError, check_uid

_MAX_REASON_CHARACTERS = 500


class StudyCommands(CommandGroup):
    """The commands."""

    def add(self, command: AddCommand) -> None:
        """Add every command through `command` (name, what it does, function)."""
        changes: tuple[tuple[str, str, Callable[[argparse.Namespace], None]], ...] = (
            ("erase", "erase a study for good: its key, its rows, its objects", self._erase),
            ("hold", "put a study under legal hold: it cannot be erased", self._hold),
            ("release", "end a legal hold", self._release),
            ("allow", "take images of an erased study in again", self._allow),
        )
        for name, does, run in changes:
            parser = command(name, does, run)
            parser.add_argument("study", metavar="UID", help="Study Instance UID")
            parser.add_argument("--reason", required=True, help="goes on the audit record")
            if name == "erase":
                parser.add_argument(
                    "--yes", action="store_true", help="without it only what would be erased is said"
                )
        command("list", "print the studies under legal hold, and those that were erased", self._list)

    def _erase(self, options: argparse.Namespace) -> None:
        study, reason = _study(options), _reason(options)
        with self._open(options) as (foundation, archive):
            who = self._event(Action.ERASE, "").actor

            def announce(objects: int) -> None:
                if not options.yes:
                    raise StartError(
                        f"{objects} objects of this study would be erased; nothing was. Say --yes"
                    )
                foundation.audit.record(self._of(Action.ERASE, study, f"{objects} objects: {reason}"))

            with self._refusals(foundation, Action.ERASE, study, reason):
                count = archive.erasures.erase(study, who, announce)
            try:
                archive.removal.run()
            except (StorageError, OSError) as error:
                raise StartError(
                    f"the study is erased, but its {count} objects are still in the store, and central removes them "
                    f"when it can: {error}"
                ) from error
        print(
            f"the study and its {count} objects are erased; copies in backups, on boxes and elsewhere are not"
        )

    def _hold(self, options: argparse.Namespace) -> None:
        study, reason = _study(options), _reason(options)
        with self._open(options) as (foundation, archive):
            event = self._of(Action.LEGAL_HOLD, study, f"set: {reason}")
            foundation.audit.record(event)
            with self._refusals(foundation, Action.LEGAL_HOLD, study, f"set: {reason}"):
                archive.erasures.hold(study, event.actor, reason)
        print("the study is under legal hold")

    def _release(self, options: argparse.Namespace) -> None:
        study, reason = _study(options), _reason(options)
        with self._open(options) as (foundation, archive):
            foundation.audit.record(self._of(Action.LEGAL_HOLD, study, f"ended: {reason}"))
            with self._refusals(foundation, Action.LEGAL_HOLD, study, f"ended: {reason}"):
                archive.erasures.release(study)
        print("the legal hold is ended")

    def _allow(self, options: argparse.Namespace) -> None:
        study, reason = _study(options), _reason(options)
        with self._open(options) as (foundation, archive):
            foundation.audit.record(self._of(Action.ERASE, study, f"taken in again: {reason}"))
            with self._refusals(foundation, Action.ERASE, study, f"taken in again: {reason}"):
                archive.erasures.allow(study)
        print("images of this study are taken in again; send again what boxes have set aside")

    def _list(self, options: argparse.Namespace) -> None:
        with self._open(options) as (_, archive):
            for hold in archive.erasures.holds():
                print(
                    f"held    {hold.study_instance_uid}  {_day(hold.set_at_s)}  {hold.set_by}  {hold.reason}"
                )
            for erased in archive.erasures.erased():
                print(
                    f"erased  {erased.study_instance_uid}  {_day(erased.erased_at_s)}  {erased.erased_by}  "
                    f"{erased.objects} objects"
                )

    def _of(self, action: Action, study: str, detail: str, outcome: Outcome = "success") -> AuditEvent:
        return replace(self._event(action, detail), study_instance_uid=study, outcome=outcome)

    @contextmanager
    def _refusals(self, foundation: Foundation, action: Action, study: str, detail: str) -> Iterator[None]:
        """What is refused goes on record, and becomes one sentence."""
        try:
            yield
        except ErasureRefusedError as error:
            foundation.audit.record(self._of(action, study, f"{error}; {detail}", "refused"))
            raise StartError(str(error)) from error

    @contextmanager
    def _open(self, options: argparse.Namespace) -> Iterator[tuple[Foundation, Archive]]:
        settings = self._settings(options)
        with closing(Foundation.open(settings)) as foundation:
            try:
                archive = open_archive(settings.storage, foundation.db)
            except (KeyFileError, StorageError, OSError, peewee.PeeweeException) as error:
                raise StartError(str(error)) from error
            yield foundation, archive


def _study(options: argparse.Namespace) -> str:
    try:
        return check_uid(options.study, "study")
    except InvalidIdentifierError as error:
        raise StartError(str(error)) from error


def _reason(options: argparse.Namespace) -> str:
    reason = str(options.reason).strip()
    if not 3 <= len(reason) <= _MAX_REASON_CHARACTERS or not reason.isprintable():
        raise StartError(f"give a --reason of 3 to {_MAX_REASON_CHARACTERS} characters")
    return reason


def _day(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d}"
