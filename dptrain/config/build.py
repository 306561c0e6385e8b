"""From plain values to the frozen schema, with every key and type checked."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from dptrain.config.defences import OPTIONS, Defence
from dptrain.core.errors import ConfigError

OUR_KEYS = re.compile(r"\$\{[A-Za-z][\w.]*\}")
"""An interpolation of another key, and not of a resolver, which could read what it should not."""
PLAIN = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def build(kind: type, values: Mapping[str, Any], path: str = "") -> Any:
    """A dataclass from a mapping. Raises ConfigError."""
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            near = suggestion(str(key), hints)
            raise ConfigError(f"{path}{key}", f"unknown key{near}; remove it")
    for key in hints:
        if key not in values:
            raise ConfigError(f"{path}{key}", "missing; give it a value")
    return kind(**{key: _convert(hint, values[key], f"{path}{key}") for key, hint in hints.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    """A value as its field's type asks for it."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            example = "[a,b]" if typing.get_args(hint)[0] is str else "[inf,8,2]"
            raise ConfigError(path, f"expected a list such as {example}, got {value!r}")
        return tuple(_convert(typing.get_args(hint)[0], item, path) for item in value)
    if typing.get_origin(hint) is Mapping:
        return _mapping(typing.get_args(hint)[1], _group(value, path), path)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return build(hint, _group(value, path), f"{path}.")
    return _scalar(hint, value, path)


def _scalar(hint: type, value: Any, path: str) -> Any:
    if issubclass(hint, StrEnum):
        if value not in list(hint):
            raise ConfigError(path, f"unknown value {value!r}; choose from {', '.join(hint)}")
        return hint(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise ConfigError(path, f"expected {PLAIN[hint]}, got {value!r}")
    return value


def _group(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        fix = f"expected a group of keys, got {value!r}; choose with {path}=NAME"
        raise ConfigError(path, fix)
    return value


def _mapping(inner: Any, values: Mapping[str, Any], path: str) -> dict[str, Any]:
    if inner is Any:
        return dict(values)
    if inner is Defence:
        for name in values:
            if name not in OPTIONS:
                known = ", ".join(OPTIONS)
                raise ConfigError(f"{path}.{name}", f"unknown defence; choose from {known}")
        return {name: _defence(name, item, f"{path}.{name}") for name, item in values.items()}
    return {
        key: _convert(inner, {} if item is None else item, f"{path}.{key}")
        for key, item in values.items()
    }


def _defence(name: str, values: Any, path: str) -> Defence:
    kind, given = OPTIONS[name], _group({} if values is None else values, path)
    known = typing.get_type_hints(kind)
    for key in given:
        if key not in known:
            raise ConfigError(f"{path}.{key}", f"unknown key; {name} takes {', '.join(known)}")
    result: Defence = build(kind, given, f"{path}.")
    return result


def refuse_code(value: Any, path: str = "") -> None:
    """Raise ConfigError for what could run code, or read what is no key of ours: keys that begin
    with an underscore, and interpolations of resolvers.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if str(key).startswith("_"):
                message = "keys that begin with '_' are not allowed; remove it"
                raise ConfigError(f"{path}{key}", message)
            refuse_code(inner, f"{path}{key}.")
    elif isinstance(value, list):
        for inner in value:
            refuse_code(inner, path)
    elif isinstance(value, str) and "$" in OUR_KEYS.sub("", value):
        message = "interpolation of anything but another key is not allowed; write the value itself"
        raise ConfigError(path.rstrip("."), message)


def merge(plain: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Put values in their places by dotted keys. Raises ConfigError for an unknown key."""
    known = keys_of(plain)
    for key, value in values.items():
        *groups, name = key.split(".")
        place: Any = plain
        for group in groups:
            place = place.get(group) if isinstance(place, dict) else None
        free = groups and groups[0] in ("model", "attacks", "defence")  # whose options are checked
        if not isinstance(place, dict) or (name not in place and not free):
            raise ConfigError(key, f"unknown key{suggest_key(key, known)}")
        place[name] = plain_value(value)


def plain_value(value: Any) -> Any:
    """A value of Python or NumPy as YAML would hold it."""
    if isinstance(value, Mapping):
        return {str(key): plain_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(item) for item in value]
    if hasattr(value, "item") and callable(value.item):  # a number of NumPy
        return value.item()
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def keys_of(plain: Mapping[str, Any], prefix: str = "") -> list[str]:
    """All dotted keys of nested mappings."""
    keys: list[str] = []
    for key, inner in plain.items():
        keys.append(f"{prefix}{key}")
        if isinstance(inner, Mapping):
            keys += keys_of(inner, f"{prefix}{key}.")
    return keys


def suggest_key(key: str, known: Sequence[str]) -> str:
    """A key of the same name elsewhere, or one of the same group with a like name: the whole of a
    key is like any other of its group.
    """
    group, _, name = key.rpartition(".")
    same = [other for other in known if other.rpartition(".")[2] == name]
    if same:
        return f"; did you mean {' or '.join(repr(other) for other in same[:2])}?"
    near = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == group]
    close = difflib.get_close_matches(name, near, n=1, cutoff=0.7)
    return (
        f"; did you mean {'.'.join(filter(None, (group, close[0])))!r}?"
        if close
        else suggestion(key, known)
        if not group
        else ""
    )


def suggestion(word: str, known: Iterable[str]) -> str:
    """The nearest known word, as the end of a sentence; empty where none is near."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
