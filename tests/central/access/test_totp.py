from __future__ import annotations

import pytest

from central.access.totp import STEP_S, code_at, secret_text, step_of, uri

SECRET = b"12345678901234567890"  # RFC 6238 appendix B
NOW = 1_800_000_000.0
STEP = int(NOW) // STEP_S


@pytest.mark.parametrize(
    ("at_utc", "code"),
    [
        (59, "94287082"),
        (1111111109, "07081804"),
        (1111111111, "14050471"),
        (1234567890, "89005924"),
        (2000000000, "69279037"),
        (20000000000, "65353130"),
    ],
)
def test_the_codes_are_those_of_rfc_6238(at_utc: int, code: str) -> None:
    assert code_at(SECRET, at_utc // STEP_S, digits=8) == code
    assert code_at(SECRET, at_utc // STEP_S) == code[2:]


def test_a_code_counts_one_step_early_and_late_and_no_more() -> None:
    for apart, expected in ((-2, None), (-1, STEP - 1), (0, STEP), (1, STEP + 1), (2, None)):
        assert step_of(SECRET, code_at(SECRET, STEP + apart), NOW) == expected, apart


def test_a_code_counts_after_the_last_one_only() -> None:
    code = code_at(SECRET, STEP)
    assert step_of(SECRET, code, NOW, after_step=STEP - 1) == STEP
    assert step_of(SECRET, code, NOW, after_step=STEP) is None


@pytest.mark.parametrize("code", ["", "0", "1234567", "abcdef", "١٢٣٤٥٦", "x" * 9999])
def test_what_is_no_code_is_none(code: str) -> None:
    assert step_of(SECRET, code, NOW) is None


def test_the_key_is_written_for_people_and_for_apps() -> None:
    assert secret_text(SECRET) == "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ"
    assert uri(SECRET, "anna@haus") == (
        "otpauth://totp/DICOM%20Network%3Aanna%40haus?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
        "&issuer=DICOM%20Network&algorithm=SHA1&digits=6&period=30"
    )
