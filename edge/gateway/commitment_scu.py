"""N-EVENT-REPORT on an association of our own to the scanner (PS3.4 Annex J.3.3), by pynetdicom."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

from pydicom.filereader import read_dataset
from pynetdicom import AE, build_role

from edge.buffer.commitments import Asker
from edge.gateway.asking import associate
from edge.gateway.commitment_messages import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from edge.gateway.errors import TransientGatewayError
from edge.gateway.sop_classes import EXPLICIT_VR_LITTLE_ENDIAN, SERVICE_TRANSFER_SYNTAXES

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 15.0


class NotToldError(TransientGatewayError):
    """The scanner did not take the report. The text says why, for a technician."""


def report_anew(
    address: tuple[str, int],
    asker: Asker,
    event_type: int,
    encode: Callable[[str], bytes],
) -> None:
    """Tell the scanner at `address`. We call under the AE title it had called, and are SCP by role selection.

    Parameters
    ----------
    encode : the Event Information in a transfer syntax.

    Raises
    ------
    NotToldError
    """
    ae = AE(ae_title=asker.called_ae_title)
    ae.connection_timeout = ae.acse_timeout = _CONNECT_TIMEOUT_S
    ae.dimse_timeout = ae.network_timeout = _ANSWER_TIMEOUT_S
    ae.add_requested_context(STORAGE_COMMITMENT, list(SERVICE_TRANSFER_SYNTAXES))
    role = build_role(STORAGE_COMMITMENT, scu_role=False, scp_role=True)
    host, port = address
    where = f"{asker.calling_ae_title} at {host} port {port}"
    association, refused = associate(ae, host, port, asker.calling_ae_title, roles=[role])
    if refused:
        raise NotToldError(
            f"{where} refused the association: does it know this box as {asker.called_ae_title}?"
        )
    if not association.is_established:
        if association.rejected_contexts and not association.accepted_contexts:
            raise NotToldError(f"{where} does not take storage commitment reports")
        raise NotToldError(f"{where} did not answer: check address, port and cable")
    try:
        data_set = read_dataset(
            BytesIO(encode(EXPLICIT_VR_LITTLE_ENDIAN)), is_implicit_VR=False, is_little_endian=True
        )
        status, _ = association.send_n_event_report(
            data_set, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
    finally:
        if association.is_established:
            association.release()
    if "Status" not in status:
        raise NotToldError(f"{where} did not answer the report")
    if status.Status != 0x0000:
        raise NotToldError(f"{where} answered with status 0x{status.Status:04X}")
