"""Who may open an association: the configured scanners, those a technician approved, and what the others get.

Always true: a decision takes effect with the next association, without a restart, and only after it is on the disk;
where the configuration file and a technician disagree about an AE title, the file wins and the list says so; who is
approved may go on calling the box what it called it. Callers that wait for approval are held in memory only, a bounded
number of them: they call again after a restart.
"""

from __future__ import annotations

import ipaddress
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from edge.gateway.approved import MAX_REFUSED, MAX_SCANNERS, Approved, ApprovedFile, RefusedScanner
from edge.gateway.errors import AdmissionError, RejectedError
from edge.gateway.negotiation import (
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
    LOCAL_LIMIT_EXCEEDED,
    Admitted,
    Asking,
)
from edge.gateway.quirks import Quirks, choose, packaged_profiles
from edge.gateway.settings import GatewaySettings, ScannerSettings
from edge.gateway.tls import PeerCertificate
from edge.gateway.waiting import Waiting, WaitingList

_LOG = logging.getLogger(__name__)

MAX_CALLED: Final = 512
"""Callers that no entry lets in, whose called AE title is remembered; the longest silent goes first."""

_Unknown = Literal["accept", "refuse", "hold"]


@dataclass(frozen=True)
class Caller:
    """Where an association comes from, as the network proves it.

    Attributes
    ----------
    certificate : what it showed on the TLS port; None on the plain one.
    """

    address: str
    certificate: PeerCertificate | None = None


@dataclass(frozen=True)
class Listed:
    """A scanner that may send.

    Attributes
    ----------
    configured : True from the configuration file, False approved on this box.
    note : what a technician should know about the entry; mostly empty.
    certificate : what it showed last, since the start; None if it never came over TLS.
    """

    scanner: ScannerSettings
    configured: bool
    note: str = ""
    certificate: PeerCertificate | None = None


class Admission:
    """Safe from any thread.

    Parameters
    ----------
    configured : scanners of the configuration file.
    profiles : quirks by name; those that come with the box if not given.
    file : where decisions are kept; without one they last as long as the process.
    may_ask : whether an AE title at an address may query this box and retrieve, so that it is let in for that.
    called : what was called before the start, by calling AE title and address; the latest last.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        configured: Sequence[ScannerSettings] = (),
        *,
        profiles: Mapping[str, Quirks] | None = None,
        file: ApprovedFile | None = None,
        may_ask: Callable[[str, str], bool] = lambda _ae_title, _address: False,
        called: Mapping[tuple[str, str], str] | None = None,
    ) -> None:
        self._settings = settings
        self._configured = {scanner.ae_title: scanner for scanner in configured}
        self._profiles = packaged_profiles() if profiles is None else profiles
        self._file = file
        self._may_ask = may_ask
        self._lock = threading.RLock()
        self._waiting = WaitingList()
        self._called = dict(called or {})
        self._shown: dict[str, PeerCertificate] = {}  # by AE title of an entry, so bounded with them
        self._damage = ""
        try:
            self._approved = file.load() if file is not None else Approved()
        except AdmissionError as error:
            self._approved = Approved()
            self._damage = f"{error}: unknown scanners wait for approval until the list is made anew"
            _LOG.critical("list of approved scanners damaged", extra={"detail": str(error)})
        for scanner in self._approved.scanners:
            if scanner.ae_title in self._configured:
                _LOG.warning(
                    "scanner both configured and approved: the configuration file holds",
                    extra={"ae_title": scanner.ae_title},
                )

    # For associations --------------------------------------------------------------------------------------

    def admit(self, asking: Asking, caller: Caller) -> Admitted:
        """Let this peer in, and say how it is treated.

        Raises
        ------
        RejectedError : with a reason that tells a technician what to do.
        """
        may_ask = self._may_ask(asking.calling_ae_title, caller.address)  # not under the lock: it may wait
        may_send = True  # as a scanner that is listed
        with self._lock:
            scanner = self.find(asking.calling_ae_title)
            quirks = choose(
                self._profiles,
                scanner.quirks if scanner and scanner.quirks in self._profiles else None,
                implementation_class_uid=asking.implementation_class_uid,
                implementation_version_name=asking.implementation_version_name,
            )
            if scanner is None:
                self._note_called(asking, caller)
                may_send = self._admit_unknown(asking, caller, may_ask=may_ask)
                allowed = [self._settings.ae_title] if self._settings.require_called_ae_title else []
            else:
                if caller.certificate is not None:
                    self._shown[scanner.ae_title] = caller.certificate
                self._check_address(scanner, asking, caller)
                _check_tls(scanner, caller)
                allowed = scanner.called_ae_titles or [self._settings.ae_title]
        if allowed and not quirks.accept_any_called_ae_title and asking.called_ae_title not in allowed:
            raise RejectedError(
                f"it called {asking.called_ae_title}, and this box is {' or '.join(allowed)} for it: set the "
                "called AE title on the scanner, or allow this one in its entry",
                CALLED_AE_TITLE_NOT_RECOGNIZED,
                calling_ae_title=asking.calling_ae_title,
            )
        return Admitted(quirks, may_send)

    def find(self, ae_title: str) -> ScannerSettings | None:
        """The entry that holds for `ae_title`, such as for where it can be reached."""
        with self._lock:
            found = self._configured.get(ae_title)
            return found or next((one for one in self._approved.scanners if one.ae_title == ae_title), None)

    def _note_called(self, asking: Asking, caller: Caller) -> None:
        """For its approval: what it called works then, too."""
        key = (asking.calling_ae_title, caller.address)
        self._called.pop(key, None)
        self._called[key] = asking.called_ae_title
        while len(self._called) > MAX_CALLED:
            del self._called[next(iter(self._called))]

    def _admit_unknown(self, asking: Asking, caller: Caller, *, may_ask: bool) -> bool:
        """True if it may send, False if it may only ask; RejectedError if neither."""
        ae_title = asking.calling_ae_title
        if any(one.ae_title == ae_title and one.address == caller.address for one in self._approved.refused):
            raise RejectedError(
                f"{ae_title} at this address was refused by a technician: approve it in dicomnet-tui if it may send",
                CALLING_AE_TITLE_NOT_RECOGNIZED,
                calling_ae_title=ae_title,
            )
        policy = self.unknown_scanners
        if policy == "accept" or may_ask:
            return policy == "accept"
        if policy == "hold":
            self._hold(asking, caller)
        raise RejectedError(
            f"calling AE title {ae_title} is not known here{self._near(ae_title)}: add it in dicomnet-tui "
            "or under [[scanners]]",
            CALLING_AE_TITLE_NOT_RECOGNIZED,
            calling_ae_title=ae_title,
        )

    def _near(self, ae_title: str) -> str:
        for known in (*self._configured, *(one.ae_title for one in self._approved.scanners)):
            if known.casefold() == ae_title.casefold():
                return f", but {known} is, and capitals count in AE titles"
        return ""

    def _check_address(self, scanner: ScannerSettings, asking: Asking, caller: Caller) -> None:
        if may_call_from(caller.address, scanner):
            return
        self._note_called(asking, caller)
        if scanner.ae_title not in self._configured and self.unknown_scanners == "hold":
            self._hold(asking, caller)
        raise RejectedError(
            f"{scanner.ae_title} may call from {', '.join(scanner.addresses)} only: if it moved, change its entry",
            CALLING_AE_TITLE_NOT_RECOGNIZED,
            calling_ae_title=scanner.ae_title,
        )

    def _hold(self, asking: Asking, caller: Caller) -> None:
        self._waiting.note(
            asking.calling_ae_title, caller.address, asking.called_ae_title, caller.certificate
        )
        raise RejectedError(
            f"{asking.calling_ae_title} waits for approval: press 3 in dicomnet-tui, choose it and press y",
            LOCAL_LIMIT_EXCEEDED,
            calling_ae_title=asking.calling_ae_title,
        )

    # For technicians ---------------------------------------------------------------------------------------

    @property
    def unknown_scanners(self) -> _Unknown:
        """What a scanner gets that nobody configured or approved."""
        setting = self._settings.unknown_scanners
        if self._damage and setting != "accept":
            return "hold"
        if setting == "auto":
            return "refuse" if self._configured or self._approved.scanners else "accept"
        return setting

    @property
    def damage(self) -> str:
        """What is wrong with the list of approved scanners, as a sentence; empty if nothing is."""
        return self._damage

    @property
    def profile_names(self) -> list[str]:
        return sorted(self._profiles)

    def listed(self) -> list[Listed]:
        """Who may send: the configured ones in their order, then those approved here."""
        with self._lock:
            approved = [one for one in self._approved.scanners if one.ae_title not in self._configured]
            return [
                Listed(one, configured, self._note(one), self._shown.get(one.ae_title))
                for configured, scanners in ((True, self._configured.values()), (False, approved))
                for one in scanners
            ]

    def _note(self, scanner: ScannerSettings) -> str:
        if scanner.quirks is not None and scanner.quirks not in self._profiles:
            return f"there is no profile {scanner.quirks} any more: it is treated like every other scanner"
        if scanner.ae_title in self._configured and any(
            one.ae_title == scanner.ae_title for one in self._approved.scanners
        ):
            return "approved here too, but the configuration file holds"
        return ""

    def waiting(self) -> list[Waiting]:
        """Who waits for approval, the latest caller first."""
        with self._lock:
            return self._waiting.all()

    def refused(self) -> list[RefusedScanner]:
        with self._lock:
            return list(self._approved.refused)

    def called_by(self, ae_title: str, address: str) -> str:
        """What a caller that is not listed called this box last; empty where that is not known."""
        with self._lock:
            waiting = self._waiting.find(ae_title, address)
            return waiting.called_ae_title if waiting else self._called.get((ae_title, address), "")

    def approve(self, ae_title: str, address: str) -> None:
        """Let `ae_title` send from `address` from now on; an approved scanner gets one address more."""
        with self._lock:
            known = self.find(ae_title)
            if known is None:
                known = ScannerSettings(ae_title=ae_title, addresses=[address], host=address)
            elif known.addresses:
                known = known.model_copy(update={"addresses": [*known.addresses, address]})
            called = self.called_by(ae_title, address) or self._settings.ae_title
            allowed = known.called_ae_titles or [self._settings.ae_title]
            if called not in allowed:
                known = known.model_copy(update={"called_ae_titles": [*allowed, called]})
            self._save_scanner(known)

    def refuse(self, ae_title: str, address: str) -> None:
        """Turn `ae_title` away when it calls from `address`, whatever unknown scanners get."""
        with self._lock:
            entry = RefusedScanner(ae_title=ae_title, address=address, refused_at_utc=datetime.now(UTC))
            others = [
                one for one in self._approved.refused if (one.ae_title, one.address) != (ae_title, address)
            ]
            self._save(self._approved.scanners, [*others, entry][-MAX_REFUSED:])
            self._waiting.forget(lambda one: (one.ae_title, one.address) == (ae_title, address))
            _LOG.info("scanner refused", extra={"ae_title": ae_title, "peer_address": address})

    def save(self, scanner: ScannerSettings) -> None:
        """Add a scanner, or put this in the place of the approved one with its AE title."""
        with self._lock:
            if scanner.quirks is not None and scanner.quirks not in self._profiles:
                raise AdmissionError(
                    f"there is no profile {scanner.quirks}; there are {', '.join(self.profile_names)}"
                )
            self._save_scanner(scanner)

    def remove(self, ae_title: str, address: str = "") -> None:
        """Forget an approved scanner, or, with an address, a refusal or a caller that waits."""
        with self._lock:
            self._waiting.forget(lambda one: (one.ae_title, one.address) == (ae_title, address))
            refused = [
                one for one in self._approved.refused if (one.ae_title, one.address) != (ae_title, address)
            ]
            scanners = self._approved.scanners
            if not address:
                self._refuse_configured(ae_title)
                scanners = [one for one in scanners if one.ae_title != ae_title]
            if (scanners, refused) != (self._approved.scanners, self._approved.refused):
                self._save(scanners, refused)
                _LOG.info("scanner removed", extra={"ae_title": ae_title, "peer_address": address})

    def _save_scanner(self, scanner: ScannerSettings) -> None:
        self._refuse_configured(scanner.ae_title)
        # Again through the model, which model_copy goes round.
        scanner = ScannerSettings.model_validate(scanner.model_dump())
        others = [one for one in self._approved.scanners if one.ae_title != scanner.ae_title]
        if len(others) >= MAX_SCANNERS:
            raise AdmissionError(f"{MAX_SCANNERS} scanners are approved already: remove one first")
        refused = [
            one
            for one in self._approved.refused
            if one.ae_title != scanner.ae_title or not may_call_from(one.address, scanner)
        ]
        self._save([*others, scanner], refused)
        self._waiting.forget(
            lambda one: one.ae_title == scanner.ae_title and may_call_from(one.address, scanner)
        )
        _LOG.info("scanner approved", extra={"ae_title": scanner.ae_title, "addresses": scanner.addresses})

    def _refuse_configured(self, ae_title: str) -> None:
        if ae_title in self._configured:
            raise AdmissionError(
                f"{ae_title} is in the configuration file, which holds: change its entry there and restart"
            )

    def _save(self, scanners: list[ScannerSettings], refused: list[RefusedScanner]) -> None:
        approved = Approved(scanners=scanners, refused=refused)
        listed = self._configured.keys() | {one.ae_title for one in scanners}
        self._shown = {name: one for name, one in self._shown.items() if name in listed}
        if self._file is not None:
            self._file.save(approved)
        self._approved, self._damage = approved, ""


def may_call_from(address: str, scanner: ScannerSettings) -> bool:
    """Whether `scanner` may be at `address`: in one of its networks, or anywhere if it has none."""
    found = ipaddress.ip_address(address)
    return not scanner.addresses or any(
        found in ipaddress.ip_network(network) for network in scanner.addresses
    )


def _check_tls(scanner: ScannerSettings, caller: Caller) -> None:
    fault = ""
    if scanner.tls == "required" and caller.certificate is None:
        fault = "must use TLS: set the scanner to the TLS port"
    elif scanner.tls == "off" and caller.certificate is not None:
        fault = "may not use TLS: set the scanner to the plain port, or change its entry"
    elif scanner.certificate_sha256 and (
        caller.certificate is None or caller.certificate.sha256 != scanner.certificate_sha256
    ):
        fault = (
            "shows another certificate than the one pinned in its entry: if it was renewed, pin the new one"
            f"{f' ({caller.certificate.sha256})' if caller.certificate else ''}"
        )
    if fault:
        raise RejectedError(
            f"{scanner.ae_title} {fault}", CALLING_AE_TITLE_NOT_RECOGNIZED, calling_ae_title=scanner.ae_title
        )
