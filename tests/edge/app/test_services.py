"""What is offered beside storage follows the settings, and what was switched off leaves nothing behind."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.control import CommitmentStatus
from edge.buffer.errors import SpoolError
from edge.buffer.spool import Spool
from edge.config import Settings
from edge.gateway.query import STUDY_ROOT_FIND, Doorkeeper
from edge.gateway.retrieve import STUDY_ROOT_GET, STUDY_ROOT_MOVE
from edge.services import Services

STORAGE_COMMITMENT = "1.2.840.10008.1.20.1"


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[bool], Services]]:
    with ExitStack() as made:

        def making(query: bool) -> Services:
            made.close()
            settings = Settings.model_validate(
                {"box": {"state_directory": tmp_path}, "query": {"enabled": query}}
            )
            spool = Spool.open(tmp_path / "spool", reserve_bytes=0, quarantine_max_bytes=0, keys=None)
            made.callback(spool.close)
            services = Services(
                settings,
                spool.holdings,
                Doorkeeper(settings.query.destinations),
                find_scanner=lambda _: None,
            )
            made.callback(services.stop)
            services.start()
            return services

        yield making


def offered(services: Services) -> set[str]:
    return {uid for service in services.installed for uid in service.operations}


def test_queries_are_off_unless_they_are_switched_on(
    make: Callable[[bool], Services], tmp_path: Path
) -> None:
    off = make(False)
    assert offered(off) == {STORAGE_COMMITMENT}
    assert off.recipients == ()
    assert not (tmp_path / "local_key").exists()
    assert off.commitment_status() == CommitmentStatus()

    on = make(True)
    assert {STORAGE_COMMITMENT, STUDY_ROOT_FIND, STUDY_ROOT_GET, STUDY_ROOT_MOVE} <= offered(on)
    (recipient,) = on.recipients
    assert stat.S_IMODE((tmp_path / "local_key" / "local.key").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "local_key").stat().st_mode) == 0o700
    assert make(True).recipients == (recipient,)  # the same key in the next life

    again_off = make(False)
    assert again_off.recipients == ()
    with again_off.database.reading():
        assert "catalogue" not in again_off.database.db.get_tables()


def test_a_damaged_key_is_one_sentence(make: Callable[[bool], Services], tmp_path: Path) -> None:
    (tmp_path / "local_key").mkdir()
    (tmp_path / "local_key" / "local.key").write_bytes(b"short")
    with pytest.raises(SpoolError, match="restore it from a backup, or remove it"):
        make(True)
