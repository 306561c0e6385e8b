"""Several sweeps at once, one for each combination of overrides, through one of Hydra's launchers.

Each combination is composed and checked as a single sweep is. Hydra composes nothing but the
numbers of the combinations to launch, so that no file of a user reaches Hydra's own settings, which
could run code.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from dptrain.config import compose
from dptrain.config.commands import TuneConfig
from dptrain.config.files import require_folder
from dptrain.config.schema import Config
from dptrain.core.errors import ConfigError

LAUNCHING = re.compile(r"hydra/launcher=\w+|hydra\.launcher(\.[A-Za-z]\w*)+=[^${}]*")
"""What may be said of how runs are launched: plain values of one of Hydra's launchers."""
LONGEST_NAME = 120
INTERVAL = re.compile(r"interval\(([^,()]+),([^,()]+)\)")
AS_INTERVAL = "write it as interval(LEAST,GREATEST), such as interval(0.5,8)"
POINTS, TRIES = 20, 1000
"""Candidates that are drawn where some key has an interval, and draws at most: a short interval of
whole numbers has fewer.
"""
SHARED = ("name", "output")


def candidates(overrides: Sequence[str]) -> dict[str, TuneConfig]:
    """The checked configuration of each candidate of `dptrain tune`, by what differs between them:
    every combination of values, or where some key has an interval POINTS random ones at most
    (Bergstra and Bengio 2012). They are the same in every run, so nothing of the data is in them.
    Raises ConfigError.
    """
    listed, ranges = [], dict[str, tuple[float, float]]()
    for override in overrides:
        key, _, value = override.partition("=")
        ranges.pop(key, None)
        if match := INTERVAL.fullmatch(value):
            ranges[key] = _ends(key, match)
        elif "interval(" in value:
            raise ConfigError(key, f"an interval is the whole value of a key; {AS_INTERVAL}")
        else:
            listed.append(override)
    plain = dict(sorted(combinations(listed).items()))  # Hydra may shuffle them.
    if ranges:
        plain = _points(plain, ranges)
    return {name: compose.load("tune", each) for name, each in plain.items()}


def _points(
    plain: Mapping[str, list[str]], ranges: Mapping[str, tuple[float, float]]
) -> dict[str, list[str]]:
    """The overrides of random candidates by name: one of the combinations each, and a number from
    each interval.
    """
    rng = np.random.default_rng(0)
    first = compose.load("tune", next(iter(plain.values())))
    whole = {key for key in ranges if isinstance(_value(first, key), int)}
    points: dict[str, list[str]] = {}
    for _ in range(TRIES):
        name = list(plain)[int(rng.integers(len(plain)))]
        drawn = [f"{key}={_drawn(rng, *ends, key in whole)}" for key, ends in ranges.items()]
        points[",".join([*([] if name == "run" else [name]), *drawn])] = [*plain[name], *drawn]
        if len(points) == POINTS:
            break
    return points


def _ends(key: str, match: re.Match[str]) -> tuple[float, float]:
    """Raises ConfigError for an interval that holds no number."""
    try:
        low, high = float(match[1]), float(match[2])
    except ValueError:
        low, high = math.inf, 0.0
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(key, f"{match[0]} holds no number; {AS_INTERVAL}")
    return low, high


def _value(config: TuneConfig, key: str) -> Any:
    """What a configuration has for a dotted key. Raises ConfigError where that is no number."""
    value: Any = config
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(key, "is no number, and an interval is of numbers; part values by commas")
    return value


def _drawn(rng: np.random.Generator, low: float, high: float, whole: bool) -> str:
    """A number between two ends, of four digits where that does not leave them: even on a
    logarithmic scale where they are a factor of ten or more apart, as of rates.
    """
    logarithmic = low > 0 and high >= 10 * low
    if whole and not logarithmic:
        return str(int(rng.integers(math.ceil(low), math.floor(high), endpoint=True)))
    if logarithmic:
        value = math.exp(rng.uniform(math.log(low), math.log(high)))
    else:
        value = rng.uniform(low, high)
    if whole:
        return str(min(max(round(value), math.ceil(low)), math.floor(high)))
    short = f"{value:.4g}"
    return short if low <= float(short) <= high else repr(value)


def combinations(overrides: Sequence[str], folders: Sequence[Path] = ()) -> dict[str, list[str]]:
    """The overrides of each run by the name of its folder, which says what differs between the
    runs. Arguments of the launcher are left out. Raises ConfigError.
    """
    places = [require_folder(Path(folder)) for folder in folders]
    ours = [override for override in overrides if not override.startswith("hydra")]
    for override in ours:
        compose.refuse_override(override, places, swept=True)
    try:
        parsed = OverridesParser.create().parse_overrides(ours)
    except HydraException as error:
        raise compose.translated(error, "sweep", ours, places) from None
    choices: list[list[tuple[str, str]]] = []
    for each in parsed:
        key = each.get_key_element()
        if not each.is_sweep_override():
            choices.append([("", each.input_line or "")])
            continue
        if each.is_interval_sweep():
            raise ConfigError(key, "an interval is for dptrain tune; part values by commas here")
        if key in SHARED:
            raise ConfigError(key, "is one for all runs; each has a folder of its own below it")
        values = [f"{key}={value}" for value in each.sweep_string_iterator()]
        if not values:
            raise ConfigError(key, "lists no value; write a range as range(FIRST,BEYOND)")
        choices.append([(value, value) for value in values])
    runs: dict[str, list[str]] = {}
    for parts in itertools.product(*choices):
        name = ",".join(name for name, _ in parts if name) or "run"
        safe = re.sub(r"[^\w.,=+\[\]-]+|\.\.+", "_", name)[:LONGEST_NAME]
        numbered = (f"{safe}-{number}" for number in itertools.count(2))
        unique = next(each for each in itertools.chain([safe], numbered) if each not in runs)
        runs[unique] = [override for _, override in parts]
    return runs


def configurations(overrides: Sequence[str], folders: Sequence[Path] = ()) -> list[Config]:
    """The checked configuration of each run, whose folder lies below `output`, or below
    results/<name>. Raises ConfigError.
    """
    for override in overrides:
        if override.startswith("hydra") and not LAUNCHING.fullmatch(override):
            fix = "write hydra/launcher=NAME or hydra.launcher.KEY=VALUE with a plain value"
            raise ConfigError(override.split("=")[0], f"is no setting of a launcher; {fix}")
    result = []
    for name, combination in combinations(overrides, folders).items():
        base = compose.load("sweep", combination, folders=folders).folder
        values = {"output": str(base / name)}
        result.append(compose.load("sweep", combination, values, folders))
    return result


def launch(
    configs: Sequence[Config], task: Callable[[Config], Any], overrides: Sequence[str]
) -> list[Any]:
    """Call `task` on each configuration, through the launcher that the overrides name (basic unless
    hydra/launcher names another), and return what it returns or the exception that it raised.

    Raises ConfigError where there is no such launcher.
    """
    base = configs[0].folder.parent
    if "${" in str(base):
        raise ConfigError("output", "holds ${; choose another folder")
    numbers = ",".join(map(str, range(len(configs))))
    settings = [
        f"+run={numbers}",
        f"hydra.sweep.dir={compose.quoted(str(base))}",
        "hydra.sweep.subdir=.",
        "hydra.output_subdir=null",
        "hydra.job.chdir=false",
        "hydra/job_logging=disabled",
        "hydra/hydra_logging=disabled",
        *(override for override in overrides if override.startswith("hydra")),
    ]
    try:
        hydra = Hydra.create_main_hydra2("dptrain", create_config_search_path(None))
        batches = hydra.multirun(None, _Job(configs, task), settings, with_log_configuration=False)
    except (HydraException, OmegaConfBaseException) as error:
        message = re.split(
            r" (Config search path|To append|See https)", str(error).replace("\n", " ")
        )[0]
        fix = "install its plug-in, or leave it out"
        raise ConfigError("hydra/launcher", f"{message}; {fix}") from None
    finally:
        GlobalHydra.instance().clear()
        (base / "multirun.yaml").unlink(missing_ok=True)
    return [_outcome(job) for batch in batches for job in batch]


def _outcome(job: Any) -> Any:
    """What a job returned, or the exception that it raised, of which Hydra would print more."""
    with contextlib.redirect_stderr(io.StringIO()):
        try:
            return job.return_value
        except Exception as error:
            return error


class _Job:
    """What a launcher calls for one number, perhaps in another process."""

    def __init__(self, configs: Sequence[Config], task: Callable[[Config], Any]):
        self.configs, self.task = configs, task

    def __call__(self, composed: Any) -> Any:
        return self.task(self.configs[composed.run])
