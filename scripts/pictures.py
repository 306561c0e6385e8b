"""The pictures of README and documentation, of a finished quickstart: what several models say about
one digit, the page in Chromium (on a screen, a telephone, paper and in the dark), and TensorBoard.

    python scripts/pictures.py [run=results/quickstart] [into=docs/pictures]

It needs Debian's chromium and playwright.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.stats import norm

from dptrain.attacks.scores import scaled_logit
from dptrain.config import compose
from dptrain.core.store import Store
from dptrain.fleet import models
from dptrain.pipeline.plan import plan
from dptrain.pipeline.run import load
from dptrain.report.charts import tensorboard

SHOWN = ("none", "dpsgd-2")
TITLES = ("without DP", "DP-SGD at epsilon 2")
EPSILON = "epsilon"
INSIDE, OUTSIDE = "#0072b2", "#d55e00"


def said(run: Path) -> tuple[list[Float[np.ndarray, "M N"]], Bool[np.ndarray, "M N"]]:
    """The confidence of every model of two settings in the true class of every pool example, as
    LiRA takes it, and which model learnt from which example.
    """
    ready = plan(compose.of_run(str(run)))
    fleet = load(ready, Store(run / "store"))
    settings = {setting.name: setting for setting in ready.settings}
    labels = fleet.dataset.pool.labels
    tables = [models.logits(fleet, settings[name])["pool"] for name in SHOWN]
    confidences = [
        np.stack([scaled_logit(logits, labels).mean(axis=-1) for logits in table])
        for table in tables
    ]
    return confidences, fleet.membership


def of_one_digit(run: Path) -> Figure:
    """What the models say about the digit whose two distributions lie farthest apart without DP."""
    tables, members = said(run)
    inside, outside = _parts(tables[0], members)
    apart = (inside.mean(0) - outside.mean(0)) / np.sqrt(inside.var(0) + outside.var(0))
    digit = int(np.nanargmax(apart))
    figure = Figure(figsize=(8, 2.8), layout="constrained")
    FigureCanvasAgg(figure)
    columns = [table[:, digit] for table in tables]
    at = np.linspace(np.min(columns) - 2, np.max(columns) + 2, 500)
    for axes, column, title in zip(figure.subplots(1, 2), columns, TITLES, strict=True):
        for kind, colour, height in ((True, INSIDE, -0.05), (False, OUTSIDE, -0.1)):
            values = column[members[:, digit] == kind]
            words = "learnt from it" if kind else "did not"
            axes.plot(at, norm.pdf(at, values.mean(), values.std(ddof=1)), color=colour)
            axes.plot(values, np.full(len(values), height), "o", color=colour, label=words, ms=5)
        axes.set(title=title, xlabel="log odds of the true class", yticks=[])
        axes.spines[["top", "left", "right"]].set_visible(False)
    axes.legend(title="models that", frameon=False, loc="upper left")
    return figure


def _parts(table: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of models with an example, and of those without: every example is in half of them."""
    half = len(members) // 2
    order = np.argsort(~members, axis=0, kind="stable")
    ordered = np.take_along_axis(table, order, axis=0)
    return ordered[:half], ordered[half:]


@contextmanager
def chromium() -> Iterator[Callable[..., Any]]:
    """A function that opens an address in a window of a size."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])

        def opened(address: str, width: int = 1200, height: int = 900, **options: Any) -> Any:
            context = browser.new_context(viewport={"width": width, "height": height}, **options)
            page = context.new_page()
            page.goto(address)
            return page

        yield opened
        browser.close()


def main() -> None:
    given = dict(argument.split("=", 1) for argument in sys.argv[1:])
    run = Path(given.get("run", "results/quickstart"))
    into = Path(given.get("into", "docs/pictures"))
    into.mkdir(parents=True, exist_ok=True)
    of_one_digit(run).savefig(into / "lira.png", dpi=150)
    with chromium() as opened:
        of_the_page(opened, (run / "report.html").absolute().as_uri(), into)
        of_tensorboard(opened, tensorboard.serve(run, "localhost", 0), into)


def of_the_page(opened: Callable[..., Any], address: str, into: Path) -> None:
    """The page as readers meet it, and the chart of epsilons by itself."""
    looks: dict[str, dict[str, Any]] = {
        "report": {},
        "report_dark": {"color_scheme": "dark"},
        "report_telephone": {"width": 400, "height": 800},
    }
    for name, look in looks.items():
        page = opened(address, **look)
        page.wait_for_selector("body[data-drawn]")
        page.screenshot(path=into / f"{name}.png")
    page = opened(address)
    page.wait_for_selector("body[data-drawn]")
    page.locator("figure", has_text=EPSILON).last.screenshot(path=into / "epsilon.png")
    page.emulate_media(media="print")
    page.screenshot(path=into / "report_paper.png", full_page=True)


def of_tensorboard(opened: Callable[..., Any], address: str, into: Path) -> None:
    """Its first page, the trade-off, and the table of settings."""
    page = opened(address)
    page.wait_for_timeout(8000)
    page.screenshot(path=into / "tensorboard.png")
    page = opened(address.partition("#")[0] + "#hparams")
    page.wait_for_timeout(8000)
    page.screenshot(path=into / "tensorboard_settings.png")


if __name__ == "__main__":
    main()
