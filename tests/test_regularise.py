"""What plain training may add: each against its formula, and independent of stack width, parts and restarts."""

import copy
import dataclasses
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from dptrain import models, sampling
from dptrain.adversary import Adversary
from dptrain.attacks import label_only, loss
from dptrain.clipping import stack
from dptrain.engines import ENGINES
from dptrain.regularise import Regulariser, masked
from dptrain.train import State, keep_best, train
from dptrain.types import Mechanism, Recipe, Sampling, Setting
from tests.fleets import rich

N, CLASSES = 60, 4
KEYS = [sampling.seeded_key(k, "regularise") for k in range(3)]
MEMBERSHIP = sampling.memberships(4, N, sampling.seeded_key(0, "regularise"))[:3]
RNG = torch.Generator().manual_seed(0)
INPUTS = torch.randn(N, 1, 6, 6, generator=RNG)
LABELS = torch.randint(0, CLASSES, (N,), generator=RNG)
MODELS = [models.build("mlp", {"hidden": (9, 7)}, (1, 6, 6), CLASSES, k) for k in range(3)]
OUTSIDE = (torch.randn(40, 1, 6, 6, generator=RNG), torch.randint(0, CLASSES, (40,), generator=RNG))
PLAN = Mechanism(Sampling.POISSON, 12, 30, 8, 0.0, math.inf, 12)
RECIPES = {
    "dropout": Recipe(0.2, dropout=0.5),
    "label smoothing": Recipe(0.2, label_smoothing=0.2),
    "mixup": Recipe(0.2, mixup=0.7),
    "mixup of views": Recipe(0.2, mixup=0.7, augmentations=("flip",), multiplicity=2),
    "relaxloss": Recipe(0.2, relax=1.5),
    "adversary": Recipe(0.2, adversary=2.0),
    "all": Recipe(0.2, momentum=0.9, dropout=0.3, label_smoothing=0.1, mixup=1.0, relax=1.3),
}


def run(recipe, rows, state=None, physical=None, steps=8):
    state = state or State.start([MODELS[k] for k in rows])
    setting = Setting("s", "s", None, 1e-5, replace(PLAN, steps=steps), recipe)
    keys = [KEYS[k] for k in rows]
    train(MODELS[0], setting, "stacked", state, keys, INPUTS, LABELS, MEMBERSHIP[list(rows)], lambda *_: None, physical, None, OUTSIDE)
    return state


def same(one, other, row=0, of=0):
    return all(torch.allclose(one.parameters[name][row], other.parameters[name][of], atol=2e-6) for name in one.parameters)


@pytest.mark.parametrize("name", RECIPES)
def test_neither_stack_nor_parts_nor_restarts_matter(name):
    recipe = RECIPES[name]
    whole = run(recipe, (0, 1, 2))
    for k in range(3):
        assert same(whole, run(recipe, (k,)), row=k)
    part = run(recipe, (0, 1, 2), steps=5)
    assert same(whole, run(recipe, (0, 1, 2), copy.deepcopy(part)))
    if not (recipe.relax or recipe.adversary):  # RelaxLoss's mean is that of what is in memory, and an adversary learns from each part
        assert same(whole, run(recipe, (0, 1, 2), physical=5))
    assert not same(whole, run(Recipe(0.2, momentum=recipe.momentum), (0, 1, 2)))


def test_dropout_drops_its_share_and_keeps_the_mean():
    own = Regulariser(Recipe(0.1, dropout=0.3), KEYS, 3, {}, torch.device("cpu"))
    own.start(4, [500, 400, 0], 500)
    inputs = torch.ones(3 * 500, 200)
    assert own.dropped(0, inputs) is inputs
    found = own.dropped(1, inputs).view(3, 500, 200)
    assert found[0].unique().tolist() == [0.0, pytest.approx(1 / 0.7, rel=0.01)]
    kept = (found[0] > 0).double().mean().item()
    assert kept == pytest.approx(1 - 77 / 256, abs=4.9 * math.sqrt(0.21 / 100_000))  # false alarms: 1e-6
    assert found[0].mean().item() == pytest.approx(1, abs=0.02)
    other = own.dropped(2, inputs).view(3, 500, 200)
    for mask in (other[0], found[1, :400].repeat(2, 1)[:500]):
        both = ((found[0] > 0) & (mask > 0)).double().mean().item()
        assert both == pytest.approx((179 / 256) ** 2, abs=0.02)  # independent of other layers and models
    own.start(5, [500, 400, 0], 500)
    assert not torch.equal(own.dropped(1, inputs).view(3, 500, 200)[0], found[0])


def objective(recipe, logits, labels, step=0, weights=None):
    own = Regulariser(recipe, KEYS[:1], 2, {}, torch.device("cpu"))
    own.start(step, [len(labels)], len(labels))
    weights = torch.ones(1, len(labels), dtype=torch.bool) if weights is None else weights
    return own.objective(logits[None, :, None], labels[None], weights)[0]


def test_objectives_are_their_formulas():
    logits, labels = torch.randn(12, CLASSES), LABELS[:12]
    plain = functional.cross_entropy(logits, labels, reduction="none")
    smooth = functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.3)
    torch.testing.assert_close(objective(Recipe(0.1, label_smoothing=0.3), logits, labels), smooth)
    torch.testing.assert_close(objective(Recipe(0.1, relax=1e-3), logits, labels), plain)
    torch.testing.assert_close(objective(Recipe(0.1, relax=99.0), logits, labels, step=1), -plain)  # an even pass climbs
    logs = logits.log_softmax(1)
    soft = torch.empty(12)
    for i, y in enumerate(labels):
        p = logs[i, y].exp()
        target = torch.full((CLASSES,), float((1 - p) / (CLASSES - 1)))
        target[y] = p
        soft[i] = -(target * logs[i]).sum()
    torch.testing.assert_close(objective(Recipe(0.1, relax=99.0), logits, labels, step=2), soft)


def test_mixup_mixes_members_with_members():
    own = Regulariser(Recipe(0.1, mixup=1.0), KEYS[:1], 2, {}, torch.device("cpu"))
    own.start(3, [7], 10)
    seen = torch.arange(10.0).view(1, 10, 1, 1)
    asked = []

    def other(rows):
        asked.append(rows)
        return seen[0, rows[0]][None], rows

    mixed = own.mixed(seen, other, slice(None))
    rows = asked[0][0]
    assert sorted(rows[:7].tolist()) == list(range(7))
    assert rows[7:].tolist() == [7, 8, 9]
    share = float(own._share[0])
    torch.testing.assert_close(mixed[0, :, 0, 0], share * torch.arange(10.0) + (1 - share) * rows)
    logits, labels = torch.randn(1, 10, 1, 12), torch.arange(10)[None]
    logs = -logits[0, :, 0].log_softmax(1)
    found = own.objective(logits, labels, torch.ones(1, 10, dtype=torch.bool))[0]
    torch.testing.assert_close(found, share * logs[range(10), labels[0]] + (1 - share) * logs[range(10), rows])


def test_no_regulariser_beside_a_clip():
    """Mixup and RelaxLoss mix examples: with a clip their sensitivity would not be bounded by it."""
    own = Regulariser(Recipe(0.1, mixup=1.0), KEYS[:1], 2, {}, torch.device("cpu"))
    parameters = stack(MODELS[:1])
    weights = torch.ones(1, 5, dtype=torch.bool)
    out = {name: torch.zeros_like(value) for name, value in parameters.items()}
    for engine in ENGINES.values():
        with pytest.raises(ValueError, match="regularise"):
            engine(MODELS[0], "float32")(parameters, INPUTS[None, :5, None], LABELS[None, :5], weights, lambda norms: norms, out, own)


def test_the_best_iterate_is_kept():
    state = State.start(MODELS[:2])
    history = []
    for losses in ([3.0, 1.0], [2.0, 2.0], [4.0, math.nan], [1.0, 0.5]):
        for value in state.parameters.values():
            value.add_(1.0)
        history.append({name: value.clone() for name, value in state.parameters.items()})
        keep_best(state, torch.tensor(losses))
        best = [0, 0] if len(history) == 1 else [1, 0] if len(history) < 4 else [3, 3]
        for name, value in state.released.items():
            for k in range(2):
                assert torch.equal(value[k], history[best[k]][name][k])
    assert torch.equal(State.of(state.tensors(), 1).kept["loss"], torch.tensor([1.0, 0.5]))


@pytest.mark.parametrize(("top", "digits"), [(1, 1), (3, 2), (10, 3), (50, 1)])
def test_masking_keeps_the_label_and_hides_the_rest(top, digits):
    logits = 3 * np.random.default_rng(0).normal(size=(5, 200, 10)).astype(np.float32)
    told = masked(logits, top, digits)
    assert told.shape == logits.shape
    np.testing.assert_array_equal(told.argmax(-1), logits.argmax(-1))
    assert np.isfinite(told).all()
    assert len(np.unique(np.round(told, 4))) <= (10**digits + 2) * (10 if top < 10 else 2)


def test_an_adversary_learns_and_is_learnt_against():
    """On predictions that tell members apart it finds them; a model's objective rises with what it finds."""
    kept = {}
    own = Adversary(KEYS[:2], CLASSES, kept, torch.device("cpu"))
    labels = torch.randint(0, CLASSES, (2, 200))
    sure = 4.0 * functional.one_hot(labels, CLASSES)
    unsure = 0.5 * functional.one_hot(labels, CLASSES).float()
    weights = torch.ones(2, 200, dtype=torch.bool)
    for _ in range(300):
        own.learn((sure, labels, weights), (unsure, labels))
    assert (own.odds(sure, labels) > 0).float().mean() > 0.95
    assert (own.odds(unsure, labels) < 0).float().mean() > 0.95
    again = Adversary(KEYS[:2], CLASSES, kept, torch.device("cpu"))
    torch.testing.assert_close(again.odds(sure, labels), own.odds(sure, labels))


def test_adam_is_torchs():
    kept = {}
    own = Adversary(KEYS[:1], CLASSES, kept, torch.device("cpu"))
    twin = [kept[name].clone().requires_grad_() for name in ("first", "second")]
    optimiser = torch.optim.Adam(twin, lr=1e-3)
    labels = torch.randint(0, CLASSES, (1, 30))
    for _ in range(5):
        inside, outside = torch.randn(1, 30, CLASSES), torch.randn(1, 30, CLASSES)
        own.learn((inside, labels, torch.ones(1, 30, dtype=torch.bool)), (outside, labels))
        optimiser.zero_grad()
        members, others = (own.odds(said, labels, *twin) for said in (inside, outside))
        (functional.softplus(-members).mean() + functional.softplus(others).mean()).backward()
        optimiser.step()
    for name, value in zip(("first", "second"), twin, strict=True):
        torch.testing.assert_close(kept[name], value.detach(), rtol=1e-4, atol=1e-6)


def test_masking_blinds_attacks_on_confidences_and_not_those_on_labels():
    """The answers to noisy copies keep their labels, so the label-only attack scores every example as before."""
    plain = rich(models=8, examples=400, leak=2.0, queries=1)
    sure = plain.logits + 12 * functional.one_hot(torch.from_numpy(plain.labels), plain.logits.shape[-1]).numpy()[None, :, None]
    plain = dataclasses.replace(plain, logits=sure)  # members and others are both told right, members more surely
    hidden = dataclasses.replace(
        plain,
        logits=masked(plain.logits, 1, 1),
        extras={name: masked(array, 1, 1) if name.endswith("_logits") else array for name, array in plain.extras.items()},
    )

    def area(scores, attack):
        return np.mean([roc_auc_score(scores.membership[k], attack(scores, k)) for k in range(8)])

    assert area(plain, loss) > 0.65
    assert abs(area(hidden, loss) - 0.5) < 0.03
    for k in range(8):
        np.testing.assert_array_equal(label_only(plain, k), label_only(hidden, k))
    assert area(hidden, label_only) > 0.6
