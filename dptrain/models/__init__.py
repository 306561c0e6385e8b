"""Models: the registry of architectures, and what is checked of a module before it is trained."""

from dptrain.models.registry import (
    MODELS,
    apply,
    build,
    cnn,
    code_of,
    features,
    is_ours,
    known_elsewhere,
    logistic,
    mlp,
    names,
    resnet,
    trained,
    trained_shape,
)

__all__ = [
    "MODELS",
    "apply",
    "build",
    "cnn",
    "code_of",
    "features",
    "is_ours",
    "known_elsewhere",
    "logistic",
    "mlp",
    "names",
    "resnet",
    "trained",
    "trained_shape",
]
