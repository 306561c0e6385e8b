"""Made-up scores of fleets, for tests of whatever reads them."""

import numpy as np

from dptrain.attacks.scores import Scores
from dptrain.core import streams
from dptrain.evaluation.rows import Metric, Row


def fleet(models=8, examples=40, classes=3, seed=0, leak=0.0):
    """Scores of models whose logit of the true class rises by `leak` on members."""
    rng = np.random.default_rng(seed)
    membership = streams.memberships(models, examples, streams.seeded_key(seed, "test"))
    labels = rng.integers(0, classes, examples)
    logits = rng.normal(size=(1, examples, 1, classes)) + rng.normal(
        size=(models, examples, 1, classes)
    )
    logits[:, np.arange(examples), 0, labels] += leak * membership
    return Scores(logits, labels, membership)


SIZES = {"queries": 2, "classes": 3, "copies": 8, "population": 110}


def rich(seed=0, models=6, examples=12, *, leak=0.0, **sizes):
    """The same with all that any attack can ask for: several queries, inputs, a population and
    every extra. What leaks through the logits leaks through the extras too.
    """
    queries, classes, copies, population = (sizes.get(name, usual) for name, usual in SIZES.items())
    rng = np.random.default_rng(seed)
    membership = streams.memberships(models, examples, streams.seeded_key(seed, "test"))
    labels, outside = rng.integers(0, classes, examples), rng.integers(0, classes, population)
    logits = 2 * rng.normal(size=(models, examples, queries, classes))
    true = np.arange(examples)
    logits[:, true, :, labels] += leak * membership.T[:, :, None]
    member = membership[:, :, None]

    def copied(move):
        return logits[:, :, :1] + move * rng.normal(size=(models, examples, copies, classes))

    jittered = copied(0.1)
    # At a member the loss is least: every copy of it is worse.
    worse = leak * membership * (np.abs(rng.normal(size=(copies, models, examples))) + 0.1)
    jittered[:, true, :, labels] -= np.moveaxis(worse, 0, 2).transpose(1, 0, 2)
    extras = {
        "jittered_logits": jittered,
        "noisy_logits": copied(2.0),
        "augmented_logits": copied(2.0),
        "gradient_norm": rng.random((models, examples)) * np.exp(-leak * membership),
        "gradient_canary": rng.normal(size=(models, examples)) + leak * membership,
        "trajectory_loss": rng.random((models, examples, 4)) * np.exp(-leak * member),
    }
    others = 2 * rng.normal(size=(models, population, queries, classes))
    nobody = np.zeros((models, population), dtype=bool)
    outsiders = Scores(others, outside, nobody, inputs=rng.normal(size=(population, 3)))
    return Scores(
        logits,
        labels,
        membership,
        inputs=rng.normal(size=(examples, 3)),
        population=outsiders,
        extras=extras,
    )


COLUMNS = (
    "setting",
    "defence",
    "epsilon",
    "attack",
    "metric",
    "estimate",
    "low",
    "high",
    "targets",
    "n_in",
    "n_out",
    "ceiling",
    "note",
)


def row(*values, **more):
    """A row from its values in the order of COLUMNS, its metric by name."""
    given = dict(zip(COLUMNS, values, strict=False)) | more
    return Row(**{**given, "metric": Metric.parse(given["metric"])})


def idx(array):
    return (
        bytes([0, 0, 8, array.ndim])
        + b"".join(size.to_bytes(4, "big") for size in array.shape)
        + array.tobytes()
    )
