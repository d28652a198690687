"""Which destinations beside central an instance goes to, and how urgent it is: functions of what its label says.

The rules read modality, AE titles, address, station and department. A department is who asked for the study:
Requesting Service (0032,1033) of the image, or of its order in the worklist. Institutional Department Name (0008,1040)
is not read: it says where the scanner stands, as its station and AE title do.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, replace

from contract.priority import Priority
from edge.buffer.label import Label
from edge.buffer.order import Waiting
from edge.destination_settings import DestinationsSettings, RuleSettings
from edge.gateway.matching import is_like
from edge.gateway.settings import plain_address
from edge.orders import NO_ORDER, Order, Orders


@dataclass(frozen=True)
class Traits:
    """What a rule may look at."""

    modality: str
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    station_name: str = ""
    department: str = ""


class Routing:
    """The rules of one configuration, and the orders that are known."""

    def __init__(
        self,
        destinations: DestinationsSettings,
        rules: Sequence[RuleSettings],
        orders: Orders | None = None,
    ) -> None:
        self._order = [one.name for one in destinations.all]
        self._for_all = frozenset(one.name for one in destinations.all if one.gets_all)
        self._rules = [_Rule(rule) for rule in rules]
        self._orders = orders or Orders()

    def complete(self, label: Label) -> Label:
        """With the department that its order names, where the instance itself names none."""
        if label.identity is None or label.identity.department:
            return label
        department = self._order_of(label).department
        if not department:
            return label
        return replace(label, identity=replace(label.identity, department=department))

    def route(self, label: Label) -> tuple[str, ...]:
        """Names of destinations for an identified instance."""
        return self.destinations_of(_traits(label))

    def rank(self, label: Label) -> Priority:
        """How urgent an identified instance is."""
        return self.priority_of(_traits(label), self._order_of(label))

    def rank_again(self, waiting: Waiting) -> Priority:
        """The same of one that waits, when orders have come. What was found by accession number is not found again."""
        study, *known = astuple(waiting)
        return self.priority_of(Traits(*known), self._orders.find(study, ""))

    def destinations_of(self, traits: Traits) -> tuple[str, ...]:
        """In the order of the configuration, each once."""
        named = set(self._for_all)
        for rule in self._rules:
            if rule.fits(traits):
                named |= rule.destinations
        return tuple(name for name in self._order if name in named)

    def priority_of(self, traits: Traits, order: Order = NO_ORDER) -> Priority:
        """The highest that a rule or the order names. An order's ROUTINE names nothing: it is what most orders say."""
        said = [rule.priority for rule in self._rules if rule.priority is not None and rule.fits(traits)]
        if order.priority is not Priority.ROUTINE:
            said.append(order.priority)
        return max(said, default=Priority.ROUTINE)

    def _order_of(self, label: Label) -> Order:
        assert label.identity is not None
        return self._orders.find(label.identity.study_instance_uid, label.identity.accession_number)


def _traits(label: Label) -> Traits:
    origin, identity = label.origin, label.identity
    assert identity is not None
    return Traits(
        identity.modality or "",
        origin.calling_ae_title,
        origin.called_ae_title,
        origin.peer_address,
        identity.station_name,
        identity.department,
    )


class _Rule:
    def __init__(self, settings: RuleSettings) -> None:
        self.destinations = frozenset(settings.destinations)
        self.priority = Priority.named(settings.priority) if settings.priority else None
        self._modalities = frozenset(modality.strip().upper() for modality in settings.modalities)
        self._calling = frozenset(settings.calling_ae_titles)
        self._called = frozenset(settings.called_ae_titles)
        self._networks = [ipaddress.ip_network(network) for network in settings.addresses]
        self._stations = [pattern.casefold() for pattern in settings.stations]
        self._departments = [pattern.casefold() for pattern in settings.departments]

    def fits(self, traits: Traits) -> bool:
        return (
            (not self._modalities or traits.modality.strip().upper() in self._modalities)
            and (not self._calling or traits.calling_ae_title in self._calling)
            and (not self._called or traits.called_ae_title in self._called)
            and (not self._networks or self._comes_from(traits.peer_address))
            and (not self._stations or _is_one_of(self._stations, traits.station_name))
            and (not self._departments or _is_one_of(self._departments, traits.department))
        )

    def _comes_from(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(plain_address(address))
        except ValueError:
            return False
        return any(found in network for network in self._networks)


def _is_one_of(patterns: Iterable[str], name: str) -> bool:
    """What was not said matches nothing, not even ``*``."""
    return bool(name) and any(is_like(pattern, name.casefold()) for pattern in patterns)
