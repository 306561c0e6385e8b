"""From YAML files, overrides and values to the frozen schema.

Nothing in a file can run code: no `_target_`, no resolver.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dptrain.config.build import (
    build,
    keys_of,
    merge,
    plain_value,
    refuse_code,
    suggest_key,
    suggestion,
)
from dptrain.config.commands import (
    AdviseConfig,
    AttackConfig,
    CalibrateConfig,
    ExportConfig,
    InspectConfig,
    PredictConfig,
    ReportConfig,
    ReproduceConfig,
    RunConfig,
    StoreConfig,
    TensorboardConfig,
    TrainConfig,
    TuneConfig,
)
from dptrain.config.files import command_folder, conf_folder, groups, require_folder
from dptrain.config.schema import Config
from dptrain.core import plugins
from dptrain.core.errors import ConfigError, printable
from dptrain.core.store import unseal
from dptrain.core.types import Task

SCHEMAS: dict[str, type] = {
    "sweep": Config,
    "attack": AttackConfig,
    "calibrate": CalibrateConfig,
    "advise": AdviseConfig,
    "store": StoreConfig,
    "show": RunConfig,
    "report": ReportConfig,
    "tensorboard": TensorboardConfig,
    "inspect": InspectConfig,
    "train": TrainConfig,
    "tune": TuneConfig,
    "export": ExportConfig,
    "predict": PredictConfig,
    "reproduce": ReproduceConfig,
}
OF_TRAIN = (
    *("run", "setting", "rows", "output", "seed", "privacy", "executor"),
    *("training.device", "dataset.canaries", "dataset.canary", "dataset.path", "dataset.schema"),
)
"""Keys that `dptrain train run=RUN` takes; all others are those of the run."""
CLASSIFIERS_RATES = {0.3: 0.1, 2.5: 0.2}
"""Default learning rates of classifiers, and what a regression has in their place."""
PATHS = (
    "output",
    "scores",
    "run",
    "data",
    *(f"dataset.{key}" for key in ("path", "target", "group", "unit", "schema", "time")),
)
"""Keys whose text may well hold a comma."""
LITERAL = ("where", "run")
"""Keys whose text is taken as it stands, signs and commas too: --multirun names folders
model=mlp,seed=0.
"""
COMMAS = re.compile(r"[^\[{('\"]*,[^\]})'\"]*$")
"""A value that commas part, outside of brackets and quotes."""


def load(
    command: str,
    overrides: Sequence[str],
    values: Mapping[str, Any] | None = None,
    folders: Sequence[Path] = (),
) -> Any:
    """The configuration of a command: its YAML file in `conf`, overrides `key=value` in Hydra's
    grammar, then values by dotted keys. folders: a user's YAML files, in groups like ours.

    Raises ConfigError, one line, naming the key.
    """
    places = tuple(require_folder(Path(folder)) for folder in folders)
    chosen, values = _as_choices(values or {}, places)
    plain = _compose(command, [*overrides, *chosen], places)
    refuse_code(plain_value(values))
    _drop_unchosen(plain, [*overrides, *chosen])
    merge(plain, values)
    if command == "train" and plain.get("run") is not None:
        given = [*(_key_of(override) for override in (*overrides, *chosen)), *values]
        plain = _of_run(plain, given)
    named = any(re.match(r"defences?=", override) for override in (*overrides, *chosen))
    keys = [*(_key_of(override) for override in (*overrides, *chosen)), *values]
    return _configuration(command, plain, named, keys)


def _key_of(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _of_run(plain: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """The configuration of a finished sweep with those keys that are of the model to train.

    Raises ConfigError for a key that would make it another setting than the one that the sweep
    attacked.
    """
    for key in given:
        if not any(key == name or key.startswith(f"{name}.") for name in OF_TRAIN):
            message = f"is that of the run; leave it out, or give {', '.join(OF_TRAIN)} only"
            raise ConfigError(key, message)
    taken = recorded(plain["run"])
    for key in given:
        group, _, name = key.partition(".")
        if name:
            taken[group][name] = plain[group][name]
        elif group in ("privacy", "executor"):
            taken[group] = plain[group]
    given_now = {name: plain[name] for name in ("run", "setting", "rows", "output")}
    return {**taken, **given_now, "seed": plain["seed"] if "seed" in given else taken["seed"]}


def recorded(run: str) -> dict[str, Any]:
    """The configuration of a finished sweep as plain values. Raises ConfigError."""
    try:
        record = unseal((Path(run) / "metrics.json").read_bytes())
        plain: dict[str, Any] = record["config"]
        plain["epsilons"] = [math.inf if each is None else each for each in plain["epsilons"]]
        if "rows" in plain:
            fix = f"{run} holds no sweep but a final model, which lies in {run}/model already"
            raise ConfigError("run", fix)
    except ConfigError:
        raise
    except OSError:
        fix = f"there is no finished sweep in {run}; give the folder that holds its metrics.json"
        raise ConfigError("run", fix) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        fix = f"{run}/metrics.json was altered, or is of no sweep; run the sweep again"
        raise ConfigError("run", fix) from None
    return _filled({**plain, "dry_run": False}, _compose("sweep", [], ()))


FREE = ("model", "defence", "attacks")
"""Groups whose keys are of what was chosen."""


def _filled(plain: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded configuration with the keys that its version did not have, by their defaults."""
    filled = dict(plain)
    for key, default in defaults.items():
        if key not in filled:
            filled[key] = default
        elif key not in FREE and isinstance(default, dict) and isinstance(filled[key], dict):
            filled[key] = _filled(filled[key], default)
    return filled


def of_run(run: str) -> Config:
    """The configuration of a finished sweep, whose folder `run` is. Raises ConfigError."""
    result: Config = build(Config, {**recorded(run), "output": run})
    return result


def text(command: str, overrides: Sequence[str], folders: Sequence[Path] = ()) -> str:
    """The composed configuration as YAML."""
    load(command, overrides, folders=folders)  # for the checks
    plain = _compose(command, list(overrides), [require_folder(Path(each)) for each in folders])
    _drop_unchosen(plain, overrides)
    result: str = yaml.safe_dump(plain, sort_keys=False)
    return result


def _configuration(
    command: str, plain: dict[str, Any], named: bool, given: Sequence[str] = ()
) -> Any:
    """named: whether the user chose the defences, and so means the baseline among them; given: the
    keys that the user gave.
    """
    numbers = plain.get("dataset", {}).get("task") == Task.REGRESSION
    if numbers and "utility" in plain and plain.get("run") is None:
        _default_of_regression(plain, given)
    if command in ("sweep", "train"):
        epsilons = plain.get("epsilons")
        if isinstance(epsilons, int | float) and not isinstance(epsilons, bool):
            plain["epsilons"] = epsilons = [epsilons]
        asked = epsilons if isinstance(epsilons, list) else [math.inf]
        if named and math.inf not in asked and "none" in plain.get("defence", {}):
            plain["epsilons"] = [math.inf, *asked]  # who names the baseline wants it
    if command == "tune":
        if plain["epsilon"] is None:
            raise ConfigError("epsilon", "is needed, that of the chosen model; give such as 4")
        plain["epsilons"] = [plain["epsilon"]]
        plain["defence"] = {
            name: options for name, options in plain["defence"].items() if name == "dpsgd"
        }
        if not plain["defence"]:
            raise ConfigError("defence", "only that of DP-SGD has a price; use defence=[dpsgd]")
    return build(SCHEMAS[command], plain)


def _default_of_regression(plain: dict[str, Any], given: Sequence[str]) -> None:
    """Put the defaults of a regression in the place of those of a classification, but for the keys
    that the user gave.
    """
    if "utility" not in given:
        plain["utility"] = "rmse"
    if not any(key.partition(".")[0] == "attacks" for key in given):
        plain["attacks"].pop("shadow", None)
    for name, options in plain["defence"].items():
        left = options and f"defence.{name}.learning_rate" not in given
        if left and options.get("learning_rate") in CLASSIFIERS_RATES:
            options["learning_rate"] = CLASSIFIERS_RATES[options["learning_rate"]]


def _drop_unchosen(plain: dict[str, Any], overrides: Sequence[str]) -> None:
    """Drop the options that an experiment gives to a defence which the arguments leave out. Raises
    ConfigError where the arguments themselves give it options.
    """
    choices = [part.partition("=")[2] for part in overrides if re.match(r"defences?=", part)]
    if not choices:
        return
    chosen = re.findall(r"\w+", choices[-1])
    for name in list(plain["defence"]):
        if name in chosen:
            continue
        if any(part.lstrip("+").startswith(f"defence.{name}.") for part in overrides):
            raise ConfigError(f"defence.{name}", f"add {name} to defence=[{','.join(chosen)}]")
        del plain["defence"][name]


def _as_choices(
    values: Mapping[str, Any], folders: Sequence[Path]
) -> tuple[list[str], dict[str, Any]]:
    """Values that choose a file of a group, as overrides, and the others."""
    chosen, others = [], {}
    for key, value in values.items():
        if key in ("task", "bounds"):
            others[f"dataset.{key}"] = value
            continue
        names = list(value) if isinstance(value, list | tuple) else [value]
        named = all(isinstance(name, str) for name in names)
        if key in (*groups(folders), "defences") and named:
            text = str(value) if isinstance(value, str) else f"[{','.join(names)}]"
            chosen.append(f"{key}={text}")
        else:
            others[key] = value
    return chosen, others


def _search_path(folders: Sequence[Path]) -> list[str]:
    if not folders:
        return []
    places = ",".join(quoted(f"file://{folder}") for folder in folders)
    return [f"hydra.searchpath=[{places}]"]


def quoted(text: str) -> str:
    """A text as Hydra's grammar takes it literally."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def paths(text: str) -> list[str]:
    """Paths that commas part. A path in quotes is taken as it stands; else a piece `seed=0` belongs
    to the path before it, since --multirun names folders model=mlp,seed=0.
    """
    pieces = re.findall(r"\s*(?:'([^']*)'|\"([^\"]*)\"|([^,]+))", text)
    result: list[str] = []
    for single, double, bare in pieces:
        path = (single or double or bare).strip()
        goes_on = bool(bare) and re.match(r"[\w.]+=[^/]*$", path) and result
        if goes_on and "=" in result[-1].rpartition("/")[2]:
            result[-1] += f",{path}"
        elif path:
            result.append(path)
    return result


def _compose(command: str, overrides: list[str], folders: Sequence[Path]) -> dict[str, Any]:
    grouped = command_folder(command) == conf_folder()
    for override in overrides:
        refuse_override(override, folders, grouped=grouped)
    wanted = [
        _hydra_words(part)
        for override in overrides
        for part in (_of_other_packages(override, folders) if grouped else [override])
    ]
    try:
        with initialize_config_dir(str(command_folder(command).resolve()), version_base="1.3"):
            return _plain(compose(command, [*wanted, *_search_path(folders)]))
    # ValueError: Hydra's answer to group=3.
    except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        if isinstance(error, ConfigError):
            raise
        raise translated(error, command, wanted, folders) from None
    except RecursionError:
        raise ConfigError("", "an argument is nested too deeply; write key=value") from None


def _hydra_words(override: str) -> str:
    """An override of ours in Hydra's words: its `++` adds names to a mapping that has none yet."""
    key, _, text = override.partition("=")
    literal = key in LITERAL and text != "null"
    # Hydra's grammar wants a path with a sign of its own in quotes.
    if not re.match("['\"]", text) and (literal or (key in PATHS and "=" in text)):
        return f"{key}={quoted(text)}"
    if key == "runs" and text.startswith("[") and text.endswith("]"):
        return f"{key}=[{','.join(map(quoted, paths(text[1:-1])))}]"
    override = re.sub(r"^defences=", "defence=", override)
    override = re.sub(r"^(task|bounds)=", r"dataset.\1=", override)
    return re.sub(r"^(?=dataset\.ordinal[.=])", "++", override)


def _plain(composed: Any) -> dict[str, Any]:
    """Plain values, with interpolations of our keys resolved."""
    refuse_code(OmegaConf.to_container(composed, resolve=False))
    plain: Any = OmegaConf.to_container(composed, resolve=True)
    refuse_code(plain)
    result: dict[str, Any] = plain
    return result


def refuse_override(
    override: str, folders: Sequence[Path], swept: bool = False, grouped: bool = True
) -> None:
    """Raise ConfigError for an argument that Hydra would take for something else, or that names a
    file outside of the folders. swept: whether a comma parts the values of several runs; grouped:
    whether the command chooses files of groups.
    """
    key, _, value = override.partition("=")
    if printable(override) != override:
        raise ConfigError(printable(key), "holds characters that cannot be printed; remove them")
    if override.startswith("-"):
        fix = "is no option; arguments are written key=value, such as epsilons=[8,2]"
        raise ConfigError(key, fix)
    if key.lstrip("+~").startswith("hydra"):
        raise ConfigError(key, "Hydra's own settings are not for users; remove it")
    group = key.lstrip("+~").split("@")[0]
    named = grouped and group in (*groups(folders), "defences", "experiment")
    if (named and re.search(r"[/\\]|\.\.", value)) or "/" in group:
        raise ConfigError(group, f"{value!r} is a path, and this takes a name; see dptrain list")
    if not swept and group not in LITERAL and COMMAS.match(value):
        fix = f"write a list as {key}=[{value}], or run all of them with --multirun"
        if group in PATHS:
            fix = f"quote it: \"{key}='{value}'\""
        raise ConfigError(key, f"takes one value in a run, and a comma parts two; {fix}")


def _of_other_packages(override: str, folders: Sequence[Path]) -> list[str]:
    """What has no YAML file: the same with its name. model=NAME may be of a package or of this
    program; options come with +model. Data sets and attacks are those of installed packages.
    """
    known = groups(folders)
    match = re.fullmatch(r"(model|dataset)=([A-Za-z_][\w.-]*)", override)
    if match is not None and match[2] not in (*known[match[1]], "null"):
        group, name = match.groups()
        if group == "model":
            return ["model=logistic", f"model.name={name}"]
        if name in plugins.names("datasets"):
            return ["dataset=npz", f"dataset.name={name}"]
        return [override]
    if match := re.fullmatch(r"attacks=\[(.*)\]", override):
        names = [name.strip() for name in match[1].split(",")]
        others = [name for name in names if name in plugins.names("attacks")]
        foreign = [name for name in others if name not in known["attacks"]]
        ours = [name for name in names if name not in foreign]
        return [f"attacks=[{','.join(ours)}]", *(f"+attacks.{name}={{}}" for name in foreign)]
    return [override]


def translated(
    error: Exception, command: str, overrides: list[str], folders: Sequence[Path]
) -> ConfigError:
    """Hydra's complaint in our words."""
    message = " ".join(str(error).split())
    short = message.split(" See https")[0]
    missing_key = re.search(r"Could not override '([^']+)'", message) or re.search(
        r"Could not append to config.*'([^']+)'", message
    )
    if missing_key:
        near = suggest_key(missing_key[1], _known_keys(command, overrides, folders))
        return ConfigError(missing_key[1], f"unknown key{near}; see dptrain {command} --help")
    if match := re.search(r"Could not (?:find|load) '([^'/]+)/([^']+)'", message):
        group, name = match.groups()
        known = groups(folders).get(group, [])
        near = f"unknown name {name!r}{suggestion(name, known)}"
        return ConfigError(group, f"{near}; choose from {', '.join(known)}")
    if match := re.search(r"Interpolation key '([^']+)' not found", message):
        key = re.search(r"full_key: (\S+)", message)
        fix = f"there is no key {match[1]!r} to take a value from; write the value itself"
        return ConfigError(key[1] if key else "", fix)
    if isinstance(error, yaml.YAMLError):
        return ConfigError("", f"cannot read a YAML file: {message}; mend it")
    if "group override must be" in message:
        fix = "write group=NAME, such as dataset=mnist5k"
        return ConfigError("", f"cannot read an argument: {message}; {fix}")
    kind = type(error).__name__.lower()
    if "parse" in kind or "mismatched input" in message or "token recognition" in message:
        fix = "write key=value, and quote spaces and brackets"
        return ConfigError("", f"cannot read an argument: {short}; {fix}")
    return ConfigError("", short)


def _known_keys(command: str, overrides: list[str], folders: Sequence[Path]) -> list[str]:
    """All keys, with the model, data set and so on that the overrides choose."""
    known = groups(folders)
    grouped = command_folder(command) == conf_folder()
    chosen = [each for each in overrides if grouped and each.split("=")[0] in known]
    with initialize_config_dir(str(command_folder(command).resolve()), version_base="1.3"):
        plain = OmegaConf.to_container(compose(command, [*chosen, *_search_path(folders)]))
    assert isinstance(plain, dict)
    return [*known, *keys_of({str(key): value for key, value in plain.items()})]
