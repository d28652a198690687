"""What can go wrong between central and a peer. Each text is for the log of whoever runs central."""

from __future__ import annotations


class DimseError(Exception):
    """Root of this room's errors. No text of a data set in it."""


class CannotListenError(DimseError):
    """Permanent: a port, a certificate or a key cannot be used."""


class RefusedError(DimseError):
    """Permanent: this connection or association is not for this peer; `result` is the A-ASSOCIATE-RJ, if one helps.

    Attributes
    ----------
    result : result, source and reason of PS3.8 Table 9-21; None: the connection is closed without a word.
    """

    def __init__(self, reason: str, result: tuple[int, int, int] | None = None, ae_title: str = "") -> None:
        super().__init__(reason)
        self.result = result
        self.ae_title = ae_title


class PeerTooSlowError(DimseError):
    """Transient: the peer stopped, or trickles."""


class OverLimitError(DimseError):
    """Permanent: the peer sent more than this kind of message may have."""


class PeerGoneError(DimseError):
    """Transient: the association ended before the work on it did."""


class CallFailedError(DimseError):
    """Transient: no association with a destination came about."""


class NotConvertibleError(DimseError):
    """Permanent: this instance cannot be had in a transfer syntax that the receiver takes."""


class IdentifierError(DimseError):
    """Permanent: the identifier does not fit the information model; DIMSE status 0xA900."""


class TooManyMatchesError(DimseError):
    """Permanent: more would be answered or sent than one request may ask for."""
