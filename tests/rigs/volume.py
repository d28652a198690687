"""A disk that remembers what was only written apart from what was made durable, and fails when it is told to.

Two states: the live one that programs see, and the one a power cut leaves. A file's bytes and size become durable
by fsync or fdatasync of that file, a name by fsync of its folder (fsync(2)); a rename is one step, durable in both
folders or in neither, as on every journalling file system. `survivors` gives what a cut leaves: nothing else, or,
with a random source, any pages and names of the rest besides, in any order (torn writes). A failed fsync leaves
the pages clean, as Linux does: a second one succeeds and proves nothing.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

ROOT = 1
SHORT = -1  # not an errno: a write that takes half of what it was given
PAGE_BYTES = 4096


@dataclass
class File:
    """`pending` holds, in order, what was done since the last fsync: bytes at an offset, or None for a new size."""

    number: int
    mode: int = 0o600
    data: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)


@dataclass
class Folder:
    number: int
    mode: int = 0o700
    entries: dict[str, int] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)


Node = File | Folder
Tree = Mapping[str, "bytes | Tree"]
"""What lies on a disk: names to bytes, or to further names."""


@dataclass(frozen=True)
class Step:
    """One thing a program asked for that a disk can fail: what `Volume.fault` is asked about."""

    name: str  # create, open, write, truncate, fsync, fsyncdir, rename, unlink, mkdir
    path: str


Naming = tuple[int, str, int | None]  # folder, name, node or None for gone


class Volume:
    """The disk. Safe from any thread; every public method is one step, whole or not at all.

    Attributes
    ----------
    fault : asked before every step that can fail; an errno, `SHORT` for a write, or None to let it happen.
    free_blocks : of 4,096 bytes, as statfs tells it; nothing is enforced.
    resynced : files whose fsync was tried again on the descriptor where it had failed.
    """

    def __init__(self, tree: Tree | None = None) -> None:
        self.fault: Callable[[Step], int | None] = lambda step: None
        self.free_blocks = 1 << 24
        self.resynced: list[str] = []
        self._failed_syncs: set[tuple[int, int]] = set()
        self._lock = threading.RLock()
        self._last = ROOT
        self._nodes: dict[int, Node] = {ROOT: Folder(ROOT)}
        self._paths: dict[int, str] = {ROOT: ""}
        self._pending_names: list[tuple[Naming, ...]] = []
        self._plant(self._folder(ROOT), tree or {})

    def _plant(self, folder: Folder, tree: Tree) -> None:
        for name, content in tree.items():
            if isinstance(content, Mapping):
                child: Node = self._new(Folder, folder, name)
                self._plant(child, content)  # type: ignore[arg-type]
            else:
                child = self._new(File, folder, name)
                child.data, child.durable = bytearray(content), bytearray(content)  # type: ignore[union-attr]
            folder.entries[name] = folder.durable[name] = child.number

    def _new(self, kind: type[Node], parent: Folder, name: str) -> Node:
        self._last += 1
        number = self._last
        self._nodes[number] = kind(number)
        self._paths[number] = f"{self._paths[parent.number]}/{name}"
        return self._nodes[number]

    # What a mounted file system asks ----------------------------------------------------------------------

    def node(self, number: int) -> Node:
        return self._nodes[number]

    def lookup(self, folder: int, name: str) -> Node:
        with self._lock:
            return self._nodes[self._number(self._folder(folder), name)]

    def list_folder(self, number: int) -> list[tuple[str, Node]]:
        with self._lock:
            return [(name, self._nodes[child]) for name, child in self._folder(number).entries.items()]

    def read(self, number: int, offset: int, size: int) -> bytes:
        with self._lock:
            return bytes(self._file(number).data[offset : offset + size])

    def open(self, number: int) -> Node:
        with self._lock:
            self._check("open", number)
            return self._nodes[number]

    def create(self, folder: int, name: str, mode: int) -> Node:
        with self._lock:
            parent = self._folder(folder)
            if name in parent.entries:
                raise OSError(errno.EEXIST, name)
            self._check("create", folder, name)
            made = self._new(File, parent, name)
            made.mode = mode
            self._rename_step((folder, name, made.number))
            return made

    def make_folder(self, folder: int, name: str) -> Node:
        with self._lock:
            parent = self._folder(folder)
            if name in parent.entries:
                raise OSError(errno.EEXIST, name)
            self._check("mkdir", folder, name)
            made = self._new(Folder, parent, name)
            self._rename_step((folder, name, made.number))
            return made

    def unlink(self, folder: int, name: str) -> None:
        with self._lock:
            self._number(self._folder(folder), name)
            self._check("unlink", folder, name)
            self._rename_step((folder, name, None))

    def remove_folder(self, folder: int, name: str) -> None:
        with self._lock:
            if self._folder(self._number(self._folder(folder), name)).entries:
                raise OSError(errno.ENOTEMPTY, name)
            self.unlink(folder, name)

    def rename(self, folder: int, name: str, target: int, new_name: str) -> None:
        with self._lock:
            number = self._number(self._folder(folder), name)
            self._check("rename", folder, name)
            self._rename_step((folder, name, None), (target, new_name, number))
            self._paths[number] = f"{self._paths[target]}/{new_name}"

    def write(self, number: int, offset: int, data: bytes) -> int:
        """How many bytes were taken; fewer than given only when `fault` says `SHORT`."""
        with self._lock:
            file = self._file(number)
            if self._check("write", number) == SHORT:
                data = data[: max(1, len(data) // 2)]
            _put(file.data, offset, data)
            file.pending.append((offset, data))
            return len(data)

    def truncate(self, number: int, size: int) -> None:
        with self._lock:
            self._check("truncate", number)
            file = self._file(number)
            _resize(file.data, size)
            file.pending.append((size, None))

    def allocate(self, number: int, size: int) -> None:
        with self._lock:
            if size > len(self._file(number).data):
                self.truncate(number, size)

    def sync_file(self, number: int, handle: int) -> None:
        with self._lock:
            file = self._file(number)
            if (number, handle) in self._failed_syncs:
                self.resynced.append(self._paths[number])
            try:
                self._check("fsync", number)
            except OSError:
                self._failed_syncs.add((number, handle))
                file.pending.clear()
                raise
            for offset, data in file.pending:
                _apply(file.durable, offset, data)
            file.pending.clear()

    def sync_folder(self, number: int) -> None:
        with self._lock:
            self._check("fsyncdir", number)
            waiting: list[tuple[Naming, ...]] = []
            for change in self._pending_names:
                if not any(folder == number for folder, _, _ in change):
                    waiting.append(change)
                    continue
                for folder, name, node in change:
                    _name(self._folder(folder).durable, name, node)
                # What waits and was said of these names before is overtaken.
                overtaken = {(folder, name) for folder, name, _ in change}
                waiting = [tuple(one for one in old if one[:2] not in overtaken) for old in waiting]
            self._pending_names = [change for change in waiting if change]

    def room_blocks(self) -> tuple[int, int]:
        return 1 << 24, self.free_blocks

    # What the test asks -----------------------------------------------------------------------------------

    def put(self, name: str, tree: Tree) -> None:
        """A folder in the root that was always there, as far as anybody can tell."""
        with self._lock:
            self._plant(self._folder(ROOT), {name: tree})

    def drop(self, name: str) -> None:
        """Forget a folder of the root and all in it; nobody may use it any more."""
        with self._lock:
            root = self._folder(ROOT)
            self._forget(root.entries.pop(name))
            root.durable.pop(name, None)
            self._pending_names = [
                change
                for change in self._pending_names
                if all(folder in self._nodes for folder, _, _ in change)
            ]

    def _forget(self, number: int) -> None:
        node = self._nodes.pop(number)
        if isinstance(node, Folder):
            for child in {*node.entries.values(), *node.durable.values()} & self._nodes.keys():
                self._forget(child)

    def survivors(self, torn: Random | None = None, *, folder: str | None = None) -> dict[str, bytes | Tree]:
        """What a power cut at this moment leaves; with `torn`, some of what was not made durable besides.

        With `folder`, of that folder in the root alone.
        """
        with self._lock:
            names = {
                number: dict(node.durable) for number, node in self._nodes.items() if isinstance(node, Folder)
            }
            if torn is not None:
                share = torn.random()
                for change in self._pending_names:
                    if torn.random() < share:
                        for parent, name, node in change:
                            _name(names[parent], name, node)
            top = ROOT if folder is None else self._folder(ROOT).durable[folder]
            return self._surviving(top, names, torn)

    def live(self) -> dict[str, bytes | Tree]:
        """What programs see now: a disk of which everything reached the platter."""
        with self._lock:
            names = {number: node.entries for number, node in self._nodes.items() if isinstance(node, Folder)}
            return self._surviving(ROOT, names, None, live=True)

    def _surviving(
        self, folder: int, names: dict[int, dict[str, int]], torn: Random | None, *, live: bool = False
    ) -> dict[str, bytes | Tree]:
        tree: dict[str, bytes | Tree] = {}
        for name, number in names[folder].items():
            node = self._nodes[number]
            if isinstance(node, Folder):
                tree[name] = self._surviving(number, names, torn, live=live)
            elif live:
                tree[name] = bytes(node.data)
            else:
                tree[name] = bytes(node.durable if torn is None else _torn(node, torn))
        return tree

    # Inside -----------------------------------------------------------------------------------------------

    def _check(self, step: str, number: int, name: str = "") -> int | None:
        path = self._paths[number] + (f"/{name}" if name else "")
        found = self.fault(Step(step, path))
        if found is None or found == SHORT:
            return found
        raise OSError(found, os.strerror(found))

    def _rename_step(self, *change: Naming) -> None:
        for folder, name, number in change:
            _name(self._folder(folder).entries, name, number)
        self._pending_names.append(change)

    def _folder(self, number: int) -> Folder:
        node = self._nodes[number]
        if not isinstance(node, Folder):
            raise NotADirectoryError(errno.ENOTDIR, str(number))
        return node

    def _file(self, number: int) -> File:
        node = self._nodes[number]
        if not isinstance(node, File):
            raise IsADirectoryError(errno.EISDIR, str(number))
        return node

    def _number(self, folder: Folder, name: str) -> int:
        if name not in folder.entries:
            raise FileNotFoundError(errno.ENOENT, name)
        return folder.entries[name]


def write_tree(tree: Tree, folder: Path) -> None:
    """Lay a tree down as an ordinary folder, which must not be there yet."""
    folder.mkdir(mode=0o700)
    for name, content in tree.items():
        if isinstance(content, Mapping):
            write_tree(content, folder / name)
        else:
            (folder / name).write_bytes(content)


def _torn(file: File, torn: Random) -> bytearray:
    """The durable bytes with some pages of what came later; a page is whole or absent, in whatever order."""
    found = bytearray(file.durable)
    share = torn.random()
    for offset, data in file.pending:
        if data is None:
            if torn.random() < share:
                _resize(found, offset)
            continue
        at = 0
        while at < len(data):
            upto = min(len(data), (offset + at) // PAGE_BYTES * PAGE_BYTES + PAGE_BYTES - offset)
            if torn.random() < share:
                _put(found, offset + at, data[at:upto])
            at = upto
    return found


def _apply(target: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        _resize(target, offset)
    else:
        _put(target, offset, data)


def _put(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


def _resize(target: bytearray, size: int) -> None:
    if size < len(target):
        del target[size:]
    else:
        target.extend(bytes(size - len(target)))


def _name(entries: dict[str, int], name: str, number: int | None) -> None:
    if number is None:
        entries.pop(name, None)
    else:
        entries[name] = number
