"""Presets: what a paper printed, where that is known from, and when ours counts as the same.

A preset is a YAML file of conf/papers. It names a procedure, its parameters, and what is expected;
it cannot name code. Its fingerprint says by which file a stored result was made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from dptrain.config.files import PAPERS, conf_folder
from dptrain.core.errors import PaperError


class Source(StrEnum):
    """Where the paper's number is known from."""

    PAPER = "paper"
    CODE = "code"
    RECOMPUTED = "recomputed"
    SECOND_HAND = "second hand"
    MEMORY = "memory"
    """Nobody looked it up: it is printed as not verified."""


@dataclass(frozen=True)
class Expected:
    """When a quantity counts as reproduced: where `least` <= ours <= `most`; where ours is within
    `within` of the paper's; where both are equal when rounded to `digits` significant digits; or
    where ours lies above that of the quantities `above`, beyond the intervals of both. note: why
    there is no condition, or what an experiment found about a difference.
    """

    paper: float | None = None
    source: Source = Source.PAPER
    least: float | None = None
    most: float | None = None
    within: float | None = None
    digits: int | None = None
    above: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Preset:
    """title, shows, lesson: sentences; hardware and minutes: what a run takes; procedure: the name
    of a function of `procedures`; shrunk: parameters of a form that takes seconds.
    """

    name: str
    title: str
    shows: str
    lesson: str
    minutes: float
    procedure: str
    parameters: Mapping[str, Any]
    shrunk: Mapping[str, Any]
    expected: Mapping[str, Expected]
    hardware: str = "2 CPU cores"
    fingerprint: str = field(default="", compare=False)


def names() -> list[str]:
    """Every preset."""
    return sorted(path.stem for path in (conf_folder() / PAPERS).glob("*.yaml"))


def load(name: str) -> Preset:
    """Raises PaperError for a name that is none."""
    path = conf_folder() / PAPERS / f"{name}.yaml"
    if name not in names():
        raise PaperError(f"unknown paper {name!r}; choose from {', '.join(names())}")
    content = yaml.safe_load(path.read_text())
    expected = {
        quantity: Expected(
            **{
                **each,
                "source": Source(each.get("source", Source.PAPER)),
                "above": tuple(each.get("above", ())),
            }
        )
        for quantity, each in content.pop("expected").items()
    }
    text = json.dumps([content, _plain(expected)], sort_keys=True)
    fingerprint = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Preset(name=name, **content, expected=expected, fingerprint=fingerprint)


def _plain(expected: Mapping[str, Expected]) -> dict[str, dict[str, Any]]:
    return {quantity: dict(vars(each)) for quantity, each in expected.items()}


def folder_of(name: str) -> Path:
    """Where the results of a preset lie by default."""
    return Path("results") / PAPERS / name


def listed() -> tuple[list[str], list[list[str]]]:
    """Every preset in a table: what it shows, on what, for how long."""
    rows = [load(name) for name in names()]
    return ["preset", "paper", "shows", "minutes", "on"], [
        [each.name, each.title, each.shows, f"{each.minutes:g}", each.hardware] for each in rows
    ]
