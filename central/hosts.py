"""What the name or address of a host says of where it leads, and of whose it is."""

from __future__ import annotations

import ipaddress
from typing import Final

EVERYWHERE: Final = ("", "0.0.0.0", "::")  # noqa: S104  # compared with, not bound to


def is_loopback(host: str) -> bool:
    """Whether `host` can only be this machine."""
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host.strip("[]")).is_loopback)


def network_of(address: str) -> str:
    """What is counted of a caller from there: of IPv6 the /64, all of whose addresses one machine may take (RFC 4291
    section 2.5.4)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return address
    return str(ip.ipv4_mapped or f"{ipaddress.IPv6Address(int(ip) >> 64 << 64)}/64")


def is_address(host: str) -> bool:
    """Whether `host` is an IP address, and no name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
