"""dptrain: differentially private training with built-in attack evaluation.

MAKE (torch)       datasets -> data -> models -> clipping, noise -> train -> fleet -> score
JUDGE (NumPy)      attacks/* -> metrics -> judge; accounting, statement, advise
SHOW               plots -> report, tensorboard
The halves meet on disk (store) at Scores and Mechanism (types); `defences` plans settings, `pipeline` joins the halves, `api` and `cli` call
it, and `config` alone knows the YAML files. docs/design.md draws the house.

    dptrain.sweep("experiment=quickstart", epsilons=[inf, 8]).to_frame()
    dptrain.attack({"logits": ..., "labels": ..., "membership": ...}).to_frame()
    dptrain.calibrate(epsilon=2, n=60000, batch_size=256, epochs=20).values
    dptrain.advise("results/quickstart", max_auc=0.6).text()
    dptrain.DPClassifier(epsilon=4).fit(X, y)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dptrain.api import advise, attack, calibrate, sweep
    from dptrain.estimator import DPClassifier

__version__ = "0.1.0"
__all__ = ["DPClassifier", "advise", "attack", "calibrate", "sweep"]


def __getattr__(name: str) -> Any:
    """The public face, imported when it is asked for: `import dptrain` loads no torch."""
    import importlib

    if name == "DPClassifier":
        return importlib.import_module("dptrain.estimator").DPClassifier
    if name in __all__:
        return getattr(importlib.import_module("dptrain.api"), name)
    raise AttributeError(f"module 'dptrain' has no attribute {name!r}")
