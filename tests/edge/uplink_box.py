"""The uplink half of a box, real but for the gateway in front: spool, forwarder, membership."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from contract.sealing import DataKeyRing, RecipientPublicKey
from edge.buffer.receipts import LostStudy
from edge.buffer.records import InstanceIdentity, Origin
from edge.buffer.spool import Spool
from edge.uplink.clock import BoxClock
from edge.uplink.forwarder import Forwarder
from edge.uplink.identity import Identity
from edge.uplink.key_maker import KeyMaker
from edge.uplink.link import Link
from edge.uplink.membership import Membership


@dataclass
class Box:
    """One state directory; `start` and `stop` are the box's lives. `system`: its clock, in seconds."""

    directory: Path
    system: Callable[[], float] | None = None
    keys: KeyMaker | None = None
    sealed_for: list[RecipientPublicKey] = field(default_factory=list)
    identities: list[Identity] = field(default_factory=list)
    told: list[tuple[int, Sequence[LostStudy]]] = field(default_factory=list)
    count: int = 0

    def start(self) -> Box:
        self.link = Link()
        self.spool = Spool.open(
            self.directory / "spool", reserve_bytes=0, quarantine_max_bytes=1 << 20, keys=None
        )
        self.forwarder = Forwarder(
            self.spool.queue, self.link, connections=1, lease_s=60, backoff_ceiling_s=0.1, timeout_s=30
        )
        self.forwarder.start()
        folder = self.directory / "identity"
        clock = BoxClock(folder / "clock.json", system=self.system) if self.system else None
        self.membership = Membership(
            folder,
            self.spool,
            self.link,
            take_up=self._take_up,
            seal_for=self._seal_for,
            try_now=self.forwarder.try_now,
            tell_set_back=lambda sent_again, lost: self.told.append((sent_again, lost)),
            clock=clock,
            keys=self.keys,
        )
        self.membership.start()
        return self

    def _take_up(self, identity: Identity) -> None:
        self.identities.append(identity)
        self.forwarder.use(identity)

    def _seal_for(self, recipient: RecipientPublicKey) -> None:
        self.sealed_for.append(recipient)
        self.spool.entrance.set_keys(DataKeyRing((recipient,)))

    def stop(self) -> None:
        self.membership.stop()
        self.forwarder.stop(5)
        self.spool.close()
        self.forwarder.join(60)

    def store(self, content: bytes = b"x" * 500) -> str:
        """One instance, acknowledged to its scanner; the object id."""
        self.count += 1
        with self.spool.entrance.receive(
            Origin("CT1", "DICOMNET", "127.0.0.1", "1.2.840.10008.1.2.1")
        ) as reception:
            reception.write(content)
            uid = f"1.2.3.{self.count}"
            return str(
                reception.commit(
                    InstanceIdentity("1.2.840.10008.5.1.4.1.1.2", uid, "1.2", "1.2.3", "CT")
                ).object_id
            )
