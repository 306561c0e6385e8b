"""What some attacks ask of every model of a setting beyond its logits, kept in the store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dptrain.core.store import code_fingerprint, fingerprint, from_npy, to_npy, versions
from dptrain.core.streams import Purpose, generator, seeded_key
from dptrain.core.types import Setting
from dptrain.fleet import models as trained
from dptrain.fleet.fleet import Fleet
from dptrain.training import example_gradients
from dptrain.training.augmentation import augment, require_images

SHIFTED = ("shift",)
"""Augmentation of copies where the training has none."""


def extras(fleet: Fleet, setting: Setting, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """The arrays of scores.EXTRAS that are named, each [M, N, ...]. Raises AttackError where the
    model cannot give one.
    """
    arrays = {}
    for name in wanted:
        if name == "trajectory_loss":
            if (losses := trained.trajectories(fleet, setting)) is not None:
                arrays[name] = losses
            continue
        models = range(fleet.config.models_per_setting)
        arrays[name] = np.stack([_stored(fleet, setting, index, name) for index in models])
    return arrays


def _stored(fleet: Fleet, setting: Setting, index: int, name: str) -> np.ndarray:
    config = fleet.config
    asked = (
        config.queries.copies,
        config.queries.jitter,
        config.queries.noise,
        config.seed,
        list(config.training.augmentations),
    )
    code = code_fingerprint(*trained.TRAINED_BY)
    key = fingerprint(
        "extra",
        name,
        code,
        versions(),
        trained.key(fleet, setting, index),
        trained.digest(fleet, setting, index),
        asked,
    )
    files = fleet.store.read("scores", key)
    if files is None:
        files = {"extra.npy": to_npy(_measure(fleet, setting, index, name))}
        fleet.store.write("scores", key, files)
    return from_npy(files["extra.npy"])


def _measure(fleet: Fleet, setting: Setting, index: int, name: str) -> np.ndarray:
    model, queries = fleet.initial(setting, index).to(fleet.device), fleet.config.queries
    parameters = trained.parameters(fleet, setting, index, model)
    if name.endswith("_logits"):
        sigma = {"jittered_logits": queries.jitter, "noisy_logits": queries.noise}.get(name)
        copies = (copy(fleet, number, sigma) for number in range(queries.copies))
        return np.stack(
            [trained.released_logits(model, parameters, each, setting)[0] for each in copies],
            axis=1,
        )
    pool, labels = (
        fleet.tensors["pool"],
        torch.from_numpy(fleet.dataset.pool.labels).to(fleet.device),
    )
    values = {key: value[0] for key, value in parameters.items()}
    model.eval()
    if name == "gradient_norm":
        return example_gradients.gradient_norms(model, values, pool, labels).cpu().numpy()
    start = {key: value.detach() for key, value in model.named_parameters()}
    return example_gradients.gradient_cosines(model, start, values, pool, labels).cpu().numpy()


def copy(fleet: Fleet, number: int, sigma: float | None) -> Tensor:
    """Copy `number` of every pool example, with Gaussian noise, or augmented where sigma is None;
    the same for every model.
    """
    raw = torch.from_numpy(fleet.dataset.pool.inputs)
    rng = generator(seeded_key(fleet.config.seed, "copies"), Purpose.QUERY, number)
    if sigma is not None:
        noise = torch.from_numpy(rng.standard_normal(raw.shape, dtype=np.float32))
        return fleet.seen(raw + sigma * noise).to(fleet.device)
    require_images(raw.shape[1:])
    draws = torch.from_numpy(rng.integers(0, 2**32, (1, len(raw), 1, 3)))
    return fleet.seen(
        augment(fleet.config.training.augmentations or SHIFTED, raw[None], draws)[0, :, 0]
    ).to(fleet.device)
