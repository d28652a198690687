"""Which version of the box's program this is."""

from importlib.metadata import version
from typing import Final

VERSION: Final = version("dicomnet")
