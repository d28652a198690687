"""Which tests can come to the servers of tests/central/databases.py: the run on PostgreSQL and S3 is of those alone.

Said by the code itself, not by a list: a test reaches a function when its own code, or that of a fixture it takes, or
anything of the tests that these name, names it. What cannot be followed (a name made from a string) does not occur.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import pytest


def reaches(item: pytest.Function, module: str) -> bool:
    """Whether `item` can call something of `module`, itself or through what it leans on."""
    definitions = item._fixtureinfo.name2fixturedefs.values()
    fixtures = [one.func for several in definitions for one in several if not _is_of_the_session(one)]
    parameters = list(item.callspec.params.values()) if hasattr(item, "callspec") else []
    return _Walk(module).comes_from([item.function, *fixtures, *parameters])


def _is_of_the_session(fixture: pytest.FixtureDef[Any]) -> bool:
    """The one that stops the servers at the end, which every test has."""
    return fixture.argname == "_server_ends_with_the_session"


class _Walk:
    def __init__(self, module: str) -> None:
        self._module = module
        self._met: dict[int, object] = {}  # kept, so that no id is given twice

    def comes_from(self, things: list[Any]) -> bool:
        while things:
            thing = _bare(things.pop())
            if id(thing) in self._met:
                continue
            self._met[id(thing)] = thing
            if self._module in (getattr(thing, "__module__", None), getattr(thing, "__name__", None)):
                return True
            things += _named_by(thing)
        return False


def _bare(thing: Any) -> Any:
    if isinstance(thing, functools.partial | staticmethod | classmethod | MethodType):
        return _bare(thing.func if isinstance(thing, functools.partial) else thing.__func__)
    if isinstance(thing, property):
        return thing.fget
    return inspect.unwrap(thing) if isinstance(thing, FunctionType) else thing


def _named_by(thing: Any) -> list[Any]:
    if isinstance(thing, list | tuple | set | frozenset):
        return list(thing)
    if isinstance(thing, dict):
        return list(thing.values())
    if isinstance(thing, type):
        return [member for kind in thing.__mro__ if _is_ours(kind) for member in vars(kind).values()]
    if not isinstance(thing, FunctionType):
        return [type(thing)] if _is_ours(type(thing)) else []
    if not _is_ours(thing):
        return []
    named = []
    for code in _with_those_inside(thing.__code__):
        values = [thing.__globals__[name] for name in code.co_names if name in thing.__globals__]
        named += [value for value in values if not isinstance(value, ModuleType)]
        # `house.open_house`: of a module only what is named after it.
        modules = [value for value in values if isinstance(value, ModuleType)]
        named += [getattr(one, name, None) for one in modules for name in code.co_names]
    cells = [cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell)]
    inner = getattr(getattr(thing, "hypothesis", None), "inner_test", None)
    return [*named, *cells, *(thing.__defaults__ or ()), inner]


def _with_those_inside(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _with_those_inside(constant)


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018  # empty while the function that makes it has not come there
    except ValueError:
        return False
    return True


def _is_ours(thing: Any) -> bool:
    return str(getattr(thing, "__module__", "")).startswith("tests.")
