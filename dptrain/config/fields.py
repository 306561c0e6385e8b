"""Bounds and choices of configuration fields, declared on each field and checked in one loop."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dptrain.core.errors import ConfigError

FINITE = 1e30
"""Numbers at least as large lose all meaning in float32."""


@dataclass(frozen=True)
class Bounds:
    """above < value, least <= value <= most, value < below; choices of a text or of each text of a
    list; unique: whether a list holds each entry once; hint: appended to the complaint.
    """

    above: float | None = None
    least: float | None = None
    most: float | None = None
    below: float | None = None
    choices: Sequence[str] | None = None
    unique: bool = False
    hint: str = ""

    def complaint(self, value: Any) -> str | None:
        """What is wrong with a value, and the fix; None if nothing is."""
        if value is None:
            return None
        if isinstance(value, tuple):
            wrong = next(filter(None, map(self.complaint, value)), None)
            repeated = self.unique and len(set(value)) < len(value)
            return wrong or ("each may stand there once; remove the repeats" if repeated else None)
        if self.choices is not None and value not in self.choices:
            return f"unknown value {value!r}; choose from {', '.join(self.choices)}"
        if isinstance(value, int | float) and not self._holds(value):
            hint = f"; {self.hint}" if self.hint else ""
            return f"must {self.text()}, got {_shown(value)}{hint}"
        return None

    def _holds(self, value: float) -> bool:
        return (
            (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def text(self) -> str:
        """What a number must do: "be at least 1", "lie in [0, 1)". Empty without bounds."""
        low = self.above if self.least is None else self.least
        high = self.below if self.most is None else self.most
        if high == FINITE:
            start = f"above {low:g}" if self.least is None else f"that is {low:g} or more"
            return f"be a finite number {start} and below 1e30"
        if low is None and high is None:
            return ""
        if low is None:
            return f"be at most {high:,}" if isinstance(high, int) else f"be at most {high:g}"
        if high is None:
            return f"be above {low:g}" if self.least is None else f"be at least {low:g}"
        if isinstance(low, int) and isinstance(high, int) and self.above is None:
            return f"lie in {low:,}..{high:,}"
        opening, closing = "[" if self.above is None else "(", ")" if self.most is None else "]"
        return f"lie in {opening}{low:g}, {high:g}{closing}"


def option(text: str, **bounds: Any) -> Any:
    """A field without a default (the YAML files hold those), its line of help, and its Bounds."""
    return field(metadata={"help": text, "bounds": Bounds(**bounds)})


def check_fields(config: Any, prefix: str = "") -> None:
    """Raise ConfigError for a field of a dataclass, or of a dataclass in it, that breaks its
    bounds. A value that is not a number breaks every bound.
    """
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            check_fields(value, f"{prefix}{each.name}.")
        elif complaint := each.metadata["bounds"].complaint(value):
            raise ConfigError(f"{prefix}{each.name}", complaint)


def require(condition: bool, key: str, message: str) -> None:
    """Raise ConfigError unless a condition holds."""
    if not condition:
        raise ConfigError(key, message)


def check_name(name: str) -> None:
    """Raise ConfigError for a name that is no plain name of a folder."""
    fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) is not None
    require(fits, "name", f"use letters, digits, '.', '_' and '-', got {name!r}")


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


@dataclass(frozen=True)
class Described:
    """A key, its default, its line of help, and its bounds."""

    key: str
    default: Any
    help: str = ""
    bounds: Bounds = Bounds()


def described(config: Any, prefix: str = "") -> list[Described]:
    """Every key of a configuration."""
    lines: list[Described] = []
    for each in dataclasses.fields(config):
        value, key = getattr(config, each.name), f"{prefix}{each.name}"
        text, bounds = each.metadata["help"], each.metadata["bounds"]
        if dataclasses.is_dataclass(value):
            lines += described(value, f"{key}.")
        elif isinstance(value, Mapping):
            lines += _described_mapping(key, value, text)
        else:
            default = list(value) if isinstance(value, tuple) else value
            lines.append(Described(key, default, text, bounds))
    return lines


def _described_mapping(key: str, value: Mapping[str, Any], text: str) -> list[Described]:
    """A model's name and options, or named parts with options of their own."""
    if "name" in value:
        options = {name: item for name, item in value.items() if name != "name"}
        lines = [Described(f"{key}.{name}", item) for name, item in options.items()]
        return [Described(key, value["name"], text), *lines]
    lines = [Described(key, ",".join(value), text)]
    for name, part in value.items():
        if dataclasses.is_dataclass(part):
            lines += described(part, f"{key}.{name}.")
        elif isinstance(part, Mapping):
            lines += [Described(f"{key}.{name}.{option}", item) for option, item in part.items()]
    return lines
