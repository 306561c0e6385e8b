"""All files of a finished run that are made of its record: page, charts, table and TensorBoard."""

from __future__ import annotations

from pathlib import Path

from dptrain.core.store import write_atomic
from dptrain.report import tables
from dptrain.report.charts import figures, tensorboard
from dptrain.report.page import page
from dptrain.report.record import Record

FILES = (
    "report.html",
    "table.md",
    "frontier.png",
    "frontier.svg",
    "roc.png",
    "roc.svg",
    "tensorboard",
)


def render(folder: Path, record: Record) -> None:
    """Write them anew. A refuted setting is named so in every chart. Raises FolderError where
    another's files lie in the place of TensorBoard's, and OSError.
    """
    rocs = record.marked.rocs
    drawn = {"frontier": figures.frontier(record.rows, record.utility)}
    if rocs:
        drawn["roc"] = figures.roc(rocs)
    png = {name: figures.image(figure, "png") for name, figure in drawn.items()}
    for name, figure in drawn.items():
        write_atomic(folder / f"{name}.png", png[name])
        write_atomic(folder / f"{name}.svg", figures.image(figure, "svg"))
    titles = {"frontier": "Privacy and utility", "roc": "ROC of every attack"}
    shown = {titles[name]: data for name, data in png.items()}
    write_atomic(folder / "report.html", page(record, shown).encode())
    summary = tables.table(*tables.summary(record.rows, record.utility))
    write_atomic(folder / "table.md", (summary + "\n").encode())
    pictures = {
        panel: figures.pixels(figures.frontier(record.rows, record.utility, [panel]))
        for panel in figures.PANELS
    }
    of_settings = {
        roc.setting.removesuffix(tables.REFUTED): {
            "ROC, logarithmic axes": figures.pixels(figures.roc([roc])),
            "Precision and recall": figures.pixels(figures.precision(roc)),
        }
        for roc in rocs
    }
    with tensorboard.faults():
        tensorboard.rebuild(folder / "tensorboard", record, pictures, of_settings)
