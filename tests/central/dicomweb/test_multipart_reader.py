"""Taking a multipart body apart as it comes: however it is cut, the parts are the same."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from central.dicomweb.errors import BadRequestError, UnsupportedMediaTypeError
from central.dicomweb.multipart_reader import MAX_HEAD_BYTES, MultipartReader, PartBegin, PartEnd, boundary_of

# Bytes of which boundaries and heads are made, so that what only looks like one is common.
PIECES = st.sampled_from(
    [b"\r", b"\n", b"\r\n", b"-", b"--", b"\r\n--", b"b", b"\r\n--bound", b":", b" ", b"x" * 50]
)
CONTENTS = (
    st.lists(PIECES, max_size=12).map(b"".join).filter(lambda content: b"\r\n--boundary" not in content)
)


def taken_apart(reader: MultipartReader, pieces: Iterator[bytes]) -> list[tuple[dict[str, str], bytes]]:
    """Parts that came whole."""
    whole, headers, content = [], {}, b""
    for piece in pieces:
        for event in reader.feed(piece):
            if isinstance(event, PartBegin):
                headers, content = dict(event.headers), b""
            elif isinstance(event, PartEnd):
                whole.append((headers, content))
            else:
                content += event
    return whole


def cut(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


@given(
    contents=st.lists(CONTENTS, max_size=4),
    size=st.integers(1, 40),
    preamble=st.sampled_from([b"", b"x\r\n"]),
)
def test_however_it_is_cut(contents: list[bytes], size: int, preamble: bytes) -> None:
    parts = (b"--boundary \t\r\nContent-Type: a/b\r\nX: y:z\r\n\r\n" + each + b"\r\n" for each in contents)
    body = preamble + b"".join(parts) + b"--boundary--\r\nwhatever"
    reader = MultipartReader(b"boundary")
    found = taken_apart(reader, cut(body, size))
    assert found == [({"content-type": "a/b", "x": "y:z"}, each) for each in contents]
    assert reader.is_finished


@given(body=st.binary(max_size=300), size=st.integers(1, 40))
def test_anything_at_all(body: bytes, size: int) -> None:
    """Ends in parts or in a refusal, and says no more than came."""
    reader = MultipartReader(b"b")
    try:
        found = taken_apart(reader, cut(b"--b\r\n\r\n" + body, size))
    except BadRequestError:
        return
    assert sum(len(content) for _, content in found) <= len(body)


def test_what_is_kept_back_stays_small() -> None:
    reader = MultipartReader(b"boundary")
    list(reader.feed(b"--boundary\r\n\r\n"))
    for _ in range(100):
        assert sum(len(event) for event in reader.feed(bytes(10_000)) if isinstance(event, bytes)) >= 9_900
        assert len(reader._held) < 20


@pytest.mark.parametrize(
    "body",
    [bytes(70_000), b"--b\r\n" + b"a" * (MAX_HEAD_BYTES + 1), b"--bc\r\n\r\n", b"--b\r\nno colon\r\n\r\n"],
)
def test_what_is_no_body(body: bytes) -> None:
    with pytest.raises(BadRequestError):
        list(MultipartReader(b"b").feed(body))


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary=x', b"x"),
        ("Multipart/Related; Type=Application/DICOM; Boundary=x", b"x"),
        ("multipart/related; boundary=\"a b?c\"; type='application/dicom'", None),
        ('multipart/related; boundary="a b?c"', b"a b?c"),
        ('multipart/related; boundary="a "', None),
        ("multipart/related; boundary=", None),
        ("multipart/related; boundary=" + "x" * 71, None),
        ("multipart/form-data; boundary=x", None),
        ("application/dicom", None),
        ("", None),
    ],
)
def test_the_boundary(content_type: str, boundary: bytes | None) -> None:
    if boundary is None:
        with pytest.raises((BadRequestError, UnsupportedMediaTypeError)):
            boundary_of(content_type, "application/dicom")
    else:
        assert boundary_of(content_type, "application/dicom") == boundary
