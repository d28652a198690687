"""The cipher follows the processor."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.sealed_object import Aead
from edge.buffer.coding import choose_aead


@pytest.mark.parametrize(
    ("cpuinfo", "aead"),
    [
        ("processor\t: 0\nflags\t\t: fpu vme aes avx2\n", Aead.AES_256_GCM),
        ("processor\t: 0\nflags\t\t: fpu vme avx2\n", Aead.CHACHA20_POLY1305),
        ("processor\t: 0\nFeatures\t: fp asimd aes pmull sha2\n", Aead.AES_256_GCM),
        ("processor\t: 0\nFeatures\t: fp asimd evtstrm crc32\n", Aead.CHACHA20_POLY1305),  # Raspberry Pi 4
        ("", Aead.CHACHA20_POLY1305),
    ],
)
def test_choice(cpuinfo: str, aead: Aead, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(cpuinfo)
    assert choose_aead(path) is aead


def test_without_cpuinfo_the_safe_choice(tmp_path: Path) -> None:
    assert choose_aead(tmp_path / "absent") is Aead.CHACHA20_POLY1305
