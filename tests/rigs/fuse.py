"""A FUSE file system spoken straight over /dev/fuse, mounted where only the process under test can see it.

The kernel's protocol is small enough to write down, and saying it ourselves means that no library between the
kernel and `tests.rigs.volume` renames, caches or re-orders anything: what arrives here is what the program did.
The program under test mounts in a mount namespace of its own and hands the descriptor over, so a mount never
outlives it. Without the write-back cache every write(2) arrives at once; only mmap (SQLite's -shm) comes late.
"""

from __future__ import annotations

import ctypes
import errno
import os
import selectors
import stat
import struct
import threading
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from tests.rigs.volume import ROOT, Folder, Node, Volume

MAX_WRITE_BYTES = 1 << 20
_CLONE_NEWNS = 0x0002_0000
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 0x4000, 1 << 18
_HEADER = struct.Struct("<IIQQIIIHH")
_ANSWER = struct.Struct("<IiQ")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
_ENTRY = struct.Struct("<QQQQII")
_INIT_IN = struct.Struct("<IIII")
_INIT_OUT = struct.Struct("<IIIIHHIIHH32x")
_SETATTR = struct.Struct("<IIQQQQQQIIIIIIII")
_READ_WRITE = struct.Struct("<QQIIQII")
_STATFS = struct.Struct("<QQQQQIIII24x")
_KNOWN_FOR_S = 1 << 30  # every change passes through this mount, so the kernel may remember what it was told
_NO_ANSWER = object()


class Op(IntEnum):
    """Operation codes of fuse.h that are answered; ENOSYS for the rest."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45


def why_not() -> str | None:
    """Why this machine cannot mount such a file system; None if it can."""
    if os.geteuid() != 0:
        return "mounting a file system needs root"
    if not Path("/dev/fuse").exists():
        return "there is no /dev/fuse"
    return None


def mount_for_this_process(mountpoint: Path) -> int:
    """Mount in a namespace of this process's own; the descriptor that `FuseServer` is to serve.

    To be called before the process starts threads: unshare(2) moves the calling thread alone.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    checked(libc.unshare(_CLONE_NEWNS))
    checked(libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None))
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={descriptor},rootmode=40700,user_id=0,group_id=0".encode()
    where = os.fsencode(mountpoint)
    checked(libc.mount(b"rig", where, b"fuse", ctypes.c_ulong(_MS_NOSUID | _MS_NODEV), options))
    return descriptor


class FuseServer:
    """Serves a volume on one thread, until it is told to end or the process that mounted it is gone.

    `stop_answering` is the moment of the power cut: no answer is given after it. Then kill whoever waits, and `stop`.
    """

    def __init__(self, volume: Volume, descriptor: int) -> None:
        self._volume = volume
        self._descriptor = descriptor
        self._wake_read, self._wake_write = os.pipe()
        self._folders: dict[int, list[tuple[str, Node]]] = {}
        self._next_handle = 1
        os.set_blocking(descriptor, False)
        self._answers: dict[Op, Callable[[int, bytes], object]] = {
            Op.INIT: self._init,
            Op.LOOKUP: lambda node, body: self._entry(volume.lookup(node, _name(body))),
            Op.FORGET: lambda node, body: _NO_ANSWER,
            Op.BATCH_FORGET: lambda node, body: _NO_ANSWER,
            Op.INTERRUPT: lambda node, body: _NO_ANSWER,
            Op.GETATTR: lambda node, body: self._attributes(volume.node(node)),
            Op.SETATTR: self._setattr,
            Op.MKDIR: lambda node, body: self._entry(volume.make_folder(node, _name(body[8:]))),
            Op.UNLINK: lambda node, body: volume.unlink(node, _name(body)),
            Op.RMDIR: lambda node, body: volume.remove_folder(node, _name(body)),
            Op.RENAME: lambda node, body: self._rename(node, body, 8),
            Op.RENAME2: lambda node, body: self._rename(node, body, 16),
            Op.CREATE: self._create,
            Op.OPEN: lambda node, body: self._opened(volume.open(node)),
            Op.READ: self._read,
            Op.WRITE: self._write,
            Op.FSYNC: lambda node, body: volume.sync_file(node, struct.unpack_from("<Q", body)[0]),
            Op.FSYNCDIR: lambda node, body: volume.sync_folder(node),
            Op.FLUSH: lambda node, body: b"",
            Op.RELEASE: lambda node, body: b"",
            Op.OPENDIR: self._open_folder,
            Op.READDIR: self._read_folder,
            Op.RELEASEDIR: self._release_folder,
            Op.ACCESS: lambda node, body: b"",
            Op.STATFS: lambda node, body: self._statfs(),
            Op.FALLOCATE: self._fallocate,
            Op.DESTROY: lambda node, body: b"",
        }
        self._thread = threading.Thread(target=self._serve, name="fuse", daemon=True)
        self._thread.start()

    def stop_answering(self) -> None:
        """The cut. Requests stay unanswered, and whoever made them waits, until `stop` lets them fail."""
        os.write(self._wake_write, b"x")
        self._thread.join()

    def stop(self) -> None:
        for descriptor in (self._descriptor, self._wake_read, self._wake_write):
            os.close(descriptor)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._descriptor, selectors.EVENT_READ)
            selector.register(self._wake_read, selectors.EVENT_READ)
            while not any(key.fd == self._wake_read for key, _ in selector.select()):
                try:
                    request = os.read(self._descriptor, MAX_WRITE_BYTES + 4096)
                except BlockingIOError:
                    continue
                except OSError as error:
                    if error.errno == errno.ENOENT:  # the request was interrupted before it was read
                        continue
                    return  # ENODEV: unmounted, for its process has ended
                self._answer(request)

    def _answer(self, request: bytes) -> None:
        _, code, unique, node, *_ = _HEADER.unpack_from(request)
        try:
            answer = self._answers.get(code, _unknown)(node, request[_HEADER.size :])  # type: ignore[call-overload]
            number = 0
        except OSError as error:
            answer, number = b"", error.errno or errno.EIO
        if answer is _NO_ANSWER:
            return
        body = answer if isinstance(answer, (bytes, bytearray)) else b""
        try:
            os.write(self._descriptor, _ANSWER.pack(_ANSWER.size + len(body), -number, unique) + body)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # whoever asked is dead
                raise

    def _init(self, node: int, body: bytes) -> bytes:
        major, _, read_ahead, flags = _INIT_IN.unpack_from(body)
        atomic_truncate, big_writes, max_pages = 1 << 3, 1 << 5, 1 << 22
        offered = flags & (big_writes | max_pages)
        assert not offered & atomic_truncate
        return _INIT_OUT.pack(
            major, 31, read_ahead, offered, 64, 48, MAX_WRITE_BYTES, 1, MAX_WRITE_BYTES // 4096, 0
        )

    def _raw_attributes(self, node: Node) -> bytes:
        kind = stat.S_IFDIR if isinstance(node, Folder) else stat.S_IFREG
        size = 0 if isinstance(node, Folder) else len(node.data)
        now = 1_700_000_000
        blocks = (size + 511) // 512
        return _ATTRIBUTES.pack(
            node.number, size, blocks, now, now, now, 0, 0, 0, kind | node.mode, 1, 0, 0, 0, 4096, 0
        )

    def _entry(self, node: Node) -> bytes:
        head = _ENTRY.pack(node.number, 1, _KNOWN_FOR_S, _KNOWN_FOR_S, 0, 0)
        return head + self._raw_attributes(node)

    def _attributes(self, node: Node) -> bytes:
        return struct.pack("<QII", _KNOWN_FOR_S, 0, 0) + self._raw_attributes(node)

    def _opened(self, _: object = None) -> bytes:
        keep_cache = 1 << 1
        self._next_handle += 1
        return struct.pack("<QII", self._next_handle, keep_cache, 0)

    def _create(self, node: int, body: bytes) -> bytes:
        _, mode = struct.unpack_from("<II", body)
        made = self._volume.create(node, _name(body[16:]), mode & 0o7777)
        return self._entry(made) + self._opened()

    def _setattr(self, node: int, body: bytes) -> bytes:
        valid, _, _, size, *rest = _SETATTR.unpack_from(body)
        if valid & 1 << 0:
            self._volume.node(node).mode = rest[8] & 0o7777
        if valid & 1 << 3:
            self._volume.truncate(node, size)
        return self._attributes(self._volume.node(node))

    def _rename(self, node: int, body: bytes, head: int) -> bytes:
        (target,) = struct.unpack_from("<Q", body)
        if head == 16 and struct.unpack_from("<I", body, 8)[0]:
            raise OSError(errno.EINVAL, "rename flags")
        name, new_name, _ = body[head:].split(b"\0", 2)
        self._volume.rename(node, name.decode(), target, new_name.decode())
        return b""

    def _read(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = _READ_WRITE.unpack_from(body)
        return self._volume.read(node, offset, size)

    def _write(self, node: int, body: bytes) -> bytes:
        _, offset, size, *_ = _READ_WRITE.unpack_from(body)
        taken = self._volume.write(node, offset, body[_READ_WRITE.size : _READ_WRITE.size + size])
        return struct.pack("<II", taken, 0)

    def _fallocate(self, node: int, body: bytes) -> bytes:
        _, offset, length, mode = struct.unpack_from("<QQQI", body)
        if mode:
            raise OSError(errno.EOPNOTSUPP, "punching holes")
        self._volume.allocate(node, offset + length)
        return b""

    def _open_folder(self, node: int, body: bytes) -> bytes:
        answer = self._opened()
        self._folders[self._next_handle] = self._volume.list_folder(node)
        return answer

    def _read_folder(self, node: int, body: bytes) -> bytes:
        handle, offset, size, *_ = _READ_WRITE.unpack_from(body)
        out = bytearray()
        for at, (name, entry) in enumerate(self._folders[handle][offset:], start=offset + 1):
            raw = name.encode()
            kind = 4 if isinstance(entry, Folder) else 8
            one = struct.pack("<QQII", entry.number, at, len(raw), kind) + raw
            one += bytes(-len(one) % 8)
            if len(out) + len(one) > size:
                break
            out += one
        return bytes(out)

    def _release_folder(self, node: int, body: bytes) -> bytes:
        self._folders.pop(struct.unpack_from("<Q", body)[0], None)
        return b""

    def _statfs(self) -> bytes:
        blocks, free = self._volume.room_blocks()
        return _STATFS.pack(blocks, free, free, 1 << 20, 1 << 20, 4096, 255, 4096, 0)


def _name(body: bytes) -> str:
    return body[: body.index(b"\0")].decode()


def _unknown(node: int, body: bytes) -> bytes:
    raise OSError(errno.ENOSYS, "not in this file system")


assert ROOT == 1  # FUSE_ROOT_ID
