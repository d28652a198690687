"""`dicomnet-central import-pacs AE@host:port`: the studies of another archive, by C-GET or C-MOVE, resumably.

Exit codes as of `import` (central.import_commands).
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Final

import peewee
from pydantic import ValidationError
from pydicom.uid import CTImageStorage

from central.archive.errors import StorageError
from central.audit.events import Action
from central.command_group import AddCommand, CommandGroup
from central.config import Settings
from central.dimse.asking import Asker
from central.dimse.errors import CallFailedError, PeerGoneError
from central.dimse.settings import PeerSettings, Service
from central.errors import StartError
from central.foundation import Foundation, has_room, open_archive
from central.import_commands import REASONS_SHOWN, import_lock, new_run_id, say, stop_by_signal
from central.importing.errors import NoRoomError, SourceAwayError, StoppedError
from central.importing.pace import Hours, Pace
from central.importing.pacs_import import How, PacsImport, Source
from central.importing.source_archive import Filters
from central.importing.study_states import StudyStates
from central.importing.study_tally import StudyTally
from contract.identifiers import InvalidIdentifierError, check_uid

_INCOMING: Final = "importing-pacs"
_PATIENCE_S: Final = 600.0


class PacsImportCommand(CommandGroup):
    """The command."""

    def add(self, add: AddCommand) -> None:
        pacs = add(
            "import-pacs",
            "import the studies of another archive by C-GET or C-MOVE; goes on where it was stopped",
            self._import,
        )
        pacs.add_argument(
            "source", metavar="AE@HOST:PORT", help="the other archive; AE alone: the one of dicom.peers"
        )
        pacs.add_argument("--tls", action="store_true", help="call it over TLS, by dicom.tls")
        pacs.add_argument(
            "--by", choices=("auto", "get", "move"), default="auto",
            help="how images come; auto: C-GET where it is offered, else C-MOVE to central's own AE title",
        )  # fmt: skip
        pacs.add_argument(
            "--from", dest="first", type=_day, metavar="DATE", help="Study Date from, 2019-01-31"
        )
        pacs.add_argument("--until", dest="last", type=_day, metavar="DATE", help="Study Date to, included")
        pacs.add_argument(
            "--modality", action="append", default=[], metavar="M", help="only with it; repeatable"
        )
        pacs.add_argument("--patient-id", default="", metavar="ID", help="only of this patient")
        pacs.add_argument("--study", action="append", default=[], metavar="UID", help="only this; repeatable")
        pacs.add_argument(
            "--studies", type=Path, metavar="FILE", help="only those whose UIDs it has, one a line"
        )
        pacs.add_argument(
            "--hours", type=_hours, metavar="20:00-06:00", help="ask in these hours only, local time"
        )
        pacs.add_argument("--mbit", type=float, metavar="N", help="on average take no more megabits a second")
        pacs.add_argument(
            "--patience", type=float, default=_PATIENCE_S, metavar="S",
            help="seconds for which it is waited for when it is away; default 600",
        )  # fmt: skip
        pacs.add_argument(
            "--institution", metavar="I",
            help="whose the studies become; default: that of the source's entry in dicom.peers, or the default one's",
        )  # fmt: skip

    def _import(self, options: argparse.Namespace) -> int:
        settings = self._settings(options)
        peer = _source(settings, options.source, options.institution, tls=options.tls)
        institution: str = options.institution or peer.institution
        filters = _filters(options)
        root, run_id = settings.storage.root, new_run_id()
        name = f"{peer.ae_title}@{peer.host}:{peer.port}"
        with (
            closing(Foundation.open(settings)) as foundation,
            import_lock(root, "import-pacs"),
            stop_by_signal() as stopped,
            _quiet_log(),
            closing(StudyTally(root / "imports" / f"{run_id}.tsv", say)) as tally,
        ):
            audit = foundation.audit
            concerned = frozenset({foundation.doorkeeper.institutions.require(institution)})

            def record(study_instance_uid: str, instances: int) -> None:
                detail = f"import {run_id}: {instances} instances from {name}"
                event = self._event(Action.STORE, detail, concerned)
                audit.record(replace(event, study_instance_uid=study_instance_uid))

            begins = f"import {run_id} begins: {name} {_shown(filters)}".strip()
            audit.record(self._event(Action.STORE, begins, concerned))
            is_stopped = False
            try:
                archive = open_archive(settings.storage, foundation.db, _INCOMING, sweeps=True)
                asker = Asker(
                    settings.dicom, peer, archive.receiving.new_object, settings.limits.max_object_bytes
                )
                source = Source(
                    peer.ae_title,
                    asker,
                    _how(options, settings, peer, asker, institution),
                    settings.dicom.ae_title,
                )
                pace = Pace(options.hours, options.mbit and options.mbit * 125_000, stopped, say)
                PacsImport(
                    source,
                    archive.receiving,
                    StudyStates(foundation.db, name, run_id, institution),
                    tally,
                    pace,
                    stopped,
                    record,
                    has_room(settings.storage),
                    options.patience,
                    run_id,
                    institution,
                ).run(filters, date.today())  # noqa: DTZ011  # the house's own day, as scanners have it
            except StoppedError:
                is_stopped = True
            except SourceAwayError as error:
                say(f"{error}, and was waited for for {options.patience:g} s")
                is_stopped = True
            except NoRoomError as error:
                raise StartError(
                    f"stopped: no more than storage.reserve_bytes is free below {root}. Make room and give the same "
                    f"command again; so far {tally.line}"
                ) from error
            except (PeerGoneError, StorageError, OSError, peewee.PeeweeException) as error:
                raise StartError(
                    f"stopped: {error}; give the same command again; so far {tally.line}"
                ) from error
            audit.record(self._event(Action.STORE, f"import {run_id} ends: {tally.line}", concerned))
            return _summary(tally, is_stopped=is_stopped)


@contextmanager
def _quiet_log() -> Iterator[None]:
    """A line for each instance is for the server's log; here it would hide the progress."""
    log = logging.getLogger("central.dimse")
    former = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(former)


def _source(settings: Settings, text: str, institution: str | None, *, tls: bool) -> PeerSettings:
    """The other archive, of `institution` if one is named. StartError if `text` does not name one."""
    ae_title, at, place = text.rpartition("@")
    peers = [peer for peer in settings.dicom.peers if institution in (None, peer.institution)]
    if not at:
        known = [peer for peer in peers if peer.ae_title == text and peer.host]
        if not known:
            raise StartError(f"no peer {text} with a host is in dicom.peers: name it as AE@HOST:PORT")
        return known[0]
    host, _, port = place.rpartition(":")
    for peer in peers:
        if (peer.ae_title, peer.host, str(peer.port)) == (ae_title, host, port):
            return peer
    if tls and not settings.dicom.tls.enabled:
        raise StartError("--tls needs dicom.tls.certificate, key and client_ca")
    called = {
        "ae_title": ae_title,
        "address": "127.0.0.1",
        "host": host.strip("[]"),
        "port": port,
        "tls": tls,
    }
    try:
        return PeerSettings.model_validate(called)
    except ValidationError as error:
        raise StartError(f"{text} is no AE@HOST:PORT: {error.errors()[0]['msg']}") from error


def _how(
    options: argparse.Namespace, settings: Settings, peer: PeerSettings, asker: Asker, institution: str
) -> How:
    """By C-GET or C-MOVE. StartError if neither can work."""
    if options.by == "get":
        return "get"
    try:
        if options.by == "auto" and asker.offers_get(CTImageStorage):
            return "get"
    except CallFailedError as error:
        raise SourceAwayError(str(error)) from error
    may_store = any(
        one.ae_title == peer.ae_title and Service.STORE in one.may and one.institution == institution
        for one in settings.dicom.peers
    )
    if not may_store:
        raise StartError(
            f"{peer.ae_title} is to send by C-MOVE, and may not store here: give it a [[dicom.peers]] entry with "
            f'may = ["store"] and institution = "{institution}", and start central anew'
        )
    return "move"


def _filters(options: argparse.Namespace) -> Filters:
    named = list(options.study)
    if options.studies is not None:
        try:
            named += options.studies.read_text().split()
        except OSError as error:
            raise StartError(f"{options.studies}: {error.strerror}") from error
    try:
        uids = tuple(dict.fromkeys(check_uid(uid) for uid in named))
    except InvalidIdentifierError as error:
        raise StartError(f"a study is named by its UID: {error}") from error
    if options.studies is not None and not uids:
        raise StartError(f"{options.studies} names no study")
    modalities = frozenset(modality.upper() for modality in options.modality)
    return Filters(options.first, options.last, modalities, options.patient_id, uids)


def _shown(filters: Filters) -> str:
    return " ".join(f"{name}={value}" for name, value in vars(filters).items() if value)


def _day(text: str) -> date:
    return datetime.strptime(text, "%Y-%m-%d").date()  # noqa: DTZ007  # a Study Date has no zone


def _hours(text: str) -> Hours:
    return Hours.read(text)


def _summary(tally: StudyTally, *, is_stopped: bool) -> int:
    print(tally.line)
    for remark in tally.remarks:
        print(remark)
    for reason, count in tally.reasons.most_common(REASONS_SHOWN):
        print(f"failed, {count:,}: {reason}")
    print(f"study by study: {tally.listed_in}")
    if is_stopped:
        print("ended before all was asked for: give the same command again")
    return 1 if is_stopped or tally.counts["failed"] else 0
