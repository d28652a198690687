"""Refusals: what is on record of those who can make up as many as they like."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from central.audit.events import Action
from central.audit.reading import Wanted
from central.audit.record import Audit
from central.audit.refusals import OF_A_STRANGER, Refusals
from tests.central.access.conftest import Clock
from tests.central.databases import open_record


@pytest.fixture
def audit(tmp_path: Path) -> Iterator[Audit]:
    with closing(open_record(tmp_path)) as opened:
        yield opened


def recorded(audit: Audit) -> int:
    return len(audit.newest(Wanted(), limit=999))


def test_the_same_refusal_is_on_record_once_a_minute(audit: Audit) -> None:
    clock = Clock()
    refusals = Refusals(audit, clock)
    for actor in ("gw-1", "gw-1", "gw-2"):
        refusals.record(Action.UPLOAD_REFUSED, actor, "192.0.2.1", "why")
    assert recorded(audit) == 2
    for actor in ("gw-3", "gw-4"):
        refusals.record(Action.UPLOAD_REFUSED, actor, "192.0.2.1", "another", whoever=True)
    assert recorded(audit) == 3
    clock.now += 60
    refusals.record(Action.UPLOAD_REFUSED, "gw-1", "192.0.2.1", "why")
    assert recorded(audit) == 4


@pytest.mark.parametrize("network", ["192.0.2.1", "2001:db8:0:1::{}"])
def test_a_stranger_fills_no_disk_and_crowds_nobody_out(audit: Audit, network: str) -> None:
    clock = Clock()
    refusals = Refusals(audit, clock, role="", of_an_address=OF_A_STRANGER)
    for number in range(99):
        refusals.record(Action.ASSOCIATION_REFUSED, f"NAME{number}", network.format(number), "who?")
    assert recorded(audit) == OF_A_STRANGER
    refusals.record(Action.ASSOCIATION_REFUSED, "ANOTHER", "2001:db8:0:2::1", "who?")
    assert recorded(audit) == OF_A_STRANGER + 1
    clock.now += 60
    refusals.record(Action.ASSOCIATION_REFUSED, "NAME99", network.format(1), "who?")
    assert recorded(audit) == OF_A_STRANGER + 2
