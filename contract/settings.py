"""How every program reads its one TOML file: typed, frozen, and strict about what it does not know.

A program's settings are a frozen pydantic model that forbids unknown keys, whose fields carry a description
(with the unit) and a default. From that one model come the validation, `--print-default-config` and the
table in docs/operations.md. Environment beats file: `DICOMNET_<SECTION>_<KEY>` (upper case).
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
import types
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from contract.errors import PermanentError

_ANY_NAME = "name"
Location = tuple[str | int, ...]


class SettingsError(PermanentError):
    """The configuration is wrong; the text names the file, the line, the key and what to do."""


class Section(BaseModel):
    """Base of every settings model: frozen, unknown keys refused, defaults checked like given values."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


SettingsT = TypeVar("SettingsT", bound=Section)


def load_settings(
    model: type[SettingsT], path: Path | None, environ: Mapping[str, str] = os.environ
) -> SettingsT:
    """Read `path` (None: defaults and environment only) into `model`.

    Raises
    ------
    SettingsError : one sentence a fault, such as
        ``edge.toml line 7: unknown key gateway.prot; did you mean gateway.port?``
    """
    text, name = "", "the environment"
    if path is not None:
        name = path.name
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise SettingsError(f"cannot read the configuration {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"{path} is not UTF-8 text") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name}: {error}") from error
    _apply_environment(model, values, environ)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [
            _sentence(model, fault["loc"], fault["type"], fault["msg"], text, name)
            for fault in error.errors()
        ]
        raise SettingsError("\n".join(faults)) from error


def print_default_config(model: type[Section]) -> str:
    """The whole configuration as TOML: every key with its description and default.

    Commented, as an example to copy: keys without a default, lists of tables, tables under a name of one's own
    choice, and optional tables.
    """
    return "\n".join(_table_lines(model, ())).strip() + "\n"


def _table_lines(model: type[Section], above: tuple[str, ...]) -> Iterator[str]:
    """A table's own keys, then the tables inside it, as TOML wants them."""
    for name, field in model.model_fields.items():
        if _section(field.annotation) is None:
            yield from _key_lines(name, field)
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            continue
        shape = _shape(field)
        path = (*above, name, _ANY_NAME) if shape is _Shape.NAMED else (*above, name)
        key = ".".join(path)
        lines = [
            *_comment(field.description),
            f"[[{key}]]" if shape is _Shape.LIST else f"[{key}]",
            *_table_lines(section, path),
        ]
        yield ""
        for line in lines:
            yield line if shape is _Shape.TABLE or not line or line.startswith("#") else f"# {line}"


def settings_table(model: type[Section]) -> str:
    """The Markdown table of docs/operations.md: key, default, meaning."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in _walk(model, ()):
        default = (
            "(none)" if field.is_required() or _default(field) is None else f"`{_toml(_default(field))}`"
        )
        rows.append(f"| `{key}` | {default} | {field.description or ''} |")
    return "\n".join(rows) + "\n"


def _walk(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            yield ".".join((*above, name)), field
        elif _shape(field) is _Shape.NAMED:
            yield from _walk(section, (*above, name, f"<{_ANY_NAME}>"))
        else:
            yield from _walk(section, (*above, name))


def _section(annotation: Any) -> type[Section] | None:
    """The Section inside an annotation: itself, in a list, under names, or optional."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    if get_origin(annotation) in (list, tuple, dict, Union, types.UnionType):
        return next((found for inner in get_args(annotation) if (found := _section(inner))), None)
    return None


class _Shape(Enum):
    """How a Section stands in a TOML file."""

    TABLE = auto()
    OPTIONAL = auto()
    LIST = auto()
    NAMED = auto()


def _shape(field: FieldInfo) -> _Shape:
    origin = get_origin(field.annotation)
    if origin in (list, tuple):
        return _Shape.LIST
    if origin is dict:
        return _Shape.NAMED
    return _Shape.OPTIONAL if field.is_required() or _default(field) is None else _Shape.TABLE


def _default(field: FieldInfo) -> Any:
    value = field.get_default(call_default_factory=True, validated_data={})
    return None if value is PydanticUndefined else value


def _key_lines(name: str, field: FieldInfo) -> list[str]:
    default = _default(field)
    shown = f"{name} = {_toml(default)}" if default is not None else f"# {name} ="
    return [*_comment(field.description), shown]


def _comment(description: str | None) -> list[str]:
    return [f"# {line}" for line in (description or "").splitlines()]


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, (bool, int, float)) or value is None:
        return json.dumps(value)
    return json.dumps(str(value))


def _apply_environment(model: type[Section], values: dict[str, Any], environ: Mapping[str, str]) -> None:
    for key, field in _walk(model, ()):
        text = environ.get("DICOMNET_" + key.replace(".", "_").upper())
        if text is None:
            continue
        *sections, last = key.split(".")
        table = values
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                break  # a list of tables cannot be set from the environment; the file's fault, if any, is reported
        else:
            table[last] = text.split(",") if get_origin(field.annotation) is list else text


def _sentence(model: type[Section], loc: Location, kind: str, message: str, text: str, name: str) -> str:
    key = ".".join(str(part) for part in loc)
    line = _line_of(text, loc)
    where = f"{name} line {line}" if line else name
    if kind == "extra_forbidden":
        known = [found for found, _ in _walk(model, ())] + list(model.model_fields)
        plain = ".".join(str(part) for part in loc if isinstance(part, str))
        near = difflib.get_close_matches(plain, known, n=1, cutoff=0.5) or difflib.get_close_matches(
            plain.rpartition(".")[2], known, n=1, cutoff=0.5
        )
        hint = f"; did you mean {near[0]}?" if near else "; --print-default-config shows every key"
        return f"{where}: unknown key {key}{hint}"
    if kind == "missing":
        return f"{where}: {key} is missing and has no default"
    plain_message = message.removeprefix("Value error, ")  # pydantic's word for what our own checks raise
    if not key:
        return f"{where}: {plain_message}"  # about several keys, which it names itself
    return f"{where}: {key}: {plain_message[0].lower()}{plain_message[1:]}"


def _line_of(text: str, loc: Location) -> int | None:
    """Line of the key at `loc`: tomllib keeps no positions, so the text is walked table by table."""
    wanted = [part for part in loc if isinstance(part, str)]
    index = next((part for part in loc if isinstance(part, int)), 0)
    table: list[str] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]\]?", line)
        if header:
            table = [part.strip(" \"'") for part in header[2].split(".")]
            if header[1] == "[[":
                seen[header[2]] = seen.get(header[2], -1) + 1
            if table == wanted and seen.get(header[2], 0) == index:
                return number
            continue
        key = re.match(r"\s*([A-Za-z0-9_.\"'-]+)\s*=", line)
        if key is None or seen.get(".".join(table), index) != index:
            continue
        if table + [part.strip("\"'") for part in key[1].split(".")] == wanted:
            return number
    return None
