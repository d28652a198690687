"""All of central's keys in one file, and back again.

Always true: a file that is there is never replaced, and a key that was destroyed on purpose does not come back.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from central.errors import StartError
from central.identity.keyfiles import make_private_folder, write_whole
from central.identity.sealing_keys import SEALING

_MAX_BACKUP_FILES: Final = 256
_MAX_KEY_FILE_BYTES: Final = 1 << 20


def write_new(path: Path, content: bytes) -> None:
    """Durable and for its owner only. StartError if there is such a file: it may be somebody's last copy."""
    if path.exists():
        raise StartError(f"{path} is there already, and is not replaced")
    write_whole(path, content)


def save(folder: Path, path: Path, coming: Mapping[str, bytes] | None = None) -> int:
    """Put every file of the keys' folder into one tar file; how many. Nothing in it is encrypted.

    Parameters
    ----------
    coming : files, by name, as they will be in a moment, in the place of those in `folder`.
    """
    coming = coming or {}
    out = io.BytesIO()
    kept = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in ("lock", *coming) and not file.name.endswith(".part")
    ]
    with tarfile.open(fileobj=out, mode="w") as archive:
        for file in kept:
            archive.add(file, str(file.relative_to(folder)))
        for name, content in coming.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    write_new(path, out.getvalue())
    return len(kept) + len(coming)


def put_back(path: Path, folder: Path) -> list[str]:
    """Write what the backup has and `folder` has not, but for keys that were destroyed on purpose; the names.

    Raises
    ------
    StartError : the backup is not one, or a file that is there differs in a way that one must be wrong.
    """
    make_private_folder(folder)
    make_private_folder(folder / SEALING)
    missing: list[tuple[Path, bytes, int]] = []
    try:
        with tarfile.open(path) as archive:
            for number, member in enumerate(archive):
                name = PurePosixPath(member.name)
                fits = len(name.parts) == 1 or (len(name.parts) == 2 and name.parts[0] == SEALING)
                bounded = number < _MAX_BACKUP_FILES and member.size <= _MAX_KEY_FILE_BYTES
                if not (member.isfile() and fits and bounded and ".." not in name.parts):
                    raise StartError(f"{path} is not a backup of keys: {member.name}")
                source = archive.extractfile(member)
                assert source is not None, "isfile() was asked"
                content, target = source.read(), folder / name
                if target.with_suffix(".gone").exists():
                    continue  # a key that was destroyed on purpose
                if not target.exists():
                    missing.append(
                        (target, content, 0o644 if target.suffix in (".pem", ".pub", ".jws") else 0o600)
                    )
                elif target.suffix == ".key" and target.read_bytes() != content:
                    raise StartError(
                        f"{target} is another key than in the backup: move away the wrong one of them"
                    )
    except tarfile.TarError as error:
        raise StartError(f"{path} is not a backup of keys") from error
    # The set last: it must not name a key that is not there yet.
    for target, content, mode in sorted(missing, key=lambda one: one[0].suffix == ".jws"):
        write_whole(target, content, mode=mode)
    return [str(target.relative_to(folder)) for target, _, _ in missing]
