"""Asks how urgent a study is."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from contract.priority import WORDS


class PriorityChoice(ModalScreen[str]):
    """A word of contract.priority, by its first letter; empty for escape."""

    BINDINGS = [  # noqa: RUF012  # Textual's own declaration
        *(Binding(word[0], f"dismiss('{word}')", word.capitalize()) for word in WORDS),
        Binding("escape", "dismiss('')", "Back"),
    ]

    def __init__(self, study_instance_uid: str) -> None:
        super().__init__()
        self._study_instance_uid = study_instance_uid

    def compose(self) -> ComposeResult:
        keys = "   ".join(f"{word[0]} {word}" for word in WORDS)
        text = f"How urgent is study {self._study_instance_uid}?\n\n{keys}   escape: as it is"
        with Vertical(id="priority"):
            yield Static(Text(text))
