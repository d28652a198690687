"""A small file that is either the old one or the new one, whatever happens in between.

The recipe of every such file: write a draft, fsync it, give it the name, fsync the directory. A crash leaves the
old content, or the new, and at worst a draft under a name of its own that nobody reads.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` in the place of `path` (mode 0600), durable when this returns. OSError leaves the old one."""
    draft = write_draft(path, content)
    try:
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


def create_file(path: Path, content: bytes) -> bool:
    """Like `replace_file` where there is no `path` yet; False, with nothing changed, where there is one."""
    draft = write_draft(path, content)
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    fsync_directory(path.parent)
    return True


def write_draft(path: Path, content: bytes) -> Path:
    """`content`, durable in a file beside `path`; its directory is made (mode 0700) if it is missing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    return draft


def fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
