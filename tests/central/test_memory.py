"""Many threads that hold memory share two heaps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HELD_BY_THREADS = """
import threading
from pathlib import Path
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
spans = [line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines()]
print(sum(int(begin, 16) % (64 << 20) == 0 for begin, end in spans))  # where glibc puts a heap of a thread
"""


@pytest.mark.skipif(
    sys.platform != "linux" or "glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="glibc"
)
def test_threads_share_heaps() -> None:
    def heaps(first: str) -> int:
        script = HELD_BY_THREADS.format(first=first)
        root = Path(__file__).parents[2]
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, cwd=root)
        return int(done.stdout)

    assert heaps("from central.memory import share_heaps; share_heaps()") <= 1  # and the main one
    assert heaps("") > 1, "this test sees no heaps"
