"""The cipher follows the processor, the codec the data and the time there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.sealed_object import Aead, Codec
from edge.buffer.coding import choose_aead, choose_codec


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


@pytest.mark.parametrize(
    ("transfer_syntax_uid", "codec"),
    [
        ("1.2.840.10008.1.2", Codec.SEGMENTS),
        ("1.2.840.10008.1.2.1", Codec.SEGMENTS),
        ("1.2.840.10008.1.2.2", Codec.SEGMENTS),
        ("1.2.840.10008.1.2.1.99", Codec.STORED),  # deflated
        ("1.2.840.10008.1.2.4.50", Codec.STORED),
        ("1.2.840.10008.1.2.5", Codec.STORED),
        ("1.2.840.113619.5.2", Codec.SEGMENTS),  # private: says nothing, so it is tried
    ],
)
def test_what_is_compressed_or_in_a_hurry_is_kept_as_it_is(transfer_syntax_uid: str, codec: Codec) -> None:
    assert choose_codec(transfer_syntax_uid, tight=True) is codec
    assert choose_codec(transfer_syntax_uid, tight=False) is Codec.STORED
