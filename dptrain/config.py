"""From YAML files and overrides to the frozen schema; the only module that knows Hydra.

Nothing in a file can run code: no `_target_`, no interpolation.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dptrain import plugins
from dptrain.commands import AdviseConfig, AttackConfig, CalibrateConfig
from dptrain.schema import Config
from dptrain.types import ConfigError, printable


def conf_folder() -> Path:
    """The YAML files: inside an installed package, beside it in a checkout."""
    installed = Path(__file__).parent / "conf"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "conf"


def load(command: str, overrides: list[str]) -> Config:
    """Compose `conf/<command>.yaml` with overrides `key=value`. Raises ConfigError, one line, naming the key."""
    plain = _compose(command, overrides)
    epsilons = plain.get("epsilons")
    if isinstance(epsilons, int | float):
        plain["epsilons"] = epsilons = [epsilons]
    named = any(re.match(r"defences?=", override) for override in overrides)
    if named and "none" in plain.get("defence", {}) and isinstance(epsilons, list) and math.inf not in epsilons:
        plain["epsilons"] = [math.inf, *epsilons]  # who names the baseline wants it, whatever the epsilons are
    return _build(Config, plain, "")


def load_attack(overrides: list[str]) -> AttackConfig:
    """The same for `dptrain attack`."""
    return _build(AttackConfig, _compose("attack", overrides), "")


def load_calibrate(overrides: list[str]) -> CalibrateConfig:
    """The same for `dptrain calibrate`."""
    return _build(CalibrateConfig, _compose("calibrate", overrides), "")


def load_advise(overrides: list[str]) -> AdviseConfig:
    """The same for `dptrain advise`."""
    return _build(AdviseConfig, _compose("advise", overrides), "")


def _compose(command: str, overrides: list[str]) -> dict[str, Any]:
    for override in overrides:
        _refuse_override(override)
    overrides = [re.sub(r"^defences=", "defence=", part) for override in overrides for part in _foreign(override)]
    try:
        with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
            composed = compose(command, overrides)
        plain: Any = OmegaConf.to_container(composed, resolve=False)
    except (HydraException, OmegaConfBaseException, ValueError, yaml.YAMLError) as error:  # ValueError: Hydra's answer to group=3
        raise _translate(error, command, overrides) from None
    except RecursionError:
        raise ConfigError("", "an argument is nested too deeply; write key=value") from None
    _refuse_code("", plain)
    return plain


def _refuse_override(override: str) -> None:
    """Raise ConfigError for an argument that Hydra would take for something else, or that names a file outside of our own."""
    key, _, value = override.partition("=")
    if printable(override) != override:
        raise ConfigError(printable(key), "holds characters that cannot be printed; remove them")
    if override.startswith("-"):
        raise ConfigError(key, "is no option; arguments are written key=value, such as epsilons=[8,2]")
    if key.lstrip("+~").startswith("hydra"):
        raise ConfigError(key, "Hydra's own settings are not for users; remove it")
    group = key.lstrip("+~").split("@")[0]
    if (group in (*groups(), "defences", "experiment") and re.search(r"[/\\]|\.\.", value)) or "/" in group:
        raise ConfigError(group, f"{value!r} is a path, and this takes a name; see dptrain list")
    if re.fullmatch(r"[^\[{('\"]*,[^\]})'\"]*", value):
        text = group in ("output", "dataset.path", "dataset.target", "dataset.group", "dataset.schema", "scores", "run")
        mend = f"quote it: \"{key}='{value}'\"" if text else f"write a list as {key}=[{value}], or run once for each"
        raise ConfigError(key, f"takes one value in a run, and a comma parts two; {mend}")


def _foreign(override: str) -> list[str]:
    """What has no YAML file: the same with its name. model=NAME may be of a package or of this program; options come with +model. Data sets and
    attacks are those of installed packages."""
    match = re.fullmatch(r"(model|dataset)=([A-Za-z_][\w.-]*)", override)
    if match is not None and match[2] not in (*groups()[match[1]], "null"):
        group, name = match.groups()
        if group == "model":
            return ["model=logistic", f"model.name={name}"]
        return ["dataset=npz", f"dataset.name={name}"] if name in plugins.names("datasets") else [override]
    if match := re.fullmatch(r"attacks=\[(.*)\]", override):
        names = [name.strip() for name in match[1].split(",")]
        foreign = [name for name in names if name in plugins.names("attacks") and name not in groups()["attacks"]]
        ours = [name for name in names if name not in foreign]
        return [f"attacks=[{','.join(ours)}]", *(f"+attacks.{name}={{}}" for name in foreign)]
    return [override]


def added(group: str) -> list[tuple[str, str]]:
    """Names that other packages add to a group, each with its package."""
    kind = {"dataset": "datasets", "model": "models", "attacks": "attacks"}.get(group)
    return [] if kind is None else [item for item in plugins.packages(kind) if item[0] not in groups()[group]]


def groups() -> dict[str, list[str]]:
    """Config groups and the names in each."""
    root = conf_folder()
    return {folder.name: sorted(file.stem for file in folder.glob("[!_]*.yaml")) for folder in sorted(root.iterdir()) if folder.is_dir()}


def summary(group: str, name: str) -> str:
    """The first line of a YAML file's comment."""
    first = (conf_folder() / group / f"{name}.yaml").read_text().splitlines()
    return next((line.lstrip("# ") for line in first if line.startswith("#") and "@package" not in line), "")


def _translate(error: Exception, command: str, overrides: list[str]) -> ConfigError:
    text = " ".join(str(error).split())
    if match := re.search(r"Could not override '([^']+)'", text) or re.search(r"Could not append to config.*'([^']+)'", text):
        key = match[1]
        return ConfigError(key, f"unknown key{_suggest_key(key, _known_keys(command, overrides))}; see dptrain {command} --help")
    if match := re.search(r"Could not (?:find|load) '([^'/]+)/([^']+)'", text):
        group, name = match.groups()
        available = groups().get(group, [])
        return ConfigError(group, f"unknown name {name!r}{_suggest(name, available)}; choose from {', '.join(available)}")
    if "group override must be" in text:
        return ConfigError("", f"cannot read an argument: {text}; write group=NAME, such as dataset=mnist5k")
    if "parse" in type(error).__name__.lower() or "mismatched input" in text or "token recognition" in text:
        return ConfigError("", f"cannot read an argument: {text.split(' See https')[0]}; write key=value, and quote spaces and brackets")
    return ConfigError("", text.split(" See https")[0])


def _known_keys(command: str, overrides: list[str]) -> list[str]:
    """All keys, with the model, data set and so on that the overrides choose."""
    chosen = [override for override in overrides if override.split("=")[0] in groups()]
    with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
        composed = compose(command, chosen)
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


def _suggest_key(key: str, known: Sequence[str]) -> str:
    """A key of the same name elsewhere, or one of the same group with a like name: the whole of a key is like any other of its group."""
    group, _, name = key.rpartition(".")
    same = [other for other in known if other.rpartition(".")[2] == name]
    if same:
        return f"; did you mean {' or '.join(repr(other) for other in same[:2])}?"
    near = [other.rpartition(".")[2] for other in known if other.rpartition(".")[0] == group]
    close = difflib.get_close_matches(name, near, n=1, cutoff=0.7)
    return f"; did you mean {'.'.join(filter(None, (group, close[0])))!r}?" if close else _suggest(key, known) if not group else ""


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
        names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise ConfigError(path, f"expected {names[hint]}, got {value!r}")
    return value
