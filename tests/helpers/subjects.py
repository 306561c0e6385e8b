"""A claimed setting, and models that are so sure that rounding shows."""

import numpy as np

from dptrain.core import streams
from dptrain.evaluation.rows import Subject

CLAIMED_DELTA = 1e-5


CLAIMED = Subject("s", "dpsgd", 1.0, CLAIMED_DELTA)


def sure_models(seed=0, models=16, examples=600):
    """Logits, labels and memberships of models that are so sure of many examples that rounding
    shows.
    """
    rng = np.random.default_rng(seed)
    member = streams.memberships(models, examples, streams.seeded_key(seed, "sure"))
    labels = rng.integers(0, 3, examples)
    easy = rng.normal(1.0, 2.0, examples)
    logits = rng.normal(size=(models, examples, 3)) * 0.3
    logits[:, np.arange(examples), labels] += (
        easy + 1.2 * member + 0.5 * rng.normal(size=(models, examples))
    )
    return logits, labels, member
