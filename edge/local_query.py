"""Query and retrieve on the box, wired together; made only where `query.enabled` is set.

Its key pair lies in `local_key/`, apart from the spool. Removing that directory takes back what the box could open:
what was sealed before can then be found, but no longer be retrieved.
"""

from __future__ import annotations

from collections.abc import Sequence

from edge.buffer.catalogue import Catalogue
from edge.buffer.device_key import DeviceKey
from edge.buffer.holdings import Holdings
from edge.buffer.local_recipient import LocalRecipient
from edge.buffer.service_database import ServiceDatabase
from edge.config import Settings
from edge.gateway.query import Doorkeeper, QueryService
from edge.gateway.query_index import QueryIndex
from edge.gateway.retrieve import RetrieveService
from edge.gateway.service import Service


class LocalQuery:
    """`start`, then `stop`.

    Raises
    ------
    SpoolError, OSError : a key cannot be read or made.
    """

    def __init__(
        self, settings: Settings, holdings: Holdings, database: ServiceDatabase, doorkeeper: Doorkeeper
    ) -> None:
        self.recipient = LocalRecipient.load(settings.box.state_directory / "local_key" / "local.key")
        catalogue = Catalogue(database, DeviceKey.load(settings.identity_directory / "device.key"))
        self._index = QueryIndex(catalogue, holdings, self.recipient)
        self.installed: Sequence[Service] = (
            QueryService(catalogue, doorkeeper),
            RetrieveService(catalogue, holdings, self.recipient, doorkeeper, settings.gateway.tls),
        )

    def start(self) -> None:
        self._index.start()

    def stop(self) -> None:
        self._index.stop()

    def instances_changed(self) -> None:
        self._index.look_again()
