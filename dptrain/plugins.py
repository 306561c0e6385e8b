"""What other installed packages add, by entry points of the groups dptrain.models, dptrain.datasets and dptrain.attacks."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

Made = TypeVar("Made")


def names(kind: str) -> set[str]:
    """Of the entry points, which are not loaded for it."""
    return {point.name for point in entry_points(group=f"dptrain.{kind}")}


def registry(kind: str, ours: Mapping[str, Made]) -> dict[str, Made]:
    """Ours and theirs; of equal names ours counts."""
    return {**{point.name: point.load() for point in entry_points(group=f"dptrain.{kind}")}, **ours}


def code_of(function: Callable[..., Any]) -> str:
    """The source of the module of somebody else's function, so that what it gave is not found again once it has changed. Nothing for ours,
    whose code the keys hold already."""
    while isinstance(function, functools.partial):
        function = function.func
    module = inspect.getmodule(function)
    if module is not None and module.__name__.startswith("dptrain."):
        return ""
    return inspect.getsource(module or function)
