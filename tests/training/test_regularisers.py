"""What plain training may add: each against its formula, and independent of stack width, parts and
restarts.
"""

import copy
import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from dptrain.attacks.measured import label_only
from dptrain.attacks.outputs import loss
from dptrain.core import streams
from dptrain.core.types import Mechanism, Precision, Regularisation, Sampling, Setting
from dptrain.training.gradients.base import stack
from dptrain.training.gradients.engines import ENGINES
from dptrain.training.regularisers import Draws, StepLoss, masked
from dptrain.training.state import State
from tests.fleets import rich
from tests.helpers.stacks import CLASSES, KEYS, MODELS, N
from tests.runs import make_recipe, train

MEMBERSHIP = streams.memberships(4, N, streams.seeded_key(0, "regularise"))[:3]


RNG = torch.Generator().manual_seed(0)


INPUTS = torch.randn(N, 1, 6, 6, generator=RNG)


LABELS = torch.randint(0, CLASSES, (N,), generator=RNG)


OUTSIDE = (torch.randn(40, 1, 6, 6, generator=RNG), torch.randint(0, CLASSES, (40,), generator=RNG))


PLAN = Mechanism(Sampling.POISSON, 12, 30, 8, 0.0, math.inf, 12)


RECIPES = {
    "dropout": make_recipe(0.2, dropout=0.5),
    "label smoothing": make_recipe(0.2, label_smoothing=0.2),
    "mixup": make_recipe(0.2, mixup=0.7),
    "mixup of views": make_recipe(0.2, mixup=0.7, augmentations=("flip",), multiplicity=2),
    "relaxloss": make_recipe(0.2, relax=1.5),
    "adversary": make_recipe(0.2, adversary=2.0),
    "all": make_recipe(0.2, momentum=0.9, dropout=0.3, label_smoothing=0.1, mixup=1.0, relax=1.3),
}


def run(recipe, rows, state=None, physical=None, steps=8):
    state = state or State.start([MODELS[k] for k in rows])
    setting = Setting("s", "s", None, 1e-5, replace(PLAN, steps=steps), recipe)
    keys = [KEYS[k] for k in rows]
    train(
        MODELS[0],
        setting,
        "stacked",
        state,
        keys,
        INPUTS,
        LABELS,
        MEMBERSHIP[list(rows)],
        lambda *_: None,
        physical,
        None,
        OUTSIDE,
    )
    return state


def same(one, other, row=0, of=0):
    return all(
        torch.allclose(one.parameters[name][row], other.parameters[name][of], atol=2e-6)
        for name in one.parameters
    )


@pytest.mark.parametrize("name", RECIPES)
def test_neither_stack_nor_parts_nor_restarts_matter(name):
    recipe = RECIPES[name]
    whole = run(recipe, (0, 1, 2))
    for k in range(3):
        assert same(whole, run(recipe, (k,)), row=k)
    part = run(recipe, (0, 1, 2), steps=5)
    assert same(whole, run(recipe, (0, 1, 2), copy.deepcopy(part)))
    # RelaxLoss's mean is that of what is in memory, and an adversary learns from each part.
    if not (recipe.regularisation.relax or recipe.regularisation.adversary):
        assert same(whole, run(recipe, (0, 1, 2), physical=5))
    assert not same(whole, run(make_recipe(0.2, momentum=recipe.optimiser.momentum), (0, 1, 2)))


def test_dropout_drops_its_share_and_keeps_the_mean():
    own = step_loss(KEYS, 4, [500, 400, 0], dropout=0.3)
    inputs = torch.ones(3 * 500, 200)
    assert own.dropped(0, inputs) is inputs
    found = own.dropped(1, inputs).view(3, 500, 200)
    assert found[0].unique().tolist() == [0.0, pytest.approx(1 / 0.7, rel=0.01)]
    kept = (found[0] > 0).double().mean().item()
    # False alarms: 1e-6.
    assert kept == pytest.approx(1 - 77 / 256, abs=4.9 * math.sqrt(0.21 / 100_000))
    assert found[0].mean().item() == pytest.approx(1, abs=0.02)
    other = own.dropped(2, inputs).view(3, 500, 200)
    for mask in (other[0], found[1, :400].repeat(2, 1)[:500]):
        both = ((found[0] > 0) & (mask > 0)).double().mean().item()
        # Independent of other layers and models.
        assert both == pytest.approx((179 / 256) ** 2, abs=0.02)
    own = step_loss(KEYS, 5, [500, 400, 0], dropout=0.3)
    assert not torch.equal(own.dropped(1, inputs).view(3, 500, 200)[0], found[0])


def step_loss(keys, step, counts, width=None, epoch_steps=2, **regularisation):
    draws = Draws(keys, step, counts, width or max(counts))
    plan = Regularisation(**regularisation)
    return StepLoss.of(plan, draws, epoch_steps, torch.device("cpu"))


def objective(logits, labels, step=0, **regularisation):
    own = step_loss(KEYS[:1], step, [len(labels)], **regularisation)
    weights = torch.ones(1, len(labels), dtype=torch.bool)
    return own.objective(logits[None, :, None], labels[None], weights)[0]


def test_objectives_are_their_formulas():
    logits, labels = torch.randn(12, CLASSES), LABELS[:12]
    plain = functional.cross_entropy(logits, labels, reduction="none")
    smooth = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.3)
    torch.testing.assert_close(objective(logits, labels, label_smoothing=0.3), smooth)
    torch.testing.assert_close(objective(logits, labels, relax=1e-3), plain)
    # An even pass climbs.
    torch.testing.assert_close(objective(logits, labels, step=1, relax=99.0), -plain)
    logs = logits.log_softmax(1)
    soft = torch.empty(12)
    for i, y in enumerate(labels):
        p = logs[i, y].exp()
        target = torch.full((CLASSES,), float((1 - p) / (CLASSES - 1)))
        target[y] = p
        soft[i] = -(target * logs[i]).sum()
    torch.testing.assert_close(objective(logits, labels, step=2, relax=99.0), soft)


def test_mixup_mixes_members_with_members():
    own = step_loss(KEYS[:1], 3, [7], 10, mixup=1.0)
    seen = torch.arange(10.0).view(1, 10, 1, 1)
    asked = []

    def other(rows):
        asked.append(rows)
        return seen[0, rows[0]][None], rows

    part, mixed = own.mixed(seen, other, slice(None))
    rows = asked[0][0]
    assert sorted(rows[:7].tolist()) == list(range(7))
    assert rows[7:].tolist() == [7, 8, 9]
    share = float(own.share[0])
    torch.testing.assert_close(mixed[0, :, 0, 0], share * torch.arange(10.0) + (1 - share) * rows)
    logits, labels = torch.randn(1, 10, 1, 12), torch.arange(10)[None]
    logs = -logits[0, :, 0].log_softmax(1)
    found = part.objective(logits, labels, torch.ones(1, 10, dtype=torch.bool))[0]
    torch.testing.assert_close(
        found, share * logs[range(10), labels[0]] + (1 - share) * logs[range(10), rows]
    )


def test_no_regulariser_beside_a_clip():
    """Mixup and RelaxLoss mix examples: with a clip their sensitivity would not be
    bounded by it.
    """
    own = step_loss(KEYS[:1], 0, [5], mixup=1.0)
    parameters = stack(MODELS[:1])
    weights = torch.ones(1, 5, dtype=torch.bool)
    out = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for engine in ENGINES.values():
        with pytest.raises(ValueError, match="regularise"):
            engine(MODELS[0], Precision.FLOAT32)(
                parameters,
                INPUTS[None, :5, None],
                LABELS[None, :5],
                weights,
                lambda norms: norms,
                out,
                own,
            )


@pytest.mark.parametrize(("top", "digits"), [(1, 1), (3, 2), (10, 3), (50, 1)])
def test_masking_keeps_the_label_and_hides_the_rest(top, digits):
    logits = 3 * np.random.default_rng(0).normal(size=(5, 200, 10)).astype(np.float32)
    told = masked(logits, top, digits)
    assert told.shape == logits.shape
    np.testing.assert_array_equal(told.argmax(-1), logits.argmax(-1))
    assert np.isfinite(told).all()
    assert len(np.unique(np.round(told, 4))) <= (10**digits + 2) * (10 if top < 10 else 2)


def test_masking_blinds_attacks_on_confidences_and_not_those_on_labels():
    """The answers to noisy copies keep their labels, so the label-only attack scores every example
    as before.
    """
    plain = rich(models=8, examples=400, leak=2.0, queries=1)
    sure = (
        plain.logits
        + 12
        * functional.one_hot(torch.from_numpy(plain.labels), plain.logits.shape[-1]).numpy()[
            None, :, None
        ]
    )
    # Members and others are both told right, members more surely.
    plain = dataclasses.replace(plain, logits=sure)
    hidden = dataclasses.replace(
        plain,
        logits=masked(plain.logits, 1, 1),
        extras={
            name: masked(array, 1, 1) if name.endswith("_logits") else array
            for name, array in plain.extras.items()
        },
    )

    def area(scores, attack):
        return np.mean([roc_auc_score(scores.membership[k], attack(scores, k)) for k in range(8)])

    assert area(plain, loss) > 0.65
    assert abs(area(hidden, loss) - 0.5) < 0.03
    for k in range(8):
        np.testing.assert_array_equal(label_only(plain, k), label_only(hidden, k))
    assert area(hidden, label_only) > 0.6
