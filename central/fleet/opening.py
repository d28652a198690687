"""Opens the fleet's rooms together: ears, books and mouth, in the order in which they need each other."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from central.database import Database
from central.fleet.commands import Commands
from central.fleet.correspondence import Correspondence, Down
from central.fleet.desired import DesiredSettings
from central.fleet.events import Events
from central.fleet.fleet import Fleet
from central.fleet.heartbeats import Heartbeats
from central.fleet.listener import BrokerListener, BrokerTls
from central.fleet.witnesses import Witnesses
from central.identity.gateways import Gateways
from central.identity.identity import Identity


@dataclass(frozen=True)
class BrokerPlace:
    """Where the broker is; `tls` False only on loopback."""

    host: str
    port: int
    tls: bool


@dataclass(frozen=True)
class FleetRooms:
    """`fleet` is what is shown, `correspondence` what is said, `commands` what was told."""

    fleet: Fleet
    correspondence: Correspondence
    commands: Commands

    @classmethod
    def open(
        cls,
        db: Database,
        gateways: Gateways,
        identity: Identity,
        witnesses: Witnesses,
        over_quota: Callable[[str], bool],
        broker: BrokerPlace | None,
        closing: ExitStack,
    ) -> FleetRooms:
        """Open them, and begin to listen to `broker`; `closing` ends that."""
        heartbeats, events, commands, desired = Heartbeats(db), Events(db), Commands(db), DesiredSettings(db)
        listener: BrokerListener | None = None

        def say(down: Down) -> bool:
            return listener is not None and listener.say(down)

        correspondence = Correspondence(gateways, heartbeats, events, commands, desired, witnesses, say)
        if broker is not None:
            client = identity.broker_client
            tls = BrokerTls(identity.ca_path, client.certificate, client.key) if broker.tls else None
            listener = BrokerListener(
                broker.host, broker.port, identity.central_id, tls, correspondence.hear_mqtt
            )
            listener.start()
            closing.callback(listener.close)
        fleet = Fleet(
            gateways,
            heartbeats,
            events,
            commands,
            desired,
            witnesses,
            listener,
            correspondence.https_heard_at,
            over_quota,
        )
        return cls(fleet, correspondence, commands)
