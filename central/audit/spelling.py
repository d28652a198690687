"""What came from outside, as XML and FHIR can hold it."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

# XML 1.0 section 2.2; a FHIR string (R4, section 2.24.0.1) leaves out the same of what is below a space.
NO_TEXT: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def said(text: str) -> str:
    """`text`, with U+FFFD in place of what is no text there."""
    return NO_TEXT.sub("\ufffd", text)


def is_address(text: str) -> bool:
    """Whether it is an IP address; commands and central itself are recorded as ``local``."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
