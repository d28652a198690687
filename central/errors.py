"""What keeps central from starting or a command from being carried out."""

from __future__ import annotations


class StartError(Exception):
    """Permanent until somebody acts. The text is one sentence that names what to change."""
