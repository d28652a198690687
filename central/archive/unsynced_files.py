"""Contents in a folder whose loss is no loss: nothing waits for the disk.

Always true: what is read was compared with its hash by whoever reads it. What a power cut leaves: files that are empty
or cut under a whole one's name, which that comparison finds.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import BinaryIO

from central.archive.object_files import ObjectFiles
from central.archive.objects import FileSink, StoredObject


class UnsyncedFiles(ObjectFiles):
    """As `ObjectFiles`, but that `commit` returns before anything is durable."""

    def new_object(self) -> FileSink:
        return FileSink(self._incoming / secrets.token_hex(16), self._keep)

    def _keep(self, file: BinaryIO, path: Path, sha256: str, size_bytes: int) -> StoredObject:
        place = self._place_for(sha256)
        file.close()
        path.rename(place)
        return StoredObject(sha256, size_bytes, place)
