"""What the groups of `dicomnet-central` commands (user, keys, audit) have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from central.audit.events import AuditEvent
from central.config import Settings

RunCommand = Callable[[argparse.Namespace], int | None]
"""Runs a command; None is exit code 0. What cannot begin raises, and is exit code 2."""

AddCommand = Callable[[str, str, RunCommand], argparse.ArgumentParser]
"""Adds a command by name, what it does, and what runs it; gives its parser."""


class CommandGroup:
    """The base of a group.

    Parameters
    ----------
    settings : reads the settings that the options name.
    event : an audit event by whoever types the command, from action, detail and the institutions it concerns.
    """

    def __init__(
        self,
        settings: Callable[[argparse.Namespace], Settings],
        event: Callable[..., AuditEvent],
    ) -> None:
        self._settings = settings
        self._event = event
