"""HL7 version 2 messages: read into fields, and answered (HL7 2.5.1 chapter 2).

Only what a scheduling message needs: delimiters from MSH, escape sequences, repetitions, components, subcomponents and
the character set of MSH-18. Always true: nothing here grows with what a message declares, only with what it has; the
text of an error quotes nothing of the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Literal

AckCode = Literal["AA", "AE", "AR"]
MAX_SEGMENTS: Final = 2_000

# HL7 table 0357
REQUIRED_FIELD_MISSING: Final = "101"
DATA_TYPE_ERROR: Final = "102"
UNSUPPORTED_MESSAGE: Final = "200"
INTERNAL_ERROR: Final = "207"

# HL7 table 0211; an empty MSH-18 is ASCII, which UTF-8 and Latin-1 both contain.
_ENCODINGS: Final[Mapping[str, str]] = {
    "ASCII": "ascii",
    **{f"8859/{part}": f"iso8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 15)},
    "UNICODE UTF-8": "utf-8",
    "UNICODE": "utf-8",
    "GB 18030-2000": "gb18030",
    "BIG-5": "big5",
    "KS X 1001": "euc_kr",
}
# Switched to by escape sequences (ISO 2022), as a rule in repetitions behind ASCII.
_JAPANESE: Final = frozenset(("ISO IR14", "ISO IR87", "ISO IR159"))
_NAMED_ESCAPES: Final = {"F": 0, "S": 1, "R": 2, "E": 3, "T": 4}


class Hl7Error(Exception):
    """A message is not accepted.

    Attributes
    ----------
    code : AE where its content is wrong or central cannot now, AR where such a message is not taken at all.
    condition : of HL7 table 0357.
    """

    def __init__(self, code: AckCode, condition: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.condition = condition


@dataclass(frozen=True)
class Delimiters:
    """Field, component, repetition, escape and subcomponent, as MSH-1 and MSH-2 say. `encoding`: of bytes that an
    escape sequence gives in hexadecimal."""

    signs: str = "|^~\\&"
    encoding: str = "latin-1"

    @property
    def field(self) -> str:
        return self.signs[0]

    def unescape(self, text: str) -> str:
        escape = self.signs[3]
        if escape not in text:
            return text
        quoted = re.escape(escape)
        return re.sub(f"{quoted}([^{quoted}]*){quoted}", lambda found: self._plain(found.group(1)), text)

    def _plain(self, sequence: str) -> str:
        if sequence in _NAMED_ESCAPES:
            return self.signs[_NAMED_ESCAPES[sequence]]
        if re.fullmatch(r"X([0-9A-Fa-f]{2})+", sequence):
            return bytes.fromhex(sequence[1:]).decode(self.encoding, "replace")
        return " " if sequence in (".br", ".sp") else ""  # formatting and sets of characters say nothing here


@dataclass(frozen=True)
class Segment:
    """One segment. Fields are counted from 1 as the standard does, MSH-1 being the separator itself."""

    name: str
    fields: tuple[str, ...]
    delimiters: Delimiters

    def field(self, number: int) -> str:
        return self.fields[number] if number < len(self.fields) else ""

    def repetitions(self, number: int) -> list[str]:
        return self.field(number).split(self.delimiters.signs[2])

    def get(
        self, number: int, component: int = 1, subcomponent: int = 1, *, repetition: str | None = None
    ) -> str:
        """The text of one subcomponent of the first repetition (or of `repetition`), "" where there is none."""
        text = self.repetitions(number)[0] if repetition is None else repetition
        components = text.split(self.delimiters.signs[1])
        if component > len(components):
            return ""
        parts = components[component - 1].split(self.delimiters.signs[4])
        plain = self.delimiters.unescape(parts[subcomponent - 1]) if subcomponent <= len(parts) else ""
        return "" if plain == '""' else plain.strip()


@dataclass(frozen=True)
class Message:
    segments: tuple[Segment, ...]

    @property
    def header(self) -> Segment:
        return self.segments[0]

    @property
    def kind(self) -> str:
        """Such as ``ORM^O01``."""
        return f"{self.header.get(9, 1)}^{self.header.get(9, 2)}"

    @property
    def control_id(self) -> str:
        return self.header.get(10)

    def first(self, name: str) -> Segment:
        """The first segment of that name, or an empty one."""
        empty = Segment(name, (), self.header.delimiters)
        return next((segment for segment in self.segments if segment.name == name), empty)


def read_message(raw: bytes, default_character_set: str) -> Message:
    """A message without its MLLP frame.

    Raises
    ------
    Hl7Error : it has no MSH, or is in a character set that is not known or does not fit.
    """
    header = _header(raw)
    said = [one.strip() for one in header.repetitions(18) if one.strip()]
    named = "~".join(said) or default_character_set
    encoding = _encoding(named.upper().split("~"))
    if encoding is None:
        raise Hl7Error("AR", DATA_TYPE_ERROR, "the character set of MSH-18 is not supported")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise Hl7Error("AE", DATA_TYPE_ERROR, f"the text is not in {named}: set MSH-18") from error
    lines = [line for line in re.split("[\r\n]+", text) if line.strip()]
    if len(lines) > MAX_SEGMENTS:
        raise Hl7Error("AR", DATA_TYPE_ERROR, "too many segments")
    delimiters = replace(header.delimiters, encoding=encoding)
    return Message(tuple(_segment(line, delimiters) for line in lines))


def header_of(raw: bytes) -> Message | None:
    """The header alone of a message that cannot be read otherwise, so that it can be answered; None without one."""
    try:
        return Message((_header(raw),))
    except Hl7Error:
        return None


def acknowledgement(
    message: Message | None, code: AckCode, text: str, condition: str, now: datetime, own_name: str
) -> bytes:
    """The ACK to `message` (HL7 2.5.1 section 2.9.2), without its MLLP frame. ASCII alone."""
    header = message.header if message else Segment("MSH", (), Delimiters())
    trigger = header.get(9, 2)
    control_id = message.control_id if message else ""
    lines = [
        "|".join(
            (
                "MSH",
                "^~\\&",
                own_name,
                _escaped(header.get(6)),
                _escaped(header.get(3)),
                _escaped(header.get(4)),
                now.strftime("%Y%m%d%H%M%S"),
                "",
                f"ACK^{_escaped(trigger)}^ACK" if trigger else "ACK",
                f"{now:%Y%m%d%H%M%S%f}",
                _escaped(header.get(11)) or "P",
                _escaped(header.get(12)) or "2.5.1",
            )
        ),
        f"MSA|{code}|{_escaped(control_id)}|{_escaped(text)}",
    ]
    if code != "AA":
        lines.append(f"ERR|||{condition}|E||||{_escaped(text)}")
    return ("\r".join(lines) + "\r").encode("ascii", "replace")


def _escaped(text: str) -> str:
    escapes = {sign: f"\\{name}\\" for name, sign in zip("FSRET", "|^~\\&", strict=True)}
    return "".join(escapes.get(sign, sign) for sign in text if sign.isprintable())


def _encoding(named: Sequence[str]) -> str | None:
    """What decodes text in all of these character sets; None: nothing here."""
    others = [one for one in named if one not in _JAPANESE]
    if len(others) < len(named):
        return "iso2022_jp_ext" if set(others) <= {"ASCII"} else None
    return _ENCODINGS.get(named[0]) if len(named) == 1 else None


def _header(raw: bytes) -> Segment:
    line = re.split(rb"[\r\n]", raw.lstrip(b"\r\n "), maxsplit=1)[0].decode("latin-1")
    signs = line[3:8]
    if not line.startswith("MSH") or len(signs) < 5 or len(set(signs)) < 5 or signs.isalnum():
        raise Hl7Error("AR", DATA_TYPE_ERROR, "the message does not begin with MSH and its five delimiters")
    return _segment(line, Delimiters(signs))


def _segment(line: str, delimiters: Delimiters) -> Segment:
    fields = line.split(delimiters.field)
    if fields[0] == "MSH":
        fields.insert(1, delimiters.field)
    return Segment(fields[0].strip(), tuple(fields), delimiters)
