"""Attacks that read what is measured beyond outputs: by hand, and refused where it is not there."""

from dataclasses import replace

import numpy as np
import pytest

from dptrain.attacks import measured
from dptrain.core.errors import Refusal
from tests.fleets import rich


def test_merlin_counts_the_copies_with_a_larger_loss():
    scores = rich(models=2, examples=5, queries=1)
    copies = scores.extras["jittered_logits"][0]
    for example in range(5):
        label = scores.labels[example]
        losses = np.log(np.exp(copies[example]).sum(-1)) - copies[example][:, label]
        larger = (losses > scores.loss[0, example]).mean()
        assert measured.merlin(scores, 0)[example] == pytest.approx(larger)


@pytest.mark.parametrize(
    "attack",
    [
        measured.merlin,
        measured.label_only,
        measured.gradient_norm,
        measured.gradient_canary,
        measured.trajectory,
    ],
)
def test_what_is_not_measured_is_refused(attack):
    with pytest.raises(Refusal, match="needs"):
        attack(replace(rich(), extras={}), 0)
