"""What can go wrong on a connection, by what is done about it."""

from __future__ import annotations

from enum import IntEnum


class GatewayError(Exception):
    """Root of every error this room raises."""


class PermanentGatewayError(GatewayError):
    """Trying the same again cannot help."""


class TransientGatewayError(GatewayError):
    """Nothing is wrong with the request: the same may succeed later."""


class CannotListenError(PermanentGatewayError):
    """The port is taken, or the address is not this machine's. The text is for a person."""


class CannotCallError(PermanentGatewayError):
    """What is needed to call another node is not there. The text is for a person."""


class AbortReason(IntEnum):
    """Reason of an A-ABORT by the service provider (PS3.8 Table 9-26)."""

    NOT_SPECIFIED = 0
    UNRECOGNIZED_PDU = 1
    UNEXPECTED_PDU = 2
    INVALID_PARAMETER_VALUE = 6


class ProtocolError(PermanentGatewayError):
    """The peer broke PS3.7 or PS3.8; the association is aborted.

    Attributes
    ----------
    abort_reason : what the A-ABORT says.
    """

    def __init__(self, text: str, abort_reason: AbortReason = AbortReason.INVALID_PARAMETER_VALUE) -> None:
        super().__init__(text)
        self.abort_reason = abort_reason


class RejectedError(PermanentGatewayError):
    """The association is refused with an A-ASSOCIATE-RJ (PS3.8 Table 9-21).

    Attributes
    ----------
    result, source, reason : the three numbers of the PDU.
    calling_ae_title : empty where it was not usable.
    """

    def __init__(self, text: str, numbers: tuple[int, int, int], *, calling_ae_title: str = "") -> None:
        super().__init__(text)
        self.result, self.source, self.reason = numbers
        self.calling_ae_title = calling_ae_title


class TooManyConnectionsError(TransientGatewayError):
    """The guard has no place for a connection; the text says which limit it is."""


class TooManyAssociationsError(TransientGatewayError):
    """The guard has no place for an association; the text says why."""


class PeerTooSlowError(TransientGatewayError):
    """The peer sends too slowly, or nothing, while something is owed."""


class PeerGoneError(TransientGatewayError):
    """The connection ended where a message was not complete."""


class AdmissionError(PermanentGatewayError):
    """The list of scanners cannot be changed like that; the text is for a technician."""


class AdmissionNotSavedError(TransientGatewayError):
    """The list of scanners could not be written; what held before still holds."""


class NoAnswerError(TransientGatewayError):
    """The peer did not answer a request of ours in time; the association goes on without it."""
