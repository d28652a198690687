"""Libraries that would quote data sets in logs and warnings, kept quiet, in central's own processes and its workers."""

from __future__ import annotations

import logging
import warnings

import pydicom.config


def quiet_libraries() -> None:
    """pydicom's warnings and log lines quote the data set; nothing of a data set goes into our log."""
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", module="pydicom")
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
