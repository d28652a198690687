"""What each refusal of central means for the object in hand: one table, read by problem type, then by status.

Only the problem types that blame the object itself are permanent (contract.transfer.PERMANENT). A bare
status blames the line: a proxy in between may say anything, and must not make a box give an object up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pydantic import ValidationError

from contract.transfer import Problem, ProblemDetails

MAX_PROBLEM_BYTES: Final = 65_536


class Remedy(StrEnum):
    SEND_ANEW = "send anew"  # once from zero, then set aside
    SET_ASIDE = "set aside"
    SEND_ALONE = "send alone"  # each object of the pack by itself
    ASK_OFFSET = "ask offset"
    CREATE = "create"
    NEW_CERTIFICATE = "new certificate"
    LATER = "later"


BY_PROBLEM: Final[Mapping[Problem, Remedy]] = {
    Problem.TAMPERED: Remedy.SEND_ANEW,
    Problem.UNKNOWN_KEY: Remedy.SET_ASIDE,
    Problem.NOT_DICOM: Remedy.SET_ASIDE,
    Problem.TOO_LARGE: Remedy.SET_ASIDE,
    Problem.ERASED: Remedy.SET_ASIDE,
    Problem.PACK: Remedy.SEND_ALONE,
    Problem.OFFSET_MISMATCH: Remedy.ASK_OFFSET,
    Problem.CHECKSUM: Remedy.ASK_OFFSET,
    Problem.NO_SUCH_UPLOAD: Remedy.CREATE,
    Problem.CERTIFICATE: Remedy.NEW_CERTIFICATE,
    Problem.PAIRING: Remedy.NEW_CERTIFICATE,
    Problem.INVALID: Remedy.LATER,
    Problem.STORAGE: Remedy.LATER,
    Problem.QUOTA: Remedy.LATER,
    Problem.UNAVAILABLE: Remedy.LATER,
}
BY_STATUS: Final[Mapping[int, Remedy]] = {
    401: Remedy.NEW_CERTIFICATE,
    403: Remedy.NEW_CERTIFICATE,
    404: Remedy.CREATE,
    409: Remedy.ASK_OFFSET,
}


_WORDS: Final[Mapping[int, str]] = {
    429: "it was brought too much",
    500: "a fault in central's program, whose log says more",
    503: "it is busy, or being maintained",
    507: "no room is left there",
}
"""Where an answer says nothing: to HEAD it has no body."""


@dataclass(frozen=True)
class Refusal:
    """`sentence` is fit for a log line and a technician's screen."""

    status: int
    problem: Problem | None
    remedy: Remedy
    sentence: str


def read_refusal(status: int, body: bytes) -> Refusal:
    """Judge an answer that is not the one hoped for. `body` may be anything, or empty."""
    problem, said = None, ""
    try:
        details = ProblemDetails.model_validate_json(body)
        said = printable(details.detail or details.title)
        problem = Problem(details.type)
    except (ValidationError, ValueError):
        pass  # not one of ours: the status alone decides
    said = said or _WORDS.get(status, "")
    remedy = BY_PROBLEM[problem] if problem else BY_STATUS.get(status, Remedy.LATER)
    return Refusal(status, problem, remedy, f"central answered {status}" + (f": {said}" if said else ""))


def printable(text: str) -> str:
    """One line of at most 200 characters: it ends up in logs and on a terminal."""
    return "".join(char if char.isprintable() else " " for char in text[:200]).strip()
