"""Where this box makes its next key, and how a kept one is taken up again.

`auto` is a TPM where there is one that can be used, else a file. A key that exists stays where it is: the choice is
made anew at the next enrolment and the next renewal. A TPM that can be used and then fails is a fault with a
sentence, never a file instead.
"""

from __future__ import annotations

import logging
from typing import Literal

from edge.uplink.box_key import BoxKey, FileKey
from edge.uplink.tpm import Tpm, is_tpm_key

Choice = Literal["auto", "tpm", "file"]
_log = logging.getLogger(__name__)


class KeyMaker:
    """Thread-safe."""

    def __init__(self, choice: Choice = "file", tpm: Tpm | None = None) -> None:
        self._choice = choice
        self._tpm = tpm or Tpm()

    def make(self) -> BoxKey:
        """A new key. KeyUnavailableError if it is to be in a TPM and cannot."""
        if self._choice == "file" or (self._choice == "auto" and not self._can_use_tpm()):
            return FileKey.make()
        return self._tpm.make()

    def load(self, text: str) -> BoxKey:
        """The key of which this was kept, wherever it lies. ValueError if it is none."""
        return self._tpm.load(text) if is_tpm_key(text) else FileKey.load(text)

    def _can_use_tpm(self) -> bool:
        why_not = self._tpm.why_not()
        if why_not and self._tpm.is_there:
            _log.warning("key in a file", extra={"reason": why_not})
        return not why_not
