"""Many threads that hold memory share two heaps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELD_BY_THREADS = """
import ctypes, threading
{first}
met, held = threading.Barrier(9), []
def hold():
    met.wait()
    held.append([bytes(3000) for _ in range(50)])
    met.wait()
threads = [threading.Thread(target=hold) for _ in range(8)]
for one in threads:
    one.start()
met.wait()
met.wait()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)  # glibc's own account; where mappings lie would be a guess, since others may lie there too
libc.fflush(out)
"""


@pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc"
)
def test_threads_share_heaps() -> None:
    def heaps(first: str) -> int:
        script = HELD_BY_THREADS.format(first=first)
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd=root)
        return done.stdout.count(b"<heap nr=")

    assert heaps("from central.memory import share_heaps; share_heaps()") == 2
    assert heaps("") > 2, "this test sees no heaps"
