"""What schemathesis cannot know of STOW-RS: how its bodies are built (PS3.18 section 10.5.1).

It loads this module by the name in SCHEMATHESIS_HOOKS; SCHEMATHESIS_FILES is a folder of Part 10 files.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import strategies as st

_MEDIA_TYPE = 'multipart/related; type="application/dicom"'
_BOUNDARY = "between-two-parts"
_FILES = [path.read_bytes() for path in sorted(Path(os.environ["SCHEMATHESIS_FILES"]).iterdir())]


def _cut_or_turned(content: bytes) -> st.SearchStrategy[bytes]:
    """A file, a part of one, or one with a byte changed somewhere."""
    places = st.integers(0, len(content) - 1)
    return st.one_of(
        st.just(content),
        places.map(lambda at: content[:at]),
        places.map(lambda at: content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :]),
    )


_PARTS = st.lists(
    st.tuples(
        st.sampled_from(["application/dicom", "application/dicom; transfer-syntax=*", "text/plain", ""]),
        st.one_of(st.sampled_from(_FILES).flatmap(_cut_or_turned), st.binary(max_size=200)),
    ),
    min_size=1,
    max_size=4,
)


def _body(parts: list[tuple[str, bytes]]) -> bytes:
    written = b"".join(
        f"--{_BOUNDARY}\r\nContent-Type: {media_type}\r\n\r\n".encode() + content + b"\r\n"
        for media_type, content in parts
    )
    return written + f"--{_BOUNDARY}--\r\n".encode()


schemathesis.openapi.media_type(_MEDIA_TYPE, _PARTS.map(_body))


@schemathesis.hook
def before_call(_context: object, case: Any, _kwargs: dict[str, Any]) -> None:
    """Say the boundary, unless the case is one that says another Content-Type."""
    if case.media_type and case.media_type.startswith("multipart/related"):
        case.headers.setdefault("Content-Type", f"{_MEDIA_TYPE}; boundary={_BOUNDARY}")
