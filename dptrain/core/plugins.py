"""What other installed packages add, by entry points of the groups dptrain.models, dptrain.datasets
and dptrain.attacks.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.util
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path
from typing import Any, TypeVar

from dptrain.core.errors import PluginError, first_line
from dptrain.core.store import is_text, syntax

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


OURS = ("dptrain", "torch")


def code_of(thing: Callable[..., Any] | type) -> str:
    """A text that changes with the code of somebody else's function or class, with that of the
    other files of its package and of modules beside it, and with the version of each installed
    package that these import, so that what it gave is not used again once it has changed; the same
    in every process. Nothing for ours and for torch's, whose code or version the keys hold already.
    """
    if _package(thing) not in OURS:
        return "\n".join([*_compiled(thing, {}, set()), *_sources(thing)])
    if isinstance(thing, functools.partial):
        arguments = _compiled((thing.args, thing.keywords), {}, set())
        return "\n".join([_module(thing), thing.func.__qualname__, *arguments])
    return ""


def _sources(thing: Callable[..., Any] | type) -> Iterator[str]:
    """The syntax of every other file of its package, and of the modules that are imported there; of
    an installed one its version.

    Of its own file only what stands between functions and classes: the ones that the thing uses are
    followed already. So an attack that stands beside a model may change, and the model is not
    trained anew.
    """
    home = getattr(sys.modules.get(_module(thing)), "__file__", None)
    waiting, seen = [_package(thing)], {*OURS, *sys.stdlib_module_names} - {"__main__"}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        places = _places(name)
        installed = any({"site-packages", "dist-packages"} & set(place.parts) for place in places)
        if installed and (distributions := _distributions().get(name)):
            yield from (f"{each} {version(each)}" for each in distributions)
            continue
        for place in places:
            paths = sorted(place.rglob("*.py")) if place.is_dir() else [place]
            for path in filter(Path.is_file, paths):  # an editor's lock is a link to nowhere
                file = _File.of(path)
                yield _statements(file) if str(path) == home else _text(file)
                waiting += _imported(file)


def _places(name: str) -> list[Path]:
    """The file of a module, or the folders of a package. They are looked up as an import would, and
    not listed from what is loaded, since a key must not depend on what else a process imported.
    """
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # of a program, or of a module that was made by hand
        file = getattr(sys.modules.get(name), "__file__", None)
        return [Path(file)] if file else []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(spec.origin)] if spec.has_location and spec.origin else []


@dataclass(frozen=True)
class _File:
    """A file as it was written last, so that what was read of it serves until it is written."""

    path: Path
    written: int
    size: int

    @staticmethod
    def of(path: Path) -> _File:
        state = path.stat()
        return _File(path, state.st_mtime_ns, state.st_size)


@functools.cache
def _parsed(file: _File) -> ast.Module | None:
    """None for what is no Python, such as a compiled module or a template."""
    try:
        return ast.parse(file.path.read_bytes())
    except (SyntaxError, ValueError):
        return None


@functools.cache
def _text(file: _File) -> str:
    content = file.path.read_bytes()
    return hashlib.sha256(content).hexdigest() if _parsed(file) is None else syntax(content)


def _statements(file: _File) -> str:
    """The syntax of a file without its functions, its classes and its docstring."""
    tree = _parsed(file)
    if tree is None:
        return _text(file)
    named = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    rest = [each for each in tree.body if not isinstance(each, named)]
    return "\n".join(ast.dump(each) for each in rest if not is_text(each))


def _imported(file: _File) -> Iterator[str]:
    """The top-level names of the modules that a file imports."""
    for node in ast.walk(_parsed(file) or ast.Module([], [])):
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
