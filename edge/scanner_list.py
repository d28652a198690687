"""Who may send, who waits, and who called: the scanners as the control socket shows them.

Pure translation from what admission decides and what the spool has counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from contract.control import KnownScanner, ScannerEntry, ScannerList
from edge.buffer.records import ScannerSeen
from edge.buffer.scanners import ScannerBook
from edge.gateway.admission import Admission, Listed, may_call_from
from edge.gateway.approved import RefusedScanner
from edge.gateway.settings import ScannerSettings
from edge.gateway.tls import PeerCertificate
from edge.gateway.waiting import Waiting
from edge.heartbeat import equipment

MAX_UNLISTED: Final = 256
"""Callers that nobody listed, the latest first: whoever makes up AE titles must not fill the screen."""


def scanner_list(scanners: ScannerBook, admission: Admission) -> ScannerList:
    """Those that wait, then those that may send, then those refused, then whoever else called."""
    seen = scanners.all()
    known = [_waiting(one, _take(seen, one.ae_title, one.address)) for one in admission.waiting()]
    for one in admission.listed():
        callers: Sequence[ScannerSeen | None] = _take_all(seen, one.scanner) or (None,)
        known += [_listed(one, caller) for caller in callers]
    known += [_refused(one, _take(seen, one.ae_title, one.address)) for one in admission.refused()]
    known += [
        _unlisted(one, admission.called_by(one.calling_ae_title, one.peer_address))
        for one in seen[:MAX_UNLISTED]
    ]
    return ScannerList(
        scanners=known,
        unknown=admission.unknown_scanners,
        warning=admission.damage,
        profiles=admission.profile_names,
    )


def settings_of(entry: ScannerEntry) -> ScannerSettings:
    """An entry as the box's own model checks it. ValidationError if a value is wrong."""
    return ScannerSettings.model_validate(entry.model_dump())


def _take(seen: list[ScannerSeen], ae_title: str, address: str) -> ScannerSeen | None:
    """The caller of that name and address, taken out of the list."""
    for index, one in enumerate(seen):
        if (one.calling_ae_title, one.peer_address) == (ae_title, address):
            return seen.pop(index)
    return None


def _take_all(seen: list[ScannerSeen], scanner: ScannerSettings) -> list[ScannerSeen]:
    """Whoever called by its name from where it may be, the latest first, taken out of the list."""
    taken = [
        one
        for one in seen
        if one.calling_ae_title == scanner.ae_title and may_call_from(one.peer_address, scanner)
    ]
    for one in taken:
        seen.remove(one)
    return taken


def _waiting(one: Waiting, seen: ScannerSeen | None) -> KnownScanner:
    return _known("waiting", one.ae_title, one.address, seen).model_copy(
        update={
            **_certificate(one.certificate),
            "attempts": one.attempts,
            "last_attempt_at_utc": one.last_seen_at_utc,
            "called_ae_title": one.called_ae_title,
        }
    )


def _listed(one: Listed, seen: ScannerSeen | None) -> KnownScanner:
    scanner = one.scanner
    address = seen.peer_address if seen else scanner.host or ", ".join(scanner.addresses)
    known = _known("configured" if one.configured else "approved", scanner.ae_title, address, seen)
    return known.model_copy(
        update={
            **_certificate(one.certificate),
            "entry": ScannerEntry.model_validate(scanner.model_dump()),
            "echo_host": scanner.host or None,
            "echo_port": scanner.port if scanner.host else None,
            "note": one.note,
        }
    )


def _certificate(shown: PeerCertificate | None) -> dict[str, str]:
    return {"certificate": shown.subject, "certificate_sha256": shown.sha256} if shown else {}


def _refused(one: RefusedScanner, seen: ScannerSeen | None) -> KnownScanner:
    note = f"refused here on {one.refused_at_utc:%Y-%m-%d}"
    return _known("refused", one.ae_title, one.address, seen).model_copy(update={"note": note})


def _unlisted(seen: ScannerSeen, called_ae_title: str) -> KnownScanner:
    known = _known("unlisted", seen.calling_ae_title, seen.peer_address, seen)
    return known.model_copy(update={"called_ae_title": called_ae_title})


def _known(
    standing: Literal["configured", "approved", "waiting", "refused", "unlisted"],
    ae_title: str,
    address: str,
    seen: ScannerSeen | None,
) -> KnownScanner:
    return KnownScanner(
        ae_title=ae_title,
        address=address,
        standing=standing,
        seen=equipment(seen) if seen else None,
        last_error=(seen.last_error or "") if seen else "",
    )
