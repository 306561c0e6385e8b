"""EXPORTS: what `dptrain report export=[...]` can write of a finished run."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from dptrain.core.errors import RunError
from dptrain.core.store import write_atomic
from dptrain.evaluation.rows import BLIND
from dptrain.report import tables
from dptrain.report.charts import figures
from dptrain.report.exports import trackers
from dptrain.report.exports.frames import frames
from dptrain.report.record import Record, made
from dptrain.report.tables import Table

Export = Callable[[Path, Record], None]
"""Writes into a folder; (folder of exports, record)."""
FOLDER = "exports"


def export(folder: Path, record: Record, formats: Sequence[str]) -> list[Path]:
    """Write a run in each of some formats, a folder each under `exports`; those folders. Raises
    RunError where a format needs a package that is not installed, before anything is written.
    """
    for name in formats:
        package, extra = NEEDS.get(name, ("pandas", ""))
        if importlib.util.find_spec(package) is None:
            raise RunError(f"export={name} needs {package}: pip install 'dptrain[{extra}]'")
    if formats:
        made(folder / FOLDER)
    for name in formats:
        shutil.rmtree(folder / FOLDER / name, ignore_errors=True)  # runs would be there twice
        EXPORTS[name](folder / FOLDER / name, record)
    return [folder / FOLDER / name for name in formats]


def _csv(folder: Path, record: Record) -> None:
    _each(folder, record, "csv", lambda frame: frame.to_csv(index=False).encode())


def _json(folder: Path, record: Record) -> None:
    def lines(frame: pd.DataFrame) -> bytes:
        plain = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode()

    _each(folder, record, "json", lines)


def _parquet(folder: Path, record: Record) -> None:
    def columns(frame: pd.DataFrame) -> bytes:
        # A column of names and numbers, such as ids, is one of text.
        mixed = [name for name in frame if frame[name].map(type).nunique() > 1]
        texts = {
            name: frame[name].map(lambda value: value if pd.isna(value) else str(value))
            for name in mixed
            if frame[name].dtype == object
        }
        data: bytes = frame.assign(**texts).to_parquet(index=False)
        return data

    _each(folder, record, "parquet", columns)


def _each(
    folder: Path, record: Record, ending: str, write: Callable[[pd.DataFrame], bytes]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in frames(record).items():
        write_atomic(folder / f"{name}.{ending}", write(frame))


def printed(record: Record) -> dict[str, Table]:
    """Every table that the page shows, by a name that may stand in a file's."""
    rows, utility = record.rows, record.utility
    attacked = dict.fromkeys(row.setting for row in rows if row.attack not in (None, BLIND))
    made = {
        "summary": tables.summary(rows, utility),
        "utility": tables.utilities(rows),
        "differences": tables.differences(record.differences, utility),
        "classes": tables.by_class(record.classes),
        **{f"attacks_{name}": tables.attacks(rows, name) for name in attacked},
        **{
            f"canaries_{name}": tables.attacks(rows, name, "canaries")
            for name in dict.fromkeys(row.setting for row in rows if row.examples == "canaries")
        },
        **{
            f"groups_{name}": tables.groups(record.groups, name)
            for name in dict.fromkeys(row.setting for row in record.groups)
        },
        **{f"attribute_{name}": table for name, table in tables.attributes(rows).items()},
    }
    filled = {name: table for name, table in made.items() if table[1]}
    return dict(zip(figures.file_names(filled), filled.values(), strict=True))


def _latex(folder: Path, record: Record) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in printed(record).items():
        write_atomic(folder / f"{name}.tex", latex(table).encode())


SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def latex(table: Table) -> str:
    """A tabular of booktabs, whose cells are those of the console and the page."""

    def line(cells: Sequence[str]) -> str:
        # In braces: a cell that begins with a bracket would be taken for an option.
        shown = ["".join(SPECIAL.get(sign, sign) for sign in cell) for cell in cells]
        ready = [f"{{{cell}}}" if cell.startswith("[") else cell for cell in shown]
        joined = " & ".join(ready).replace(r"\textless{}=", r"$\leq$")
        return rf"  {joined} \\"

    head, body = table
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"  \toprule",
            line(head),
            r"  \midrule",
            *map(line, body),
            r"  \bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def _svg(folder: Path, record: Record) -> None:
    _figures(folder, record, "svg")


def _pdf(folder: Path, record: Record) -> None:
    _figures(folder, record, "pdf")


def _figures(folder: Path, record: Record, kind: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in figures.for_paper(record.marked, kind).items():
        write_atomic(folder / f"{name}.{kind}", data)


def _mlflow(folder: Path, record: Record) -> None:
    trackers.mlflow(folder, record, folder.parent.parent)


def _wandb(folder: Path, record: Record) -> None:
    trackers.wandb(folder, record, folder.parent.parent)


EXPORTS: dict[str, Export] = {
    "csv": _csv,
    "json": _json,
    "parquet": _parquet,
    "latex": _latex,
    "svg": _svg,
    "pdf": _pdf,
    "mlflow": _mlflow,
    "wandb": _wandb,
}
NEEDS = {"parquet": ("pyarrow", "parquet"), "mlflow": ("mlflow", "mlflow"), "wandb": ("wandb",) * 2}
"""Format -> the package that it needs, and the extra that brings it."""
