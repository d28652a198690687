import pytest

from contract.identifiers import (
    InvalidIdentifierError,
    check_ae_title,
    check_gateway_id,
    check_object_id,
    check_uid,
    new_object_id,
)


@pytest.mark.parametrize("uid", ["1", "1.2.840.10008.1.1", "0.0", "1.02", "1" * 64])
def test_uids_of_digits_and_dots_pass_unchanged(uid: str) -> None:
    assert check_uid(uid) == uid


@pytest.mark.parametrize(
    "uid", ["", ".", "1.", ".1", "1..2", "../../etc/passwd", "1.2/3", "1.2\n", "1 2", "\uff11.2", "1" * 65]
)
def test_anything_else_is_refused(uid: str) -> None:
    with pytest.raises(InvalidIdentifierError):
        check_uid(uid)


def test_ae_titles_lose_their_padding_and_nothing_else() -> None:
    assert check_ae_title(" CT 1  ") == "CT 1"
    for bad in ("", "   ", "A" * 17, "A\\B", "A\nB", "Ä"):
        with pytest.raises(InvalidIdentifierError):
            check_ae_title(bad)


def test_object_and_gateway_ids() -> None:
    assert check_object_id(new_object_id())
    for bad in ("", "0" * 31, "G" * 32, "0" * 31 + "\n"):
        with pytest.raises(InvalidIdentifierError):
            check_object_id(bad)
    assert check_gateway_id("ct-room-1")
    for bad in ("", "-a", "a-", "A", "a/b", "a+b", "#", "a" * 33):
        with pytest.raises(InvalidIdentifierError):
            check_gateway_id(bad)
