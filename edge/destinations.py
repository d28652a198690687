"""The destinations beside central, wired together: settings in, a courier for each out.

Made after the services, whose key opens what is sent; stopped before the spool closes, joined after it. What is owed
to a destination that is no longer configured stays owed, and is shown, until a person gives it up or configures it
again.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Final, Literal

from contract.control import DestinationStatus, SetAsideEntry
from contract.errors import PermanentError
from contract.identifiers import ObjectId
from edge.buffer.deliveries import NOTHING_OWED
from edge.buffer.holdings import Holdings
from edge.buffer.local_recipient import LocalRecipient
from edge.buffer.spool import Spool
from edge.config import Settings
from edge.destination_settings import DimseDestinationSettings, StowDestinationSettings
from edge.dimse_destination import DimseDestination
from edge.gateway.addresses import Address
from edge.gateway.calling_tls import CallingTls
from edge.gateway.store_scu import StoreScu
from edge.uplink.courier import Courier, Destination
from edge.uplink.stow import StowDestination, stow_tls

SET_ASIDE_SHOWN: Final = 200
DestinationKind = Literal["", "dimse", "stow", "central"]


class UnknownDestinationError(PermanentError):
    """It is neither configured nor owed anything."""


class Destinations:
    """`start`; `stop`, then close the spool, then `join`.

    Parameters
    ----------
    centrals : further centrals that get a copy, by name, and why one does not go on: they are shown and decided about
        like the others, and sent to elsewhere.
    try_central : one of those works again.

    Raises
    ------
    GatewayError, ContractError : a file for TLS cannot be used; the text says which.
    """

    def __init__(
        self,
        settings: Settings,
        spool: Spool,
        recipient: LocalRecipient | None,
        *,
        on_delivered: Callable[[], None],
        centrals: Callable[[], Mapping[str, str]] = dict,
        try_central: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._centrals = centrals
        self._try_central = try_central
        self._deliveries = spool.deliveries
        self._couriers: dict[str, Courier] = {}
        self._kinds: dict[str, DestinationKind] = {
            one.name: "stow" if isinstance(one, StowDestinationSettings) else "dimse"
            for one in settings.destinations.all
        }
        for one in settings.destinations.all:
            assert recipient is not None, "the configuration was checked"
            self._couriers[one.name] = Courier(
                one.name,
                _destination(one, settings.gateway.ae_title),
                spool.deliveries,
                _opener(spool.holdings, recipient),
                backoff_ceiling_s=settings.destinations.backoff_ceiling_s,
                on_delivered=on_delivered,
            )

    def start(self) -> None:
        for courier in self._couriers.values():
            courier.start()

    def stop(self, grace_s: float) -> None:
        """Let go of what is being sent; one that hangs at its peer is waited for that long, and then left behind."""
        for courier in self._couriers.values():
            courier.stop()
        deadline_s = time.monotonic() + grace_s
        for courier in self._couriers.values():
            courier.wait_until_idle(deadline_s - time.monotonic())

    def join(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        for courier in self._couriers.values():
            courier.join(deadline_s - time.monotonic())

    def status(self) -> list[DestinationStatus]:
        """The configured ones, then those that are only owed to."""
        tallies, centrals = self._deliveries.tallies(), self._centrals()
        troubles = {**centrals, **{name: courier.trouble for name, courier in self._couriers.items()}}
        kinds: dict[str, DestinationKind] = dict(self._kinds)
        for name in centrals:
            kinds[name] = "central"
        names = [*troubles, *sorted(set(tallies) - set(troubles))]
        return [
            DestinationStatus(
                name=name,
                kind=kinds.get(name, ""),
                configured=name in troubles,
                waiting_objects=tally.waiting,
                waiting_bytes=tally.waiting_bytes,
                set_aside_objects=tally.set_aside,
                oldest_at_utc=tally.oldest_at_utc,
                last_error=troubles.get(name, ""),
            )
            for name in names
            for tally in (tallies.get(name, NOTHING_OWED),)
        ]

    def set_aside(self) -> list[SetAsideEntry]:
        """What destinations did not take, the oldest first."""
        return [SetAsideEntry(**vars(row)) for row in self._deliveries.set_aside_rows(limit=SET_ASIDE_SHOWN)]

    def try_again(self, name: str, object_id: ObjectId | None) -> None:
        """What is open for a destination, one or all, is due at once, and its backoff is over.

        Raises
        ------
        UnknownDestinationError, SpoolError
        """
        self._check_known(name)
        self._deliveries.try_again(name, object_id)
        if name in self._couriers:
            self._couriers[name].try_now()
        self._try_central(name)

    def give_up(self, name: str, object_id: ObjectId | None) -> None:
        """What is open for a destination, one or all, is owed no longer. Raises as `try_again`."""
        self._check_known(name)
        self._deliveries.give_up(name, object_id)

    def _check_known(self, name: str) -> None:
        known = {*self._couriers, *self._centrals(), *self._deliveries.tallies()}
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise UnknownDestinationError(f"no destination is called {name}: there are {listed}")


def _opener(
    holdings: Holdings, recipient: LocalRecipient
) -> Callable[[ObjectId], AbstractContextManager[Iterator[bytes]]]:
    return lambda object_id: recipient.open(holdings.open_object(object_id), object_id)


def _destination(
    settings: DimseDestinationSettings | StowDestinationSettings, own_ae_title: str
) -> Destination:
    if isinstance(settings, StowDestinationSettings):
        authorization = f"Bearer {settings.token}" if settings.token else ""
        if settings.username:
            pair = base64.b64encode(f"{settings.username}:{settings.password}".encode()).decode()
            authorization = f"Basic {pair}"
        tls = stow_tls(ca=settings.ca, certificate=settings.certificate, key=settings.key)
        return StowDestination(settings.url, tls, authorization=authorization)
    calling_tls = None
    if settings.tls:
        assert settings.ca is not None, "the configuration was checked"
        calling_tls = CallingTls(
            ca=settings.ca,
            name=settings.tls_name or settings.host,
            certificate=settings.certificate,
            key=settings.key,
        )
    return DimseDestination(
        StoreScu(
            Address(settings.host, settings.port, calling_tls),
            called_ae_title=settings.ae_title,
            calling_ae_title=settings.calling_ae_title or own_ae_title,
        )
    )
