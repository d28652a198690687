"""Which of the real peers this machine has, and where their programs are."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Collection
from pathlib import Path

PROGRAMS = {
    "dcmtk": ("storescu", "echoscu", "storescp", "findscu", "movescu", "getscu", "dcmqrscp"),
    "mosquitto": ("mosquitto",),
    "chromium": ("chromium",),
    "postgresql": ("initdb",),
    "orthanc": ("Orthanc",),
    "rsyslog": ("rsyslogd",),
}


def program(name: str) -> str | None:
    """Path of a peer's program; daemons live in sbin, PostgreSQL's tools in a folder of their version."""
    # Not this virtual environment's: pynetdicom puts commands called storescu and echoscu there.
    ours = Path(sysconfig.get_path("scripts"))
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    folders = [*(folder for folder in path if Path(folder) != ours), "/usr/sbin", "/sbin"]
    folders += sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    return shutil.which(name, path=os.pathsep.join(folders))


def missing_peers(peers: Collection[str]) -> list[str]:
    """Those of `peers` of which a program is not there; an unknown name is a fault of the test."""
    missing = [peer for peer in peers if not all(program(name) for name in PROGRAMS[peer])]
    return [*missing, "orthanc-dicomweb"] if "orthanc" in peers and orthanc_dicomweb() is None else missing


def orthanc_dicomweb() -> Path | None:
    """Orthanc's DICOMweb plugin, which Debian packages by itself."""
    orthanc = program("Orthanc")
    plugin = Path(orthanc).parents[1] / "share/orthanc/plugins/libOrthancDicomWeb.so" if orthanc else None
    return plugin if plugin and plugin.exists() else None
