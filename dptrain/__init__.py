"""dptrain: differentially private training with built-in attack evaluation.

The torch half makes models (data, models, training, fleet), the NumPy half attacks and reports them
(attacks, evaluation, privacy, report), and pipeline joins the two. docs/design.md draws the whole.

    dptrain.sweep("experiment=quickstart", epsilons=[inf, 8]).to_frame()
    dptrain.attack({"logits": ..., "labels": ..., "membership": ...}).to_frame()
    dptrain.calibrate(epsilon=2, n=60000, batch_size=256, epochs=20).values
    dptrain.advise("results/quickstart", max_auc=0.6).text()
    dptrain.inspect("people.csv", target="income").columns
    dptrain.train(run="results/quickstart", setting="dpsgd-8").model
    dptrain.load("results/quickstart/release/dpsgd-8/model").probabilities(inputs)
    dptrain.DPClassifier(epsilon=4).fit(X, y)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dptrain.api import (
        advise,
        attack,
        calibrate,
        estimate,
        export,
        inspect,
        load,
        sweep,
        train,
        tune,
    )
    from dptrain.estimator import DPClassifier, DPRegressor

__version__ = "0.1.0"
__all__ = [
    "DPClassifier",
    "DPRegressor",
    "advise",
    "attack",
    "calibrate",
    "estimate",
    "export",
    "inspect",
    "load",
    "sweep",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    """The public face, imported when it is asked for: `import dptrain` loads no torch."""
    import importlib

    if name in ("DPClassifier", "DPRegressor"):
        return getattr(importlib.import_module("dptrain.estimator"), name)
    if name in __all__:
        return getattr(importlib.import_module("dptrain.api"), name)
    raise AttributeError(f"module 'dptrain' has no attribute {name!r}")
