"""Three small models with their keys."""

from dptrain import models
from dptrain.core import streams

N, CLASSES = 60, 4


KEYS = [streams.seeded_key(k, "regularise") for k in range(3)]


MODELS = [models.build("mlp", {"hidden": (9, 7)}, (1, 6, 6), CLASSES, k) for k in range(3)]
