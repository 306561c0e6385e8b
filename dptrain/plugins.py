"""What other installed packages add, by entry points of the groups dptrain.models, dptrain.datasets and dptrain.attacks."""

from __future__ import annotations

import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

Made = TypeVar("Made")


def names(kind: str) -> set[str]:
    """Of the entry points, which are not loaded for it."""
    return {point.name for point in entry_points(group=f"dptrain.{kind}")}


def registry(kind: str, ours: Mapping[str, Made]) -> dict[str, Made]:
    """Ours and theirs; of equal names ours counts."""
    return {**{point.name: point.load() for point in entry_points(group=f"dptrain.{kind}")}, **ours}


def code_of(thing: Callable[..., Any] | type) -> str:
    """A text that changes with the code of somebody else's function or class, so that what it gave is not found again once it has changed.
    Nothing for ours and for torch's, whose code or version the keys hold already."""
    if isinstance(thing, functools.partial):
        return code_of(thing.func) + repr(sorted(thing.keywords))
    module = inspect.getmodule(thing)
    name = module.__name__ if module is not None else ""
    if name.split(".")[0] in ("dptrain", "torch"):
        return ""
    try:
        source = inspect.getsource(module or thing)
    except (OSError, TypeError):  # typed into an interpreter
        source = ""
    return "\n".join([getattr(thing, "__qualname__", ""), *_compiled(thing), source])


def _compiled(thing: Any, seen: set[int] | None = None) -> Iterator[str]:
    """What a function, or each function of a class, was compiled to: two of them may stand in one file under one name."""
    seen = set() if seen is None else seen
    if id(thing) in seen:  # a function that calls itself
        return
    if isinstance(thing, type):
        seen.add(id(thing))
        for _, member in sorted(vars(thing).items()):
            if isinstance(member, types.FunctionType):
                yield from _compiled(member, seen)
    elif isinstance(thing, types.FunctionType):
        seen.add(id(thing))
        yield from _compiled(thing.__code__, seen)
        for cell in thing.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                yield from _compiled(cell.cell_contents, seen)
    elif isinstance(thing, types.CodeType):
        yield f"{thing.co_code.hex()} {thing.co_names}"
        for constant in thing.co_consts:
            yield from _compiled(constant, seen)
    elif isinstance(thing, frozenset):
        yield repr(sorted(map(repr, thing)))
    elif isinstance(thing, str | bytes | int | float | complex | tuple | None):
        yield repr(thing)
