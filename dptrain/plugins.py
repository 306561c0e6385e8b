"""What other installed packages add, by entry points of the groups dptrain.models, dptrain.datasets and dptrain.attacks."""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from dptrain.types import ConfigError, first_line

Made = TypeVar("Made")


def names(kind: str) -> set[str]:
    """Of the entry points, which are not loaded for it."""
    return {point.name for point in entry_points(group=f"dptrain.{kind}")}


def packages(kind: str) -> list[tuple[str, str]]:
    """Each name with the package that adds it."""
    return sorted((point.name, point.dist.name if point.dist else point.value) for point in entry_points(group=f"dptrain.{kind}"))


def known(kind: str, ours: Mapping[str, Made]) -> list[str]:
    """All names of a kind, ours first. Nothing of other packages is imported for it."""
    return [*ours, *sorted(names(kind) - set(ours))]


def find(kind: str, ours: Mapping[str, Made], name: str) -> Made:
    """What a name stands for; of equal names ours counts. Raises KeyError for an unknown one, and ConfigError where the package that adds it
    fails at import."""
    if name in ours:
        return ours[name]
    for point in entry_points(group=f"dptrain.{kind}"):
        if point.name == name:
            try:
                return point.load()
            except Exception as error:  # it is anybody's code
                package = point.dist.name if point.dist else point.value
                reason = f"the package {package}, which adds {name!r} to the {kind}, fails at import ({first_line(error)})"
                raise ConfigError("", f"{reason}; mend or uninstall it") from None
    raise KeyError(name)


def code_of(thing: Callable[..., Any] | type) -> str:
    """A text that changes with the code of somebody else's function or class and of all that it uses in its own package, so that what it gave is
    not found again once it has changed. Nothing for ours and for torch's, whose code or version the keys hold already."""
    if isinstance(thing, functools.partial):
        return code_of(thing.func) + repr(sorted(thing.keywords))
    if _package(thing) in ("dptrain", "torch"):
        return ""
    return "\n".join(_compiled(thing, {}, set()))


def _package(thing: Any) -> str:
    return str(getattr(thing, "__module__", "")).split(".")[0]


def _compiled(thing: Any, names: Mapping[str, Any], seen: set[int]) -> Iterator[str]:
    """What a function, or each function of a class, was compiled to, and what it uses of `names`, the globals of its module: two of them may
    stand in one file under one name, and a comment changes nothing."""
    if isinstance(thing, type | types.FunctionType):
        if id(thing) in seen:  # a function that calls itself
            return
        seen.add(id(thing))
        yield thing.__qualname__
    if isinstance(thing, type):
        for base in thing.__bases__:
            if _package(base) == _package(thing):
                yield from _compiled(base, names, seen)
        for name, member in sorted(vars(thing).items()):
            if not name.startswith("__") or isinstance(member, types.FunctionType):
                yield from _compiled(member, names, seen)
    elif isinstance(thing, staticmethod | classmethod):
        yield from _compiled(thing.__func__, names, seen)
    elif isinstance(thing, types.FunctionType):
        yield from _compiled(thing.__code__, thing.__globals__, seen)
        yield from _compiled(thing.__defaults__, names, seen)
        for cell in thing.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                yield from _compiled(cell.cell_contents, thing.__globals__, seen)
    elif isinstance(thing, types.CodeType):
        yield f"{thing.co_code.hex()} {thing.co_names}"
        for constant in thing.co_consts:
            yield from _compiled(constant, names, seen)
        for name in thing.co_names:
            value = names.get(name)
            if not isinstance(value, type | types.FunctionType) or _package(value) == str(names.get("__name__", "")).split(".")[0]:
                yield from _compiled(value, names, seen)
    elif isinstance(thing, types.ModuleType) and thing.__name__.split(".")[0] == str(names.get("__name__", "")).split(".")[0]:
        for value in list(vars(thing).values()):
            if isinstance(value, type | types.FunctionType) and _package(value) == thing.__name__.split(".")[0]:
                yield from _compiled(value, names, seen)
    elif isinstance(thing, frozenset):
        yield repr(sorted(map(repr, thing)))
    elif isinstance(thing, str | bytes | int | float | complex | tuple | None):
        yield repr(thing)
