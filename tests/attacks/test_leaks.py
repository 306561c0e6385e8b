"""What gives membership away without any attack is refused."""

from dataclasses import replace

import numpy as np
import pytest

from dptrain.attacks.leaks import blind, refuse_leaks
from dptrain.attacks.scores import Scores
from dptrain.core.errors import ScoresError
from dptrain.evaluation import metrics
from tests.fleets import fleet


def test_a_sound_fleet_passes():
    refuse_leaks(fleet(models=8, examples=60))


def test_copies_of_the_membership_are_refused():
    plain = fleet(models=4, examples=60)
    copied = Scores(None, plain.labels, plain.membership, 1.0 * plain.membership[:, :, None])
    with pytest.raises(ScoresError, match="a copy of the membership"):
        refuse_leaks(copied)
    inputs = np.column_stack([np.ones(60), plain.membership[0]])
    with pytest.raises(ScoresError, match="column 1 of inputs"):
        refuse_leaks(replace(plain, inputs=inputs))
    twice = replace(plain, logits=plain.logits[[0, 1, 2, 0]])
    with pytest.raises(ScoresError, match="are the same model"):
        refuse_leaks(twice)


def test_the_blind_baseline_finds_a_split_by_its_inputs_and_nothing_else():
    rng = np.random.default_rng(0)
    labels, member = rng.integers(0, 3, 600), rng.random(600) < 0.5
    inputs = rng.normal(size=(600, 4))
    assert abs(metrics.auc(blind(inputs, labels, member), member) - 0.5) < 0.12
    inputs[:, 2] += 2 * member
    assert metrics.auc(blind(inputs, labels, member), member) > 0.85
