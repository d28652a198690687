"""What is wrong with a box, each in one sentence that says what to look at. A pure function of what is known.

The thresholds are central's: a box reports numbers, and what is worth a person's time is decided in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from central.fleet.view import Alert, BoxView, Severity

CERTIFICATE_SOON: Final = timedelta(days=14)  # a healthy box renews when 20 days are left
CERTIFICATE_NOW: Final = timedelta(days=3)
FULL_SOON_H: Final = 24.0
FULL_NOW_H: Final = 4.0
CLOCK_OFF_S: Final = 60.0
UNSENT_LONG: Final = timedelta(hours=24)
WORN_PERCENT: Final = 80
HOT_C: Final = 80.0


def alerts(box: BoxView, now: datetime, *, central_version: str) -> tuple[Alert, ...]:
    """What is wrong with `box`, the worst first."""
    if box.revoked or box.state == "never":
        return ()
    found = [*_presence(box), *_certificate(box, now)]
    if box.state == "online":
        box_now = _by_the_box(box, now)
        found += [*_disk(box), *_queue(box, box_now), *_machine(box), *_version(box, central_version)]
        found += [*_destinations(box, box_now), *_scanners(box, box_now)]
    return tuple(sorted(found, key=lambda alert: alert.severity != "critical"))


def _by_the_box(box: BoxView, now: datetime) -> datetime:
    """The time by the clock that dated what the box reports: for how long something waits, whoever is right."""
    try:
        return now + timedelta(seconds=box.clock_offset_s or 0.0)
    except OverflowError:
        return now


def _presence(box: BoxView) -> Iterator[Alert]:
    if box.twin:
        yield Alert(
            "twin",
            "critical",
            "Two boxes use this identity. Find the copy and switch it off; if in doubt, revoke this gateway and "
            "enrol the box anew.",
        )
    if box.contradicts_audit:
        yield Alert(
            "audit-contradicted",
            "critical",
            "It keeps a word of central's that the audit record does not fit any more: the record was cut off or "
            "rewritten. Keep everything as it is and run dicomnet-central audit verify.",
        )
    if box.state == "lost":
        yield Alert("lost", "critical", "The box vanished: look for power and line, then its log.")
    elif box.state == "offline":
        yield Alert("offline", "warning", "The box was stopped in order.")


def _certificate(box: BoxView, now: datetime) -> Iterator[Alert]:
    if box.certificate_expires_at_utc is None:
        return
    left = box.certificate_expires_at_utc - now
    if left <= timedelta(0):
        sentence = "Its certificate has expired: it cannot deliver until it is enrolled again."
        yield Alert("certificate", "critical", sentence)
    elif left < CERTIFICATE_SOON:
        sentence = f"Its certificate ends in {left.days} days and was not renewed: see its log."
        yield Alert("certificate", "critical" if left < CERTIFICATE_NOW else "warning", sentence)


def _disk(box: BoxView) -> Iterator[Alert]:
    hours = box.hours_to_full
    if box.accepting is False:
        yield Alert("not-accepting", "critical", "It takes no images: scanners are told to send again later.")
    elif hours is not None and hours < FULL_SOON_H:
        severity: Severity = "critical" if hours < FULL_NOW_H else "warning"
        sentence = (
            f"At this pace its disk is full in {hours:.0f} hours: why does central not take what waits?"
        )
        yield Alert("disk-full", severity, sentence)
    if box.disk_wear_percent is not None and box.disk_wear_percent >= WORN_PERCENT:
        sentence = f"Its disk has used {box.disk_wear_percent} % of its life: plan to replace it."
        yield Alert("disk-wear", "critical" if box.disk_wear_percent >= 100 else "warning", sentence)


def _queue(box: BoxView, now: datetime) -> Iterator[Alert]:
    if box.over_quota:
        yield Alert(
            "quota",
            "critical",
            "It has brought its quota of 24 hours, and what comes in waits on the box. If that is right, raise "
            "limits.gateway_day_bytes; if not, look what it sends, and revoke it if it is not yours any more.",
        )
    if box.paused:
        yield Alert("paused", "warning", "Sending is paused: images wait on the box until it is resumed.")
    if box.oldest_unsent_at_utc is not None and now - box.oldest_unsent_at_utc > UNSENT_LONG:
        hours = (now - box.oldest_unsent_at_utc).total_seconds() / 3600
        yield Alert(
            "unsent", "warning", f"Images have waited for {hours:.0f} hours: see its link to central."
        )


def _machine(box: BoxView) -> Iterator[Alert]:
    if box.clock_offset_s is not None and abs(box.clock_offset_s) > CLOCK_OFF_S:
        way = "ahead of" if box.clock_offset_s > 0 else "behind"
        sentence = f"Its clock is {abs(box.clock_offset_s):.0f} s {way} central's: check its time server."
        yield Alert("clock", "warning", sentence)
    if box.temperature_c is not None and box.temperature_c >= HOT_C:
        sentence = f"It runs at {box.temperature_c:.0f} °C: look at its place and its fan."
        yield Alert("temperature", "warning", sentence)


def _version(box: BoxView, central_version: str) -> Iterator[Alert]:
    if box.version and box.version != central_version:
        sentence = f"It runs version {box.version}, central {central_version}."
        yield Alert("version", "warning", sentence)


def _destinations(box: BoxView, now: datetime) -> Iterator[Alert]:
    for one in box.destinations:
        if one.set_aside_objects:
            sentence = f"{one.name} refused {one.set_aside_objects} images: the box's page 2 says why."
            yield Alert("destination-refuses", "warning", sentence)
        if one.oldest_at_utc is not None and now - one.oldest_at_utc > UNSENT_LONG:
            hours = (now - one.oldest_at_utc).total_seconds() / 3600
            why = f": {one.last_error}" if one.last_error else ""
            yield Alert(
                "destination-waits",
                "warning",
                f"Images for {one.name} have waited for {hours:.0f} hours{why}.",
            )


def _scanners(box: BoxView, now: datetime) -> Iterator[Alert]:
    for scanner in box.equipment:
        if scanner.silence == "silent" and scanner.last_store_at_utc is not None:
            hours = (now - scanner.last_store_at_utc).total_seconds() / 3600
            sentence = (
                f"{scanner.ae_title} has sent nothing for {hours:.0f} hours, which it never does at this time of "
                "its week: look at the scanner and its network."
            )
            yield Alert("scanner-silent", "warning", sentence)
