"""Tests of attacks.scores."""

from dataclasses import replace

import numpy as np
import pytest

from dptrain.attacks import ATTACKS
from dptrain.attacks.scores import Scores
from dptrain.core.errors import Refusal
from dptrain.evaluation import metrics
from tests import reference
from tests.fleets import fleet, rich
from tests.helpers.attacks import matrix


def test_phi_and_loss_survive_extreme_logits():
    logits = np.array([[[[800.0, 0.0, -800.0]], [[0.0, 1e-9, 0.0]]]])
    scores = Scores(logits, np.array([0, 1]), np.array([[True, False]]))
    assert scores.phi[0, 0, 0] == pytest.approx(800.0)
    assert scores.loss[0, 0] == pytest.approx(0.0)
    assert scores.phi[0, 1, 0] == pytest.approx(reference.phi([0.0, 1e-9, 0.0], 1), abs=1e-12)
    flipped = Scores(logits, np.array([2, 1]), np.array([[True, False]]))
    assert flipped.loss[0, 0] == pytest.approx(1600.0)


def test_shadows_leave_out_the_target_and_its_complement():
    scores = fleet(models=8)
    for target in range(8):
        chosen = scores.shadows(target)
        assert chosen.sum() == 6
        assert not chosen[target]
        assert not chosen[target ^ 1]
        counts = scores.membership[chosen].sum(axis=0)
        assert (counts == 3).all()  # so a count of shadows tells nothing about the target


def test_complement_as_a_shadow_would_leak():
    """The broken variant: with the complement among the shadows, the count of in-models alone gives
    membership away.
    """
    scores = fleet()
    target = 4
    others = np.arange(8) != target
    count = scores.membership[others].sum(axis=0)
    assert metrics.auc(-count.astype(float), scores.membership[target]) == 1.0


def balanced(models, examples, rng):
    """Every example in half of the models, without pairs, as other people lay their fleets out."""
    return (rng.random((models, examples)).argsort(axis=0) < models // 2).astype(bool)


@pytest.mark.parametrize("models", [8, 16])
@pytest.mark.parametrize(
    "attack", ["difficulty", "attack_r", "lira", "lira_offline", "rmia", "rmia_offline"]
)
def test_counts_of_shadows_say_nothing_about_a_target(attack, models):
    """A target that knows nothing, among shadows that remember everything: .5 within 4.89 standard
    errors over 40 fleets (1e-6), though every example is in exactly half of all models. The broken
    variant reads all shadows, and is far off.
    """
    found, broken = [], []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        plain = fleet(models=models, examples=300, seed=seed)
        membership = balanced(models, 300, rng)
        logits = plain.logits.copy()
        logits[1:, np.arange(300), 0, plain.labels] += 6.0 * membership[1:]
        scores = Scores(logits, plain.labels, membership, targets=(0,))
        found.append(metrics.auc(ATTACKS[attack](scores, 0), membership[0]))
        inside, outside = scores.references(0)
        assert len(np.unique(inside.sum(axis=0))) == len(np.unique(outside.sum(axis=0))) == 1
        broken.append(metrics.auc(-membership[1:].sum(axis=0), membership[0]))
    assert abs(np.mean(found) - 0.5) < 4.89 * np.std(found, ddof=1) / np.sqrt(40) + 1e-9
    assert min(broken) == 1.0


def test_models_with_the_targets_own_split_are_no_shadows():
    plain = fleet(models=8, examples=50)
    membership = plain.membership.copy()
    membership[4], membership[5] = membership[0], membership[1]
    assert list(np.flatnonzero(Scores(plain.logits, plain.labels, membership).shadows(0))) == [
        2,
        3,
        6,
        7,
    ]


@pytest.mark.parametrize(
    "attack",
    [
        "attack_p",
        "quantile",
        "merlin",
        "morgan",
        "label_only",
        "gradient_norm",
        "gradient_canary",
        "trajectory",
    ],
)
def test_what_is_not_there_is_refused(attack):
    with pytest.raises(Refusal, match="needs"):
        matrix(fleet(), attack)


def test_losses_alone_serve_the_attacks_that_read_losses():
    whole = replace(rich(models=8, examples=60, queries=1, leak=1.0), population=None)
    alone = Scores(None, whole.labels, whole.membership, given_loss=whole.losses)
    np.testing.assert_allclose(alone.phi, whole.phi, rtol=1e-9)
    for attack in ("loss", "confidence", "difficulty", "attack_r", "lira", "rmia"):
        np.testing.assert_allclose(
            matrix(alone, attack), matrix(whole, attack), rtol=1e-6, atol=1e-9
        )
    for attack in ("correctness", "entropy", "modified_entropy", "shadow"):
        with pytest.raises(Refusal, match="needs logits"):
            matrix(alone, attack)


def test_scores_refuse_what_does_not_fit():
    good = fleet()
    with pytest.raises(ValueError, match="finite"):
        Scores(good.logits * np.nan, good.labels, good.membership)
    with pytest.raises(ValueError, match="labels"):
        Scores(good.logits, good.labels + 5, good.membership)
    with pytest.raises(ValueError, match="membership"):
        Scores(good.logits, good.labels, good.membership[:, :5])
    with pytest.raises(ValueError, match="queries"):
        Scores(good.logits[:, :, 0], good.labels, good.membership)
