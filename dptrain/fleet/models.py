"""The trained models of a fleet: the key of each in the store, and what is read of them.

A model's artefact is keyed by everything that shaped it except its secret key, and holds parameters
and curve.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped
from safetensors.torch import load, save
from torch import Tensor, nn

from dptrain.core import arrays
from dptrain.core.errors import SettingError
from dptrain.core.store import code_fingerprint, fingerprint, from_npy, versions
from dptrain.core.types import Setting
from dptrain.fleet.fleet import Fleet
from dptrain.training import inference
from dptrain.training.checkpoint import Point, Progress
from dptrain.training.regularisers import masked

TRAINED_BY = ("core", "models", "training", "fleet")
"""The packages whose code shapes a model."""
PARAMETERS = "parameters.safetensors"


def key(fleet: Fleet, setting: Setting, index: int) -> str:
    """Artefact key of one model: all that shaped it, but neither how many models there are nor what
    is claimed of them, which its header says and which may change.
    """
    config = fleet.config
    upstream = (
        fleet.data_digest,
        config.pool,
        dict(config.model),
        fleet.architecture,
        fleet.engine,
        config.seed,
        config.privacy.noise,
        config.training.trajectory,
    )
    delta = setting.delta if setting.mechanism.private else None  # it stands in the statement
    code = (code_fingerprint(*TRAINED_BY), versions())
    return fingerprint("model", code, upstream, setting.shaping(), setting.name, delta, index)


def missing(fleet: Fleet, setting: Setting, block: Sequence[int] | None = None) -> list[int]:
    """Models of a setting, or of a block of them, that are not in the store."""
    asked = range(fleet.config.models_per_setting) if block is None else block
    return [
        index for index in asked if fleet.store.read("model", key(fleet, setting, index)) is None
    ]


def blocks(fleet: Fleet, setting: Setting) -> list[range]:
    """The stacks of a setting in which models are missing."""
    width, count = fleet.placement.width, fleet.config.models_per_setting
    absent = {index // width for index in missing(fleet, setting)}
    return [range(block * width, min((block + 1) * width, count)) for block in sorted(absent)]


def checkpoint(fleet: Fleet, setting: Setting, block: Sequence[int]) -> str:
    """The name of the checkpoint of a stack of models."""
    return fingerprint("checkpoint", [key(fleet, setting, index) for index in block])


def stored(fleet: Fleet, setting: Setting, index: int) -> dict[str, bytes]:
    """The files of one model. Raises RuntimeError where it is not in the store."""
    files = fleet.store.read("model", key(fleet, setting, index))
    if files is None:
        raise RuntimeError(
            f"model {index} of {setting.name} is not in the store; run the sweep again"
        )
    return files


def parameters(fleet: Fleet, setting: Setting, index: int, module: nn.Module) -> dict[str, Tensor]:
    """Of one trained model, each [1, ...]; `module` names them. The file holds constants too."""
    files = load(stored(fleet, setting, index)[PARAMETERS])
    return {name: files[name][None].to(fleet.device) for name, _ in module.named_parameters()}


def digest(fleet: Fleet, setting: Setting, index: int) -> str:
    """Of one model's trained parameters: two runs of one configuration differ in their noise. What
    the header claims of them does not count.
    """
    data = stored(fleet, setting, index)[PARAMETERS]
    layout, body = _header(data)
    layout.pop("__metadata__", None)
    return hashlib.sha256(json.dumps(layout, sort_keys=True).encode() + body).hexdigest()


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a safetensors file, and what follows it."""
    end = 8 + int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8:end])
    return header, data[end:]


def parameter_file(values: Mapping[str, Tensor], claim: str) -> bytes:
    """Parameters with what is claimed of them in the header."""
    file: bytes = save(dict(values), {"statement": claim})
    return file


def relabel(fleet: Fleet, setting: Setting, claim: str) -> None:
    """Write what is claimed now into the header of every parameter file of a setting that claims
    something else: the accountant may have been mended since, or the claim refuted.
    """
    for index in range(fleet.config.models_per_setting):
        data = stored(fleet, setting, index)[PARAMETERS]
        if _header(data)[0].get("__metadata__", {}).get("statement") != claim:
            file = parameter_file(load(data), claim)
            fleet.store.rewrite("model", key(fleet, setting, index), PARAMETERS, file)


def curve(fleet: Fleet, setting: Setting) -> list[Point]:
    """The training curve of a setting, mean over its models."""
    curves = [
        json.loads(stored(fleet, setting, index)["curve.json"])
        for index in range(fleet.config.models_per_setting)
    ]
    return [
        {name: _mean([point[name] for point in points]) for name in points[0]}
        for points in zip(*curves, strict=True)
    ]


def logits(fleet: Fleet, setting: Setting) -> dict[str, np.ndarray]:
    """Logits of every model on pool, population and test, [M, N, 1, C] each, computed where not
    yet stored. Raises SettingError where they are not finite.
    """
    module = fleet.module(setting).to(fleet.device)
    result: dict[str, np.ndarray] = {}
    count = fleet.config.models_per_setting
    code = code_fingerprint("core", "models", "training")
    for index in range(count):
        name = key(fleet, setting, index)
        scores = fingerprint("scores", code, name, digest(fleet, setting, index))
        files = fleet.store.arrays("scores", scores)
        if files is None:
            values = parameters(fleet, setting, index, module)
            files = {
                f"{part}.npy": released_logits(module, values, inputs, setting)[0, :, None]
                for part, inputs in fleet.tensors.items()
            }
            fleet.store.write("scores", scores, files)
        for part in fleet.dataset.parts:
            table = files[f"{part}.npy"]
            if not np.isfinite(table).all():
                raise diverged(setting)
            if index == 0:
                result[part] = arrays.empty((count, *table.shape), table.dtype.type)
            result[part][index] = table
    return result


def part_logits(
    fleet: Fleet, setting: Setting, index: int, part: str, first: int | None = None
) -> np.ndarray:
    """Logits of one model on a part of the data, or on its first rows, [N, C]; not stored, and of
    no other part: whether a model is given away must not hang on what it says of private rows.
    """
    module = fleet.module(setting).to(fleet.device)
    values = parameters(fleet, setting, index, module)
    inputs = fleet.tensors[part][:first]
    said: np.ndarray = released_logits(module, values, inputs, setting)[0]
    return said


def released_logits(
    module: nn.Module,
    values: Mapping[str, Tensor],
    inputs: Shaped[Tensor, "N ..."],
    setting: Setting,
) -> np.ndarray:
    """Logits [K, N, C] as the setting's service gives them away."""
    logits, release = inference.logits(module, values, inputs), setting.recipe.release
    return masked(logits, release.top, release.digits) if release.top else logits


def trajectories(fleet: Fleet, setting: Setting) -> np.ndarray | None:
    """Losses of every model on every pool example at the checkpoints, float32 [M, N, E]; None where
    the sweep has none.
    """
    if not fleet.config.training.trajectory:
        return None
    count = fleet.config.models_per_setting
    files = [stored(fleet, setting, index)["trajectory.npy"] for index in range(count)]
    return np.stack([from_npy(file) for file in files])


def forget_keys(fleet: Fleet) -> None:
    """Delete checkpoints, and the secret keys in them, of which every model is finished: another
    stack width leaves such.
    """
    for name in fleet.store.file_keys("checkpoint"):
        progress = Progress.read(fleet.store, name)
        if progress is None or all(
            fleet.store.read("model", artefact) is not None for artefact in progress.artefacts
        ):
            fleet.store.delete_file("checkpoint", name)


def diverged(setting: Setting) -> SettingError:
    """The error for models whose numbers are no numbers any more."""
    message = f"the models of {setting.name} diverged; lower it"
    return SettingError(message, f"{setting.defence}.learning_rate")


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [value for value in values if value is not None]
    return float(np.mean(finite)) if len(finite) == len(values) else None
