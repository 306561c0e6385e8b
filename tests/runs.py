"""Training runs and recipes in one call, for tests."""

from dptrain.core.types import (
    Clipping,
    EngineKind,
    Optimiser,
    OptimiserKind,
    Recipe,
    Regularisation,
    Release,
    Schedule,
    Views,
)
from dptrain.training import trainer
from dptrain.training.trainer import Trainer, TrainingData

KINDS = {"kind": OptimiserKind, "schedule": Schedule, "clipping": Clipping}


def make_recipe(learning_rate, momentum=0.0, **parts):
    """A recipe from the names of all parts at once."""
    if "optimiser" in parts:
        parts["kind"] = parts.pop("optimiser")
    parts = {key: KINDS[key](value) if key in KINDS else value for key, value in parts.items()}

    def of(kind):
        names = kind.__dataclass_fields__
        return {key: parts.pop(key) for key in list(parts) if key in names}

    optimiser = Optimiser(learning_rate, momentum, **of(Optimiser))
    groups = {
        "views": Views(**of(Views)),
        "regularisation": Regularisation(**of(Regularisation)),
        "release": Release(**of(Release)),
    }
    return Recipe(optimiser, **groups, **parts)


def train(model, setting, engine, state, *given):
    """Train `state` in place, and return the mechanism that ran. given: keys, inputs, labels,
    membership, on_step, and perhaps physical_batch, charge and outside. on_step(state, losses,
    weights) may raise, and then `state` is what it saw.
    """
    keys, *data, on_step, physical_batch, charge, outside = (*given, *[None] * (8 - len(given)))
    data = TrainingData(*data, outside)
    plan = Trainer.of(model, setting, EngineKind(engine), keys, data, physical_batch)

    def after(new, record):
        vars(state).update(vars(new))
        on_step(state, record.losses, record.weights)

    final, ran = trainer.train(plan, state, after, charge)
    vars(state).update(vars(final))
    return ran
