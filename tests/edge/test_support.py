"""A support bundle is bounded, whatever the log holds, and readable."""

from __future__ import annotations

import gzip
import json
import logging
import random

from contract.command import MAX_SUPPORT_BYTES
from edge.support import MAX_LINE_CHARACTERS, MAX_LINES, RecentLog, bundle


def test_the_last_lines_are_kept_and_a_peer_cannot_stretch_them() -> None:
    recent = RecentLog()
    log = logging.getLogger("test-support")
    log.addHandler(recent)
    try:
        for number in range(MAX_LINES + 5):
            log.warning("line", extra={"number": number})
        log.warning("x" * 100_000)
    finally:
        log.removeHandler(recent)
    lines = recent.lines()
    assert len(lines) == MAX_LINES
    assert lines[0].endswith("number=6")
    assert max(len(line) for line in lines) == MAX_LINE_CHARACTERS


def test_what_does_not_fit_loses_its_oldest_lines() -> None:
    dice = random.Random(7)
    lines = [f"{number} " + dice.randbytes(950).hex() for number in range(MAX_LINES)]
    packed = bundle({"status": {"gateway_id": "ct1"}}, lines)
    assert len(packed) <= MAX_SUPPORT_BYTES
    document = json.loads(gzip.decompress(packed))
    assert document["status"] == {"gateway_id": "ct1"}
    assert document["log"] == lines[-len(document["log"]) :]
    assert len(document["log"]) > 0
