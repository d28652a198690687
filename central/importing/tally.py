"""What became of the files of a run: counts for who waits, and a list of what was left for who looks after it."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, TextIO

from contract.receipt import Outcome

Fate = Literal["imported", "there already", "known", "no DICOM", "DICOMDIR", "failed"]
"""`known`: by an earlier run, without being read. `there already`: the archive has the same content."""

_PROGRESS_S: Final = 10.0
_MIB: Final = 1 << 20


def private_list(path: Path) -> TextIO:
    """A new file that only central's user can read, and its folder."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    return os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace")


class Tally:
    """Counts of one run, and its list at `listed_in`: fate, file and reason, separated by tabs.

    Parameters
    ----------
    say : takes a line of progress.
    """

    def __init__(self, listed_in: Path, say: Callable[[str], None]) -> None:
        self.listed_in = listed_in
        self.counts: Counter[Fate] = Counter()
        self.reasons: Counter[str] = Counter()
        self.versions = 0
        self._bytes = 0
        self._say = say
        self._began_s = self._said_s = time.monotonic()
        self._list = private_list(listed_in)

    def imported(self, size_bytes: int, outcome: Outcome) -> None:
        self._bytes += size_bytes
        self.versions += outcome is Outcome.VERSION
        self._count("there already" if outcome is Outcome.DUPLICATE else "imported")

    def known(self) -> None:
        self._count("known")

    def left(self, fate: Fate, shown: str, reason: str) -> None:
        """A file that was not imported."""
        plain = shown.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
        self._list.write(f"{fate}\t{plain}\t{reason}\n")
        if fate == "failed":
            self.reasons[reason] += 1
        self._count(fate)

    def close(self) -> None:
        self._list.close()

    @property
    def line(self) -> str:
        """All counts, and how fast it went."""
        took_s = max(time.monotonic() - self._began_s, 0.001)
        said = [f"{self.counts.total():,} files"]
        said += [f"{count:,} {fate}" for fate, count in self.counts.items()]
        rate = f"{self.counts.total() / took_s:,.0f} files/s, {self._bytes / took_s / _MIB:,.1f} MiB/s"
        return f"{', '.join(said)}; {rate}"

    def _count(self, fate: Fate) -> None:
        self.counts[fate] += 1
        if time.monotonic() - self._said_s >= _PROGRESS_S:
            self._said_s = time.monotonic()
            self._say(self.line)
