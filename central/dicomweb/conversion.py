"""An archived instance in another transfer syntax, for receivers that do not take the stored one.

A worker process writes the file (`central.dicomweb.native`); it has no name any more before the first byte is read, so
nothing of it stays, whatever happens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

CONVERSION_TIMEOUT_S: Final = 300.0


@dataclass(frozen=True)
class Conversion:
    """The Part 10 file at `path` into `out`, in the native transfer syntax `wanted`."""

    path: Path
    transfer_syntax_uid: str
    wanted: str
    out: Path


@contextmanager
def file_for_conversion() -> Iterator[tuple[Path, BinaryIO]]:
    """A new, private file: its path for the worker and, opened, for whoever reads what the worker wrote."""
    with tempfile.TemporaryDirectory(prefix="dicomnet-") as folder:
        path = Path(folder) / "converted.dcm"
        path.touch(mode=0o600)
        with path.open("rb") as opened:
            yield path, opened
