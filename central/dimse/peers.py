"""Who calls: the peer that is configured for an AE title, an address and a certificate, and what it may do.

Always true: a peer with a certificate in its settings is nobody without it, whatever it calls itself; what no peer's
settings allow, nobody may.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from central.access.policy import Agreement, Principal, Role
from central.audit.events import Action, AuditEvent, Outcome
from central.dimse.errors import RefusedError
from central.dimse.settings import PeerSettings, Service
from central.institution import DEFAULT_INSTITUTION

CALLING_AE_TITLE_NOT_RECOGNIZED: Final = (1, 1, 3)  # PS3.8 Table 9-21


def nothing_agreed(_institution: str) -> frozenset[Agreement]:
    """Where no institution has opened anything to another."""
    return frozenset()


def source_of(ae_title: str, institution: str) -> str:
    """What names an institution's peer among the senders of all institutions."""
    home = "" if institution == DEFAULT_INSTITUTION else f"{institution}/"
    return f"ae:{home}{ae_title}"


@dataclass(frozen=True)
class Peer:
    """Who is at the other end. `settings` is None for a stranger, who may send a C-ECHO.

    `agreements_of` says what other institutions have opened to one, at this moment.
    """

    ae_title: str
    address: str
    settings: PeerSettings | None
    agreements_of: Callable[[str], frozenset[Agreement]] = nothing_agreed

    def may(self, service: Service) -> bool:
        return self.settings is not None and service in self.settings.may

    @property
    def principal(self) -> Principal:
        return Principal(
            user_id=f"peer:{self.ae_title}",
            username=self.ae_title,
            role=Role.PEER,
            institution=self.institution,
            agreements=self.agreements_of(self.institution),
        )

    @property
    def source(self) -> str:
        return source_of(self.ae_title, self.institution)

    @property
    def institution(self) -> str:
        return self.settings.institution if self.settings is not None else DEFAULT_INSTITUTION

    def event(
        self,
        action: Action,
        outcome: Outcome,
        detail: str,
        study_instance_uid: str | None = None,
        institutions: Iterable[str] = (),
    ) -> AuditEvent:
        """What this peer did, for the audit record. `institutions` are concerned besides the peer's own."""
        return AuditEvent(
            self.ae_title,
            Role.PEER.value,
            action,
            outcome,
            self.address,
            study_instance_uid=study_instance_uid,
            detail=detail,
            institutions=frozenset({self.institution, *institutions}),
        )


class Peers:
    """The configured peers. `agreements_of` is as in `Peer`."""

    def __init__(
        self,
        configured: Sequence[PeerSettings],
        agreements_of: Callable[[str], frozenset[Agreement]] = nothing_agreed,
    ) -> None:
        self._configured = configured
        self._agreements_of = agreements_of

    def caller(self, ae_title: str, address: str, certificate_sha256: str | None) -> Peer:
        """Who calls from there. `certificate_sha256` is of the certificate it proved, None without TLS."""
        for peer in self._configured:
            if peer.ae_title != ae_title or not _within(address, peer):
                continue
            if peer.certificate_sha256 and peer.certificate_sha256 != certificate_sha256:
                continue
            return Peer(ae_title, address, peer, self._agreements_of)
        return Peer(ae_title, address, None)

    def why_not(self, peer: Peer, certificate_sha256: str | None) -> str:
        """What keeps a stranger from being one of the configured peers; for the log and the audit record."""
        named = [one for one in self._configured if one.ae_title == peer.ae_title]
        if not named:
            return "no peer of this AE title is configured"
        if not any(_within(peer.address, one) for one in named):
            return "this AE title is configured for another address"
        if certificate_sha256 is None:
            return "this peer is served on the TLS port only"
        return f"this peer is configured with another certificate than {certificate_sha256}"

    def destination(self, ae_title: str, institution: str) -> PeerSettings | None:
        """The peer of that institution to send to under that AE title; None if there is none that has a host."""
        return next(
            (
                peer
                for peer in self._configured
                if peer.ae_title == ae_title and peer.host and peer.institution == institution
            ),
            None,
        )

    def refuse(self, peer: Peer, certificate_sha256: str | None) -> RefusedError:
        """What a stranger is answered who wants more than a C-ECHO."""
        return RefusedError(
            self.why_not(peer, certificate_sha256), CALLING_AE_TITLE_NOT_RECOGNIZED, peer.ae_title
        )


def _within(address: str, peer: PeerSettings) -> bool:
    try:
        caller = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(caller, ipaddress.IPv6Address) and caller.ipv4_mapped is not None:
        caller = caller.ipv4_mapped
    return caller in peer.address
