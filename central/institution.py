"""What an institution is called. One central holds the studies of several; who has just one needs to name none.

Always true: every study, box, peer and account belongs to exactly one institution, which is `DEFAULT_INSTITUTION` where
nothing else was said; only an administrator may be of `WHOLE_CENTRAL` instead.
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator

DEFAULT_INSTITUTION: Final = "default"
WHOLE_CENTRAL: Final = "*"
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class InvalidInstitutionError(ValueError):
    """This names no institution; the text says what would."""


def check_institution(text: str) -> str:
    """`text`, if an institution can be called so.

    Raises
    ------
    InvalidInstitutionError : it cannot.
    """
    if not _NAME.fullmatch(text):
        raise InvalidInstitutionError("an institution is called by 1 to 32 of a-z, 0-9 and '-'")
    return text


InstitutionName = Annotated[str, AfterValidator(check_institution)]
"""In settings."""
