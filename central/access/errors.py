"""What can go wrong with accounts: permanent faults of the request, and the one transient one."""

from __future__ import annotations


class AccessError(Exception):
    """Root of this room's errors."""


class AccountError(AccessError):
    """Permanent: the account cannot be made or changed like this; the text says why, for an administrator."""


class ThrottledError(AccessError):
    """Transient: too many failed sign-ins; says nothing about whether the account exists.

    Attributes
    ----------
    retry_after_s : seconds until the next try is looked at, at least 1.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"too many failed sign-ins; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class OvertakenError(AccessError):
    """Transient: what this rests on was ended while it was under way; nothing of it was done."""

    def __init__(self) -> None:
        super().__init__("ended meanwhile by a new password, a second factor, a sign-out or a block")


class AccessRuleError(AccessError):
    """Permanent: access cannot be given, refused or opened like this; the text says why, for whoever asked."""


class SecondFactorError(AccessError):
    """Permanent: the password was right and what must come with it was not; the text is for the record alone."""


class FactorChangeError(AccessError):
    """Permanent: a second factor cannot be set up or changed like this; the text says why, for its owner."""


class PasskeyRefusedError(AccessError):
    """Permanent: an answer of a passkey proves nobody; the text is for the record.

    Attributes
    ----------
    user_id : whose passkey it seems to be; "" if none is known.
    """

    def __init__(self, why: str, user_id: str = "") -> None:
        super().__init__(why)
        self.user_id = user_id
