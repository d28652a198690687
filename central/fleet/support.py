"""Support bundles that boxes sent: a folder a gateway, the newest `KEPT_BUNDLES` of each.

What a crash leaves: whole bundles, or none. They hold status, queue and log of a box, no images and no names, and
are readable by central's user only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from central.identity.keyfiles import make_private_folder, write_whole

KEPT_BUNDLES: Final = 5


@dataclass(frozen=True)
class SupportBundles:
    """Gateway and command ids must have been checked by the caller: they become names of files."""

    folder: Path

    def keep(self, gateway_id: str, command_id: str, packed: bytes) -> None:
        """Durable on return. OSError if the disk does not take it."""
        folder = self.folder / gateway_id
        make_private_folder(folder)
        write_whole(folder / f"{command_id}.json.gz", packed)
        kept = sorted(folder.glob("*.json.gz"), key=lambda path: path.stat().st_mtime, reverse=True)
        for old in kept[KEPT_BUNDLES:]:
            old.unlink(missing_ok=True)

    def find(self, gateway_id: str, command_id: str) -> Path | None:
        """The bundle that answered a command, if it is still kept."""
        path = self.folder / gateway_id / f"{command_id}.json.gz"
        return path if path.is_file() else None
