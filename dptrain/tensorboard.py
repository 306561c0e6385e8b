"""TensorBoard: live curves while training, and afterwards a view of the whole run, rebuilt from the store."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from dptrain.judge import Row
from dptrain.types import ConfigError, Setting, printable

STEPS_PER_EPSILON = 1000
MARK = ".dptrain"


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """TensorBoard writes from threads of its own: raise here what the disk answered there, where it would only be printed."""
    found: list[OSError] = []
    before = threading.excepthook

    def keep(thread: threading.ExceptHookArgs) -> None:
        if isinstance(thread.exc_value, OSError):
            found.append(thread.exc_value)
        else:
            before(thread)

    threading.excepthook = keep
    try:
        yield
    finally:
        threading.excepthook = before
    if found:
        raise found[0]


class Live:
    """Training curves of the stacks under work, under `live/`."""

    def __init__(self, folder: Path):
        _clear(folder)
        self._folder = folder / "live"
        self._writers: dict[str, SummaryWriter] = {}

    def curve(self, setting: Setting, models: Sequence[int], point: Mapping[str, float | None]) -> None:
        run = f"{setting.name}/models {models[0]}-{models[-1]}"
        if run not in self._writers:
            self._writers[run] = SummaryWriter(str(self._folder / run), flush_secs=2)
        _curve(self._writers[run], point)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


def rebuild(
    folder: Path,
    settings: Sequence[Setting],
    curves: Mapping[str, Sequence[Mapping[str, float | None]]],
    rows: Sequence[Row],
    statements: Mapping[str, Sequence[str]],
    rocs: Mapping[str, np.ndarray],
    frontier: np.ndarray,
) -> None:
    """Write the finished run anew: a run a setting (curve, metrics, statement, ROC, its line in HParams), a run an attack (metrics
    against epsilon, the step being 1000 x epsilon), and `overview` (the frontier). Images are uint8 [H, W, 3]."""
    _clear(folder)
    for setting in settings:
        with SummaryWriter(str(folder / setting.name)) as writer:
            for point in curves[setting.name]:
                _curve(writer, point)
            own = [row for row in rows if row.setting == setting.name and row.estimate is not None]
            measured = {f"{row.attack or 'model'}/{row.metric}": row.estimate for row in own}
            chosen = {
                "epsilon": "no DP" if setting.epsilon is None else f"{setting.epsilon:g}",
                "defence": setting.defence,
                "noise_multiplier": setting.mechanism.noise_multiplier,
                "learning_rate": setting.recipe.learning_rate,
            }
            for summary in hparams(chosen, measured):
                writer.file_writer.add_summary(summary)
            for tag, value in measured.items():
                writer.add_scalar(tag, value, 0)
            writer.add_text("privacy statement", "\n\n".join(map(_plain, statements[setting.name])))
            writer.add_image("ROC, logarithmic axes", rocs[setting.name], dataformats="HWC")
    described = f"step = {STEPS_PER_EPSILON} x epsilon"
    for run in ("measured", "proved ceiling"):
        points: dict[str, list[tuple[float, str, float]]] = {}
        for row in rows:
            number = row.estimate if run == "measured" else row.ceiling
            if row.epsilon is not None and number is not None:
                points.setdefault(row.attack or "model", []).append((row.epsilon, row.metric, number))
        for attack, found in points.items():
            with SummaryWriter(str(folder / "against epsilon" / attack / run)) as writer:
                for epsilon, metric, number in sorted(found):  # TensorBoard drops what comes before a smaller step
                    writer.add_scalar(f"against epsilon ({described})/{metric}", number, round(STEPS_PER_EPSILON * epsilon))
    with SummaryWriter(str(folder / "overview")) as writer:
        writer.add_image("privacy and utility", frontier, dataformats="HWC")


def _curve(writer: SummaryWriter, point: Mapping[str, float | None]) -> None:
    for name in ("loss", "test_accuracy"):
        if point[name] is not None:
            writer.add_scalar(f"training/{name}", point[name], int(point["step"] or 0))


def _clear(folder: Path) -> None:
    """Remove what an earlier call wrote; a folder without our mark is somebody else's. Raises ConfigError."""
    if any(folder.glob("*")) and not (folder / MARK).exists():
        raise ConfigError("output", f"{folder} holds files that dptrain did not write; choose another folder")
    for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    if folder.exists():  # aside first: a kill must not leave a folder without its mark
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}.tmp")
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def _plain(text: str) -> str:
    """A text as Markdown that shows it as it is: the name of a column must not become a link or load an image."""
    return re.sub(r"([\\`*_{}\[\]()<>#!|])", r"\\\1", printable(text))
