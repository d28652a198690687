"""C-ECHO to a scanner or any other AE: is it there, and does it speak DICOM with us? (PS3.4 Annex A)"""

from __future__ import annotations

import time
from dataclasses import dataclass

from pynetdicom import AE

from edge.gateway.asking import associate
from edge.gateway.sop_classes import VERIFICATION


@dataclass(frozen=True)
class EchoResult:
    """Outcome of a C-ECHO.

    Attributes
    ----------
    round_trip_ms : from the request to its response, association set-up not counted; None unless it answered.
    detail : a sentence for a person that says what to do when it is not well.
    """

    ok: bool
    round_trip_ms: float | None
    detail: str


def echo(
    host: str, port: int, called_ae_title: str, calling_ae_title: str, timeout_s: float = 10.0
) -> EchoResult:
    """Ask `called_ae_title` at `host`:`port` for a C-ECHO. Never raises for what the other side does.

    Parameters
    ----------
    timeout_s : for connecting, for the association and for the answer, each.
    """
    ae = AE(ae_title=calling_ae_title)
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = timeout_s
    ae.add_requested_context(VERIFICATION)
    association, refused = associate(ae, host, port, called_ae_title)
    if refused:
        return EchoResult(
            False,
            None,
            f"{called_ae_title} refused the association: check both AE titles in its configuration",
        )
    if not association.is_established:
        if not association.accepted_contexts and association.rejected_contexts:
            return EchoResult(False, None, f"{called_ae_title} does not offer the Verification service")
        return EchoResult(
            False, None, f"nothing answered DICOM at {host} port {port}: check address, port and cable"
        )
    try:
        began_s = time.perf_counter()
        status = association.send_c_echo()
        round_trip_ms = (time.perf_counter() - began_s) * 1000
    finally:
        association.release()
    if "Status" not in status:
        return EchoResult(False, None, f"{called_ae_title} accepted the association but did not answer")
    if status.Status != 0x0000:
        return EchoResult(
            False, round_trip_ms, f"{called_ae_title} answered with status 0x{status.Status:04X}"
        )
    return EchoResult(True, round_trip_ms, f"{called_ae_title} answered")
