"""From YAML files and overrides to the frozen schema; the only module that knows Hydra.

Nothing in a file can run code: no `_target_`, no interpolation.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dptrain import plugins
from dptrain.commands import AdviseConfig, AttackConfig, CalibrateConfig
from dptrain.schema import Config
from dptrain.types import ConfigError


def conf_folder() -> Path:
    """The YAML files: inside an installed package, beside it in a checkout."""
    installed = Path(__file__).parent / "conf"
    return installed if installed.is_dir() else Path(__file__).parent.parent / "conf"


def load(command: str, overrides: list[str]) -> Config:
    """Compose `conf/<command>.yaml` with overrides `key=value`. Raises ConfigError, one line, naming the key."""
    plain = _compose(command, overrides)
    epsilons = plain.get("epsilons")
    if isinstance(epsilons, int | float):
        plain["epsilons"] = [epsilons]
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
        if override.lstrip("+~").startswith("hydra"):
            raise ConfigError(override.split("=")[0], "Hydra's own settings are not for users; remove it")
    overrides = [re.sub(r"^defences=", "defence=", part) for override in overrides for part in _foreign(override)]
    try:
        with initialize_config_dir(str(conf_folder().resolve()), version_base="1.3"):
            composed = compose(command, overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # ValueError: Hydra's answer to group=3
        raise _translate(error, command) from None
    plain: Any = OmegaConf.to_container(composed, resolve=False)
    _refuse_code("", plain)
    return plain


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


def groups() -> dict[str, list[str]]:
    """Config groups and the names in each."""
    root = conf_folder()
    return {folder.name: sorted(file.stem for file in folder.glob("[!_]*.yaml")) for folder in sorted(root.iterdir()) if folder.is_dir()}


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
        names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise ConfigError(path, f"expected {names[hint]}, got {value!r}")
    return value
