"""The dry run of the routing: where the last studies would go by the rules in force, and by others that are tried out.

Reads the spool's index beside the running box, and changes nothing. Priorities are those of the rules: what orders
and people said is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from contract.settings import Section, SettingsError, load_settings
from edge.buffer.last_studies import SeenStudy, last_studies
from edge.config import Settings
from edge.destination_settings import CENTRAL, RuleSettings, check_routing
from edge.routing import Routing, Traits

_HEADINGS = (
    "received (UTC)",
    "images",
    "mod",
    "from",
    "to",
    "address",
    "station",
    "department",
    "study",
    "goes to",
    "priority",
)
_CHANGES = "with the other rules"


class RulesFile(Section):
    """What a file of rules to be tried out may hold: the same ``[[routing]]`` as the configuration."""

    routing: list[RuleSettings] = Field(default=[], max_length=256, description="The rules")


def read_rules(path: Path, settings: Settings) -> list[RuleSettings]:
    """SettingsError if they would not be taken in the configuration."""
    rules = load_settings(RulesFile, path, environ={}).routing
    try:
        check_routing(settings.destinations, rules, has_key=settings.query.enabled)
    except ValueError as error:
        raise SettingsError(f"{path.name}: {error}") from error
    return rules


def routes_text(settings: Settings, *, last: int, rules: Path | None) -> str:
    """The table. SpoolError or SettingsError if something cannot be read."""
    now = Routing(settings.destinations, settings.routing)
    other = Routing(settings.destinations, read_rules(rules, settings)) if rules is not None else None
    studies = last_studies(settings.spool_directory, limit=last)
    if not studies:
        return "no study has come yet"
    lines = [_line(study, now, other) for study in studies]
    headings = [*_HEADINGS, _CHANGES] if other else list(_HEADINGS)
    text = _table([headings, *lines])
    if other is not None:
        changed = sum(bool(line[-1]) for line in lines)
        text += f"\n{changed} of {len(lines)} would go elsewhere, or at another priority"
    return text


def _line(study: SeenStudy, now: Routing, other: Routing | None) -> list[str]:
    traits = Traits(
        study.modality,
        study.calling_ae_title,
        study.called_ae_title,
        study.peer_address,
        study.station_name,
        study.department,
    )
    destinations, priority = now.destinations_of(traits), now.priority_of(traits)
    line = [
        f"{study.last_received_at_utc:%Y-%m-%d %H:%M:%S}",
        str(study.instances),
        study.modality or "-",
        study.calling_ae_title,
        study.called_ae_title,
        study.peer_address,
        study.station_name or "-",
        study.department or "-",
        study.study_instance_uid,
        ", ".join((CENTRAL, *destinations)),
        priority.word,
    ]
    if other is not None:
        changes = [_change(destinations, other.destinations_of(traits))]
        if (then := other.priority_of(traits)) is not priority:
            changes.append(f"priority {then.word}")
        line.append(" ".join(filter(None, changes)))
    return line


def _change(before: Sequence[str], after: Sequence[str]) -> str:
    """Such as ``+PACS -ARCHIVE``; empty where nothing differs."""
    return " ".join(
        [
            *(f"+{name}" for name in after if name not in before),
            *(f"-{name}" for name in before if name not in after),
        ]
    )


def _table(rows: Sequence[Sequence[str]]) -> str:
    plain = [["".join(char if char.isprintable() else "?" for char in cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*plain, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in plain
    )
