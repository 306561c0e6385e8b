"""What other installed packages add, by entry points of the groups dptrain.models, dptrain.datasets
and dptrain.attacks.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path
from typing import Any, TypeVar

from dptrain.core.errors import PluginError, first_line
from dptrain.core.store import syntax

Made = TypeVar("Made")


def names(kind: str) -> set[str]:
    """Of the entry points, which are not loaded for it."""
    return {point.name for point in entry_points(group=f"dptrain.{kind}")}


def packages(kind: str) -> list[tuple[str, str]]:
    """Each name with the package that adds it."""
    return sorted(
        (point.name, point.dist.name if point.dist else point.value)
        for point in entry_points(group=f"dptrain.{kind}")
    )


def known(kind: str, ours: Mapping[str, Made]) -> list[str]:
    """All names of a kind, ours first. Nothing of other packages is imported for it."""
    return [*ours, *sorted(names(kind) - set(ours))]


def find(kind: str, ours: Mapping[str, Made], name: str) -> Made:
    """What a name stands for; of equal names ours counts. Raises KeyError for an unknown one, and
    PluginError where the package that adds it fails at import.
    """
    if name in ours:
        return ours[name]
    for point in entry_points(group=f"dptrain.{kind}"):
        if point.name == name:
            try:
                result: Made = point.load()
                return result
            except Exception as error:  # it is anybody's code
                package = point.dist.name if point.dist else point.value
                reason = (
                    f"the package {package}, which adds {name!r} to the {kind}, fails at "
                    f"import ({first_line(error)})"
                )
                raise PluginError(f"{reason}; mend or uninstall it") from None
    raise KeyError(name)


def code_of(thing: Callable[..., Any] | type) -> str:
    """A text that changes with the code of somebody else's function or class, with that of the
    other files of its package and of modules beside it, and with the version of each installed
    package that these import, so that what it gave is not used again once it has changed; the same
    in every process. Nothing for ours and for torch's, whose code or version the keys hold already.
    """
    if _package(thing) in ("dptrain", "torch"):
        return ""
    return "\n".join([*_compiled(thing, {}, set()), *_sources(thing)])


def _sources(thing: Callable[..., Any] | type) -> Iterator[str]:
    """The syntax of every other file of its package, and of the modules that are imported there; of
    an installed one its version. Of its own file what stands between functions and classes: those
    that it uses are followed already, and an attack in the same file must not train models anew.
    """
    package, home = _package(thing), getattr(sys.modules.get(_module(thing)), "__file__", None)
    waiting, seen = [package], {"dptrain", "torch", *sys.stdlib_module_names} - {"__main__"}
    while waiting:
        name = waiting.pop()
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in seen or not file:
            continue
        seen.add(name)
        installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
        if installed and (distributions := _distributions().get(name)):
            yield from (f"{each} {version(each)}" for each in distributions)
            continue
        whole = Path(file).name == "__init__.py"
        for path in sorted(Path(file).parent.rglob("*.py")) if whole else [Path(file)]:
            yield syntax(path) if str(path) != home else _statements(path)
            waiting += _imported(path)


def _statements(path: Path) -> str:
    """The syntax of a file without its functions and classes."""
    tree = ast.parse(path.read_bytes())
    named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return "\n".join(ast.dump(each) for each in tree.body if not isinstance(each, named))


def _imported(path: Path) -> Iterator[str]:
    """The top-level names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


_distributions = functools.cache(packages_distributions)


def _module(thing: Any) -> str:
    while isinstance(thing, functools.partial):
        thing = thing.func
    return str(getattr(thing, "__module__", ""))


def _package(thing: Any) -> str:
    return _module(thing).split(".")[0]


def _compiled(  # noqa: C901, PLR0915  # a case for each kind of thing
    thing: Any, names: Mapping[str, Any], seen: set[int]
) -> Iterator[str]:
    """What a function, or each function of a class, was compiled to, and what it uses of `names`,
    the globals of its module: two of them may stand in one file under one name, and a comment
    changes nothing. A thing that is neither code nor a plain value counts by its type.
    """

    def all_of(*parts: Any) -> Iterator[str]:
        for part in parts:
            yield from _compiled(part, names, seen)

    mine = str(names.get("__name__", "")).split(".")[0]
    if isinstance(thing, type | types.FunctionType | types.ModuleType | list | dict):
        if id(thing) in seen:  # a function that calls itself
            return
        seen.add(id(thing))
    if isinstance(thing, str | bytes | int | float | complex | types.NoneType):
        yield repr(thing)
    elif isinstance(thing, tuple | list):
        yield from all_of(type(thing).__name__, *thing)
    elif isinstance(thing, set | frozenset):
        yield from sorted("\n".join(_compiled(part, names, seen)) for part in thing)
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from all_of(str(key), value)
    elif isinstance(thing, slice):
        yield from all_of(thing.start, thing.stop, thing.step)
    elif isinstance(thing, functools.partial):
        yield from all_of(thing.func, thing.args, thing.keywords)
    elif isinstance(getattr(thing, "__wrapped__", None), types.FunctionType) and not isinstance(
        thing, types.FunctionType
    ):
        yield from all_of(thing.__wrapped__)  # behind functools.cache and its like
    elif isinstance(thing, staticmethod | classmethod):
        yield from all_of(thing.__func__)
    elif isinstance(thing, property):
        yield from all_of(thing.fget, thing.fset)
    elif isinstance(thing, type):
        yield thing.__qualname__
        yield from all_of(*(base for base in thing.__bases__ if _package(base) == _package(thing)))
        for name, member in sorted(vars(thing).items()):
            if not name.startswith("__") or isinstance(member, types.FunctionType):
                yield from all_of(name, member)
    elif isinstance(thing, types.FunctionType):
        yield thing.__qualname__
        if names and _package(thing) != mine:  # of another package, which has a version of its own
            return
        cells = []
        for cell in thing.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                cells.append(cell.cell_contents)
        for part in (thing.__code__, thing.__defaults__, thing.__kwdefaults__, cells):
            yield from _compiled(part, thing.__globals__, seen)
    elif isinstance(thing, types.CodeType):
        yield f"{thing.co_code.hex()} {thing.co_names}"
        yield from all_of(*thing.co_consts)
        yield from all_of(*(names[name] for name in thing.co_names if name in names))
    elif isinstance(thing, types.ModuleType):
        yield thing.__name__
        if thing.__name__.split(".")[0] == mine:
            inner = [
                value
                for value in vars(thing).values()
                if isinstance(value, type | types.FunctionType) and _package(value) == mine
            ]
            yield from all_of(*inner)
    else:
        yield (
            f"{type(thing).__module__}.{type(thing).__qualname__} "
            f"{getattr(thing, '__qualname__', '')}"
        )
        if callable(getattr(thing, "tolist", None)):  # an array, or a tensor
            yield repr(thing.tolist())
        elif _package(type(thing)) == mine and hasattr(thing, "__dict__") and id(thing) not in seen:
            seen.add(id(thing))
            yield from all_of(type(thing), vars(thing))
