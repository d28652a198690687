"""The documents say what the programs do, and point at what is there."""

import re
from pathlib import Path

import pytest

from central.config import Settings as CentralSettings
from contract.settings import settings_table
from edge.config import Settings as EdgeSettings

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("settings", [EdgeSettings, CentralSettings], ids=["edge", "central"])
def test_operations_has_every_setting_as_the_program_prints_it(
    settings: type[EdgeSettings] | type[CentralSettings],
) -> None:
    assert settings_table(settings) in (ROOT / "docs" / "operations.md").read_text()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} points at {target}"


def test_next_is_short() -> None:
    assert len((ROOT / "docs" / "NEXT.md").read_text().splitlines()) <= 40
