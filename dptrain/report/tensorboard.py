"""TensorBoard: live curves while training, and afterwards a view of the whole run, rebuilt from the
store.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dptrain.core.errors import FolderError, printable
from dptrain.core.types import Setting
from dptrain.evaluation.rows import Row

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Point = Mapping[str, float | None]
"""A point of a training curve."""
STEPS_PER_EPSILON = 1000
MARK = ".dptrain"


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """TensorBoard writes from threads of its own: raise here what the disk answered there, where it
    would only be printed.
    """
    errors: list[OSError] = []
    before = threading.excepthook

    def keep(thread: threading.ExceptHookArgs) -> None:
        if isinstance(thread.exc_value, OSError):
            errors.append(thread.exc_value)
        else:
            before(thread)

    threading.excepthook = keep
    try:
        yield
    finally:
        threading.excepthook = before
    if errors:
        raise errors[0]


class Live:
    """Training curves of the stacks under work, under `live/`."""

    def __init__(self, folder: Path):
        _clear(folder)
        self._folder = folder / "live"
        self._writers: dict[str, SummaryWriter] = {}

    def curve(self, setting: Setting, models: Sequence[int], point: Point) -> None:
        run = f"{setting.name}/models {models[0]}-{models[-1]}"
        if run not in self._writers:
            self._writers[run] = _writer(str(self._folder / run), flush_secs=2)
        _curve(self._writers[run], point)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


@dataclass(frozen=True, kw_only=True)
class View:
    """A finished run. curves: the training curve of each setting; statements: their lines; rocs:
    uint8 [H, W, 3] of each setting; frontier: uint8 [H, W, 3].
    """

    settings: Sequence[Setting]
    curves: Mapping[str, Sequence[Point]]
    rows: Sequence[Row]
    statements: Mapping[str, Sequence[str]]
    rocs: Mapping[str, np.ndarray]
    frontier: np.ndarray


def rebuild(folder: Path, view: View) -> None:
    """Write the finished run anew: a run a setting (curve, metrics, statement, ROC, its line in
    HParams), a run an attack (metrics against epsilon, the step being 1000 x epsilon), and
    `overview` (the frontier).
    """
    _clear(folder)
    for setting in view.settings:
        with _writer(str(folder / setting.name)) as writer:
            _write_setting(writer, setting, view)
    _write_against_epsilon(folder / "against epsilon", view.rows)
    with _writer(str(folder / "overview")) as writer:
        writer.add_image("privacy and utility", view.frontier, dataformats="HWC")


def _write_setting(writer: SummaryWriter, setting: Setting, view: View) -> None:
    for point in view.curves[setting.name]:
        _curve(writer, point)
    measured = {
        f"{row.attack or 'model'}/{row.metric.name}"
        + (f" on {row.examples}" if row.examples != "all" else ""): row.estimate
        for row in view.rows
        if row.setting == setting.name and row.estimate is not None
    }
    chosen = {
        "epsilon": "no DP" if setting.epsilon is None else f"{setting.epsilon:g}",
        "defence": setting.defence,
        "noise_multiplier": setting.mechanism.noise_multiplier,
        "learning_rate": setting.recipe.optimiser.learning_rate,
    }
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(chosen, measured):
        writer.file_writer.add_summary(summary)
    for tag, value in measured.items():
        writer.add_scalar(tag, value, 0)
    text = "\n\n".join(map(_plain, view.statements[setting.name]))
    writer.add_text("privacy statement", text)
    writer.add_image("ROC, logarithmic axes", view.rocs[setting.name], dataformats="HWC")


def _write_against_epsilon(folder: Path, rows: Sequence[Row]) -> None:
    described = f"step = {STEPS_PER_EPSILON} x epsilon"
    for run in ("measured", "proved ceiling"):
        points: dict[str, list[tuple[float, str, float]]] = {}
        for row in rows:
            number = row.estimate if run == "measured" else row.ceiling
            if row.epsilon is not None and number is not None and row.examples == "all":
                point = (row.epsilon, row.metric.name, number)
                points.setdefault(row.attack or "model", []).append(point)
        for attack, of_attack in points.items():
            with _writer(str(folder / attack / run)) as writer:
                # TensorBoard drops what comes before a smaller step.
                for epsilon, metric, number in sorted(of_attack):
                    tag = f"against epsilon ({described})/{metric}"
                    writer.add_scalar(tag, number, round(STEPS_PER_EPSILON * epsilon))


def _writer(folder: str, **options: int) -> SummaryWriter:
    """TensorBoard's writer; torch, which holds it, is loaded here, and not with this module."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, **options)


def _curve(writer: SummaryWriter, point: Point) -> None:
    for name in ("loss", "test_accuracy"):
        if point[name] is not None:
            writer.add_scalar(f"training/{name}", point[name], int(point["step"] or 0))


def _clear(folder: Path) -> None:
    """Remove what an earlier call wrote; a folder without our mark is somebody else's. Raises
    FolderError.
    """
    if any(folder.glob("*")) and not (folder / MARK).exists():
        raise FolderError(f"{folder} holds files that dptrain did not write; choose another folder")
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    if folder.exists():  # aside first: a kill must not leave a folder without its mark
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def _plain(text: str) -> str:
    """A text as Markdown that shows it as it is: the name of a column must not become a link or
    load an image.
    """
    return re.sub(r"([\\`*_{}\[\]()<>#!|])", r"\\\1", printable(text))
