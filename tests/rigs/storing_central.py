"""A central that takes in C-STORE until its power goes: ``python -m tests.rigs.storing_central ROOT``.

Starts as the server does, with what the last cut left, and says on which port it listens.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from central.archive.objects import fsync_folder
from tests.central.dimse.house import open_house


def main() -> None:
    root = Path(sys.argv[1])
    root.mkdir(mode=0o700, exist_ok=True)
    fsync_folder(root.parent)
    with open_house(root) as house:
        house.archive.sweep()
        os.write(1, json.dumps({"port": house.port}).encode() + b"\n")
        sys.stdin.read()  # until the power goes


if __name__ == "__main__":
    main()
