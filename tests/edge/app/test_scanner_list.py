"""Which callers stand in the row of which entry, as the technician's list has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.buffer.records import Origin
from edge.buffer.spool import Spool
from edge.gateway.admission import Admission, Caller
from edge.gateway.negotiation import Asking
from edge.gateway.settings import GatewaySettings, ScannerSettings
from edge.scanner_list import scanner_list

IMPLICIT = "1.2.840.10008.1.2"


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool.open(tmp_path, reserve_bytes=0, quarantine_max_bytes=0, keys=None)
    yield opened
    opened.close()


def rows(spool: Spool, *entries: ScannerSettings) -> list[tuple[str, str, str, int, str]]:
    listed = scanner_list(spool.scanners, Admission(GatewaySettings(), entries)).scanners
    return [
        (one.ae_title, one.standing, one.address, one.seen.instances if one.seen else 0, one.last_error)
        for one in listed
    ]


def store(spool: Spool, address: str) -> None:
    spool.scanners.note_store(Origin("CT1", "DICOMNET", address, IMPLICIT), instances=1, size_bytes=1)


def test_who_calls_by_its_name_from_elsewhere_does_not_hide_the_scanner(spool: Spool) -> None:
    store(spool, "10.0.0.5")
    spool.scanners.note_rejection("CT1", "10.9.9.9", "CT1 may call from 10.0.0.0/24 only")

    assert rows(spool, ScannerSettings(ae_title="CT1", addresses=["10.0.0.0/24"])) == [
        ("CT1", "configured", "10.0.0.5", 1, ""),
        ("CT1", "unlisted", "10.9.9.9", 0, "CT1 may call from 10.0.0.0/24 only"),
    ]


def test_a_scanner_that_calls_from_several_addresses_has_a_row_for_each(spool: Spool) -> None:
    store(spool, "10.0.0.5")
    store(spool, "10.0.0.6")

    assert rows(spool, ScannerSettings(ae_title="CT1"), ScannerSettings(ae_title="MR1", host="10.0.0.7")) == [
        ("CT1", "configured", "10.0.0.6", 1, ""),
        ("CT1", "configured", "10.0.0.5", 1, ""),
        ("MR1", "configured", "10.0.0.7", 0, ""),
    ]


def test_who_is_not_listed_shows_what_it_calls_the_box(spool: Spool) -> None:
    store(spool, "10.0.0.5")
    admission = Admission(GatewaySettings())
    admission.admit(Asking("CT1", "PACS", "", ""), Caller("10.0.0.5"))

    (row,) = scanner_list(spool.scanners, admission).scanners

    assert (row.standing, row.called_ae_title) == ("unlisted", "PACS")
