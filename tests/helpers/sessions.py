"""Commands and programs of a Markdown page, and what it says that they print."""

import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

RANDOM = re.compile(r"-?\d*\.?\d+(e-\d+)?|\b(lira|lira_offline|rmia|rmia_offline|loss|shadow)\b")


class Block(NamedTuple):
    """A fenced part of a page. kind: console, python, yaml and so on."""

    kind: str
    text: str


def blocks(page):
    """The fenced parts of a page in their order."""
    return [Block(*match) for match in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)]


def sessions(page):
    """Commands of a page, each with the lines below it, in their order."""
    console = [block.text for block in blocks(page) if block.kind == "console"]
    return [part for text in console for part in commands_of(text)]


def commands_of(text):
    """Each command of a console block, with the lines that stand below it."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    split = [part.replace("\\\n", " ").partition("\n") for part in parts]
    return [(" ".join(command.split()), shown.splitlines()) for command, _, shown in split]


def programs(page):
    """Python programs of a page."""
    return [block.text for block in blocks(page) if block.kind == "python"]


def environment():
    """This interpreter's programs first; the virtual environment of the scripts is the one that
    runs the tests.
    """
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VENV": sys.prefix,
    }


def spaced(line):
    """A line without the widths of columns."""
    return re.sub(r"\s+", " ", re.sub(r"-{3,}", "-", line)).strip()


def shape(line):
    """A line without what fresh noise changes: numbers, the strongest attack, widths of columns."""
    return re.sub(r"[-\s]+", " ", RANDOM.sub("#", line)).strip()


EXACT = ("dptrain calibrate", "dptrain inspect", "dptrain attack scores=tests/golden")
"""Commands in which nothing is random: their lines are compared to the last digit."""


def require_shown(shown, out, command=""):
    """Every line of `shown` is printed, in this order, and but for its numbers where the command
    draws noise; what follows "..." in a line may be anything.
    """
    read = spaced if command.startswith(EXACT) else shape
    printed = iter([read(line) for line in out])
    for line in shown:
        start, more, _ = line.partition("...")
        if not start:
            continue
        wanted = read(start)
        assert any(there.startswith(wanted) if more else there == wanted for there in printed), line
