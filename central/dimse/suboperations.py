"""What a C-MOVE or C-GET is about: the granted instances, opened in their order, and how it goes with them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom import Dataset

from central.access.ongoing import STANDS_S
from central.access.policy import Grant
from central.archive.errors import NoSuchInstanceError
from central.archive.reading import Reading
from central.archive.rows import InstanceRow, StoredInstance
from central.audit.record import Recording
from central.dimse.association import SUCCESS
from central.dimse.calling import MAX_CONTEXTS
from central.dimse.negotiation import NATIVE_SYNTAXES

_SOME_FAILED: Final = 0xB000
_ALL_FAILED: Final = 0xA702


@dataclass(frozen=True)
class Granted:
    """An instance, the proof that it may be sent, and what is to be on record before it is."""

    grant: Grant
    recording: Recording
    row: InstanceRow
    opened: Callable[[], StoredInstance]
    """ArchiveError : it is not here any more."""

    @property
    def sop_class_uid(self) -> str:
        return self.row.sop_class_uid

    @property
    def transfer_syntax_uid(self) -> str:
        return self.row.transfer_syntax_uid


@dataclass
class Counts:
    """How the sub-operations went so far (PS3.7 Table 9.1-4)."""

    remaining: int
    completed: int = 0
    warnings: int = 0
    failed: list[str] = field(default_factory=list)

    def take(self, sop_instance_uid: str, status: int | None) -> None:
        """One more has been done; `status` None: it could not be."""
        self.remaining -= 1
        if status == SUCCESS:
            self.completed += 1
        elif status is not None and status >> 12 == 0xB:
            self.warnings += 1
        else:
            self.failed.append(sop_instance_uid)

    def fields(self, *, is_last: bool) -> dict[str, int]:
        counted = {
            "NumberOfCompletedSuboperations": self.completed,
            "NumberOfFailedSuboperations": len(self.failed),
            "NumberOfWarningSuboperations": self.warnings,
        }
        return counted if is_last else {**counted, "NumberOfRemainingSuboperations": self.remaining}

    @property
    def status(self) -> int:
        if not self.failed and not self.warnings:
            return SUCCESS
        return _SOME_FAILED if self.completed or self.warnings else _ALL_FAILED

    @property
    def failed_list(self) -> Dataset | None:
        if not self.failed:
            return None
        identifier = Dataset()
        identifier.FailedSOPInstanceUIDList = self.failed
        return identifier


class Standing:
    """Whether the grants of one retrieval still hold. `ask` decides anew; of what it denies nothing more is asked."""

    def __init__(self, ask: Callable[[Grant], bool]) -> None:
        self._ask = ask
        self._asked_at_s = dict[str, float]()
        self._over = set[str]()

    def granted(self, grant: Grant) -> None:
        """It was just given."""
        self._asked_at_s[grant.study_instance_uid] = time.monotonic()

    def require(self, grant: Grant) -> None:
        """NoSuchInstanceError if it holds no more."""
        study, now_s = grant.study_instance_uid, time.monotonic()
        if study not in self._over and now_s - self._asked_at_s[study] >= STANDS_S:
            self._asked_at_s[study] = now_s
            if not self._ask(grant):
                self._over.add(study)
        if study in self._over:
            raise NoSuchInstanceError("this study may not be had any more")


class Opening:
    """Opens instances in their order; those of a series that follow each other with one query."""

    def __init__(self, archive: Reading, standing: Standing) -> None:
        self._archive = archive
        self._standing = standing
        self._asked: tuple[str, str] | None = None
        self._of_series: dict[str, StoredInstance] = {}

    def instance(self, grant: Grant, row: InstanceRow) -> StoredInstance:
        """ArchiveError if it is not here any more, or not granted."""
        self._standing.require(grant)
        series = grant.study_instance_uid, row.series.series_instance_uid
        # Of many series often one instance is asked for: the second one shows that it is not so.
        if series != self._asked:
            self._asked, self._of_series = series, {}
            return self._archive.open_instance(grant, series[1], row.sop_instance_uid)
        if row.sop_instance_uid not in self._of_series:
            found = self._archive.open_instances(grant, series[1])
            self._of_series = {stored.sop_instance_uid: stored for stored in found}
        try:
            return self._of_series[row.sop_instance_uid]
        except KeyError:
            raise NoSuchInstanceError("no such instance in this study") from None


def once_each(granted: Sequence[Granted]) -> list[Granted]:
    """Each instance once, though two institutions that are in reach hold it: as the archive will open it."""
    best: dict[tuple[str, str, str], Granted] = {}
    for one in granted:
        row, order = one.row, one.grant.institutions
        name = (one.grant.study_instance_uid, row.series.series_instance_uid, row.sop_instance_uid)
        known = best.setdefault(name, one)
        if order.index(row.series.study.institution) < order.index(known.row.series.study.institution):
            best[name] = one
    return list(best.values())


def batches(
    instances: Sequence[Granted],
) -> Iterator[tuple[Sequence[Granted], list[tuple[str, Sequence[str]]]]]:
    """Instances with the presentation contexts they need, as many as fit on one association.

    Each is proposed as it is stored and in both native syntaxes, each of them in a context of its own: so the receiver
    can take all, and the choice stays here.
    """
    first, contexts = 0, dict[tuple[str, str], None]()
    for at, one in enumerate(instances):
        needed = {
            (one.sop_class_uid, syntax): None for syntax in (one.transfer_syntax_uid, *NATIVE_SYNTAXES[:2])
        }
        if len({**contexts, **needed}) > MAX_CONTEXTS:
            yield instances[first:at], [(uid, (syntax,)) for uid, syntax in contexts]
            first, contexts = at, {}
        contexts |= needed
    if first < len(instances):
        yield instances[first:], [(uid, (syntax,)) for uid, syntax in contexts]
