"""A-ASSOCIATE-RQ and -AC PDUs, read and written by hand (PS3.8 sections 9.3.2 and 9.3.3, PS3.7 Annex D.3.3).

Why it exists: who retrieves proposes a hundred presentation contexts and more, each with several transfer syntaxes and
a role. pynetdicom makes a few thousand objects of them and looks at each UID several times, which is longer than
sending twenty images.

Always true: a request that cannot be understood is refused as a whole; of items that are not known here nothing is
said, so that they count as not agreed (PS3.7 Annex D.3.3).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Final

from pydicom.uid import UID

from central.dimse.errors import RefusedError
from contract.part10 import IMPLEMENTATION_CLASS_UID

PDU_HEAD: Final = struct.Struct(">BxL")
ITEMS_AT: Final = 74  # in an A-ASSOCIATE-RQ or -AC with its header
ITEM_HEAD: Final = struct.Struct(">BxH")
APPLICATION_CONTEXT: Final = 0x10
PRESENTATION_CONTEXT: Final = 0x20
ANSWERED_CONTEXT: Final = 0x21
ABSTRACT_SYNTAX: Final = 0x30
TRANSFER_SYNTAX: Final = 0x40
USER_INFORMATION: Final = 0x50
MAXIMUM_LENGTH: Final = 0x51
PROTOCOL_VERSION: Final = 1
APPLICATION_CONTEXT_NAME: Final = b"1.2.840.10008.3.1.1.1"

ACCEPTED: Final = 0  # results of a presentation context (PS3.8 Table 9-18)
USER_REJECTION: Final = 1
ABSTRACT_SYNTAX_NOT_SUPPORTED: Final = 3
TRANSFER_SYNTAXES_NOT_SUPPORTED: Final = 4

_A_ASSOCIATE_AC: Final = 0x02
_IMPLEMENTATION_CLASS: Final = 0x52
_ROLE_SELECTION: Final = 0x54
_IMPLEMENTATION_VERSION: Final = 0x55
_SOP_CLASS_EXTENDED: Final = 0x56
_FIXED_FIELDS: Final = struct.Struct(">H2x16s16s")
_TITLES_AND_RESERVED: Final = slice(10, ITEMS_AT)
_LENGTH: Final = struct.Struct(">H")
_MAX_PDU: Final = struct.Struct(">L")
_CONTEXT_HEAD: Final = struct.Struct(">BxBx")  # id, and in an answer its result
_UID_CHARACTERS: Final = 64
_REMEMBERED_BYTES: Final = 512  # of one context: a stranger must not fill the memory with longer ones
_REMEMBERED_REQUEST_BYTES: Final = 24_576  # of all: getscu's 121 contexts with their roles are 16,000
_VERSION_NOT_SUPPORTED: Final = (1, 2, 2)  # PS3.8 Table 9-21


@dataclass(frozen=True, slots=True)
class Proposed:
    """A presentation context that is asked for."""

    context_id: int
    abstract_syntax_uid: UID
    transfer_syntax_uids: tuple[UID, ...]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a presentation context was answered with; where `result` is not `ACCEPTED` its syntax means nothing.

    Attributes
    ----------
    peer_is_scp : the peer takes instances of this SOP class from us on this association, as for C-GET.
    """

    context_id: int
    result: int
    abstract_syntax_uid: UID
    transfer_syntax_uid: UID
    peer_is_scp: bool = False


@dataclass(frozen=True, eq=False)
class Agreed:
    """What an association was made with: the answer to each context, and what was agreed besides.

    Compared by identity, as `Proposal` is.

    Attributes
    ----------
    roles : SOP class → whether the peer may be SCU, and SCP, of it (PS3.7 Annex D.3.3.4).
    relational : SOP classes for which relational queries or retrievals were agreed (PS3.4 C.5.1.1, C.5.2.1).
    """

    answered: Sequence[Answered]
    roles: Mapping[UID, tuple[bool, bool]]
    relational: frozenset[UID]

    @cached_property
    def accepted(self) -> Mapping[int, Answered]:
        """Id → each context that may be used."""
        return {one.context_id: one for one in self.answered if one.result == ACCEPTED}


@dataclass(frozen=True)
class UserInformation:
    """What the other side says of itself.

    Attributes
    ----------
    roles : SOP class → whether who asks for the association wants to be, or may be, SCU and SCP of it.
    extended : SOP class → its Service-class-application-information (PS3.7 Annex D.3.3.5).
    max_pdu_bytes : what it takes; 0 is no limit (PS3.8 Annex D.1).
    """

    roles: dict[UID, tuple[bool, bool]]
    extended: dict[UID, bytes]
    max_pdu_bytes: int


@dataclass(frozen=True, eq=False)
class Proposal:
    """What is proposed for an association.

    Compared by identity: the same program proposes the same each time, so the same bytes give the same proposal, and
    what follows from it can be remembered (`negotiation.py`).
    """

    contexts: Sequence[Proposed]
    said: UserInformation


@dataclass(frozen=True)
class AssociateRequest:
    """What an A-ASSOCIATE-RQ asks for. `pdu` is all of it, with its header."""

    pdu: bytes
    calling_ae_title: str
    called_ae_title: str
    proposal: Proposal

    @classmethod
    def read(cls, pdu: bytes) -> AssociateRequest:
        """Read a whole PDU. RefusedError : it cannot be."""
        items = pdu[ITEMS_AT:]
        read = _read_items if len(items) <= _REMEMBERED_REQUEST_BYTES else _read_items.__wrapped__
        try:
            version, called, calling = _FIXED_FIELDS.unpack_from(pdu, PDU_HEAD.size)
            called, calling = _title(called), _title(calling)
            proposal = read(items)
        except (ValueError, struct.error) as error:  # UnicodeDecodeError is a ValueError
            raise RefusedError(f"the A-ASSOCIATE-RQ cannot be read ({type(error).__name__})") from error
        if not version & PROTOCOL_VERSION:  # a bit for each version (PS3.8 Table 9-11)
            raise RefusedError("another version of the upper layer protocol", _VERSION_NOT_SUPPORTED, calling)
        return cls(pdu, calling, called, proposal)


def associate_ac(request: AssociateRequest, agreed: Agreed, max_pdu_bytes: int) -> bytes:
    """The A-ASSOCIATE-AC that says what was `agreed`. `max_pdu_bytes` : what we take."""
    body = [
        struct.pack(">H2x", PROTOCOL_VERSION),
        request.pdu[_TITLES_AND_RESERVED],  # to be sent as they came (PS3.8 Table 9-17)
        _answered_items(agreed, max_pdu_bytes),
    ]
    whole = b"".join(body)
    return PDU_HEAD.pack(_A_ASSOCIATE_AC, len(whole)) + whole


@lru_cache(16)
def _answered_items(agreed: Agreed, max_pdu_bytes: int) -> bytes:
    body = [item(APPLICATION_CONTEXT, APPLICATION_CONTEXT_NAME)]
    for one in agreed.answered:
        head = _CONTEXT_HEAD.pack(one.context_id, one.result)
        body.append(item(ANSWERED_CONTEXT, head + _transfer_syntax(one.transfer_syntax_uid)))
    said = [
        of_ourselves(max_pdu_bytes),
        *(role_selection(uid, *of_peer) for uid, of_peer in agreed.roles.items()),
        *(item(_SOP_CLASS_EXTENDED, _named(uid) + b"\x01") for uid in sorted(agreed.relational)),
    ]
    body.append(item(USER_INFORMATION, b"".join(said)))
    return b"".join(body)


def of_ourselves(max_pdu_bytes: int) -> bytes:
    """The sub-items that say who we are and what we take (PS3.7 Annex D.3.3.1 and D.3.3.2)."""
    return (
        item(MAXIMUM_LENGTH, _MAX_PDU.pack(max_pdu_bytes))
        + item(_IMPLEMENTATION_CLASS, IMPLEMENTATION_CLASS_UID.encode("ascii"))
        + item(_IMPLEMENTATION_VERSION, b"DICOMNET")
    )


def items_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and value of each item or sub-item. ValueError for one that is cut short."""
    at, ends = 0, len(data)
    while at < ends:
        if ends - at < ITEM_HEAD.size:
            raise ValueError("an item that is cut short")
        kind, length = ITEM_HEAD.unpack_from(data, at)
        at += ITEM_HEAD.size
        if at + length > ends:
            raise ValueError("an item that is cut short")
        yield kind, data[at : at + length]
        at += length


def item(kind: int, value: bytes) -> bytes:
    """An item or a sub-item."""
    return ITEM_HEAD.pack(kind, len(value)) + value


@lru_cache(4096)  # they are the same few hundred in every request
def read_uid(raw: bytes) -> UID:
    """ValueError for what is none by its length or its characters."""
    text = raw.decode("ascii").rstrip("\0 ")
    if not 0 < len(text) <= _UID_CHARACTERS:
        raise ValueError("a UID of a length that is none")
    return UID(text)


@lru_cache(1024)
def role_selection(uid: UID, scu: bool, scp: bool) -> bytes:
    """An SCP/SCU Role Selection Sub-item (PS3.7 Table D.3-9); the roles are those of who asks for the association."""
    return item(_ROLE_SELECTION, _named(uid) + bytes((scu, scp)))


def read_user_information(value: bytes) -> UserInformation:
    """A User Information Item (PS3.8 Table 9-16), by its sub-items. ValueError, struct.error : it cannot be read."""
    roles, extended, max_pdu_bytes = dict[UID, tuple[bool, bool]](), dict[UID, bytes](), 0
    for kind, raw in items_of(value):
        if kind == _ROLE_SELECTION:  # PS3.7 Table D.3-9
            uid, flags = _of_sop_class(raw)
            if len(flags) != 2:
                raise ValueError("a role selection of a length that is none")
            roles[uid] = flags[0] == 1, flags[1] == 1
        elif kind == _SOP_CLASS_EXTENDED:
            uid, extended[uid] = _of_sop_class(raw)
        elif kind == MAXIMUM_LENGTH:
            (max_pdu_bytes,) = _MAX_PDU.unpack(raw)
    return UserInformation(roles, extended, max_pdu_bytes)


def _title(raw: bytes) -> str:
    title = raw.decode("ascii").strip(" \0")
    if not title.isprintable() or not title:
        raise ValueError("an AE title that is none")
    return title


@lru_cache(16)
def _read_items(items: bytes) -> Proposal:
    """The items of an A-ASSOCIATE-RQ. ValueError, struct.error : they cannot be read."""
    contexts = list[Proposed]()
    said = UserInformation({}, {}, 0)
    for kind, value in items_of(items):
        if kind == PRESENTATION_CONTEXT:
            contexts.append(_read_context(value))
        elif kind == USER_INFORMATION:
            said = read_user_information(value)
    if len({context.context_id for context in contexts}) < len(contexts):
        raise ValueError("two presentation contexts of one id")
    return Proposal(tuple(contexts), said)


def _read_context(value: bytes) -> Proposed:
    """A Presentation Context Item (PS3.8 Table 9-13), from its id on."""
    context_id, _ = _CONTEXT_HEAD.unpack_from(value)
    if not context_id % 2:
        raise ValueError("a presentation context with an even id")
    named = value[_CONTEXT_HEAD.size :]
    read = _read_syntaxes if len(named) <= _REMEMBERED_BYTES else _read_syntaxes.__wrapped__
    return Proposed(context_id, *read(named))


@lru_cache(1024)  # the same program asks for the same each time
def _read_syntaxes(named: bytes) -> tuple[UID, tuple[UID, ...]]:
    """The abstract syntax of a presentation context and its transfer syntaxes."""
    abstract, transfer = list[UID](), dict[UID, None]()
    for kind, raw in items_of(named):
        if kind == TRANSFER_SYNTAX:
            transfer[read_uid(raw)] = None
        elif kind == ABSTRACT_SYNTAX:
            abstract.append(read_uid(raw))
    if len(abstract) != 1 or not transfer:
        raise ValueError("a presentation context has one abstract syntax and some transfer syntaxes")
    return abstract[0], tuple(transfer)


def _of_sop_class(raw: bytes) -> tuple[UID, bytes]:
    """The SOP class that a sub-item is about, and what it says."""
    (length,) = _LENGTH.unpack_from(raw)
    ends = _LENGTH.size + length
    return read_uid(raw[_LENGTH.size : ends]), raw[ends:]


def _named(uid: UID) -> bytes:
    raw = uid.encode("ascii")
    return _LENGTH.pack(len(raw)) + raw


@lru_cache(1024)
def _transfer_syntax(uid: UID) -> bytes:
    return item(TRANSFER_SYNTAX, uid.encode("ascii"))
