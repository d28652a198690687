"""Contents in a folder whose loss is no loss: nothing waits for the disk.

Always true: what is read was compared with its hash by whoever reads it. What a power cut leaves: files that are empty
or cut under a whole one's name, which that comparison finds.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from central.archive.objects import ObjectFiles, StoredObject


class UnsyncedFiles(ObjectFiles):
    """As `ObjectFiles`, but that `commit` returns before anything is durable."""

    def _keep(self, file: BinaryIO, path: Path, sha256: str, size_bytes: int) -> StoredObject:
        target = self._place(sha256)
        file.close()
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.rename(target)
        return StoredObject(sha256, size_bytes, target)
