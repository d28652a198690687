"""Keeps central's own certificates from ending while it runs: a start makes them good for two years, and central may
run for longer than what was left of them.

Always true: a certificate lies durably in keys/ before anybody is shown it; whoever is connected stays connected.
What a crash leaves is made good by the next look or start. Who runs a broker elsewhere renews its certificate.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from central.fleet.mosquitto import take_over_certificate
from central.fleet.sessions import reload_broker
from central.identity.errors import KeyFileError
from central.identity.identity import Identity

INTERVAL_S: Final = 21_600.0
_log = logging.getLogger(__name__)


class OwnCertificates:
    """Looked after from the event loop that answers with `tls`.

    Parameters
    ----------
    tls : of the gateways' listener.
    broker_folder : what mqtt-config wrote, where the broker runs on this machine.
    """

    def __init__(self, identity: Identity, tls: ssl.SSLContext, broker_folder: Path | None) -> None:
        self._identity = identity
        self._tls = tls
        self._broker_folder = broker_folder
        self._shown = identity.server.certificate.read_bytes()

    async def keep(self) -> None:
        """Until it is cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self.look()

    def look(self) -> None:
        """Renew what ends within `RENEW_BEFORE`, and show what is newest, whoever made it: a command may have."""
        with _told("central's certificates"):
            self._identity.certify_own()
            newest = self._identity.server.certificate.read_bytes()
            if newest != self._shown:
                self._tls.load_cert_chain(self._identity.server.certificate, self._identity.server.key)
                self._shown = newest
                _log.info("central shows boxes a renewed certificate")
        if self._broker_folder is not None:
            with _told("the broker's certificate"):
                if take_over_certificate(self._broker_folder, self._identity):
                    reload_broker(self._broker_folder)
                    _log.info("the broker shows boxes a renewed certificate")


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except (KeyFileError, OSError) as error:
        _log.error("%s could not be looked after, tried again in %.0f h: %s", what, INTERVAL_S / 3600, error)
