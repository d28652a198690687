"""Which services and which transfer syntaxes this box says yes to (docs/conformance.md states the same).

Every storage SOP class is taken, unknown and private ones too: a scanner's new object type must not be lost
because a list here is old. What is refused is what is known to be another service.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.uid import UID
from pynetdicom.service_class import (
    ServiceClass,
    StorageServiceClass,
    VerificationServiceClass,
)
from pynetdicom.sop_class import Verification, uid_to_service_class  # type: ignore[attr-defined]  # made at import

VERIFICATION = str(Verification)
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"

SERVICE_TRANSFER_SYNTAXES = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
"""For everything but storage: a query or a report has no pixels, and every peer must offer the second one."""

C_GET = frozenset(("1.2.840.10008.5.1.4.1.2.1.3", "1.2.840.10008.5.1.4.1.2.2.3"))
"""Patient Root and Study Root GET: whoever uses them takes instances on its own association."""

QUERY_RETRIEVE = frozenset(
    f"1.2.840.10008.5.1.4.1.2.{model}.{what}" for model in (1, 2) for what in (1, 2, 3)
)
"""Patient Root and Study Root FIND, MOVE and GET: what somebody may use who only asks."""

_STORAGE_ROOT = "1.2.840.10008.5.1.4.1.1."
_MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"  # a DICOMDIR is a file on a disc, not an object to send
# Encapsulated in name, but the pixels stay on the scanner and only a link to them is sent.
_JPIP = frozenset(f"1.2.840.10008.1.2.4.{last}" for last in (94, 95, 204, 205))


def is_accepted(abstract_syntax_uid: str) -> bool:
    """True for Verification and for whatever is, or may be, a storage SOP class of an instance in a study.

    Objects outside any study (hanging protocols, palettes, implant templates: PS3.4 Annex GG) are refused:
    the archive behind this box keeps studies.
    """
    service = uid_to_service_class(abstract_syntax_uid)
    if service in (StorageServiceClass, VerificationServiceClass):
        return True
    if service is not ServiceClass:
        return False
    name = UID(abstract_syntax_uid).name
    if name == abstract_syntax_uid or abstract_syntax_uid.startswith(_STORAGE_ROOT):
        return True  # unknown or private, or retired
    return "Storage" in name and abstract_syntax_uid != _MEDIA_DIRECTORY


def prefer(proposed: Sequence[str]) -> list[str]:
    """The proposed transfer syntaxes in the order this box wants them.

    The acceptor's choice decides what is sent: taking Explicit VR Little Endian where JPEG was offered turns
    200 KB into 10 MB. So: the first compressed one (the scanner's own order says what it holds), then
    Explicit VR Little Endian, then as proposed.
    """
    return sorted(proposed, key=lambda uid: (not _is_encapsulated(uid), uid != EXPLICIT_VR_LITTLE_ENDIAN))


def _is_encapsulated(transfer_syntax_uid: str) -> bool:
    uid = UID(transfer_syntax_uid)
    return uid.is_transfer_syntax and not uid.is_private and uid.is_encapsulated and uid not in _JPIP
