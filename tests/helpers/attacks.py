"""Small fleets of scores, and their attack scores and rows."""

import functools

from dptrain.evaluation import attack_rows, thresholds
from dptrain.evaluation.rows import Subject
from tests import reference
from tests.fleets import rich

SUBJECT = Subject("dpsgd-1", "dpsgd", 1.0, 1e-5)


FIXTURES = 200


def matrix(scores, attack, options=None):
    return thresholds.run(scores, attack, options or {}).matrix


@functools.cache
def fixture(seed):
    """Scores and their twin; fixtures differ in size, classes and queries."""
    scores = rich(
        seed,
        models=6 + 2 * (seed % 2),
        examples=10 + seed % 5,
        queries=1 + seed % 2,
        classes=2 + seed % 3,
        leak=(seed % 3) / 2,
    )
    return scores, reference.Twin(scores)


def rows(scores, curve=None, attack="loss", **how):
    subject = Subject("dpsgd-1", "dpsgd", 1.0, 1e-7, 1.0 if curve else None, curve)
    found = attack_rows.attack_rows(
        subject, attack, thresholds.run(scores, attack, {}), scores, ("one_run",), **how
    )
    return {row.metric.name: row for row in found}
