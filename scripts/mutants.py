#!/usr/bin/env python
"""Apply each one-line bug of tests/mutants.py to a copy of the package, and run the tests that must
catch it.

scripts/mutants.py              all of them, and first those tests on the true code
scripts/mutants.py "no clip"    some of them
scripts/mutants.py --write      renew the list in docs/testing.md
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.mutants import MUTANTS, Mutant  # noqa: E402

REFUSALS = "Config|Model|Data|Training|Setting|Attack|Scores|Ledger"
CAUGHT = re.compile(rf"^\S+:\d+: (AssertionError|Failed|({REFUSALS})Error)$", re.MULTILINE)
"""How pytest ends the account of a test that failed by an assertion, or by dptrain's own refusal to
go on. Any other error is a crash.
"""
HEAD = "| bug | where | caught by |\n|---|---|---|\n"


def copied(folder: Path) -> Path:
    """The package, its configuration and its tests, in a folder of their own."""
    for name in ("dptrain", "conf", "tests", "docs", "scripts", "results"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "store")
        )
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def tokens(text: str) -> list[tokenize.TokenInfo]:
    """The tokens of a piece of Python, without layout and comments."""
    layout = (
        tokenize.NL,
        tokenize.NEWLINE,
        tokenize.INDENT,
        tokenize.DEDENT,
        tokenize.COMMENT,
        tokenize.ENDMARKER,
    )
    result = []
    with contextlib.suppress(tokenize.TokenError, IndentationError):  # a piece may end anywhere
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in layout and token.string:
                result.append(token)
    return result


def places(text: str, old: str) -> list[tuple[int, int]]:
    """Where `old` stands in `text`, whatever its layout: pairs of first and last character."""
    starts = list(itertools.accumulate(map(len, text.splitlines(keepends=True)), initial=0))
    there, wanted = tokens(text), [token.string for token in tokens(old)]
    words = [token.string for token in there]
    result = []
    for i in range(len(words) - len(wanted) + 1):
        if words[i : i + len(wanted)] == wanted:
            first, last = there[i].start, there[i + len(wanted) - 1].end
            result.append((starts[first[0] - 1] + first[1], starts[last[0] - 1] + last[1]))
    return result


def apply(mutant: Mutant, folder: Path) -> None:
    """Raises ValueError unless the text to change stands in the file exactly once."""
    path = folder / "dptrain" / f"{mutant.file}.py"
    text = path.read_text()
    spots = places(text, mutant.old)
    if len(spots) != 1:
        stands = f"{mutant.old!r} stands {len(spots)} times in {mutant.file}.py"
        raise ValueError(f"{mutant.name}: {stands}; mend tests/mutants.py")
    first, last = spots[0]
    path.write_text(text[:first] + mutant.new + text[last:])


def run(tests: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # The long tests too, which pytest leaves out by default.
    options = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow"]
    command = [sys.executable, "-m", "pytest", *options, *tests.split()]
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def killer(mutant: Mutant) -> str | None:
    """The test that failed on the mutant, or None if it lives. Raises RuntimeError where the tests
    could not even start.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(Path(temporary) / "copy")
        apply(mutant, folder)
        ran = run(mutant.tests, folder)
    if ran.returncode == 0:
        return None
    failed = [
        line.split(" ", 1)[1].split(" - ")[0]
        for line in ran.stdout.splitlines()
        if line.startswith("FAILED ")
    ]
    if ran.returncode != 1 or not failed:
        raise RuntimeError(
            f"{mutant.name}: pytest ended with {ran.returncode}\n"
            f"{ran.stdout[-2000:]}{ran.stderr[-2000:]}"
        )
    if not CAUGHT.search(ran.stdout):  # a mutant that only crashes shows nothing of the test
        raise RuntimeError(
            f"{mutant.name}: {failed[0]} did not catch it but broke\n{ran.stdout[-2000:]}"
        )
    return failed[0]


def table() -> str:
    return HEAD + "".join(
        f"| {one.name} | `{one.file}` | {', '.join(f'`{test}`' for test in one.tests.split())} |\n"
        for one in MUTANTS
    )


def write() -> None:
    path = ROOT / "docs" / "testing.md"
    before, _, rest = path.read_text().partition(HEAD)
    after = rest[rest.index("\n\n") + 1 :] if "\n\n" in rest else ""
    path.write_text(before + table() + after)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="of mutants; default all")
    parser.add_argument("--write", action="store_true", help="renew docs/testing.md and stop")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args(arguments)
    if options.write:
        write()
        return 0
    chosen = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    if len(chosen) < len(options.names):
        parser.error("no such mutant; the names stand in docs/testing.md")
    with tempfile.TemporaryDirectory() as temporary:
        truth = run(
            " ".join(sorted({test for mutant in chosen for test in mutant.tests.split()})),
            copied(Path(temporary) / "copy"),
        )
    if truth.returncode:
        print(truth.stdout[-3000:] + "\nthe tests fail on the true code", file=sys.stderr)
        return 1

    def tried(mutant: Mutant) -> str | None:
        try:
            return killer(mutant)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return None

    with ThreadPoolExecutor(options.workers) as pool:
        found = list(pool.map(tried, chosen))
    for mutant, by in zip(chosen, found, strict=True):
        print(f"{'killed' if by else 'ALIVE '}  {mutant.name:<44} {by or mutant.tests}")
    print(f"{sum(by is not None for by in found)} of {len(chosen)} killed")
    return 0 if all(found) else 1


if __name__ == "__main__":
    sys.exit(main())
