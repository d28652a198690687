"""Writes central.toml and edge.toml: the files an administrator would write, for one machine and these ports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

from demo.state import HOST, Ports, State

GATEWAY_AE_TITLE: Final = "DICOMNET"
CENTRAL_AE_TITLE: Final = "CENTRAL"
_BACKOFF_CEILING_S: Final = 2.0  # who watches a demonstration heal does not want to wait a minute
_RESERVE_BYTES: Final = 256 << 20  # a demonstration may run on a nearly full laptop


def toml(sections: Mapping[str, Mapping[str, object]]) -> str:
    """Sections of plain values as TOML; JSON's scalars and lists are TOML's (TOML 1.0, strings as basic strings)."""
    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
        lines.append("")
    return "\n".join(lines)


def write_configuration(state: State, ports: Ports, *, broker_tls: bool) -> None:
    """Write both files.

    Parameters
    ----------
    broker_tls : the broker speaks mutual TLS on `ports.mqtt_gateways`; False: plain on `ports.mqtt_watch`.
    """
    central: dict[str, dict[str, object]] = {
        "people": {"host": HOST, "port": ports.central_people},
        # Nobody sits at this central to accept its one box; the pairing string is the demonstration's own.
        "gateways": {"host": HOST, "port": ports.central_gateways, "acceptance": "pairing-string"},
        "dicom": {"host": HOST, "port": ports.central_dicom, "ae_title": CENTRAL_AE_TITLE},
        "storage": {"root": str(state.root / "central"), "reserve_bytes": _RESERVE_BYTES},
        "mqtt": {
            "host": HOST,
            "port": ports.mqtt_gateways if broker_tls else ports.mqtt_watch,
            "tls": broker_tls,
        },
    }
    if broker_tls:
        central["mqtt"]["directory"] = str(state.root / "broker")  # so that a revocation holds at once
    edge: dict[str, dict[str, object]] = {
        "box": {"name": "Demonstration", "state_directory": str(state.root / "edge")},
        "gateway": {"host": HOST, "port": ports.gateway_dicom, "ae_title": GATEWAY_AE_TITLE},
        "buffer": {"reserve_bytes": _RESERVE_BYTES},
        "uplink": {"backoff_ceiling_s": _BACKOFF_CEILING_S},
    }
    state.write("central.toml", toml(central))
    state.write("edge.toml", toml(edge))
