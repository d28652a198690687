"""How boxes witness central's audit record: central hands out its signed checkpoints, a box keeps them and shows them.

    dicomnet/v1/<gateway id>/down/witness     retained: a checkpoint of central's audit record (docs/formats/audit.md)
    dicomnet/v1/<gateway id>/up/witnessed     retained: those that the box keeps, the newest last

A box does not look into a word and trusts nothing by it: it gives back what it was given. So central, or whoever holds
its disk, its database and its key, cannot take back what it once said. A word holds a record's number, a hash and
a time, and nothing of a patient. docs/formats/heartbeat.md.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from contract.heartbeat import Message

WITNESS: Final = "witness"
WITNESSED: Final = "witnessed"

MAX_WORD_CHARACTERS: Final = 640
MAX_WORDS: Final = 24
WITNESS_INTERVAL_S: Final = 3600.0
"""Central hands out one word in this time; a box takes none before half of it: its words cannot be washed away."""

Word = Annotated[
    str,
    Field(max_length=MAX_WORD_CHARACTERS, pattern=r"^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$"),
]


class Witness(Message):
    """One checkpoint, as a compact JWS."""

    word: Word


class Witnessed(Message):
    """In the order in which they came."""

    words: tuple[Word, ...] = Field(default=(), max_length=MAX_WORDS)
