"""A Python module run as a process of its own on a volume that only it can see.

``python -m tests.rigs.mounted SOCKET MOUNTPOINT MODULE ARGUMENTS…`` mounts, hands the descriptor over SOCKET and
becomes MODULE. `OnVolume` is the other end: it serves the volume, and cuts the power.
"""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from tests.rigs.fuse import FuseServer, mount_for_this_process
from tests.rigs.volume import Tree, Volume

REPOSITORY = Path(__file__).parents[2]


class OnVolume:
    """Runs `module` with the volume mounted at `mountpoint`, an empty folder; the child alone sees it there."""

    def __init__(self, volume: Volume, mountpoint: Path, module: str, *arguments: str) -> None:
        mountpoint.mkdir(exist_ok=True)
        self.volume = volume
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [sys.executable, "-m", "tests.rigs.mounted", str(theirs.fileno()), str(mountpoint)]
            self.process = subprocess.Popen(
                [*command, module, *arguments],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
            theirs.close()
            ours.settimeout(60)
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        if not descriptors:
            raise RuntimeError(f"the file system was not mounted: exit code {self.process.wait()}")
        self._server: FuseServer | None = FuseServer(volume, descriptors[0])

    def cut(self, torn: Random | None = None) -> Tree:
        """The power goes: nothing is answered any more, then the process is gone. What the disk holds."""
        if self._server is not None:
            # From here no request is answered, so nothing the process still says rests on a later write.
            self._server, server = None, self._server
            server.stop_answering()
            self.process.kill()
            server.stop()
        self.process.wait()
        return self.volume.survivors(torn)

    def said(self) -> list[bytes]:
        """The lines that were complete when it ended."""
        assert self.process.stdout is not None
        *lines, _ = self.process.stdout.read().split(b"\n")
        return lines

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


def main() -> None:
    handle, mountpoint, module = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    with socket.socket(fileno=handle) as to_parent:
        descriptor = mount_for_this_process(mountpoint)
        socket.send_fds(to_parent, [b"m"], [descriptor])
    os.close(descriptor)
    sys.argv = sys.argv[3:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
