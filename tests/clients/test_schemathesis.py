"""schemathesis against the OpenAPI document: central does what it says there, for good and for bad requests.

Seeds are fixed: the same requests each time. `make soak` asks for more.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.central.access.house import STUDY, pydicom_file
from tests.clients.house import Served, central_with_studies

ROOT = Path(__file__).parents[2]
SOAK = bool(os.environ.get("DICOMNET_SOAK"))
EXAMPLES = 200 if SOAK else 3
# Role, whose names of studies, what schemathesis does. The coverage phase goes through the document's edges one by one.
RUNS = [("radiologist", "at hand", "coverage"), ("radiologist", "made up", "fuzzing")]
if SOAK:
    RUNS += [("radiologist", "at hand", "fuzzing"), ("admin", "made up", "coverage,fuzzing")]
# 406 is an answer to what is right: a report has no picture. OpenAPI cannot say which parameters go together.
CHECKS = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", "401", "404", "406", "409"]

[[operations]]
include-path = "/wado"
checks.positive_data_acceptance.expected-statuses = ["2xx", "3xx", "400", "401", "404", "406"]
"""
AT_HAND = f"""
[warnings]
fail-on = ["missing_test_data"]

[parameters]
"path.study" = "{STUDY}"
"path.series" = "1.2.9.2"
"path.instance" = "1.2.9.2.1"
"path.element" = "7FE00010"
"path.frames" = "1,2"
"path.frame" = "2"
"query.studyUID" = "{STUDY}"
"query.seriesUID" = "1.2.9.2"
"query.objectUID" = "1.2.9.2.1"
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with central_with_studies(tmp_path_factory.mktemp("central")) as opened:
        yield opened


@pytest.mark.timeout(7200 if SOAK else 600)
@pytest.mark.parametrize(("role", "names", "phases"), RUNS)
def test_the_document_holds(served: Served, tmp_path: Path, role: str, names: str, phases: str) -> None:
    """Every check that it has: statuses, media types, schemas, refusals, Allow; nobody gets in without a token."""
    (tmp_path / "files").mkdir()
    for name in ("CT_small.dcm", "test-SR.dcm"):
        (tmp_path / "files" / name).write_bytes(pydicom_file(name, SOPInstanceUID=f"1.2.9.{len(name)}.9"))
    config = tmp_path / "schemathesis.toml"
    config.write_text((AT_HAND if names == "at hand" else "") + CHECKS)
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--config-file", config),
            *("run", f"{served.url}/dicom-web/openapi.json"),
            *("--header", f"Authorization: Bearer {served.session(role)}"),
            *("--checks", "all", "--phases", phases, "--max-examples", str(EXAMPLES), "--seed", "1"),
            *("--continue-on-failure", "--no-shrink", "--generation-database", "none", "--no-color"),
            *("--request-timeout", "60", "--suppress-health-check", "all"),
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.clients.schemathesis_hooks",
            "SCHEMATHESIS_FILES": str(tmp_path / "files"),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
