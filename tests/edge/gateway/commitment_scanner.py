"""A scanner that asks for storage commitment, and takes reports on its own association and on a port of its own."""

from __future__ import annotations

import queue
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from tests.ports import free_base_port

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"
INSTANCE = "1.2.840.10008.1.20.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"


@dataclass(frozen=True)
class Report:
    """An N-EVENT-REPORT as the scanner got it."""

    on: str  # "same" or "new" association
    calling_ae_title: str
    called_ae_title: str
    event_type: int
    data_set: Dataset

    @property
    def transaction_uid(self) -> str:
        return str(self.data_set.TransactionUID)

    @property
    def committed(self) -> set[str]:
        return {str(item.ReferencedSOPInstanceUID) for item in self.data_set.get("ReferencedSOPSequence", [])}

    @property
    def failed(self) -> dict[str, int]:
        return {
            str(item.ReferencedSOPInstanceUID): int(item.FailureReason)
            for item in self.data_set.get("FailedSOPSequence", [])
        }


def action_information(transaction_uid: str, references: Sequence[tuple[str, str]]) -> Dataset:
    ds = Dataset()
    ds.TransactionUID = transaction_uid
    ds.ReferencedSOPSequence = []
    for sop_class_uid, sop_instance_uid in references:
        item = Dataset()
        item.ReferencedSOPClassUID = sop_class_uid
        item.ReferencedSOPInstanceUID = sop_instance_uid
        ds.ReferencedSOPSequence.append(item)
    return ds


@dataclass
class CommitmentScanner:
    """A context manager: it listens while it is open.

    Attributes
    ----------
    statuses : answers to the next reports; 0x0000 when there are no more.
    """

    ae_title: str = "CT1"
    statuses: list[int] = field(default_factory=list)
    reports: queue.Queue[Report] = field(default_factory=queue.Queue)
    _server: Any = None

    def __enter__(self) -> Self:
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_away()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def listen(self, port: int | None = None, tls: ssl.SSLContext | None = None) -> None:
        ae = AE(ae_title=self.ae_title)
        # Roles as the association's requestor has them: it may be SCP, which here is who reports.
        ae.add_supported_context(STORAGE_COMMITMENT, scu_role=False, scp_role=True)
        handlers = [(evt.EVT_N_EVENT_REPORT, lambda event: self._take(event, "new"))]
        self._server = ae.start_server(
            ("127.0.0.1", port or free_base_port(1)), block=False, evt_handlers=handlers, ssl_context=tls
        )

    def go_away(self) -> None:
        self._server.shutdown()

    @contextmanager
    def associated(self, port: int, *, called: str = "DICOMNET") -> Iterator[Association]:
        ae = AE(ae_title=self.ae_title)
        ae.add_requested_context(STORAGE_COMMITMENT)
        ae.add_requested_context(CT)
        handlers = [(evt.EVT_N_EVENT_REPORT, lambda event: self._take(event, "same"))]
        association = ae.associate("127.0.0.1", port, ae_title=called, evt_handlers=handlers)
        assert association.is_established
        try:
            yield association
        finally:
            association.release()

    def ask(
        self,
        port: int,
        transaction_uid: str,
        *sop_instance_uids: str,
        called: str = "DICOMNET",
        references: Sequence[tuple[str, str]] | None = None,
    ) -> int:
        """Ask and release at once; the status of the answer."""
        with self.associated(port, called=called) as association:
            return self.ask_on(association, transaction_uid, *sop_instance_uids, references=references)

    def ask_on(
        self,
        association: Association,
        transaction_uid: str,
        *sop_instance_uids: str,
        references: Sequence[tuple[str, str]] | None = None,
    ) -> int:
        named = references if references is not None else [(CT, uid) for uid in sop_instance_uids]
        status, _ = association.send_n_action(
            action_information(transaction_uid, named), 1, STORAGE_COMMITMENT, INSTANCE
        )
        return int(status.Status)

    def report(self, timeout_s: float = 60.0) -> Report:
        return self.reports.get(timeout=timeout_s)

    def _take(self, event: Event, on: str) -> tuple[int, None]:
        association = event.assoc
        self.reports.put(
            Report(
                on=on,
                calling_ae_title=association.requestor.ae_title,
                called_ae_title=association.acceptor.ae_title,
                event_type=event.event_type,
                data_set=event.event_information,
            )
        )
        return (self.statuses.pop(0) if self.statuses else 0x0000), None
