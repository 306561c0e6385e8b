"""Made-up rows, and a sweep of seconds on digits."""

from tests import fleets

SMALL_DIGITS = [
    *(
        "name=small",
        "dataset=digits",
        "dataset.pool=100",
        "dataset.population=60",
        "dataset.test=60",
        "training.batch_size=20",
    ),
    *(
        "training.epochs=1",
        "training.width=2",
        "training.workers=1",
        "models_per_setting=2",
        "attacks=[loss]",
        "epsilons=[8]",
    ),
]


def row(attack, value, setting="none", metric="auc"):
    return fleets.row(
        setting, "none", None, attack, metric, value, value - 0.01, value + 0.01, 4, 100, 100
    )
