"""The least a receiver can be takes instances in at every stage: what the box is measured beside must run."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from bench.plain import STAGES
from edge.gateway.addresses import Address
from edge.gateway.echo import echo
from tests.peers_installed import program
from tests.ports import free_base_port

ROOT = Path(__file__).parents[2]


@pytest.mark.needs("dcmtk")
@pytest.mark.parametrize("stage", STAGES)
def test_it_takes_an_instance_in(stage: str, tmp_path: Path) -> None:
    port = free_base_port(1)
    receiver = subprocess.Popen(
        [sys.executable, "-m", "bench.plain", str(port), str(tmp_path), stage], cwd=ROOT
    )
    try:
        for _ in range(600):
            if echo(Address("127.0.0.1", port), "ANY", "BENCH", 60).ok:
                break
            assert receiver.poll() is None
            threading.Event().wait(0.1)  # it does not say when it listens
        sent = subprocess.run(
            [str(program("storescu")), "127.0.0.1", str(port), str(get_testdata_file("CT_small.dcm"))],
            timeout=60,
            check=False,
        )
    finally:
        receiver.terminate()
        receiver.wait(60)
    assert sent.returncode == 0
    assert len(list(tmp_path.iterdir())) == (stage == "sync")
