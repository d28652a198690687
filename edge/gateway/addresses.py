"""Where this box calls an AE, and whether it does so over TLS (PS3.8 section 7.1.1.11: the presentation address)."""

from __future__ import annotations

from typing import NamedTuple

from edge.gateway.calling_tls import CallingTls
from edge.gateway.errors import CannotCallError
from edge.gateway.settings import ScannerSettings, TlsSettings


class Address(NamedTuple):
    """`tls` is None to speak in the clear."""

    host: str
    port: int
    tls: CallingTls | None = None


def scanner_address(scanner: ScannerSettings, ours: TlsSettings) -> Address:
    """Raises as `address_of`."""
    return address_of(
        scanner.host,
        scanner.port,
        ours,
        over_tls=scanner.is_called_over_tls,
        certificate_sha256=scanner.certificate_sha256,
    )


def address_of(
    host: str, port: int, ours: TlsSettings, *, over_tls: bool, certificate_sha256: str = ""
) -> Address:
    """Over TLS: of one that shows a certificate of the CA that scanners' come from, and is shown the box's own.

    Files are read here: a renewed certificate holds from the next address on.

    Raises
    ------
    CannotCallError : this box is not set up for TLS, or a file cannot be used.
    """
    if not over_tls:
        return Address(host, port)
    if ours.client_ca is None:
        raise CannotCallError(
            f"{host} is to be called over TLS, and this box has no certificate: set certificate, key and client_ca "
            "of gateway.tls"
        )
    tls = CallingTls(
        ca=ours.client_ca,
        name=host,
        certificate=ours.certificate,
        key=ours.key,
        certificate_sha256=certificate_sha256,
    )
    return Address(host, port, tls)
