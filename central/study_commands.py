"""``dicomnet-central study …``: hold a study, erase it for good, and let an erased one in again.

Always true: each change is on the audit record, with its reason, before it is made; a refusal is as well.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime

from central.archive.archive import Archive
from central.archive.errors import ErasureRefusedError, StorageError
from central.archive.second_person import check_reason
from central.audit.events import Action, AuditEvent, Outcome
from central.command_group import AddCommand, CommandGroup
from central.errors import StartError
from central.foundation import Foundation, open_archive
from central.institution import DEFAULT_INSTITUTION
from contract.identifiers import InvalidIdentifierError, check_uid


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
            parser.add_argument(
                "--institution",
                metavar="I",
                help="whose study; need not be said where one institution has it",
            )
            parser.add_argument("--reason", required=True, help="goes on the audit record")
            if name == "erase":
                parser.add_argument(
                    "--yes", action="store_true", help="without it only what would be erased is said"
                )
        command("list", "print the studies under legal hold, and those that were erased", self._list)

    def _erase(self, options: argparse.Namespace) -> None:
        study, reason = _study(options), _reason(options)
        with self._open(options) as (foundation, archive):
            institution = self._whose(foundation, options, archive.erasures.holders(study))
            who = self._event(Action.ERASE, "").actor

            def announce(objects: int) -> None:
                if not options.yes:
                    raise StartError(
                        f"{objects} objects of this study would be erased; nothing was. Say --yes"
                    )
                detail = f"{objects} objects: {reason}"
                foundation.audit.record(self._of(Action.ERASE, study, institution, detail))

            with self._refusals(foundation, Action.ERASE, study, institution, reason):
                count = archive.erasures.erase(study, who, announce, institution=institution)
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
            institution = self._whose(foundation, options, archive.erasures.holders(study))
            event = self._of(Action.LEGAL_HOLD, study, institution, f"set: {reason}")
            foundation.audit.record(event)
            with self._refusals(foundation, Action.LEGAL_HOLD, study, institution, f"set: {reason}"):
                archive.erasures.hold(study, event.actor, reason, institution=institution)
        print("the study is under legal hold")

    def _release(self, options: argparse.Namespace) -> None:
        study, reason = _study(options), _reason(options)
        with self._open(options) as (foundation, archive):
            held = [one.institution for one in archive.erasures.holds() if one.study_instance_uid == study]
            institution = self._whose(foundation, options, held)
            foundation.audit.record(self._of(Action.LEGAL_HOLD, study, institution, f"ended: {reason}"))
            with self._refusals(foundation, Action.LEGAL_HOLD, study, institution, f"ended: {reason}"):
                archive.erasures.release(study, institution=institution)
        print("the legal hold is ended")

    def _allow(self, options: argparse.Namespace) -> None:
        study, reason = _study(options), _reason(options)
        with self._open(options) as (foundation, archive):
            erased = [one.institution for one in archive.erasures.erased() if one.study_instance_uid == study]
            institution = self._whose(foundation, options, erased)
            foundation.audit.record(self._of(Action.READMIT, study, institution, reason))
            with self._refusals(foundation, Action.READMIT, study, institution, reason):
                archive.erasures.allow(study, institution=institution)
        print("images of this study are taken in again; send again what boxes have set aside")

    def _list(self, options: argparse.Namespace) -> None:
        with self._open(options) as (_, archive):
            for hold in archive.erasures.holds():
                print(
                    f"held    {hold.study_instance_uid}  {_day(hold.set_at_s)}  {hold.set_by}  {hold.reason}"
                    f"{_named(hold.institution)}"
                )
            for erased in archive.erasures.erased():
                print(
                    f"erased  {erased.study_instance_uid}  {_day(erased.erased_at_s)}  {erased.erased_by}  "
                    f"{erased.objects} objects{_named(erased.institution)}"
                )

    def _whose(self, foundation: Foundation, options: argparse.Namespace, have: Sequence[str]) -> str:
        """The institution whose study is meant: which was named, or the only one that can be meant."""
        if options.institution is not None:
            return foundation.doorkeeper.institutions.require(str(options.institution))
        if len(have) > 1:
            have_it = ", ".join(sorted(have))
            raise StartError(
                f"several institutions have this study ({have_it}): say with --institution whose is meant"
            )
        return have[0] if have else DEFAULT_INSTITUTION

    def _of(
        self, action: Action, study: str, institution: str, detail: str, outcome: Outcome = "success"
    ) -> AuditEvent:
        event = self._event(action, f"{detail}{_named(institution)}", frozenset({institution}))
        return replace(event, study_instance_uid=study, outcome=outcome)

    @contextmanager
    def _refusals(
        self, foundation: Foundation, action: Action, study: str, institution: str, detail: str
    ) -> Iterator[None]:
        """What is refused goes on record, and becomes one sentence."""
        try:
            yield
        except ErasureRefusedError as error:
            foundation.audit.record(self._of(action, study, institution, f"{error}; {detail}", "refused"))
            raise StartError(str(error)) from error

    @contextmanager
    def _open(self, options: argparse.Namespace) -> Iterator[tuple[Foundation, Archive]]:
        settings = self._settings(options)
        with closing(Foundation.open(settings)) as foundation:
            yield foundation, open_archive(settings.storage, foundation.db)


def _study(options: argparse.Namespace) -> str:
    try:
        return check_uid(options.study, "study")
    except InvalidIdentifierError as error:
        raise StartError(str(error)) from error


def _reason(options: argparse.Namespace) -> str:
    try:
        return check_reason(str(options.reason))
    except ErasureRefusedError as error:
        raise StartError(f"--reason: {error}") from error


def _named(institution: str) -> str:
    """For people to read; nothing where there is one institution."""
    return "" if institution == DEFAULT_INSTITUTION else f"; institution: {institution}"


def _day(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d}"
