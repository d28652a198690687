"""Which broker carries the heartbeats: mosquitto with mutual TLS where it is installed, else amqtt on loopback."""

from __future__ import annotations

import os
import shutil
import sys

from demo.processes import Program, run_once
from demo.programs import CENTRAL
from demo.state import Ports, State


def mosquitto_path() -> str | None:
    """Debian puts daemons into sbin, which is not in everybody's PATH."""
    folders = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/sbin"])
    return shutil.which("mosquitto", path=folders)


async def broker_program(state: State, ports: Ports, mosquitto: str | None) -> Program:
    """The broker to run: `mosquitto` with the configuration that central writes for it, or amqtt."""
    if mosquitto is None:
        return Program(
            "broker", [sys.executable, "-m", "demo.amqtt_broker", str(ports.mqtt_watch)], ports.mqtt_watch
        )
    folder = state.root / "broker"
    await run_once(
        "the broker's configuration",
        [
            *CENTRAL,
            "mqtt-config",
            "--config",
            str(state.central_toml),
            "--dir",
            str(folder),
            "--watch-port",
            str(ports.mqtt_watch),
        ],
    )
    return Program("broker", [mosquitto, "-c", str(folder / "mosquitto.conf")], ports.mqtt_watch)
