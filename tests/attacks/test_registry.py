"""Attacks against slow twins, under the null, and on a planted leak."""

from dataclasses import replace

import numpy as np
import pytest

from dptrain import attacks
from dptrain.attacks import ATTACKS
from dptrain.core.errors import AttackError, Refusal
from dptrain.evaluation import metrics
from tests import reference
from tests.fleets import fleet, rich
from tests.helpers.attacks import FIXTURES, fixture, matrix

OPTIONS = {
    "difficulty": [
        {"reference": "out"},
        {"reference": "both"},
        {"signal": "logit"},
        {"reference": "both", "signal": "logit"},
    ],
    "lira": [{"variance": "global"}, {"variance": "per_example"}, {"variance": "shrunk"}, {}],
    "lira_offline": [{"variance": "global"}, {"variance": "per_example"}],
    "rmia": [{"gamma": 2.0}, {"gamma": 1.0}],
    "rmia_offline": [{"gamma": 2.0, "a": 0.3}, {"gamma": 1.0, "a": 1.0}],
    "info_rmia_offline": [{"a": 0.3}, {"a": 1.0}],
    "label_only": [{"copies": "noisy"}, {"copies": "augmented"}],
    "quantile": [{"alpha": 0.05}, {"alpha": 0.3}],
}

MANY = [
    pytest.param(name, marks=pytest.mark.long if name == "quantile" else ()) for name in ATTACKS
]
"""For tests on many fleets, each of which takes trees seconds."""


def mean_auc(matrix, membership):
    return np.mean([metrics.auc(*pair) for pair in zip(matrix, membership, strict=True)])


def test_every_attack_has_a_twin():
    assert set(reference.TWINS) == set(ATTACKS)


@pytest.mark.parametrize(
    "attack",
    [pytest.param(name, marks=pytest.mark.long if name == "morgan" else ()) for name in ATTACKS],
)
def test_attack_equals_its_slow_twin(attack):
    # Its trees take a tenth of a second; the rest under -m slow.
    for seed in range(FIXTURES if attack != "quantile" else FIXTURES // 20):
        scores, twin = fixture(seed)
        for options in OPTIONS.get(attack, [{}])[seed % 2 :: 2] or [{}]:
            fast = ATTACKS[attack](scores, seed % scores.models, **options)
            slow = reference.TWINS[attack](twin, seed % scores.models, **options)
            np.testing.assert_allclose(
                fast, slow, rtol=1e-9, atol=1e-9, err_msg=f"fixture {seed}, {options}"
            )


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_reads_the_targets_membership(attack):
    scores = rich(examples=60, models=8, leak=1.0)
    before = ATTACKS[attack](scores, 2)
    membership = scores.membership.copy()
    membership[2:4] = membership[[3, 2]]  # target and complement change places
    after = ATTACKS[attack](replace(scores, membership=membership), 2)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("attack", MANY)
def test_planted_leak_is_found_the_right_way_up(attack):
    """24 models, since attack R with K shadows out comes to 1 - 1 / (2 K + 2) at best."""
    aucs = []
    for seed in range(3):
        scores = rich(models=24, examples=150, queries=1, classes=10, seed=seed, leak=12.0)
        aucs.append(mean_auc(matrix(scores, attack), scores.membership))
    assert min(aucs) > (
        0.9 if attack in ("correctness", "quantile", "label_only", "entropy") else 0.95
    )


@pytest.mark.parametrize("attack", MANY)
def test_null_is_a_coin(attack):
    """Memberships that no model knows. The mean AUC over 40 fleets is .5 within 4.89 standard
    errors (false alarms 1e-6).
    """
    means = []
    for seed in range(40 if attack != "quantile" else 8):
        scores = rich(models=8, examples=100, seed=seed)
        means.append(mean_auc(matrix(scores, attack), scores.membership))
    assert abs(np.mean(means) - 0.5) < 4.89 * np.std(means, ddof=1) / np.sqrt(len(means)) + 1e-9


@pytest.mark.parametrize(
    ("models", "attack"), [(2, "lira"), (4, "lira"), (4, "lira_offline"), (2, "shadow")]
)
def test_too_few_shadows_are_refused(models, attack):
    with pytest.raises(Refusal, match="models_per_setting"):
        matrix(fleet(models=models), attack)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lyra": {}}, "attacks.lyra: unknown attack"),
        ({"lira": {"variances": "auto"}}, "attacks.lira.variances: unknown option"),
        ({"lira": {"variance": "own"}}, "attacks.lira.variance: unknown value"),
        ({"lira": {"online": False}}, "attacks.lira.online: unknown option"),
        ({"rmia": {"gamma": 0}}, "attacks.rmia.gamma: must be a number"),
        ({"rmia_offline": {"a": 1.5}}, "attacks.rmia_offline.a: must be a number"),
        ({"quantile": {"alpha": "x"}}, "attacks.quantile.alpha: must be a number"),
        ({"label_only": {"copies": "blurred"}}, "attacks.label_only.copies: unknown value"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(AttackError, match=message.removeprefix("attacks.")):
        attacks.check(options)
    attacks.check({"rmia_offline": {"gamma": 1.0, "a": 0}})
