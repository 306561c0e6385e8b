"""The parameters of each way to train, with their bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dptrain.config.fields import FINITE, option
from dptrain.core.types import Clipping

AUGMENTATIONS = ("flip", "crop", "shift")
LEAST_CLIP, MOST_CLIP = 1e-6, 1e6
"""Beyond them float32 loses gradients, sums or noise."""


@dataclass(frozen=True)
class Defence:
    """Plain SGD, and what every defence takes."""

    learning_rate: float = option("learning rate of the optimiser", above=0, below=FINITE)
    momentum: float = option("momentum of sgd", least=0.0, below=1.0)


@dataclass(frozen=True)
class WeightDecay(Defence):
    decay: float = option("weight decay", above=0, below=1)


@dataclass(frozen=True)
class Dropout(Defence):
    rate: float = option("share of the inputs of a layer that is dropped", above=0, below=0.99)


@dataclass(frozen=True)
class LabelSmoothing(Defence):
    smoothing: float = option("share of a label spread over all classes", above=0, below=1)


@dataclass(frozen=True)
class Mixup(Defence):
    alpha: float = option("both parameters of the Beta distribution of shares", above=0, below=100)


@dataclass(frozen=True)
class Augmentation(Defence):
    augmentations: tuple[str, ...] = option(
        "random views of images, in order", choices=AUGMENTATIONS, unique=True
    )


@dataclass(frozen=True)
class SmallerModel(Defence):
    model: Mapping[str, Any] = option("options of the model, such as {hidden: [16]}")


@dataclass(frozen=True)
class RelaxLoss(Defence):
    target: float = option("the training loss that is held", above=0, below=100)


@dataclass(frozen=True)
class Adversarial(Defence):
    weight: float = option("weight of the attacker's gain", above=0, below=1000)


@dataclass(frozen=True)
class ConfidenceMasking(Defence):
    top: int = option("how many confidences are given", least=1, most=1000)
    digits: int = option("with how many decimals", least=1, most=12)


@dataclass(frozen=True)
class DPSGD(Defence):
    clip: float = option(
        "norm to which each example's gradient is clipped", least=LEAST_CLIP, most=MOST_CLIP
    )
    clipping: Clipping = option("flat, automatic or normalise")


@dataclass(frozen=True)
class DPSGDUser(DPSGD):
    batch_users: int = option("expected number of users of a step", least=1)
    examples_per_user: int = option(
        "random examples of each whose mean gradient is clipped, at most", least=1, most=256
    )


OPTIONS: dict[str, type[Defence]] = {
    "none": Defence,
    "weight_decay": WeightDecay,
    "dropout": Dropout,
    "label_smoothing": LabelSmoothing,
    "early_stopping": Defence,
    "mixup": Mixup,
    "augmentation": Augmentation,
    "smaller_model": SmallerModel,
    "relaxloss": RelaxLoss,
    "adversarial": Adversarial,
    "confidence_masking": ConfidenceMasking,
    "dpsgd": DPSGD,
    "dpsgd_user": DPSGDUser,
    "dpsgd_group": DPSGD,
}
PRIVATE = ("dpsgd", "dpsgd_user", "dpsgd_group")
"""Those with an epsilon."""
