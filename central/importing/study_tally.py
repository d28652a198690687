"""What became of the studies of a run: counts for who waits, and a list of all that were not known to be complete."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from central.importing.study_states import StudyState
from central.importing.tally import private_list

_PROGRESS_S: Final = 10.0
_MIB: Final = 1 << 20


class StudyTally:
    """Counts of one run, and its list at `listed_in`: fate, Study Instance UID, instances listed, instances here and
    reason, separated by tabs.

    Parameters
    ----------
    say : takes a line of progress.
    """

    def __init__(self, listed_in: Path, say: Callable[[str], None]) -> None:
        self.listed_in = listed_in
        self.say = say
        self.counts: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.remarks: list[str] = []
        self._instances = 0
        self._bytes = 0
        self._began_s = self._said_s = time.monotonic()
        self._list = private_list(listed_in)

    def arrived(self, instances: int, size_bytes: int) -> None:
        self._instances += instances
        self._bytes += size_bytes

    def known(self) -> None:
        """A study that an earlier run completed."""
        self._count("known")

    def study(self, study_instance_uid: str, state: StudyState) -> None:
        said = (state.fate, study_instance_uid, str(state.listed), str(state.here), state.reason)
        self._list.write("\t".join(said) + "\n")
        self._list.flush()
        if state.reason:
            self.reasons[state.reason] += 1
        self._count(state.fate)

    def remark(self, sentence: str) -> None:
        """What the source's own list may lack."""
        self.remarks.append(sentence)
        self.say(sentence)

    def close(self) -> None:
        self._list.close()

    @property
    def line(self) -> str:
        """All counts, and how fast it went."""
        took_s = max(time.monotonic() - self._began_s, 0.001)
        said = [f"{self.counts.total():,} studies"]
        said += [f"{count:,} {fate}" for fate, count in self.counts.items()]
        return (
            f"{', '.join(said)}; {self._instances:,} instances came, {self._bytes / _MIB:,.1f} MiB, "
            f"{self._bytes / took_s / _MIB:,.1f} MiB/s"
        )

    def _count(self, fate: str) -> None:
        self.counts[fate] += 1
        if time.monotonic() - self._said_s >= _PROGRESS_S:
            self._said_s = time.monotonic()
            self.say(self.line)
