"""How urgent a study is, from what an order, a rule or a person says; a higher number leaves a box first."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from contract.errors import PermanentError


class UnknownPriorityError(PermanentError):
    """No word for a priority."""


class Priority(IntEnum):
    """`FIRST` is a person's word alone: before everything, the newest image first."""

    LOW = -1
    ROUTINE = 0
    HIGH = 1
    STAT = 2
    FIRST = 3

    @property
    def word(self) -> str:
        """As settings, commands and pages name it."""
        return self.name.lower()

    @classmethod
    def named(cls, word: str) -> Priority:
        """UnknownPriorityError if there is none of that name."""
        try:
            return cls[word.upper()]
        except KeyError:
            raise UnknownPriorityError(f"a priority is one of {', '.join(WORDS)}") from None


WORDS: Final = tuple(priority.word for priority in sorted(Priority, reverse=True))

REQUESTED: Final = {
    "STAT": Priority.STAT,
    "HIGH": Priority.HIGH,
    "ROUTINE": Priority.ROUTINE,
    "MEDIUM": Priority.ROUTINE,
    "LOW": Priority.LOW,
}
"""Defined terms of Requested Procedure Priority (0040,1003), PS3.4 Table K.6-1."""
