"""How the demonstration calls the product's programs: as a person would, by their console scripts."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Final

_SCRIPTS: Final = Path(sysconfig.get_path("scripts"))
CENTRAL: Final = (str(_SCRIPTS / "dicomnet-central"),)
EDGE: Final = (str(_SCRIPTS / "dicomnet-edge"),)
