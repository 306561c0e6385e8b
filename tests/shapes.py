"""What holds every array argument of the package to its shape and its type while tests run.

An import hook puts jaxtyping and beartype on each function that takes arrays, and on no other: a
wrong value of another type is for the package's own errors to name, and a check costs time.
"""

from __future__ import annotations

import ast
import functools
import importlib.abc
import importlib.machinery
import inspect
import re
import sys
import types
from collections.abc import Callable
from typing import Any

import beartype
import jaxtyping

ARRAY = re.compile(r"^(?!float).*\b(Tensor|ndarray)\b")
"""In an annotation. NumPy's numbers stand for a float where an array would do as well."""
CHECKED = f"__import__({__name__!r}, fromlist=['checked']).checked"


_CHECKS: dict[types.CodeType, Callable[..., Any] | None] = {}
"""A check of the arguments for the code of each function: a function within a function is made
again in every call, and a check takes milliseconds to make.
"""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which then raises jaxtyping.TypeCheckError for an array that does not fit."""
    code = function.__code__
    if code not in _CHECKS:
        _CHECKS[code] = _check(function)
    check = _CHECKS[code]
    if check is None:
        return function

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        check(*args, **kwargs)
        return function(*args, **kwargs)

    return call


def _check(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """A function of the same arguments that does nothing but check the arrays among them."""
    hints = {}
    for name, hint in function.__annotations__.items():
        if name != "return" and ARRAY.search(str(hint)):
            try:
                hints[name] = eval(hint, function.__globals__) if isinstance(hint, str) else hint
            except Exception as error:
                where = f"{function.__qualname__} has an annotation that means nothing"
                raise TypeError(f"{where}: {hint}") from error
    if not hints:
        return None
    parameters = inspect.signature(function).parameters.values()
    bare = [
        each.replace(
            annotation=each.empty, default=each.empty if each.default is each.empty else None
        )
        for each in parameters
    ]
    made: dict[str, Any] = {}
    exec(f"def {function.__name__}{inspect.Signature(bare)}: pass", made)
    empty = made[function.__name__]
    empty.__annotations__, empty.__qualname__ = hints, function.__qualname__
    empty.__module__ = function.__module__
    result: Callable[..., Any] = jaxtyping.jaxtyped(empty, typechecker=beartype.beartype)
    return result


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
