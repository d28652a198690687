"""Associations that central asks for, from A-ASSOCIATE to A-RELEASE by our own hand (PS3.8 sections 9.2 and 9.3).

Why it exists: pynetdicom takes a thread, a queue and a few clocks for each step of it, which is longer than ten images
take; and it forgets a rejection where the connection is closed at once.

Always true: only configured peers are called (`Peers.destination`); over TLS a peer shows a certificate in the name it
is called by; each wait has a bound; what the other side sends is bounded before it is held.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final

from pydicom.uid import UID

from central.archive.objects import ObjectSink
from central.dimse.associate import (
    ABSTRACT_SYNTAX,
    ACCEPTED,
    ANSWERED_CONTEXT,
    APPLICATION_CONTEXT,
    APPLICATION_CONTEXT_NAME,
    ITEMS_AT,
    PDU_HEAD,
    PRESENTATION_CONTEXT,
    PROTOCOL_VERSION,
    TRANSFER_SYNTAX,
    USER_INFORMATION,
    Answered,
    item,
    items_of,
    of_ourselves,
    read_uid,
    read_user_information,
    role_selection,
)
from central.dimse.conversation import Conversation
from central.dimse.errors import CallFailedError, CannotListenError, OverLimitError, PeerGoneError
from central.dimse.settings import DimseSettings, PeerSettings
from central.dimse.tls import client_context
from central.dimse.transport import Limits, Line

Contexts = Sequence[tuple[str, Sequence[str]]]
"""Abstract syntax and transfer syntaxes of each that is proposed, at most `MAX_CONTEXTS`."""

MAX_CONTEXTS: Final = 128  # their ids are odd numbers of one byte
_TIMEOUT_S: Final = 10.0  # for the connection, and for each answer of the upper layer
_A_ASSOCIATE_RQ, _A_ASSOCIATE_AC, _A_ASSOCIATE_RJ = 0x01, 0x02, 0x03


@dataclass(frozen=True)
class Accepted:
    """What an A-ASSOCIATE-AC says.

    Attributes
    ----------
    answered : contexts that were proposed and are accepted.
    scp_of : SOP classes that we may be the SCP of (PS3.7 Annex D.3.3.4).
    max_pdu_bytes : what the other side takes; 0 is no limit.
    """

    answered: Sequence[Answered]
    scp_of: frozenset[UID]
    max_pdu_bytes: int


@contextmanager
def called(
    settings: DimseSettings,
    peer: PeerSettings,
    contexts: Contexts,
    *,
    as_scp_of: Sequence[str] = (),
    new_object: Callable[[], ObjectSink] | None = None,
    max_object_bytes: int = 0,
) -> Iterator[Conversation]:
    """Messages on an association with `peer`: see `line_to`.

    Parameters
    ----------
    new_object : where the bytes of what it sends go, `max_object_bytes` of them at most; None: it may send nothing.
    """
    with line_to(settings, peer, contexts, as_scp_of) as (line, accepted):
        limits = limits_of(settings, max_object_bytes)
        contexts_taken = {one.context_id: one for one in accepted.answered}
        conversation = Conversation(line, contexts_taken, accepted.max_pdu_bytes, limits, new_object)
        try:
            yield conversation
        finally:
            conversation.messages.discard_arrived()


@contextmanager
def line_to(
    settings: DimseSettings, peer: PeerSettings, contexts: Contexts, as_scp_of: Sequence[str] = ()
) -> Iterator[tuple[Line, Accepted]]:
    """An association with `peer`, released when the block ends well and aborted when not.

    Parameters
    ----------
    as_scp_of : SOP classes that central is the SCP of on this association, and not the SCU.

    Raises
    ------
    CallFailedError : the peer is not there, or takes none of it.
    """
    name = f"{peer.ae_title} at {peer.host} port {peer.port}"
    try:
        sock = _connected(settings, peer)
    except OSError as error:
        raise CallFailedError(f"{name} cannot be reached") from error
    except (CannotListenError, ValueError) as error:
        raise CallFailedError(f"{name} cannot be called") from error
    with closing(sock):
        line = Line(sock, limits_of(settings))
        try:
            sock.settimeout(_TIMEOUT_S)
            accepted = _asked(
                line, associate_rq(settings, peer.ae_title, contexts, as_scp_of), contexts, name
            )
            sock.settimeout(settings.stall_timeout_s)
            yield line, accepted
        except BaseException:
            line.abort()
            raise
        line.release(_TIMEOUT_S)


def limits_of(settings: DimseSettings, max_object_bytes: int = 0) -> Limits:
    """What one association may cost."""
    return Limits(
        settings.max_pdu_bytes, max_object_bytes, settings.stall_timeout_s, settings.min_rate_bytes_per_s
    )


def _connected(settings: DimseSettings, peer: PeerSettings) -> socket.socket:
    sock = socket.create_connection((peer.host, peer.port), _TIMEOUT_S)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if peer.tls:
            return client_context(settings.tls).wrap_socket(sock, server_hostname=peer.host)
    except BaseException:
        sock.close()
        raise
    return sock


def _asked(line: Line, request: bytes, contexts: Contexts, name: str) -> Accepted:
    """What `request` is answered with."""
    try:
        line.send(request)
        if not line.has_data(_TIMEOUT_S):
            raise TimeoutError("no answer")
        kind, body = line.pdu()
        if kind != _A_ASSOCIATE_AC:
            does = (
                "rejects the association" if kind == _A_ASSOCIATE_RJ else "answers a call with something else"
            )
            raise CallFailedError(f"{name} {does}")
        accepted = read_associate_ac(bytes(body), contexts)
    except (OSError, OverLimitError, PeerGoneError, ValueError, struct.error) as error:
        raise CallFailedError(f"{name} cannot be reached") from error
    if not accepted.answered:
        raise CallFailedError(f"{name} takes none of what there is to send")
    return accepted


def associate_rq(
    settings: DimseSettings, called_ae_title: str, contexts: Contexts, as_scp_of: Sequence[str] = ()
) -> bytes:
    """An A-ASSOCIATE-RQ (PS3.8 Table 9-11); the contexts' ids are 1, 3, 5 and so on."""
    body = struct.pack(
        ">H2x16s16s32x",
        PROTOCOL_VERSION,
        called_ae_title.encode("ascii").ljust(16),
        settings.ae_title.encode("ascii").ljust(16),
    )
    body += item(APPLICATION_CONTEXT, APPLICATION_CONTEXT_NAME)
    for number, (abstract_syntax, transfer_syntaxes) in enumerate(contexts):
        named = item(ABSTRACT_SYNTAX, abstract_syntax.encode("ascii"))
        for syntax in transfer_syntaxes:
            named += item(TRANSFER_SYNTAX, syntax.encode("ascii"))
        body += item(PRESENTATION_CONTEXT, struct.pack(">B3x", 2 * number + 1) + named)
    roles = [role_selection(UID(uid), False, True) for uid in as_scp_of]
    body += item(USER_INFORMATION, of_ourselves(settings.max_pdu_bytes) + b"".join(roles))
    return PDU_HEAD.pack(_A_ASSOCIATE_RQ, len(body)) + body


def read_associate_ac(body: bytes, contexts: Contexts) -> Accepted:
    """What an A-ASSOCIATE-AC's body says of the `contexts` that were proposed.

    Raises
    ------
    ValueError, struct.error : it cannot be read.
    """
    answered, scp_of, max_pdu_bytes = list[Answered](), frozenset[UID](), 0
    for kind, value in items_of(body[ITEMS_AT - PDU_HEAD.size :]):
        if kind == ANSWERED_CONTEXT:
            context_id, result = struct.unpack_from(">BxB", value)
            if result or not context_id % 2 or context_id // 2 >= len(contexts):
                continue
            abstract_syntax, proposed = contexts[context_id // 2]
            for sub_kind, raw in items_of(value[4:]):
                if sub_kind == TRANSFER_SYNTAX and (syntax := read_uid(raw)) in proposed:
                    answered.append(Answered(context_id, ACCEPTED, UID(abstract_syntax), syntax))
        elif kind == USER_INFORMATION:
            said = read_user_information(value)
            max_pdu_bytes = said.max_pdu_bytes
            scp_of = frozenset(uid for uid, (_, scp) in said.roles.items() if scp)
    return Accepted(answered, scp_of, max_pdu_bytes)
