"""Which of the forms on offer a request wants: the Accept header of RFC 9110 with DICOM's parameters.

PS3.18 section 8.7 adds `type` (of the parts of a multipart answer) and `transfer-syntax` to media ranges. An
instance is offered as it is stored and in no other transfer syntax, so a range that names another one does not
match; a range that names none, or ``*``, does.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from central.dicomweb.errors import NotAcceptableError

MAX_ACCEPT_CHARACTERS: Final = 4096
_PARAMETER: Final = re.compile(r';\s*([\w.-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^;,"\s]*)')
_RANGE: Final = re.compile(rf"\s*([\w*.+-]+/[\w*.+-]+)\s*((?:{_PARAMETER.pattern}\s*)*)(?:,|$)")


@dataclass(frozen=True)
class Offer:
    """A form of the answer. For multipart, `media_type` is that of the parts."""

    media_type: str
    multipart: bool = False
    transfer_syntax_uid: str | None = None


@dataclass(frozen=True)
class _MediaRange:
    media_type: str
    part_type: str | None
    transfer_syntax_uid: str | None
    quality: float

    def specificity(self, offer: Offer) -> int:
        """How closely this range names `offer`; 0: not at all."""
        if self.transfer_syntax_uid not in (None, "*", offer.transfer_syntax_uid):
            return 0
        if offer.multipart and self.media_type == "multipart/related":
            return _closeness(self.part_type, offer.media_type) if self.part_type else 3
        if offer.multipart and self.media_type not in ("*/*", "multipart/*"):
            return 0
        if offer.multipart:
            return 1
        return _closeness(self.media_type, offer.media_type)


def accept_of(request: Request) -> str | None:
    """What a request says it accepts; the query parameter stands before the header (PS3.18 section 8.3.3.1)."""
    return request.query_params.get("accept") or request.headers.get("accept")


def takes_gzip(request: Request) -> bool:
    """Whether the answer may be packed (RFC 9110 section 12.5.3); a weight of 0 means no."""
    weights = {}
    for coding in request.headers.get("accept-encoding", "").lower().replace(" ", "").split(","):
        name, _, weight = coding.partition(";q=")
        weights[name] = weight or "1"
    try:
        return float(weights.get("gzip", weights.get("*", "0"))) > 0
    except ValueError:
        return False


def choose(accept: str | None, offers: Sequence[Offer]) -> Offer:
    """The offer with the highest quality; of equals the most closely named, of those the first offered.

    Raises
    ------
    NotAcceptableError : none of `offers` fits, or the header is not one.
    """
    if accept is None or not accept.strip():
        return offers[0]
    ranges = _parsed(accept)
    best: tuple[float, int] = (0.0, 0)
    chosen: Offer | None = None
    for offer in offers:
        # The closest range decides an offer's quality (RFC 9110 section 12.5.1).
        specificity, quality = max((range_.specificity(offer), range_.quality) for range_ in ranges)
        if specificity and quality > 0 and (quality, specificity) > best:
            best, chosen = (quality, specificity), offer
    if chosen is None:
        raise NotAcceptableError("this can be had as " + ", ".join(_shown(offer) for offer in offers))
    return chosen


@functools.lru_cache(maxsize=64)  # a client says the same each time
def _parsed(accept: str) -> tuple[_MediaRange, ...]:
    if len(accept) > MAX_ACCEPT_CHARACTERS:
        raise NotAcceptableError("the Accept header is too long")
    ranges, position = [], 0
    while position < len(accept):
        match = _RANGE.match(accept, position)
        if match is None:
            raise NotAcceptableError("the Accept header cannot be read")
        position = match.end()
        parameters = {name.lower(): value.strip('"').strip() for name, value in _PARAMETER.findall(match[2])}
        try:
            quality = min(1.0, max(0.0, float(parameters.get("q", "1"))))
        except ValueError as error:
            raise NotAcceptableError("the Accept header has a q that is not a number") from error
        ranges.append(
            _MediaRange(
                match[1].lower(),
                parameters["type"].lower() if "type" in parameters else None,
                parameters.get("transfer-syntax"),
                quality,
            )
        )
    return tuple(ranges)


def _closeness(range_type: str, media_type: str) -> int:
    if range_type == media_type:
        return 3
    if range_type == media_type.partition("/")[0] + "/*":
        return 2
    return 1 if range_type == "*/*" else 0


def _shown(offer: Offer) -> str:
    syntax = f"; transfer-syntax={offer.transfer_syntax_uid}" if offer.transfer_syntax_uid else ""
    if offer.multipart:
        return f'multipart/related; type="{offer.media_type}"{syntax}'
    return offer.media_type + syntax
