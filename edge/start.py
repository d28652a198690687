"""How ``dicomnet-edge`` starts: without what its libraries load only because it happens to be installed.

peewee takes up PostgreSQL drivers, pydicom an HTTP client and an image library, httpx a console, where they find them.
A box beside central, or one in a developer's environment, would carry 20 MB of them and never use any.
"""

from __future__ import annotations

import sys
from typing import Final

NEVER_USED: Final = ("PIL", "click", "psycopg", "psycopg2", "psycopg2cffi", "pygments", "requests", "rich")


def main() -> int:
    """Entry point of ``dicomnet-edge``; see `edge.app.main`."""
    for name in NEVER_USED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: importing it fails as if it were not there
    from edge import app  # after the above, which is the point of this module

    return app.main()


if __name__ == "__main__":
    sys.exit(main())
