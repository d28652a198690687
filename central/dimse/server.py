"""Central's DICOM application entity: C-ECHO, and C-FIND in the Study Root and Patient Root models.

What is always true
-------------------
- C-ECHO is answered to whoever calls the right AE title: it carries no data.
- C-FIND is answered to configured peers only (AE title and address), through the same policy as every search
  (Role.PEER), and recorded before the first answer. Others get 0x0124, not authorized, recorded too.
- Associations, their idle time and their number are limited.

What a crash leaves: nothing; the calling side sees the association end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import UID
from pynetdicom import AE, evt
from pynetdicom.transport import ThreadedAssociationServer

from central.access.policy import Action, Principal, Role, Scope, scope_of
from central.archive.archive import Archive
from central.archive.errors import QueryError
from central.archive.query import InstanceQuery, SeriesQuery
from central.audit.errors import AuditUnavailableError
from central.audit.record import Audit, AuditEvent, Outcome
from central.dimse.identifiers import (
    PATIENT_ROOT_FIND,
    STUDY_ROOT_FIND,
    Find,
    IdentifierError,
    Row,
    understood,
)
from central.dimse.settings import DimseSettings

PAGE_ROWS: Final = 500
ACSE_TIMEOUT_S: Final = 10
DIMSE_TIMEOUT_S: Final = 30
NETWORK_TIMEOUT_S: Final = 60
_log = logging.getLogger(__name__)

_VERIFICATION: Final = UID("1.2.840.10008.1.1")
_PENDING: Final = 0xFF00
_CANCELLED: Final = 0xFE00
_NOT_AUTHORIZED: Final = 0x0124
_IDENTIFIER_DOES_NOT_MATCH: Final = 0xA900
_UNABLE_TO_PROCESS: Final = 0xC000

FindAnswer = tuple[int | Dataset, Dataset | None]


class DimseServer:
    """The application entity as `settings` say. `start` it once; `stop` ends its associations."""

    def __init__(self, settings: DimseSettings, archive: Archive, audit: Audit) -> None:
        self._settings = settings
        self._archive = archive
        self._audit = audit
        self._peers = frozenset((peer.ae_title, str(peer.address)) for peer in settings.peers)
        self._server: ThreadedAssociationServer | None = None

    @property
    def port(self) -> int:
        """The TCP port that is listened on."""
        assert self._server is not None, "not started"
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Listen.

        Raises
        ------
        OSError : the address or port cannot be used.
        """
        ae = AE(self._settings.ae_title)
        for sop_class in (_VERIFICATION, STUDY_ROOT_FIND, PATIENT_ROOT_FIND):
            ae.add_supported_context(sop_class)
        ae.require_called_aet = True
        ae.maximum_associations = self._settings.max_associations
        ae.acse_timeout = ACSE_TIMEOUT_S
        ae.dimse_timeout = DIMSE_TIMEOUT_S
        ae.network_timeout = NETWORK_TIMEOUT_S
        self._server = ae.start_server(
            (self._settings.host, self._settings.port),
            block=False,
            evt_handlers=[(evt.EVT_C_FIND, self._find)],
        )

    def stop(self) -> None:
        """Stop listening and end the associations."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _find(self, event: evt.Event) -> Iterator[FindAnswer]:
        requestor = event.assoc.requestor
        ae_title, address = requestor.ae_title.strip(), str(requestor.address)
        known = (ae_title, address) in self._peers
        peer = Principal(user_id=f"peer:{ae_title}", username=ae_title, role=Role.PEER)
        try:
            detail = f"C-FIND {_shown(event)}"
            self._audit.record(_event(peer, "success" if known else "refused", address, detail))
            if not known:
                yield _status(_NOT_AUTHORIZED, "this AE is not configured as a peer"), None
                return
            find = understood(event.identifier, event.context.abstract_syntax)
            yield from self._answers(event, find, scope_of(peer, Action.SEARCH))
        except (IdentifierError, QueryError) as error:
            yield _status(_IDENTIFIER_DOES_NOT_MATCH, str(error)), None
        except AuditUnavailableError:
            yield _status(_UNABLE_TO_PROCESS, "the audit record cannot be written"), None
        except Exception as error:  # the border: pynetdicom would answer with a bare 0xC311
            _log.error("event=c-find-failed peer=%s error=%s", address, type(error).__name__)
            yield _status(_UNABLE_TO_PROCESS, "the query could not be answered"), None

    def _answers(self, event: evt.Event, find: Find, scope: Scope) -> Iterator[FindAnswer]:
        patients = set()
        for row in self._rows(find, scope):
            if event.is_cancelled:
                yield _CANCELLED, None
                return
            if find.level == "PATIENT":
                patient = (getattr(row, "issuer_of_patient_id", ""), getattr(row, "patient_id", ""))
                if patient in patients:
                    continue
                patients.add(patient)
            yield _PENDING, find.answer(row, self._settings.ae_title)

    def _rows(self, find: Find, scope: Scope) -> Iterator[Row]:
        """Matching rows, a page at a time: an answer may be longer than memory should hold."""
        offset = 0
        while True:
            page = self._page(find, scope, offset)
            yield from page
            if len(page) < PAGE_ROWS:
                return
            offset += PAGE_ROWS

    def _page(self, find: Find, scope: Scope, offset: int) -> list[Row]:
        query = find.query(PAGE_ROWS, offset)
        if isinstance(query, InstanceQuery):
            return list(self._archive.find_instances(scope, query))
        if isinstance(query, SeriesQuery):
            return list(self._archive.find_series(scope, query))
        return list(self._archive.find_studies(scope, query))


def _shown(event: Any) -> str:
    """The request's keys for the audit record; "" when the identifier cannot be read."""
    try:
        return "; ".join(
            f"{element.keyword}={element.value}" for element in event.identifier if element.value
        )
    except Exception:  # a parser fed by strangers; the request is refused right after this
        return ""


def _event(peer: Principal, outcome: Outcome, address: str, detail: str) -> AuditEvent:
    return AuditEvent(peer.username, peer.role.value, Action.SEARCH, outcome, address, detail=detail)


def _status(code: int, comment: str) -> Dataset:
    status = Dataset()
    status.Status = code
    status.ErrorComment = comment[:64]
    return status
