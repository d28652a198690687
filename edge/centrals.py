"""The centrals of one box, wired together: a link, a forwarder and a membership each.

The first is called central and lies where a box with one central has it. Further ones lie in `centrals/<name>/` of the
state directory and are either owed a copy of everything (`edge.buffer.delivery_queue`) or stand in for those before
them (`edge.uplink.succession`). Always true: nothing is taken in before the first is enrolled, whose key every object
is sealed for; a further one is owed, or lent, only what was sealed for it as well. So a central that is added later
gets what comes from then on, and nothing that came before waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from contract.control import CentralStatus
from contract.enrolment import Pairing
from contract.errors import PermanentError
from contract.sealing import DataKeyRing, RecipientPublicKey
from edge.buffer.deliveries import NOTHING_OWED
from edge.buffer.label import Label
from edge.buffer.receipts import LostStudy, ReceiptLedger
from edge.buffer.spool import Spool
from edge.config import Settings
from edge.destination_settings import CENTRAL
from edge.uplink.bandwidth import Bandwidth, HourlyLimit
from edge.uplink.dispatch import Queue
from edge.uplink.forwarder import Forwarder
from edge.uplink.identity import Identity
from edge.uplink.key_book import known_key_ids
from edge.uplink.key_maker import KeyMaker
from edge.uplink.link import Link
from edge.uplink.membership import Membership
from edge.uplink.succession import StandInQueue, Succession

IDENTITY: Final = "identity"


class UnknownCentralError(PermanentError):
    """No central of that name is configured, or it is another name for one that is."""


def folder_of(settings: Settings, name: str) -> Path:
    """Where what belongs to a central alone is kept: the state directory for the first."""
    state = settings.box.state_directory
    return state if name == CENTRAL else state / "centrals" / name


class CentralKeys:
    """Which key ids each further central has, as the box knows; from the disk, before anything else runs."""

    def __init__(self, settings: Settings) -> None:
        self.copies = tuple(settings.uplink.further_centrals) if settings.uplink.mode == "copy" else ()
        self._known = {
            name: known_key_ids(folder_of(settings, name) / IDENTITY / "keys.json")
            for name in settings.uplink.further_centrals
        }

    def of(self, name: str) -> frozenset[str]:
        return self._known.get(name, frozenset())

    def learn(self, name: str, key_ids: frozenset[str]) -> None:
        if name != CENTRAL:
            self._known[name] = key_ids

    def owed(self, label: Label) -> tuple[str, ...]:
        """The centrals that are owed a copy of an instance: those it was sealed for."""
        return tuple(name for name in self.copies if not self.of(name).isdisjoint(label.sealed_for))


@dataclass(frozen=True)
class _Central:
    name: str
    link: Link
    forwarder: Forwarder


class Centrals:
    """`start`, then `begin` once the rest can take identities; `stop`, close the spool, `join`.

    Parameters
    ----------
    on_receipt : called after each receipt, of whichever central.
    """

    def __init__(
        self, settings: Settings, spool: Spool, keys: CentralKeys, *, on_receipt: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._spool = spool
        self._keys = keys
        self._succession = Succession(settings.uplink.fail_over_after_s)
        self._recipients: dict[str, RecipientPublicKey] = {}
        self._sealing = threading.Lock()
        self._memberships: dict[str, Membership] = {}
        bandwidth = Bandwidth(
            [
                HourlyLimit(frozenset(limit.days), limit.from_hour, limit.to_hour, limit.kbit_per_s * 125.0)
                for limit in settings.uplink.limits
            ]
        )
        names = (CENTRAL, *settings.uplink.further_centrals)
        self._all: dict[str, _Central] = {}
        for place, name in enumerate(names):
            link = Link()
            forwarder = Forwarder(
                self._queue(name, place),
                link,
                connections=settings.uplink.connections,
                lease_s=settings.uplink.lease_s,
                backoff_ceiling_s=settings.uplink.backoff_ceiling_s,
                timeout_s=settings.uplink.timeout_s,
                on_receipt=on_receipt,
                bandwidth=bandwidth,
                on_line=self._succession.tell,
                name="uplink" if name == CENTRAL else f"to-{name}",
            )
            self._succession.add(forwarder.out_since_s)
            self._all[name] = _Central(name, link, forwarder)
        spool.entrance.pace.line_is_slow = self._all[CENTRAL].forwarder.line_is_slow

    def _queue(self, name: str, place: int) -> Queue:
        if name == CENTRAL:
            return self._spool.queue
        if name in self._keys.copies:
            return self._spool.owed_to(name)
        return StandInQueue(self._spool.queue, self._succession, place, lambda: self._keys.of(name))

    @property
    def first(self) -> Membership:
        return self._memberships[CENTRAL]

    @property
    def links(self) -> Mapping[str, Link]:
        """By name, the first one first."""
        return {name: one.link for name, one in self._all.items()}

    def start(self) -> None:
        for one in self._all.values():
            one.forwarder.start()

    def begin(
        self,
        *,
        own_recipients: Sequence[RecipientPublicKey],
        take_up: Callable[[str, Identity], None],
        tell_set_back: Callable[[str, int, Sequence[LostStudy]], None],
        keys: KeyMaker,
    ) -> None:
        """Take up what the last life left of each membership.

        Parameters
        ----------
        own_recipients : for whom objects are sealed beside the centrals.
        take_up : called with the name of a central and each identity that comes into use there.
        tell_set_back : called with the name of a central that has lost what it signed for (edge.uplink.receipt_check).
        keys : where private keys are made.
        """
        for name, one in self._all.items():
            membership = Membership(
                folder_of(self._settings, name) / IDENTITY,
                self._spool,
                one.link,
                take_up=partial(self._take_up, one, take_up),
                seal_for=partial(self._seal_for, name, own_recipients),
                try_now=one.forwarder.try_now,
                tell_set_back=partial(tell_set_back, name),
                receipts=self._receipts(name),
                waiting=partial(self._waiting, name),
                keys=keys,
            )
            self._memberships[name] = membership
            membership.start()

    def _receipts(self, name: str) -> ReceiptLedger:
        """Those that this central may have signed, with how far they were checked with it."""
        if name in self._keys.copies:
            return self._spool.receipts_of_copy(name)
        return self._spool.receipts if name == CENTRAL else self._spool.receipts.checked_with(name)

    def _take_up(self, one: _Central, take_up: Callable[[str, Identity], None], identity: Identity) -> None:
        one.forwarder.use(identity)
        take_up(one.name, identity)

    def _seal_for(
        self, name: str, own_recipients: Sequence[RecipientPublicKey], recipient: RecipientPublicKey
    ) -> None:
        with self._sealing:
            self._keys.learn(name, self._memberships[name].key_ids())
            self._recipients[name] = recipient
            if CENTRAL in self._recipients:
                ordered = (self._recipients[known] for known in self._all if known in self._recipients)
                self._spool.entrance.set_keys(DataKeyRing((*ordered, *own_recipients)))

    def _waiting(self, name: str) -> int:
        """What waits that only this central can be sent."""
        if name == CENTRAL:
            return self._spool.holdings.depth().unsent.objects
        return self._spool.deliveries.tallies().get(name, NOTHING_OWED).waiting

    def enrol(self, name: str, pairing: Pairing) -> None:
        """As `Membership.enrol`; UnknownCentralError besides."""
        if name not in self._memberships:
            listed = ", ".join(self._memberships)
            raise UnknownCentralError(
                f"no central is called {name}: there are {listed}; uplink.further_centrals names more"
            )
        for other, membership in self._memberships.items():
            if other != name and membership.ca_fingerprint == pairing.ca_fingerprint:
                raise UnknownCentralError(
                    f"this pairing string is of the central that this box knows as {other}: each is enrolled once"
                )
        self._memberships[name].enrol(pairing)

    # What central may tell this box, and what follows for all of them ---------------------------------------

    @property
    def paused(self) -> bool:
        return self._all[CENTRAL].forwarder.paused

    def pause(self) -> None:
        """Send nothing more to any of them until `resume`."""
        for one in self._all.values():
            one.forwarder.pause()

    def resume(self) -> None:
        for one in self._all.values():
            one.forwarder.resume()

    def try_now(self, name: str) -> None:
        """Something says that this one works again."""
        if name in self._all:
            self._all[name].forwarder.try_now()

    def status(self) -> list[CentralStatus]:
        """The further ones, in their order."""
        found = []
        for place, (name, one) in enumerate(self._all.items()):
            if name == CENTRAL:
                continue
            membership = self._memberships[name]
            copies = name in self._keys.copies
            found.append(
                CentralStatus(
                    name=name,
                    mode="copy" if copies else "fail-over",
                    in_use=membership.gateway_id is not None and (copies or self._succession.is_turn(place)),
                    gateway_id=membership.gateway_id,
                    link=one.link.status(),
                )
            )
        return found

    def troubles(self) -> Mapping[str, str]:
        """Of those that get a copy: why one does not go on; empty while it does."""
        statuses = {name: self._all[name].link.status() for name in self._keys.copies}
        return {
            name: "" if status.state == "connected" else status.detail for name, status in statuses.items()
        }

    def leave(self) -> None:
        """End the memberships' threads."""
        for membership in self._memberships.values():
            membership.stop()

    def stop(self, grace_s: float) -> None:
        """Let go of what is being sent, all at the same time, within `grace_s`."""
        self._succession.end()
        stopping = [
            threading.Thread(target=one.forwarder.stop, args=(grace_s,), daemon=True)
            for one in self._all.values()
        ]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()

    def join(self, timeout_s: float) -> None:
        for one in self._all.values():
            one.forwarder.join(timeout_s)


def names_of(settings: Settings) -> Collection[str]:
    """Every central that is configured."""
    return (CENTRAL, *settings.uplink.further_centrals)
