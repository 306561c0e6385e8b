"""TensorBoard: live curves while training, and afterwards a view of the whole run, rebuilt from the store."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from dptrain.judge import Row
from dptrain.types import Setting

STEPS_PER_EPSILON = 1000


class Live:
    """Training curves of the stacks under work, under `live/`."""

    def __init__(self, folder: Path):
        self._folder = folder / "live"
        self._writers: dict[str, SummaryWriter] = {}

    def curve(self, setting: Setting, models: Sequence[int], point: Mapping[str, float]) -> None:
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
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    rows: Sequence[Row],
    statements: Mapping[str, Sequence[str]],
    images: Mapping[str, np.ndarray],
) -> None:
    """Write the finished run anew: a run a setting (curve, metrics, statement, its line in HParams), a run an attack (metrics against
    epsilon, the step being 1000 x epsilon), and `overview` (figures, [H, W, 3] uint8)."""
    shutil.rmtree(folder, ignore_errors=True)
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
                "learning_rate": setting.learning_rate,
            }
            for summary in hparams(chosen, measured):
                writer.file_writer.add_summary(summary)
            for tag, value in measured.items():
                writer.add_scalar(tag, value, 0)
            writer.add_text("privacy statement", "\n\n".join(statements[setting.name]))
    described = f"step = {STEPS_PER_EPSILON} x epsilon"
    for run, value in (("measured", lambda row: row.estimate), ("proved ceiling", lambda row: row.ceiling)):
        for attack in dict.fromkeys(row.attack or "model" for row in rows if row.epsilon is not None):
            own = [row for row in rows if (row.attack or "model") == attack and row.epsilon is not None and value(row) is not None]
            if own:
                with SummaryWriter(str(folder / "against epsilon" / attack / run)) as writer:
                    for row in own:
                        writer.add_scalar(f"against epsilon ({described})/{row.metric}", value(row), round(STEPS_PER_EPSILON * (row.epsilon or 0)))
    with SummaryWriter(str(folder / "overview")) as writer:
        for title, pixels in images.items():
            writer.add_image(title, pixels, dataformats="HWC")


def _curve(writer: SummaryWriter, point: Mapping[str, float]) -> None:
    for name in ("loss", "test_accuracy"):
        writer.add_scalar(f"training/{name}", point[name], int(point["step"]))
