"""TensorBoard: live curves while training, and afterwards a view of the whole run, rebuilt from the
store.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dptrain.core.errors import FolderError, RunError, first_line, printable
from dptrain.core.types import Setting
from dptrain.evaluation.utility import UTILITIES, metric_of
from dptrain.report import tables
from dptrain.report.reading import reading, strongest
from dptrain.report.record import MARK, Point, Record
from dptrain.report.settings import measures, parameters
from dptrain.report.statement import lines

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

STEPS_PER_EPSILON = 1000
BARS, REPEATED = 0.04, 9
"""Width of a bar in the charts of the first page, as a share of the axis, and its points."""
FIRST_PAGE = "#custom_scalars"
UTILITY, RISK, REACH = "utility", "AUC of the strongest attack", "AUC, measured to proved"


def _margins(name: str) -> tuple[str, str, str]:
    """Tags of a value and of the ends of its interval."""
    return f"trade-off/{name}", f"trade-off/{name}, low", f"trade-off/{name}, high"


AXIS = f"step = {STEPS_PER_EPSILON} x epsilon, no DP at the right"


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


def rebuild(
    folder: Path,
    record: Record,
    pictures: Mapping[str, np.ndarray],
    of_settings: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Write the finished run anew: a run a setting (its place in the trade-off, training curve,
    metrics, statement, ROC, its line in HParams) and `overview` (the trade-off as a picture, the
    layout of the first page, what the result says). pictures, and those of_settings: by name,
    uint8 [H, W, 3].
    """
    _clear(folder)
    places = _places(record)
    for setting in record.settings:
        with _writer(str(folder / setting)) as writer:
            _write_setting(writer, setting, record)
            _write_trade_off(writer, setting, record, places)
            for name, picture in of_settings.get(setting, {}).items():
                writer.add_image(name, picture, dataformats="HWC")
    with _writer(str(folder / "overview")) as writer:
        for name, picture in pictures.items():
            writer.add_image(f"Privacy and utility/{name}", picture, dataformats="HWC")
        writer.file_writer.add_summary(_layout(record.utility))
        body = "\n\n".join([*map(_plain, reading(record)), *_as_text(record)])
        writer.add_text("What the result says", body)


def _layout(utility: str) -> Any:
    """The first page of custom scalars: utility, risk, and what is proved of it, as bars with their
    intervals. TensorBoard shows the last chart first.
    """
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto
    from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
    from tensorboard.plugins.custom_scalar import layout_pb2, metadata

    def chart(title: str, name: str) -> Any:
        value, low, high = _margins(name)
        # Of one series each: a run without numbers would be warned of for more.
        series = layout_pb2.MarginChartContent.Series(value=value, lower=low, upper=high)
        content = layout_pb2.MarginChartContent(series=[series])
        return layout_pb2.Chart(title=title, margin=content)

    charts = [
        chart("proved ceiling of the AUC, down to what was measured", REACH),
        chart("AUC of the strongest attack, 95 % interval", RISK),
        chart(f"test {UTILITIES[utility].title}, 95 % interval", UTILITY),
    ]
    page = layout_pb2.Category(title=f"Trade-off ({AXIS})", chart=charts)
    # tensorboard's summary.pb, which makes this of a layout, asks for TensorFlow.
    text = layout_pb2.Layout(category=[page]).SerializeToString()
    tensor = TensorProto(dtype="DT_STRING", string_val=[text], tensor_shape=TensorShapeProto())
    plugin = SummaryMetadata.PluginData(plugin_name=metadata.PLUGIN_NAME)
    about = SummaryMetadata(plugin_data=plugin)
    value = Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=about)
    return Summary(value=[value])


def _as_text(record: Record) -> list[str]:
    """The summary as a table of Markdown, and how to read it."""
    head, lines = tables.summary(record.rows, record.utility)
    shown = tables.table([_plain(each) for each in head], [[*map(_plain, line)] for line in lines])
    return [shown, *map(_plain, tables.legend(record.rows))]


def _write_setting(writer: SummaryWriter, setting: str, record: Record) -> None:
    for point in record.training.get(setting, []):
        _curve(writer, point)
    from torch.utils.tensorboard.summary import hparams

    compared = {f"compared by/{name}": value for name, value in measures(record, setting).items()}
    for summary in hparams(parameters(record, setting), compared):
        writer.file_writer.add_summary(summary)
    for tag, value in compared.items():
        writer.add_scalar(tag, value, 0)
    if setting in record.statements:
        text = "\n\n".join(map(_plain, lines(record.statements[setting])))
        writer.add_text("privacy statement", text)


def _places(record: Record) -> dict[str, float]:
    """Where each setting stands on the axis of epsilon: those without one at its right end, beside
    each other.
    """
    epsilons = {row.setting: row.epsilon for row in record.rows if row.setting in record.settings}
    private = [epsilon for epsilon in epsilons.values() if epsilon is not None]
    right = max(private, default=1.0)
    without = [name for name in record.settings if epsilons.get(name) is None]
    places = {name: right * (1.25 + 0.15 * place) for place, name in enumerate(without)}
    return places | {name: float(value) for name, value in epsilons.items() if value is not None}


def _write_trade_off(
    writer: SummaryWriter, setting: str, record: Record, places: Mapping[str, float]
) -> None:
    """The setting in the charts of the first page: a bar as wide as BARS of the axis, from the low
    end to the high end of each interval. A bar is a constant, which no smoothing moves, and every
    number stands there so often that no outlier is cut.
    """
    of_setting = [row for row in record.rows if row.setting == setting]
    worst = strongest(of_setting, setting)
    bars: dict[str, tuple[float, float, float]] = {}
    for row in of_setting:
        if row.metric == metric_of(record.utility) and row.interval is not None:
            bars[UTILITY] = row.interval
    if worst is not None and worst.interval is not None:
        bars[RISK] = worst.interval
        # Where nothing is proved, or the proof is refuted, an attack may find everybody.
        void = worst.ceiling is None or setting in tables.refuted(record.rows)
        ceiling = 1.0 if void or worst.ceiling is None else worst.ceiling
        bars[REACH] = ceiling, worst.interval[0], ceiling
    width = BARS * max(places.values())
    for name, limits in bars.items():
        for tag, value in zip(_margins(name), limits, strict=True):
            for place in np.linspace(-width / 2, width / 2, REPEATED):
                step = max(0, round(STEPS_PER_EPSILON * (places[setting] + place)))
                writer.add_scalar(tag, value, step)


def _writer(folder: str, **options: int) -> SummaryWriter:
    """TensorBoard's writer; torch, which holds it, is loaded here, and not with this module."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder, **options)


CURVES = {
    "epsilon": "epsilon spent so far, of each model by itself",
    "loss": "loss",
    "test_accuracy": "test accuracy",
    "clipped": "share of examples clipped",
    "gradient_norm_10": "gradient norm, 10 % of examples below",
    "gradient_norm_50": "gradient norm, median",
    "gradient_norm_90": "gradient norm, 90 % of examples below",
}
COVERED = "Training"
UNCOVERED = "Training, for the evaluator only: epsilon does not cover these"


def _curve(writer: SummaryWriter, point: Point) -> None:
    """The point of a training curve; all but epsilon itself is of private data."""
    for name, title in CURVES.items():
        if (value := point.get(name)) is not None:
            page = COVERED if name == "epsilon" else UNCOVERED
            writer.add_scalar(f"{page}/{title}", value, int(point["step"] or 0))


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


def serve(folder: Path, host: str, port: int) -> str:
    """Serve the TensorBoard files of a run, in a thread; its address. Raises RunError for a folder
    without such files, or a port that cannot be had.
    """
    from tensorboard import program

    files = folder / "tensorboard"
    if not files.is_dir():
        raise RunError(f"{folder} has no tensorboard files; write them with dptrain report run=")
    server = program.TensorBoard()
    server.configure(argv=[None, "--logdir", str(files), "--host", host, "--port", str(port)])
    try:
        address: str = server.launch()
    except program.TensorBoardServerException as error:
        raise RunError(f"cannot serve it ({first_line(error)}); give another port") from None
    return f"{address}{FIRST_PAGE}"


def wait() -> None:
    """Until Ctrl-C or SIGTERM, also where a shell that went on has made Ctrl-C be ignored."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
