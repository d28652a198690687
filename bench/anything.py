"""Searches that nobody thought of: any keys together, matched in any way, from any page on.

What is asked for is cut out of studies that are there, of one or of several, or made up; so some find much, some
one study, and many find two things that are frequent and never together.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from bench.studies import ISSUER, MODALITIES, MadeStudy
from central.archive.query import StudyQuery

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_KEYS: Final = (1, 2, 3, 4, 5, 6)
_SO_OFTEN: Final = (30, 30, 20, 10, 6, 4)
_Draw = Callable[[random.Random, MadeStudy], str]


def any_query(chance: random.Random, known: Sequence[MadeStudy], *, most_offset: int = 10_000) -> StudyQuery:
    """One to six keys, for a page of 50 or fewer."""
    (count,) = chance.choices(_KEYS, weights=_SO_OFTEN)
    one = chance.choice(known)
    together = chance.random() < 0.3
    keys = {
        name: _DRAWS[name](chance, one if together else chance.choice(known))
        for name in chance.sample(sorted(_DRAWS), count)
    }
    return StudyQuery(
        **keys,  # type: ignore[arg-type]  # texts, all of them
        limit=chance.choice((50, 50, 50, 1, 7)),
        offset=int(most_offset * chance.random() ** 3) if chance.random() < 0.3 else 0,
    )


def _text(value: Callable[[MadeStudy], str]) -> _Draw:
    def draw(chance: random.Random, study: MadeStudy) -> str:
        text = value(study)
        first = chance.randrange(len(text))
        part = text[first : first + chance.randint(1, 6)]
        made_up = "".join(chance.choices(_LETTERS, k=chance.randint(1, 3)))
        return chance.choice(
            (
                text,
                text[: chance.randint(1, len(text))] + "*",
                f"*{part}*",
                f"*{part}*",
                f"*{text[first:]}",
                f"{text[:first]}?{text[first + 1 :]}",
                f"{text[:2]}*{part}*",
                f"*{made_up}*",
                f"{made_up}*",
            )
        )

    return draw


def _date(chance: random.Random, study: MadeStudy) -> str:
    day = study.study_date
    other = (
        f"{int(day[:4]) + chance.choice((0, 0, 1, 3))}{chance.randint(1, 12):02}{chance.randint(1, 28):02}"
    )
    first, last = sorted((day, other))
    return chance.choice((day, f"{first}-{last}", f"{day}-", f"-{day}"))


def _time(chance: random.Random, study: MadeStudy) -> str:
    time, hour = study.study_time, chance.randrange(24)
    return chance.choice(
        (
            time,
            f"{time[:4]}-{time[:4]}",
            f"{hour:02}-{hour:02}",
            f"{hour:02}-",
            f"-{hour:02}",
            f"00-{hour:02}30",
        )
    )


def _modality(chance: random.Random, study: MadeStudy) -> str:
    return chance.choice(
        (
            study.modalities.split("\\")[0],
            "SR",
            "ECG",
            ",".join(chance.sample(MODALITIES, chance.randint(2, 4))),
        )
    )


def _issuer(chance: random.Random, _study: MadeStudy) -> str:
    return chance.choice((ISSUER, f"{ISSUER[0]}*", "*H*", "OTHER"))


_DRAWS: Final[dict[str, _Draw]] = {
    "patient_name": _text(lambda study: study.patient_name),
    "patient_id": _text(lambda study: study.patient_id),
    "issuer_of_patient_id": _issuer,
    "study_date": _date,
    "study_time": _time,
    "accession_number": _text(lambda study: study.accession_number),
    "modalities_in_study": _modality,
    "study_id": _text(lambda study: str(study.number)),
    "study_description": _text(lambda study: study.study_description),
    "referring_physician_name": _text(lambda study: study.referring_physician_name),
}
