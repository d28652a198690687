"""Numbers of the machine, from a /sys of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.uplink.box_health import disk_wear_percent, model, system, temperature_c


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_hottest_zone_counts_and_nonsense_does_not(tmp_path: Path) -> None:
    assert temperature_c(tmp_path) is None
    for number, text in enumerate(["48312\n", "51000\n", "-274000\n", "999999999\n", "warm\n", ""]):
        put(tmp_path / f"class/thermal/thermal_zone{number}/temp", text)
    assert temperature_c(tmp_path) == 51.0


@pytest.mark.parametrize(
    ("text", "percent"),
    [("0x01 0x02\n", 20), ("0x0b 0x01\n", 100), ("0x00 0x00\n", None), ("0x0f\n", None), ("?", None)],
)
def test_wear_of_an_emmc(tmp_path: Path, text: str, percent: int | None) -> None:
    put(tmp_path / "block/mmcblk0/device/life_time", text)
    assert disk_wear_percent(tmp_path) == percent


def test_the_model_is_one_printable_line(tmp_path: Path) -> None:
    assert model(tmp_path) == ""
    put(tmp_path / "firmware/devicetree/base/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    assert model(tmp_path) == "Raspberry Pi 4 Model B Rev 1.4"
    assert "kernel" in system()
