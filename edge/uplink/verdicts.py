"""What each answer of a destination means for the object in hand and for the rest: one table, for C-STORE and STOW-RS.

| verdict   | the object                                                            | the destination  |
|-----------|-----------------------------------------------------------------------|------------------|
| delivered | delivered                                                             | goes on          |
| refused   | set aside: the same attempt would end the same way                    | goes on          |
| later     | goes behind the others; set aside when these got through between      | closed, backoff  |
|           | eight such ends, for then it is the object                            |                  |
| away      | waits as it is: nothing about it was learnt                           | closed, backoff  |

So a destination that fails at everything has nothing set aside, however long that lasts. Statuses are those of C-STORE
(PS3.4 Table B.2-1, PS3.7 Annex C); STOW-RS gives the same as Failure Reason (0008,1197) (PS3.18 Annex I). HTTP's own
count where an answer names no reason; those by which web application firewalls refuse a single body (403, 406, 501) are
`later`, or such an image would stand before all others for ever. What is in no table is `later`: neither believed nor
given up at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Verdict(StrEnum):
    DELIVERED = "delivered"
    REFUSED = "refused"
    LATER = "later"
    AWAY = "away"


@dataclass(frozen=True)
class Outcome:
    """`sentence` is for a technician; empty where it was delivered.

    `wait_s`: for so long the destination asks to be left alone.
    """

    verdict: Verdict
    sentence: str = ""
    wait_s: float = 0.0


DELIVERED: Final = Outcome(Verdict.DELIVERED)

STATUS: Final[Mapping[int, tuple[Verdict, str]]] = {
    0x0000: (Verdict.DELIVERED, "success"),
    0x0001: (Verdict.DELIVERED, "warning: requested optional attributes are not supported"),
    0x0107: (Verdict.DELIVERED, "warning: attribute list error"),
    0x0116: (Verdict.DELIVERED, "warning: attribute value out of range"),
    0x0105: (Verdict.REFUSED, "no such attribute"),
    0x0106: (Verdict.REFUSED, "invalid attribute value"),
    0x0110: (Verdict.LATER, "processing failure"),
    0x0111: (Verdict.REFUSED, "another instance has this SOP Instance UID there"),
    0x0112: (Verdict.REFUSED, "no such SOP instance"),
    0x0115: (Verdict.REFUSED, "invalid argument value"),
    0x0117: (Verdict.REFUSED, "invalid SOP instance"),
    0x0118: (Verdict.REFUSED, "no such SOP class"),
    0x0119: (Verdict.REFUSED, "class and instance do not fit"),
    0x0120: (Verdict.REFUSED, "missing attribute"),
    0x0121: (Verdict.REFUSED, "missing attribute value"),
    0x0122: (Verdict.REFUSED, "SOP class not supported"),
    0x0124: (Verdict.LATER, "not authorized: does it let this box store?"),
    0x0210: (Verdict.LATER, "duplicate invocation"),
    0x0211: (Verdict.LATER, "unrecognized operation: does it take C-STORE?"),
    0x0213: (Verdict.LATER, "resource limitation"),
}
"""By the whole status."""

STATUS_CLASS: Final[Mapping[int, tuple[Verdict, str]]] = {
    0xA7: (Verdict.LATER, "out of resources"),
    0xA9: (Verdict.REFUSED, "the data set does not match its SOP class"),
    **dict.fromkeys(range(0xB0, 0xC0), (Verdict.DELIVERED, "warning")),
    **dict.fromkeys(range(0xC0, 0xD0), (Verdict.REFUSED, "cannot understand the data set")),
}
"""By the first two digits, for what is not in `STATUS`."""

HTTP: Final[Mapping[int, tuple[Verdict, str]]] = {
    400: (Verdict.REFUSED, "bad request"),
    401: (Verdict.AWAY, "it does not accept this box's user and password, or token"),
    403: (
        Verdict.LATER,
        "this box may not store there, or a firewall in front of it does not like this image",
    ),
    404: (Verdict.AWAY, "there is no STOW-RS service at this address"),
    405: (Verdict.AWAY, "there is no STOW-RS service at this address"),
    406: (Verdict.LATER, "it does not answer in DICOM JSON"),
    408: (Verdict.LATER, "it waited too long"),
    409: (Verdict.LATER, "a conflict, without a reason"),
    411: (Verdict.AWAY, "length required"),
    413: (Verdict.REFUSED, "too large"),
    415: (Verdict.REFUSED, "unsupported media type or transfer syntax"),
    422: (Verdict.REFUSED, "it cannot be processed"),
    429: (Verdict.LATER, "too many requests"),
    500: (Verdict.LATER, "a fault in its program"),
    501: (Verdict.LATER, "there is no STOW-RS service at this address"),
    502: (Verdict.LATER, "a proxy in front of it does not reach it"),
    503: (Verdict.LATER, "it is busy or being maintained"),
    504: (Verdict.LATER, "a proxy in front of it does not reach it"),
    507: (Verdict.LATER, "no room is left"),
}


def judge_status(status: int) -> Outcome:
    """What a status of C-STORE, or a Failure Reason of STOW-RS, means."""
    unknown = (Verdict.LATER, "a status that is not in the standard")
    verdict, words = STATUS.get(status) or STATUS_CLASS.get(status >> 8) or unknown
    return DELIVERED if verdict is Verdict.DELIVERED else Outcome(verdict, f"answered {status:04X}: {words}")


def judge_http(status: int) -> Outcome:
    """What an HTTP status other than 200 and 202 means, where the body gives no reason of this instance."""
    verdict, words = HTTP.get(status) or (
        (Verdict.AWAY, "it points to another address")
        if 300 <= status < 400
        else (Verdict.LATER, "an answer that STOW-RS does not have")
    )
    return Outcome(verdict, f"answered HTTP {status}: {words}")
