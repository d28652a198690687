"""Which of the real peers this machine has, and where their programs are."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterable
from pathlib import Path

PROGRAMS = {
    "dcmtk": ("storescu", "echoscu", "storescp", "findscu", "movescu", "getscu", "dcmqrscp", "dcmqrti"),
    "mosquitto": ("mosquitto",),
    "chromium": ("chromium",),
    "postgresql": ("initdb",),
    "orthanc": ("Orthanc",),
    "rsyslog": ("rsyslogd",),
    "swtpm": ("swtpm", "swtpm_setup", "tpm2_create", "openssl"),
}


def program(name: str) -> str | None:
    """Path of a peer's program; daemons live in sbin, PostgreSQL's tools in a folder of their version."""
    # Not this virtual environment's: pynetdicom puts commands called storescu and echoscu there.
    ours = Path(sysconfig.get_path("scripts"))
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    folders = [*(folder for folder in path if Path(folder) != ours), "/usr/sbin", "/sbin"]
    folders += sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
    return shutil.which(name, path=os.pathsep.join(folders))


OHIF = Path(__file__).parent / "clients" / "ohif"
PROVIDER = Path(__file__).parent / "central" / "access" / "provider"


def missing_peers(peers: Iterable[str]) -> list[str]:
    """Those of `peers` of which a part is not there; an unknown name is a fault of the test."""
    return [peer for peer in peers if not _is_there(peer)]


def _is_there(peer: str) -> bool:
    if peer == "oidc-provider":
        return (PROVIDER / "node_modules" / peer).is_dir()
    if peer == "ohif":
        return (OHIF / "dist" / "index.html").is_file()
    if peer == "orthanc" and orthanc_dicomweb() is None:
        return False
    return all(program(name) for name in PROGRAMS[peer])


def orthanc_dicomweb() -> Path | None:
    """Orthanc's DICOMweb plugin, which Debian packages by itself."""
    orthanc = program("Orthanc")
    plugin = Path(orthanc).parents[1] / "share/orthanc/plugins/libOrthancDicomWeb.so" if orthanc else None
    return plugin if plugin and plugin.exists() else None
