"""What one sweep trains, as a plain description that can be sent to another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from dptrain import models
from dptrain.config.schema import Config
from dptrain.core import streams
from dptrain.core.store import Store, code_fingerprint, fingerprint, from_npy, to_npy, versions
from dptrain.core.types import ClassWeights, EngineKind, Setting
from dptrain.data.splits import Dataset
from dptrain.fleet.blueprint import build
from dptrain.fleet.placement import Placement


@dataclass(frozen=True)
class Fleet:
    """The architecture, the data, who trains on what (membership, bool [M, N]), and where results
    lie. features: the inputs of each part as the trained part of the model sees them, where they
    come from elsewhere than the store.
    """

    config: Config
    store: Store
    engine: EngineKind
    placement: Placement
    device: torch.device
    architecture: str
    dataset: Dataset
    membership: np.ndarray
    features: Mapping[str, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "tensors"}

    @cached_property
    def data_digest(self) -> str:
        return self.dataset.digest

    @property
    def split(self) -> str:
        """A name of the pool and of who is a member of what, for the ledger."""
        config = self.config
        return fingerprint("split", self.data_digest, config.seed, config.pool)

    @cached_property
    def users(self) -> streams.Users | None:
        """Whose the examples of the pool are, where users are in a training set or not."""
        users = self.dataset.users
        return None if users is None else streams.Users.of(users)

    def class_weights(self, setting: Setting) -> Tensor | None:
        """What the loss of each class is multiplied by, [C]: (P / C) / its population examples, as
        in scikit-learn; a class that the population does not have weighs as the rarest that it has.
        """
        if setting.recipe.class_weights == ClassWeights.NONE:
            return None
        labels = self.dataset.population.labels
        counts = np.bincount(labels, minlength=self.dataset.classes).astype(np.float64)
        counts[counts == 0] = counts[counts > 0].min()
        weights = labels.size / (self.dataset.classes * counts)
        return torch.from_numpy(weights.astype(np.float32)).to(self.device)

    def of_users(self, table: Shaped[np.ndarray, "K N"]) -> np.ndarray:
        """What is the same for all examples of a user, once for each, [K, U]."""
        assert self.users is not None
        return table[:, self.users.rows[self.users.starts[:-1]]]

    @property
    def ledger_folder(self) -> Path:
        return self.store.root / "ledger"

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Inputs of pool, population and test, as the trained part of the model sees them."""
        whole = {
            name: torch.from_numpy(self.features[name] if self.features else part.inputs)
            for name, part in self.dataset.parts.items()
        }
        if self.has_features and not self.features:
            code = code_fingerprint("models")
            key = fingerprint("features", code, versions(), self.data_digest, self.architecture)
            files = self.store.read("features", key)
            if files is None:
                seen = {name: self.seen(part).numpy() for name, part in whole.items()}
                files = {f"{name}.npy": to_npy(features) for name, features in seen.items()}
                self.store.write("features", key, files)
            whole = {name: torch.from_numpy(from_npy(files[f"{name}.npy"])) for name in whole}
        return {name: part.to(self.device) for name, part in whole.items()}

    @property
    def has_features(self) -> bool:
        """Whether a fixed part of the model turns inputs into features before anything trains."""
        return models.features(self._whole()) is not None

    def prepare(self) -> None:
        """Compute and store the features of a model that has such, once for all workers."""
        if self.has_features:
            _ = self.tensors

    def seen(self, inputs: Shaped[Tensor, "N ..."]) -> Tensor:
        """Inputs as the trained part of the model sees them."""
        features = models.features(self._whole())
        return inputs if features is None else models.apply(features, inputs)

    def module(self, setting: Setting) -> nn.Module:
        """The trained part of every model of a setting but for its parameters: the layers, and the
        constants in their buffers. Training, logits, what attacks ask and files all take them from
        here.
        """
        return models.trained(self._whole(0, setting))

    def initial(self, setting: Setting, index: int) -> nn.Module:
        """`module` with the initial parameters of model `index`."""
        key = streams.seeded_key(self.config.seed, "initialisation", str(index))
        seed = int.from_bytes(key[:4], "big")
        drawn = dict(models.trained(self._whole(seed, setting)).named_parameters())
        model = self.module(setting)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(drawn[name])
        return model

    def _whole(self, seed: int = 0, setting: Setting | None = None) -> nn.Module:
        shape, classes = self.dataset.pool.inputs.shape[1:], self.dataset.classes
        return build(self.config, shape, classes, seed, dict(setting.model) if setting else {})
