"""Valid sessions, and what becomes of them when bits flip, lengths lie, and PDUs are cut, swapped or spliced.

A session is what a real scanner sends, as a list of PDUs. Everything is decided by one seed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from random import Random

from tests.peers.scripted_scu import (
    CT_STORAGE,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    VERIFICATION,
    associate_rq,
    c_store_rq,
    command,
    p_data,
    pdu,
    small_data_set,
)

DEFLATED = "1.2.840.10008.1.2.1.99"
Session = list[bytes]
_RELEASE, _ABORT = pdu(0x05, bytes(4)), pdu(0x07, bytes(4))
_LENGTHS = (0, 1, 2, 3, 5, 0x7F, 0xFF, 0x100, 0xFFFF, 0x10000, 0x40000, 0x7FFFFFFF, 0xFFFFFFFF)


def sessions() -> list[Session]:
    """What scanners send when they are well."""
    echo = [associate_rq([(1, VERIFICATION, [IMPLICIT_LITTLE])]), p_data(1, 3, command(0x0030)), _RELEASE]
    data = small_data_set()
    implicit = small_data_set(implicit=True)
    one = [
        associate_rq([(1, CT_STORAGE, [EXPLICIT_LITTLE])]),
        p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")),
        p_data(1, 2, data),
        _RELEASE,
    ]
    in_pieces = [
        associate_rq([(1, CT_STORAGE, [IMPLICIT_LITTLE]), (3, VERIFICATION, [IMPLICIT_LITTLE])]),
        p_data(1, 1, c_store_rq(CT_STORAGE, "1.2.3.1")[:30]),
        p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")[30:]),
        *(p_data(1, 0, implicit[at : at + 300]) for at in range(0, 900, 300)),
        p_data(1, 2, implicit[900:]),
        p_data(3, 3, command(0x0030, message_id=2)),
        _RELEASE,
    ]
    shrink = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    deflated = shrink.compress(small_data_set(pixels=bytes(5000))) + shrink.flush()
    packed = [
        associate_rq([(1, CT_STORAGE, [DEFLATED])]),
        p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1")),
        p_data(1, 2, deflated),
        p_data(1, 3, c_store_rq(CT_STORAGE, "1.2.3.1", message_id=2)) + p_data(1, 2, deflated),
        _ABORT,
    ]
    many = [
        associate_rq(
            [(2 * n + 1, f"{CT_STORAGE}.{n}", [EXPLICIT_LITTLE, IMPLICIT_LITTLE]) for n in range(40)]
        ),
        p_data(1, 3, command(0x0020, has_data_set=True)),
        p_data(1, 2, b"\x08\x00\x52\x00CS\x06\x00STUDY "),
        _RELEASE,
    ]
    return [echo, one, in_pieces, packed, many]


class Mutator:
    """Endless mutated sessions out of one seed.

    Attributes
    ----------
    mutated : how many PDUs were changed, left out, moved or put in so far.
    """

    def __init__(self, seed: int) -> None:
        self.mutated = 0
        self._random = Random(seed)
        self._seeds = sessions()
        self._changes: list[Callable[[Session, int], None]] = [
            self._flip_bits,
            self._set_byte,
            self._lie_about_length,
            self._lie_inside,
            self._cut_short,
            self._swap,
            self._repeat,
            self._splice,
            self._leave_out,
            self._put_in,
        ]

    def session(self) -> bytes:
        """One session's bytes, with one to four of its PDUs mutated; mostly behind the association, to get deep."""
        random = self._random
        session = list(random.choice(self._seeds))
        for _ in range(random.randrange(1, 5)):
            at = 0 if random.random() < 0.25 else random.randrange(len(session))
            random.choice(self._changes)(session, at)
            self.mutated += 1
            if not session:
                break
        return b"".join(session)

    def _flip_bits(self, session: Session, at: int) -> None:
        found = bytearray(session[at])
        for _ in range(self._random.choice((1, 2, 8, 64))):
            found[self._random.randrange(len(found))] ^= 1 << self._random.randrange(8)
        session[at] = bytes(found)

    def _set_byte(self, session: Session, at: int) -> None:
        found = bytearray(session[at])
        found[self._random.randrange(len(found))] = self._random.choice((0, 1, 0x7F, 0x80, 0xFF))
        session[at] = bytes(found)

    def _lie_about_length(self, session: Session, at: int) -> None:
        self._overwrite(session, at, 2, ">I")

    def _lie_inside(self, session: Session, at: int) -> None:
        """Anywhere two or four bytes may be a length: an item's, a value's, an element's."""
        self._overwrite(
            session,
            at,
            self._random.randrange(6, max(7, len(session[at]) - 4)),
            self._random.choice((">I", "<I", ">H", "<H")),
        )

    def _overwrite(self, session: Session, at: int, offset: int, shape: str) -> None:
        found = bytearray(session[at])
        size = struct.calcsize(shape)
        if offset + size <= len(found):
            value = self._random.choice(_LENGTHS) & (1 << 8 * size) - 1
            if self._random.random() < 0.3:
                (old,) = struct.unpack_from(shape, found, offset)
                value = (old + self._random.choice((-2, -1, 1, 2))) & (1 << 8 * size) - 1
            struct.pack_into(shape, found, offset, value)
        session[at] = bytes(found)

    def _cut_short(self, session: Session, at: int) -> None:
        session[at] = session[at][: self._random.randrange(1, len(session[at]) + 1)]
        if self._random.random() < 0.5:
            del session[at + 1 :]

    def _swap(self, session: Session, at: int) -> None:
        other = self._random.randrange(len(session))
        session[at], session[other] = session[other], session[at]

    def _repeat(self, session: Session, at: int) -> None:
        session[at:at] = [session[at]] * self._random.choice((1, 2, 20))

    def _splice(self, session: Session, at: int) -> None:
        """The head of one PDU, the tail of another session's."""
        other = self._random.choice(self._random.choice(self._seeds))
        session[at] = session[at][: self._random.randrange(1, len(session[at]) + 1)]
        session[at] += other[self._random.randrange(len(other)) :]

    def _leave_out(self, session: Session, at: int) -> None:
        del session[at]

    def _put_in(self, session: Session, at: int) -> None:
        kind, size = self._random.randrange(256), self._random.choice((0, 4, 100, 5_000))
        session.insert(at, pdu(self._random.choice((kind, 4)), self._random.randbytes(size)))
