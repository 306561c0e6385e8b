"""What holds every array argument of the package to its shape and its type while tests run.

An import hook puts jaxtyping and beartype on each function that takes arrays, and on no other: a
wrong value of another type is for the package's own errors to name, and a check costs time.
"""

from __future__ import annotations

import ast
import importlib.abc
import importlib.machinery
import re
import sys
from collections.abc import Callable
from typing import Any

import beartype
import jaxtyping

ARRAY = re.compile(r"^(?!float).*\b(Tensor|ndarray)\b")
"""In an annotation. NumPy's numbers stand for a float where an array would do as well."""
CHECKED = f"__import__({__name__!r}, fromlist=['checked']).checked"


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which then raises jaxtyping.TypeCheckError for an array that does not fit."""
    return jaxtyping.jaxtyped(function, typechecker=_arrays_alone)


def _arrays_alone(function: Callable[..., Any]) -> Callable[..., Any]:
    hints = {
        name: hint
        for name, hint in function.__annotations__.items()
        if name != "return" and ARRAY.search(str(hint))
    }
    if unread := [hint for hint in hints.values() if isinstance(hint, str)]:
        raise TypeError(f"{function.__qualname__} has annotations that mean nothing: {unread}")
    if not hints:
        return function
    function.__annotations__ = hints
    return beartype.beartype(function)


class _Decorate(ast.NodeTransformer):
    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self.generic_visit(node)
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        hints = [ast.unparse(each.annotation) for each in arguments if each.annotation]
        if any(ARRAY.search(hint) for hint in hints):
            node.decorator_list.append(ast.parse(CHECKED, mode="eval").body)
        return node


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> Any:
        tree = _Decorate().visit(ast.parse(self.get_data(self.path)))
        return compile(ast.fix_missing_locations(tree), self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname.split(".")[0] != "dptrain":
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin)
        return spec


def install() -> None:
    """From here on the package's modules are imported with their checks."""
    sys.meta_path.insert(0, _Finder())
