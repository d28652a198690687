"""Which cipher and which codec an object is written with: decided by the processor and by the data."""

from __future__ import annotations

from pathlib import Path

from contract.sealed_object import Aead, Codec

_UNCOMPRESSED = frozenset(
    {
        "1.2.840.10008.1.2",  # Implicit VR Little Endian
        "1.2.840.10008.1.2.1",  # Explicit VR Little Endian
        "1.2.840.10008.1.2.2",  # Explicit VR Big Endian
    }
)
_STANDARD_ROOT = "1.2.840.10008."


def choose_codec(transfer_syntax_uid: str, *, tight: bool) -> Codec:
    """SEGMENTS for what the scanner left uncompressed if there is time for it, STORED for everything else.

    A private transfer syntax says nothing about its content, so it is tried: at worst that adds a few bytes.
    """
    if not tight:
        return Codec.STORED
    if transfer_syntax_uid in _UNCOMPRESSED or not transfer_syntax_uid.startswith(_STANDARD_ROOT):
        return Codec.SEGMENTS
    return Codec.STORED


def choose_aead(cpuinfo: Path = Path("/proc/cpuinfo")) -> Aead:
    """AES-256-GCM where the processor has AES instructions, ChaCha20-Poly1305 elsewhere (a Raspberry Pi 4).

    Without the instructions AES is seven times slower than ChaCha20 and leaks through timing.
    """
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return Aead.CHACHA20_POLY1305
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in {"flags", "Features"}:  # x86, Arm
            return Aead.AES_256_GCM if "aes" in value.split() else Aead.CHACHA20_POLY1305
    return Aead.CHACHA20_POLY1305
