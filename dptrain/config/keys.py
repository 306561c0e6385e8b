"""Which configuration key an error of a layer is about: nothing below config knows the keys.

A layer says `path=FOLDER` of an option of its own; here it becomes `dataset.path=FOLDER`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import fields

from dptrain.config.schema import DatasetConfig
from dptrain.core import errors
from dptrain.core.errors import ConfigError, LayerError

GROUPS: dict[type[LayerError], str] = {
    errors.ModelError: "model",
    errors.DataError: "dataset",
    errors.TrainingError: "training",
    errors.SettingError: "defence",
    errors.AttackError: "attacks",
    errors.ScoresError: "scores",
    errors.FolderError: "output",
    errors.LedgerError: "output",
    errors.RunError: "run",
    errors.ComparisonError: "runs",
    errors.PaperError: "paper",
    errors.TargetError: "",
    errors.FleetError: "",
    errors.PluginError: "",
    errors.ReleaseError: "",
}
"""The group of keys that the `about` of an error lies in."""
WHOLE: dict[type[LayerError], str] = {errors.ModelError: "name", errors.DataError: "name"}
"""The key that chooses what an error without an `about` is about."""


@contextlib.contextmanager
def named() -> Iterator[None]:
    """Raise an error of any layer as a ConfigError with the key that it is about."""
    try:
        yield
    except LayerError as error:
        about = error.about or WHOLE.get(type(error), "")
        key = ".".join(filter(None, (GROUPS[type(error)], about)))
        raise ConfigError(key, _with_groups(error.message, GROUPS[type(error)])) from None


def _with_groups(message: str, group: str) -> str:
    """The message with the group before each option that it gives a value."""
    options = "|".join(each.name for each in fields(DatasetConfig)) if group == "dataset" else ""
    return re.sub(rf"(?<![\w.])({options})=", rf"{group}.\1=", message) if options else message
