"""What can go wrong with keys, certificates and pairings. All of it is permanent: the same try fails again."""

from __future__ import annotations


class IdentityError(Exception):
    """Root of this room's errors."""


class KeyFileError(IdentityError):
    """A key file is unreadable, damaged, or does not belong to the others. The text names file and remedy."""


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
    """

    def __init__(self, reason: str, claimed: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.claimed = claimed
