"""What can go wrong with keys, certificates and pairings. All of it is permanent: the same try fails again."""

from __future__ import annotations


class IdentityError(Exception):
    """Root of this room's errors."""


class KeyFileError(IdentityError):
    """A key file is unreadable, damaged, or does not belong to the others. The text names file and remedy."""


class KeySetChangeError(IdentityError):
    """Keys cannot be changed like that; nothing was. The text says why and what to do."""


class PairingRefusedError(IdentityError):
    """The token is wrong, used or expired, or the request is not one. From outside all of these look alike.

    Attributes
    ----------
    reason : which of them it was; for the audit record only.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class CertificateRefusedError(IdentityError):
    """No certificate, or one that is not, or no longer, a known gateway's.

    Attributes
    ----------
    claimed : the common name it bears, "" without one; not to be believed.
    reason : for the audit record only.
    advice : one line for the technician at the box. Whoever reads it proved that the certificate's key is theirs.
    """

    def __init__(self, reason: str, claimed: str = "", advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.claimed = claimed
        self.advice = advice or "this route is for enrolled gateways with a valid certificate"


class RenewalRefusedError(IdentityError):
    """The request to renew does not fit the certificate it came with, or there were too many of late."""
