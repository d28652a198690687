"""Which destinations beside central an instance goes to: a pure function of what its label says.

The rules read modality, AE titles and address. Station and referring department are not in a label, so that the spool's
index names no person or place of care; the AE title says as much of a station.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

from edge.buffer.label import Label
from edge.destination_settings import DestinationsSettings, RuleSettings
from edge.gateway.settings import plain_address


@dataclass(frozen=True)
class Traits:
    """What a rule may look at."""

    modality: str
    calling_ae_title: str
    called_ae_title: str
    peer_address: str


class Routing:
    """The rules of one configuration."""

    def __init__(self, destinations: DestinationsSettings, rules: Sequence[RuleSettings]) -> None:
        self._order = [one.name for one in destinations.all]
        self._for_all = frozenset(one.name for one in destinations.all if one.gets_all)
        self._rules = [_Rule(rule) for rule in rules]

    def route(self, label: Label) -> tuple[str, ...]:
        """Names of destinations for an identified instance."""
        origin = label.origin
        return self.destinations_of(
            Traits(
                (label.identity and label.identity.modality) or "",
                origin.calling_ae_title,
                origin.called_ae_title,
                origin.peer_address,
            )
        )

    def destinations_of(self, traits: Traits) -> tuple[str, ...]:
        """In the order of the configuration, each once."""
        named = set(self._for_all)
        for rule in self._rules:
            if rule.fits(traits):
                named |= rule.destinations
        return tuple(name for name in self._order if name in named)


class _Rule:
    def __init__(self, settings: RuleSettings) -> None:
        self.destinations = frozenset(settings.destinations)
        self._modalities = frozenset(modality.strip().upper() for modality in settings.modalities)
        self._calling = frozenset(settings.calling_ae_titles)
        self._called = frozenset(settings.called_ae_titles)
        self._networks = [ipaddress.ip_network(network) for network in settings.addresses]

    def fits(self, traits: Traits) -> bool:
        return (
            (not self._modalities or traits.modality.strip().upper() in self._modalities)
            and (not self._calling or traits.calling_ae_title in self._calling)
            and (not self._called or traits.called_ae_title in self._called)
            and (not self._networks or self._comes_from(traits.peer_address))
        )

    def _comes_from(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(plain_address(address))
        except ValueError:
            return False
        return any(found in network for network in self._networks)
