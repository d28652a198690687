"""The services beside storage, wired together: their database, what is installed, and the threads that work for them.

The program makes one of these after the spool and stops it before the spool closes; `installed` goes to the
gateway. A crash leaves `services.sqlite3`, from which each service goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from contract.control import CommitmentStatus
from contract.sealing import RecipientPublicKey
from edge.buffer.catalogue import forget_catalogue
from edge.buffer.commitments import CommitmentState, CommitmentStore
from edge.buffer.holdings import Holdings
from edge.buffer.local_recipient import LocalRecipient
from edge.buffer.service_database import ServiceDatabase
from edge.config import Settings
from edge.gateway.addresses import Address, scanner_address
from edge.gateway.commitment import CommitmentService
from edge.gateway.commitment_reports import CommitmentReports
from edge.gateway.query import Doorkeeper
from edge.gateway.service import Service
from edge.gateway.settings import ScannerSettings
from edge.local_query import LocalQuery


class Services:
    """See the module.

    Parameters
    ----------
    doorkeeper : of query and retrieve.
    find_scanner : the entry of a scanner by its AE title, configured or approved.

    Raises
    ------
    SpoolError, OSError : the database or a key cannot be opened; the text says why.
    """

    def __init__(
        self,
        settings: Settings,
        holdings: Holdings,
        doorkeeper: Doorkeeper,
        *,
        find_scanner: Callable[[str], ScannerSettings | None],
    ) -> None:
        self._find_scanner = find_scanner
        self._tls = settings.gateway.tls
        self.database = ServiceDatabase(settings.box.state_directory / "services.sqlite3")
        self._commitments = CommitmentStore(self.database)
        self._reports = CommitmentReports(
            self._commitments, holdings, settings.commitment, find_address=self._find_address
        )
        self._query: LocalQuery | None = None
        if settings.query.enabled:
            self._query = LocalQuery(settings, holdings, self.database, doorkeeper)
        else:
            forget_catalogue(self.database)
        self.installed: Sequence[Service] = (
            CommitmentService(self._commitments, self._reports),
            *(self._query.installed if self._query else ()),
        )

    @property
    def recipients(self) -> tuple[RecipientPublicKey, ...]:
        """For whom instances are sealed beside central."""
        return (self._query.recipient.public_key,) if self._query else ()

    @property
    def local_recipient(self) -> LocalRecipient | None:
        """The box's own key, where it has one."""
        return self._query.recipient if self._query else None

    def start(self) -> None:
        self._reports.start()
        if self._query:
            self._query.start()

    def stop(self) -> None:
        """After the gateway has stopped, so that nobody asks any more."""
        if self._query:
            self._query.stop()
        self._reports.stop()
        self.database.close()

    def instances_changed(self) -> None:
        """One became durable here, or central signed for one. Does not block."""
        self._reports.look_again()
        if self._query:
            self._query.instances_changed()

    def commitment_status(self) -> CommitmentStatus:
        """How the requests for storage commitment stand."""
        counts = self._commitments.counts()
        return CommitmentStatus(
            waiting=counts[CommitmentState.WAITING],
            unreported=counts[CommitmentState.DECIDED],
            reported=counts[CommitmentState.DELIVERED],
            given_up=counts[CommitmentState.ABANDONED],
            unreported_because=self._commitments.last_error(),
        )

    def _find_address(self, ae_title: str) -> Address | None:
        scanner = self._find_scanner(ae_title)
        return scanner_address(scanner, self._tls) if scanner is not None and scanner.host else None
