"""How the machine itself is: temperature, memory, and wear of its disk.

Read from /sys and /proc, which cost microseconds and wake no disk. What a machine does not tell is None, never a
guess.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final

import psutil

_SYS: Final = Path("/sys")
_MAX_C: Final = 150.0


def temperature_c(sys: Path = _SYS) -> float | None:
    """The hottest thermal zone in degrees Celsius (kernel: sysfs-class-thermal, in thousandths)."""
    found = []
    for path in sys.glob("class/thermal/thermal_zone*/temp"):
        text = _read(path)
        if text.lstrip("-").isdigit() and 0 < int(text) / 1000 < _MAX_C:
            found.append(int(text) / 1000)
    return max(found, default=None)


def disk_wear_percent(sys: Path = _SYS) -> int | None:
    """The most worn eMMC's used life (JEDEC JESD84-B51 DEVICE_LIFE_TIME_EST: tenths, 0x0B is beyond)."""
    worst = None
    for path in sys.glob("block/mmcblk*/device/life_time"):
        for word in _read(path).split()[:2]:
            try:
                tenths = int(word, 16)
            except ValueError:
                continue
            if 1 <= tenths <= 11:  # 0 is "not defined"
                worst = max(worst or 0, min(100, tenths * 10))
    return worst


def memory_available_bytes() -> int:
    return int(psutil.virtual_memory().available)


def memory_total_bytes() -> int:
    return int(psutil.virtual_memory().total)


def model(sys: Path = _SYS) -> str:
    """What the firmware calls this machine: a device tree's model, or a PC's product name."""
    for path in ("firmware/devicetree/base/model", "class/dmi/id/product_name"):
        text = _read(sys / path)
        if text:
            return "".join(char for char in text if char.isprintable())[:128]
    return ""


def system() -> str:
    """Operating system and kernel in one line."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = platform.system()
    return f"{name}, kernel {platform.release()}"[:128]


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(256).decode("ascii", "replace").strip("\0\n ")
    except OSError:
        return ""
