"""What can go wrong on the way to central, split by whether trying again can help.

The split decides what becomes of an object: after a transient error it goes back into the queue, after a
permanent one it is set aside with the reason. Neither ever deletes it.
"""

from __future__ import annotations

from contract.errors import PermanentError, TransientError
from contract.transfer import Problem


class UplinkTransientError(TransientError):
    """The line, central or the box's standing with it is at fault, not the object."""


class UplinkPermanentError(PermanentError):
    """The same attempt will fail again until somebody changes something."""


class CentralUnreachableError(UplinkTransientError):
    """No connection came about: nothing about the object was learnt."""


class CentralNotTrustedError(CentralUnreachableError):
    """Something answered that cannot prove to be the central this box was paired with."""


class CertificateRefusedError(UplinkTransientError):
    """Central does not take this box's certificate: expired, revoked or foreign. The object is innocent."""


class CentralFailedError(UplinkTransientError):
    """Central was reached and did not do what it should, or the line broke in the middle.

    Attributes
    ----------
    status : HTTP status, or None when the line broke before one came.
    """

    def __init__(self, sentence: str, status: int | None = None) -> None:
        super().__init__(sentence)
        self.status = status


class SendingStoppedError(UplinkTransientError):
    """The box is stopping, or the lease is nearly over: what central has stays there, and is built upon."""


class ObjectRefusedError(UplinkPermanentError):
    """Central refuses this object itself.

    Attributes
    ----------
    problem : the type of central's answer.
    """

    def __init__(self, problem: Problem, sentence: str) -> None:
        super().__init__(sentence)
        self.problem = problem


class PackRefusedError(UplinkPermanentError):
    """Central does not take these objects in a pack; each of them may still be welcome by itself.

    Attributes
    ----------
    takes_none : it knows no packs at all, or something on the way does not let them through.
    """

    def __init__(self, sentence: str, *, takes_none: bool) -> None:
        super().__init__(sentence)
        self.takes_none = takes_none


class ObjectDamagedError(UplinkPermanentError):
    """The sealed file on this box is not as long as it was when it was sealed."""


class IdentityError(UplinkPermanentError):
    """The identity kept on this box is unusable, or what central handed out does not fit together."""


class EnrolmentPendingError(UplinkTransientError):
    """Central has the request, and an administrator has to accept the key.

    Attributes
    ----------
    fingerprint : of the key, as the administrator sees it.
    retry_in_s : when central wants to be asked again.
    """

    def __init__(self, fingerprint: str, retry_in_s: float) -> None:
        super().__init__(f"an administrator has to accept this box; its key's fingerprint: {fingerprint}")
        self.fingerprint = fingerprint
        self.retry_in_s = retry_in_s


class EnrolmentRefusedError(UplinkPermanentError):
    """Central, or this box itself, refuses the enrolment; the text says what to do."""


class KeyUnavailableError(UplinkTransientError):
    """This box's key is in a TPM that does not sign, or make a key, just now. It is never replaced by a file's."""


class KeyLostError(UplinkPermanentError):
    """The TPM does not know this box's key: it was cleared, or the disk stood in another machine."""
