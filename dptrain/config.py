"""The frozen schema, and the only module that knows Hydra.

YAML files compose by Hydra's rules, then become frozen dataclasses that hold every check which needs no data. Nothing in a file
can run code: no `_target_`, no interpolation.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dptrain.types import ConfigError

MAX_EPSILON = 100
MIN_POOL = 40
"""Below it a training set can lack members, and every metric is noise."""


def conf_folder() -> Path:
    """The YAML files: inside an installed package, beside it in a checkout."""
    installed = Path(__file__).parent / "conf"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "conf"


def option(text: str) -> Any:
    """A field without a default (the YAML files hold those) and its line of help."""
    return field(metadata={"help": text})


@dataclass(frozen=True)
class DatasetConfig:
    name: str = option("data set")
    pool: int = option("candidates; each model trains on its own random half")
    population: int = option("examples no model trains on, set aside for an attacker")
    test: int = option("examples for accuracy only")


@dataclass(frozen=True)
class TrainingConfig:
    batch_size: int = option("expected batch size of Poisson sampling")
    epochs: float = option("passes over pool/2 examples, in expectation")
    engine: str = option("auto, stacked (fast) or opacus (any module)")
    device: str = option("auto, cpu, cuda or mps")
    width: int = option("models trained side by side")
    checkpoint_seconds: float = option("seconds between checkpoints of an unfinished stack")


@dataclass(frozen=True)
class PrivacyConfig:
    delta: float = option("delta of (epsilon, delta); below 1/n")
    noise: str = option("os: key from the operating system; seeded: from `seed`, to reproduce a run")


@dataclass(frozen=True)
class Config:
    name: str = option("name of the run; output goes to results/<name>")
    epsilons: tuple[float, ...] = option("targets; inf trains without privacy")
    models_per_setting: int = option("models of each setting, even; each is attacked with the others as shadows")
    seed: int = option("seed of splits, memberships and initial weights")
    output: str | None = option("folder for results; default results/<name> under the current folder")
    dataset: DatasetConfig = option("data set and its split")
    model: Mapping[str, Any] = option("name of the model, and its options")
    training: TrainingConfig = option("how to train")
    privacy: PrivacyConfig = option("what is promised")
    defence: Mapping[str, Mapping[str, Any]] = option("parameters of each way to train")
    attacks: Mapping[str, Mapping[str, Any]] = option("attacks to run, and their options")

    def __post_init__(self) -> None:
        _check(self)

    @property
    def public_n(self) -> int:
        """The declared size of a training set: half the pool. Public, and the same whatever the memberships are."""
        return self.dataset.pool // 2

    @property
    def steps(self) -> int:
        return math.ceil(Fraction(str(self.training.epochs)) * self.public_n / self.training.batch_size)

    @property
    def folder(self) -> Path:
        return Path(self.output) if self.output else Path("results") / self.name

    def to_json(self) -> dict[str, Any]:
        """Strict JSON; no DP is null."""
        plain = dataclasses.asdict(self)
        plain["epsilons"] = [None if math.isinf(epsilon) else epsilon for epsilon in self.epsilons]
        return plain


def load(command: str, overrides: list[str]) -> Config:
    """Compose `conf/<command>.yaml` with overrides `key=value`. Raises ConfigError, one line, naming the key."""
    for override in overrides:
        if override.lstrip("+~").startswith("hydra"):
            raise ConfigError(override.split("=")[0], "Hydra's own settings are not for users; remove it")
    try:
        with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
            composed = compose(command, overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: Hydra's answer to group=3
        raise _translate(error, command) from None
    plain: Any = OmegaConf.to_container(composed, resolve=False)
    _refuse_code("", plain)
    epsilons = plain.get("epsilons")
    if isinstance(epsilons, int | float):
        plain["epsilons"] = [epsilons]
    return _build(Config, plain, "")


def groups() -> dict[str, list[str]]:
    """Config groups and the names in each."""
    root = conf_folder()
    return {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in sorted(root.iterdir()) if folder.is_dir()}


def summary(group: str, name: str) -> str:
    """The first line of a YAML file's comment."""
    first = (conf_folder() / group / f"{name}.yaml").read_text().splitlines()
    return next((line.lstrip("# ") for line in first if line.startswith("#") and "@package" not in line), "")


def _translate(error: Exception, command: str) -> ConfigError:
    text = " ".join(str(error).split())
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(r"Could not append to config.*'([^']+)'", text):
        key = match[1]
        return ConfigError(key, f"unknown key{_suggest(key, _known_keys(command))}; see dptrain {command} --help")
    if match := re.search(r"Could not (?:find|load) '([^'/]+)/([^']+)'", text):
        group, name = match.groups()
        available = groups().get(group, [])
        return ConfigError(group, f"unknown name {name!r}{_suggest(name, available)}; choose from {', '.join(available)}")
    if "group override must be" in text:
        return ConfigError("", f"cannot read an argument: {text}; write group=NAME, such as dataset=mnist5k")
    if "parse" in type(error).__name__.lower() or "mismatched input" in text or "token recognition" in text:
        return ConfigError("", f"cannot read an argument: {text.split(' See https')[0]}; write key=value, and quote spaces and brackets")
    return ConfigError("", text.split(" See https")[0])


def _known_keys(command: str) -> list[str]:
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        composed = compose(command)
    keys: list[str] = list(groups())

    def walk(prefix: str, values: dict[Any, Any]) -> None:
        for key, inner in values.items():
            keys.append(f"{prefix}{key}")
            if isinstance(inner, dict):
                walk(f"{prefix}{key}.", inner)

    plain = OmegaConf.to_container(composed)
    assert isinstance(plain, dict)
    walk("", plain)
    return keys


def _suggest(word: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _refuse_code(path: str, value: Any) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if str(key).startswith("_"):
                raise ConfigError(f"{path}{key}", "keys that begin with '_' are not allowed; remove it")
            _refuse_code(f"{path}{key}.", inner)
    elif isinstance(value, list):
        for inner in value:
            _refuse_code(path, inner)
    elif isinstance(value, str) and "${" in value:
        raise ConfigError(path.rstrip("."), "interpolation is not allowed; write the value itself")


def _build(kind: type, values: Mapping[str, Any], path: str) -> Any:
    """A dataclass from a mapping, with every key and type checked."""
    hints = typing.get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise ConfigError(f"{path}{key}", f"unknown key{_suggest(str(key), hints)}; remove it")
    for key in hints:
        if key not in values:
            raise ConfigError(f"{path}{key}", "missing; give it a value")
    return kind(**{key: _convert(hint, values[key], f"{path}{key}") for key, hint in hints.items()})


def _convert(hint: Any, value: Any, path: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(path, f"expected a group of keys, got {value!r}; choose with {path}=NAME")
        return _build(hint, value, f"{path}.")
    if isinstance(hint, types.UnionType):
        return None if value is None else _convert(next(arm for arm in typing.get_args(hint) if arm is not type(None)), value, path)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ConfigError(path, f"expected a list such as [inf,8,2], got {value!r}")
        return tuple(_convert(typing.get_args(hint)[0], item, path) for item in value)
    if typing.get_origin(hint) is Mapping:
        if not isinstance(value, dict):
            raise ConfigError(path, f"expected a group of keys, got {value!r}; choose with {path}=NAME")
        inner = typing.get_args(hint)[1]
        return {
            key: item if inner is Any else _convert(inner, item if item is not None else {}, f"{path}.{key}") for key, item in value.items()
        }
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        names = {int: "a whole number", float: "a number", str: "text"}
        raise ConfigError(path, f"expected {names[hint]}, got {value!r}")
    return value


def _require(condition: bool, key: str, message: str) -> None:
    if not condition:
        raise ConfigError(key, message)


def positive(value: Any, key: str) -> float:
    """A number above zero that float32 can hold, or ConfigError."""
    if type(value) not in (int, float) or not 0 < value < 1e30:
        raise ConfigError(key, f"must be a finite number above 0 and below 1e30, got {value!r}")
    return float(value)


def _check(config: Config) -> None:
    _require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", config.name) is not None,
        "name",
        f"use letters, digits, '.', '_' and '-', got {config.name!r}",
    )
    for part in ("pool", "population", "test"):
        _require(getattr(config.dataset, part) >= 1, f"dataset.{part}", "must be at least 1")
    pool = config.dataset.pool
    _require(pool >= MIN_POOL, "dataset.pool", f"must be at least {MIN_POOL}, got {pool}")
    _require(pool % 2 == 0, "dataset.pool", f"must be even, since each model trains on half of it; use {pool - 1}")
    _require(len(config.attacks) > 0, "attacks", "give at least one, such as [loss,lira]")
    _require(len(config.epsilons) > 0, "epsilons", "give at least one, such as [inf,8,2]")
    for epsilon in config.epsilons:
        _require(epsilon > 0, "epsilons", f"must be above 0, got {epsilon:g}; use inf for no privacy")
        vain = f"{epsilon:g} promises next to nothing; use at most {MAX_EPSILON}, or inf for no privacy"
        _require(epsilon <= MAX_EPSILON or math.isinf(epsilon), "epsilons", vain)
    _require(len(set(config.epsilons)) == len(config.epsilons), "epsilons", "each may stand there once; remove the repeats")
    models = config.models_per_setting
    _require(
        models >= 2 and models % 2 == 0,
        "models_per_setting",
        f"must be even and at least 2, got {models}; use {max(2, models + models % 2)}",
    )
    _require(config.seed >= 0, "seed", "must be 0 or more")
    n, training = config.public_n, config.training
    _require(1 <= training.batch_size <= n, "training.batch_size", f"must lie in 1..{n} (half the pool), got {training.batch_size}")
    positive(training.epochs, "training.epochs")
    _require(config.steps < 2**31, "training.epochs", "gives more than 2^31 steps; lower it")
    positive(training.checkpoint_seconds, "training.checkpoint_seconds")
    _require(training.width >= 1, "training.width", "must be at least 1")
    for key, value, choices in (
        ("training.engine", training.engine, ("auto", "stacked", "opacus")),
        ("training.device", training.device, ("auto", "cpu", "cuda", "mps")),
        ("privacy.noise", config.privacy.noise, ("os", "seeded")),
    ):
        _require(value in choices, key, f"unknown value {value!r}; choose from {', '.join(choices)}")
    delta = config.privacy.delta
    _require(
        0 < delta < 1 / n,
        "privacy.delta",
        f"must lie above 0 and below 1/n = {1 / n:.3g}, got {delta:g}; a delta of 1/n allows publishing one record",
    )
