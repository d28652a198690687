"""The worklist of an upstream SCP (PS3.4 Annex K): this box as SCU, through pynetdicom.

Always true: items are handed on in the very bytes in which they came, so that every character set survives; an
answer beyond the cache's bounds ends the association instead of filling memory.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import Final

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association

from edge.buffer.worklist_cache import MAX_ITEMS, MAX_TOTAL_BYTES, WorklistItem, WorklistTooLargeError
from edge.buffer.worklist_refresh import Fetched, WorklistSourceError
from edge.gateway.addresses import Address
from edge.gateway.asking import associate
from edge.gateway.tls import TlsRefusedError
from edge.gateway.worklist import MODALITY_WORKLIST_FIND

_PENDING: Final = frozenset({0xFF00, 0xFF01})
_MAX_RECEIVED_BYTES: Final = 2 * MAX_TOTAL_BYTES  # command sets and PDU headers come on top of the items
_DAYS_BEFORE: Final = 1  # yesterday's late examination is still to be done

# PS3.4 Table K.6-1, as far as modalities ask for it. What is not asked for is not sent.
_STEP_KEYS: Final = [
    "ScheduledStationAETitle",
    "ScheduledProcedureStepStartTime",
    "Modality",
    "ScheduledPerformingPhysicianName",
    "ScheduledProcedureStepDescription",
    "ScheduledStationName",
    "ScheduledProcedureStepLocation",
    "ScheduledProtocolCodeSequence",
    "PreMedication",
    "ScheduledProcedureStepID",
    "RequestedContrastAgent",
    "ScheduledProcedureStepStatus",
    "CommentsOnTheScheduledProcedureStep",
    "ScheduledProcedureStepEndDate",
    "ScheduledProcedureStepEndTime",
]
_KEYS: Final = [
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "ReferencedStudySequence",
    "RequestedProcedurePriority",
    "PatientTransportArrangements",
    "ReasonForTheRequestedProcedure",
    "RequestedProcedureComments",
    "NamesOfIntendedRecipientsOfResults",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "RequestingPhysician",
    "ReferringPhysicianName",
    "RequestingService",
    "OrderPlacerIdentifierSequence",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
    "AdmissionID",
    "InstitutionName",
    "CurrentPatientLocation",
    "ReferencedPatientSequence",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "OtherPatientIDs",
    "OtherPatientIDsSequence",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "ConfidentialityConstraintOnPatientDataDescription",
    "PatientState",
    "PregnancyStatus",
    "MedicalAlerts",
    "Allergies",
    "SpecialNeeds",
    "EthnicGroup",
    "PatientComments",
    "AdditionalPatientHistory",
    "SmokingStatus",
    "LastMenstrualDate",
    "ResponsiblePerson",
    "PatientSpeciesDescription",
]


class UpstreamWorklist:
    """Asks for everything that is scheduled from yesterday to `horizon_days` ahead.

    Parameters
    ----------
    calling_ae_title : what this box calls itself to the SCP.
    timeout_s : for connecting, for the association and for each response.
    """

    def __init__(
        self,
        address: Address,
        *,
        ae_title: str,
        calling_ae_title: str,
        horizon_days: int,
        timeout_s: float = 30.0,
    ) -> None:
        self._address, self._ae_title = address, ae_title
        self._horizon_days = horizon_days
        self._ae = AE(ae_title=calling_ae_title)
        self._ae.connection_timeout = self._ae.acse_timeout = timeout_s
        self._ae.dimse_timeout = self._ae.network_timeout = timeout_s
        self._ae.add_requested_context(
            MODALITY_WORKLIST_FIND, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
        )

    @property
    def _where(self) -> str:
        return f"the worklist server {self._ae_title} at {self._address.host} port {self._address.port}"

    def fetch(self, _known_version: str) -> Fetched:
        """The worklist as it is now; DICOM has no question for what is new.

        Raises
        ------
        WorklistSourceError : it cannot be reached, or fails; says what to check.
        WorklistTooLargeError : it has more than the cache takes.
        """
        taken = _Taken()
        handlers: list[evt.EventHandlerType] = [
            (evt.EVT_DATA_RECV, taken.count),
            (evt.EVT_DIMSE_RECV, taken.keep),
        ]
        try:
            association, refused = associate(
                self._ae,
                self._address,
                self._ae_title,
                handlers=handlers,
                max_received_bytes=2 * _MAX_RECEIVED_BYTES,  # `taken` cuts before it, and knows why
            )
        except TlsRefusedError as error:
            raise WorklistSourceError(f"{self._where}: {error}") from error
        if not association.is_established:
            raise WorklistSourceError(self._why_not(association, refused))
        transfer_syntax_uid = str(association.accepted_contexts[0].transfer_syntax[0])
        status = None
        try:
            # What it yields is decoded, and text decoded is text changed: `taken` has the bytes.
            for answer, _ in association.send_c_find(self._query(), MODALITY_WORKLIST_FIND):
                status = answer.get("Status")
                if taken.too_many:
                    break
        finally:
            if taken.too_many or status is None:
                association.abort()
            else:
                association.release()
        if taken.too_many:
            raise WorklistTooLargeError
        if status is None:
            raise WorklistSourceError(
                f"the worklist server {self._ae_title} stopped answering: check its log and the network"
            )
        if status != 0x0000:
            raise WorklistSourceError(
                f"the worklist server {self._ae_title} answered with status 0x{status:04X}: see its log"
            )
        return Fetched([WorklistItem(raw, transfer_syntax_uid) for raw in taken.identifiers])

    def _query(self) -> Dataset:
        today = datetime.now().astimezone().date()
        step, query = Dataset(), Dataset()
        for keyword in _STEP_KEYS:
            setattr(step, keyword, [] if keyword.endswith("Sequence") else None)
        first, last = today - timedelta(days=_DAYS_BEFORE), today + timedelta(days=self._horizon_days)
        step.ScheduledProcedureStepStartDate = f"{_da(first)}-{_da(last)}"
        for keyword in _KEYS:
            setattr(query, keyword, [] if keyword.endswith("Sequence") else None)
        query.ScheduledProcedureStepSequence = [step]
        return query

    def _why_not(self, association: Association, refused: bool) -> str:
        if refused:
            return f"{self._where} refused the association: check both AE titles in its configuration"
        if association.rejected_contexts:
            return f"{self._where} does not offer Modality Worklist"
        if self._address.tls is not None:  # with TLS 1.3 its refusal comes with the first answer
            return (
                f"{self._where} cannot be reached, or does not take the certificate of this box: check both"
            )
        return f"{self._where} cannot be reached: check address, port and network"


class _Taken:
    """What arrives on one association, before anybody decodes it. Called on pynetdicom's threads."""

    def __init__(self) -> None:
        self.identifiers: list[bytes] = []
        self.too_many = False
        self._received_bytes = 0

    def count(self, event: evt.Event) -> None:
        """Cut the line when more comes than could be kept: pynetdicom itself would collect it without end."""
        self._received_bytes += len(event.data)
        if self._received_bytes > _MAX_RECEIVED_BYTES:
            self._cut(event.assoc)

    def keep(self, event: evt.Event) -> None:
        message = event.message
        if message.command_set.get("Status") not in _PENDING or message.data_set is None:
            return
        if len(self.identifiers) >= MAX_ITEMS:
            self._cut(event.assoc)
            return
        self.identifiers.append(message.data_set.getvalue())

    def _cut(self, association: Association) -> None:
        self.too_many = True
        if association.dul.socket is not None:
            association.dul.socket.close()


def _da(day: date) -> str:
    return day.strftime("%Y%m%d")
