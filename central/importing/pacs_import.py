"""The studies of another archive into this one, one after the other, each compared with what the other lists of it.

What is always true
-------------------
- A study counts as complete when every instance that the source listed is archived here; the archive is asked, not the
  source's count of sub-operations.
- Only what is missing is fetched: by series, or instance by instance where a part of a series is here.
- A study is on record before anything of it is asked for; without a record nothing is.
- A source that is away is waited for; what then is not done is done by the next run.

What a crash leaves: instances that arrived are archived, and the next run finds them there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final, Literal, TypeVar

from pydicom import Dataset

from central.archive.indexing import ObjectOrigin
from central.archive.receiving import Receiving
from central.dimse.asking import CLASSES_AT_ONCE, Asker
from central.dimse.errors import CallFailedError, PeerGoneError
from central.dimse.incoming import Incoming
from central.dimse.peers import source_of
from central.dimse.store import Store
from central.importing.errors import NoRoomError, SourceAwayError, StoppedError
from central.importing.likely_classes import likely_classes
from central.importing.pace import Pace
from central.importing.source_archive import Filters, SourceArchive, SourceSeries, SourceStudy
from central.importing.study_states import StudyState, StudyStates
from central.importing.study_tally import StudyTally

How = Literal["get", "move"]
_T = TypeVar("_T")
_TRIES: Final = 3
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_UIDS_AT_ONCE: Final = 200


@dataclass(frozen=True)
class Source:
    """The other archive, and how instances come from it: by C-GET, or by C-MOVE to `destination`, our own AE title."""

    ae_title: str
    asker: Asker
    how: How
    destination: str


@dataclass(frozen=True)
class _Fetch:
    """One C-GET or C-MOVE."""

    identifier: Dataset
    sop_classes: frozenset[str]
    instances: tuple[str, ...]


class PacsImport:
    """Imports from `source` into `archive`.

    Parameters
    ----------
    record : writes to the audit record that so many instances of a study are fetched; raises if it cannot.
    patience_s : for how long a source that is away is waited for.
    institution : whose the studies become.
    """

    def __init__(
        self,
        source: Source,
        archive: Receiving,
        states: StudyStates,
        tally: StudyTally,
        pace: Pace,
        stopped: threading.Event,
        record: Callable[[str, int], None],
        has_room: Callable[[], bool],
        patience_s: float,
        run_id: str,
        institution: str,
    ) -> None:
        self._source = source
        self._archive = archive
        self._states = states
        self._tally = tally
        self._pace = pace
        self._stopped = stopped
        self._record = record
        self._has_room = has_room
        self._patience_s = patience_s
        self._run_id = run_id
        self._institution = institution
        self._store = Store(archive, has_room)

    def run(self, filters: Filters, today: date) -> None:
        """Import what `filters` name and is not here.

        Raises
        ------
        SourceAwayError, StoppedError : what is done stays done.
        AuditUnavailableError, StorageError, peewee.PeeweeException : as above.
        """
        at_source = SourceArchive(self._source.asker, self._patiently, self._tally.remark)
        self._pace.wait_for_hours()
        for study in at_source.studies(filters, today):
            self._pace.wait_for_hours()
            self._check_stopped()
            known = self._states.find(study.study_instance_uid)
            if known is not None and known.fate == "complete" and study.instances == known.listed:
                self._tally.known()
                continue
            state = self._imported(at_source, study)
            self._states.keep(study.study_instance_uid, state)
            self._tally.study(study.study_instance_uid, state)

    def _imported(self, at_source: SourceArchive, study: SourceStudy) -> StudyState:
        series = at_source.series_of(study.study_instance_uid)
        listed = [uid for one in series for uid in one.instances]
        reason = ""
        for attempt in range(_TRIES):
            here = self._archive.held(listed, self._institution)
            missing = set(listed) - set(here)
            if not missing:
                break
            if attempt:
                self._stopped.wait(_FIRST_PAUSE_S * attempt)
            reason = self._fetched(study.study_instance_uid, series, missing)
        here = self._archive.held(listed, self._institution)
        counted = study.instances
        if not listed:
            reason = "the source lists no instance of it" if counted != 0 else ""
        elif len(here) == len(listed):
            reason = (
                f"all that the source lists is here, but it counts {counted}"
                if counted is not None and counted > len(listed)
                else ""
            )
        return StudyState("failed" if reason else "complete", len(listed), len(here), reason)

    def _fetched(self, study_uid: str, series: Sequence[SourceSeries], missing: set[str]) -> str:
        """Fetch what is missing; why some of it may not have come."""
        if not self._has_room():
            raise NoRoomError
        self._record(study_uid, len(missing))
        reason = "the source did not send all of it"
        for group in _groups(list(_fetches(series, missing))):
            self._check_stopped()
            self._pace.wait_for_hours()
            try:
                if not self._sent(group):
                    reason = "the source could not send all of it"
            except PeerGoneError as error:
                reason = str(error)
            came = self._archive.held([uid for fetch in group for uid in fetch.instances], self._institution)
            self._tally.arrived(len(came), sum(came.values()))
            self._pace.spend(sum(came.values()))
            if not came and self._source.how == "move":
                reason = (
                    f"nothing arrived: is central running, does {self._source.destination} lead to it at the source, "
                    "and may the source store here?"
                )
        return reason

    def _sent(self, group: Sequence[_Fetch]) -> bool:
        identifiers = [fetch.identifier for fetch in group]
        asker = self._source.asker
        if self._source.how == "move":
            outcomes = self._patiently(lambda: asker.move(identifiers, self._source.destination))
        else:
            classes = sorted(frozenset().union(*(fetch.sop_classes for fetch in group)))
            outcomes = self._patiently(lambda: asker.get(identifiers, classes, self._archived))
        return all(outcome.is_success for outcome in outcomes)

    def _archived(self, incoming: Incoming) -> tuple[int, str]:
        self._check_stopped()
        sender = source_of(self._source.ae_title, self._institution)
        origin = ObjectOrigin(sender, self._run_id, datetime.now(UTC), self._institution)
        return self._store.archived(incoming, self._source.ae_title, origin)

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        """`ask`, again and again while the source is away."""
        pause_s, given_up_at_s = _FIRST_PAUSE_S, time.monotonic() + self._patience_s
        while True:
            try:
                return ask()
            except CallFailedError as error:
                if time.monotonic() + pause_s > given_up_at_s:
                    raise SourceAwayError(str(error)) from error
                self._tally.say(f"{error}; asking again in {pause_s:g} s")
            self._stopped.wait(pause_s)
            self._check_stopped()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise StoppedError


def _fetches(series: Sequence[SourceSeries], missing: set[str]) -> Iterator[_Fetch]:
    """What to ask for: whole series where nothing of one is here and its classes fit, else instances by name."""
    for one in series:
        wanted = [uid for uid in one.instances if uid in missing]
        named = {one.instances[uid] for uid in wanted}
        classes = frozenset(named - {""}) | (likely_classes(one.modality) if "" in named else frozenset())
        if wanted and len(wanted) == len(one.instances) and len(classes) <= CLASSES_AT_ONCE:
            yield _Fetch(_identifier("SERIES", one), classes, tuple(wanted))
            continue
        for sop_class in sorted(named):
            of_class = [uid for uid in wanted if one.instances[uid] == sop_class]
            for at in range(0, len(of_class), _UIDS_AT_ONCE):
                some = of_class[at : at + _UIDS_AT_ONCE]
                identifier = _identifier("IMAGE", one)
                identifier.SOPInstanceUID = some
                likely = frozenset({sop_class}) if sop_class else likely_classes(one.modality)
                yield _Fetch(identifier, likely, tuple(some))


def _groups(fetches: Sequence[_Fetch]) -> Iterator[list[_Fetch]]:
    """As many as one association has presentation contexts for."""
    group: list[_Fetch] = []
    classes: frozenset[str] = frozenset()
    for fetch in fetches:
        if group and len(classes | fetch.sop_classes) > CLASSES_AT_ONCE:
            yield group
            group, classes = [], frozenset()
        group.append(fetch)
        classes |= fetch.sop_classes
    if group:
        yield group


def _identifier(level: str, series: SourceSeries) -> Dataset:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    identifier.StudyInstanceUID = series.study_instance_uid
    identifier.SeriesInstanceUID = series.series_instance_uid
    return identifier
