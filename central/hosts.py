"""What the name of a host says of where it leads."""

from __future__ import annotations

import ipaddress
from typing import Final

EVERYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104  # compared with, not bound to


def is_loopback(host: str) -> bool:
    """Whether `host` can only be this machine."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host.strip("[]")).is_loopback)


def is_address(host: str) -> bool:
    """Whether `host` is an IP address, and no name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
