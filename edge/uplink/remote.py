"""What central may set on a box without anybody going there: a short list, applied at once, kept over restarts.

    heartbeat/remote.json       the newest version looked at, the values in force, and whether sending is paused

Always true: only `REMOTE_SETTINGS` can be set, within their bounds; a version is looked at once, and an older one
never undoes a newer; nothing here can loosen who may send, to whom it goes, or how it is sealed. A crash leaves
the values before or after, never a mixture.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from contract.command import MAX_SETTINGS, Desired, Reported, SettingValue
from edge.buffer.durable_file import replace_file
from edge.uplink.state_file import read_state

_log = logging.getLogger(__name__)
_FILE: Final = "remote.json"

Apply = Callable[[SettingValue], None]

REMOTE_SETTINGS: Final[Mapping[str, tuple[TypeAdapter[SettingValue], str]]] = {
    "log_level": (
        TypeAdapter(Literal["debug", "info", "warning", "error"]),
        "one of debug, info, warning, error",
    ),
    "echo_interval_s": (
        TypeAdapter(Annotated[int, Field(strict=True, ge=30, le=86_400)]),
        "whole seconds from 30 to 86400",
    ),
}
"""Name → what it may be, and that in words. Each takes effect without a restart."""


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = Field(default=0, ge=0)
    settings: dict[str, SettingValue] = Field(default_factory=dict, max_length=MAX_SETTINGS)
    refused: dict[str, str] = Field(default_factory=dict, max_length=MAX_SETTINGS)
    paused: bool = False


class Remote:
    """Thread-safe.

    Parameters
    ----------
    defaults : the box's own configuration, in force where central desires nothing.
    apply : what brings a value into force, by name; it must not fail for a value within bounds.
    """

    def __init__(
        self, directory: Path, defaults: Mapping[str, SettingValue], apply: Mapping[str, Apply]
    ) -> None:
        assert defaults.keys() == apply.keys() == REMOTE_SETTINGS.keys()
        self._path = directory / _FILE
        self._defaults = dict(defaults)
        self._apply = apply
        self._lock = threading.Lock()
        self._kept = self._load()
        if self._kept.settings:
            self._bring_into_force()

    @property
    def paused(self) -> bool:
        return self._kept.paused

    def keep_paused(self, paused: bool) -> None:
        """Remember over restarts. OSError if the disk does not take it."""
        with self._lock:
            self._keep(self._kept.model_copy(update={"paused": paused}))

    def reported(self) -> Reported:
        kept = self._kept
        return Reported(
            version=kept.version, settings={**self._defaults, **kept.settings}, refused=kept.refused
        )

    def desire(self, desired: Desired) -> bool:
        """Look at what central wants; True if it was new. OSError if the disk does not take it.

        A name that is left out falls back to the box's own configuration.
        """
        with self._lock:
            if desired.version <= self._kept.version:
                return False
            settings: dict[str, SettingValue] = {}
            refused: dict[str, str] = {}
            for name, value in desired.settings.items():
                known = REMOTE_SETTINGS.get(name)
                if known is None:
                    refused[name[:64]] = "cannot be set from central"
                    continue
                try:
                    settings[name] = known[0].validate_python(value)
                except ValidationError:
                    refused[name] = f"must be {known[1]}"
            self._keep(
                _Kept(version=desired.version, settings=settings, refused=refused, paused=self._kept.paused)
            )
            self._bring_into_force()
        _log.info("settings from central", extra={"version": desired.version, "refused": sorted(refused)})
        return True

    def _bring_into_force(self) -> None:
        for name, value in {**self._defaults, **self._kept.settings}.items():
            self._apply[name](value)

    def _keep(self, kept: _Kept) -> None:
        replace_file(self._path, kept.model_dump_json().encode())
        self._kept = kept

    def _load(self) -> _Kept:
        content = read_state(self._path)
        if content is None:
            return _Kept()
        try:
            kept = _Kept.model_validate_json(content)
        except ValidationError:
            _log.warning("settings from central unreadable, the box's own count", extra={"path": self._path})
            return _Kept()
        good: dict[str, SettingValue] = {}
        for name, value in kept.settings.items():
            try:
                good[name] = REMOTE_SETTINGS[name][0].validate_python(value)
            except (KeyError, ValidationError):
                _log.warning("setting from central no longer known", extra={"name_": name})
        return kept.model_copy(update={"settings": good})
