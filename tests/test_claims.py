"""Claims that a hostile reader once showed to be false. Each test fails on the code of before; the number is that of the finding."""

import copy
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from scipy import stats
from torch import nn

from dptrain import (
    accounting,
    api,
    attacks,
    cli,
    config,
    defences,
    judge,
    layers,
    ledger,
    measure,
    models,
    pipeline,
    placement,
    probe,
    sampling,
    statement,
    store,
)
from dptrain.clipping import clipper, stack
from dptrain.engines import ENGINES
from dptrain.estimator import DPClassifier
from dptrain.guesses import Judged
from dptrain.judge import Row, Subject
from dptrain.noise import GaussianNoise
from dptrain.schema import PrivacyConfig
from dptrain.scores import Scores
from dptrain.train import State, train
from dptrain.types import ConfigError, Mechanism, Recipe, Sampling, Setting

ROOT = Path(__file__).parent.parent
SHAPE, CLASSES = (16,), 4


class Glue(nn.Module):
    """Two Linear layers with a function between them; what stands behind it starts at zero, so that nothing of it shows at first."""

    def __init__(self, function, zero=True):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(16, 12), nn.Linear(12, CLASSES), function
        if zero:
            nn.init.zeros_(self.last.weight)

    def forward(self, x):
        return self.last(self.function(self.first(x)))


class Branch(nn.Module):
    """A residual branch that centres and scales over the batch, with a last layer and a head of zeros."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.head = nn.Linear(16, 12), nn.Linear(12, 12), nn.Linear(12, CLASSES)
        nn.init.zeros_(self.inner.weight)
        nn.init.zeros_(self.head.weight)

    def forward(self, x):
        h = self.first(x)
        return self.head(h + self.inner((h - h.mean(0)) / (h.std(0, correction=0) + 1e-3)))


class Normalised(nn.Module):
    def forward(self, x):
        return (x - x.mean(0)) / (x.std(0, correction=0) + 1e-3)


def on_mixed_features():
    head = nn.Linear(16, CLASSES)
    nn.init.zeros_(head.weight)
    return layers.OnFeatures(Normalised(), head)


class On(nn.Module):
    """A function of the input, then softmax regression."""

    def __init__(self, function):
        super().__init__()
        self.function, self.head = function, nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.function(x))


class Detached(nn.Module):
    """Reads a weight outside its layer, where nothing but the initial one stands."""

    def __init__(self):
        super().__init__()
        self.fc, self.head = nn.Linear(16, 16), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(torch.tanh(self.fc(x)) + nn.functional.linear(x, self.fc.weight.detach()))


def hooked():
    model = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES))
    model[1].register_full_backward_hook(lambda _m, gradients, _o: (gradients[0] / gradients[0].norm(),))
    return model


class TensorHook(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(16, 12), nn.Linear(12, CLASSES)

    def forward(self, x):
        h = self.first(x)
        if h.requires_grad:
            h.register_hook(lambda gradient: gradient / gradient.norm())
        return self.last(h)


class Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * len(gradient)


class Counter(nn.Module):
    """Its third call on is another function."""

    def __init__(self):
        super().__init__()
        self.last, self.calls = nn.Linear(16, CLASSES), 0

    def forward(self, x):
        self.calls += 1
        return self.last(x - x.mean(0) if self.calls > 200 else x)


class Keeps(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.sum = nn.Linear(16, CLASSES), None

    def forward(self, x):
        y = x if self.sum is None else x + 1e-9 * self.sum
        self.sum = x.sum(0)
        return self.last(y)


def replaced_forward():
    model = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES))
    plain = model[1].forward
    model[1].forward = lambda x: plain(x - x.mean(0))
    return model


class SubLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x - x.mean(0) * (x.abs().max() > 50))


class Tied(nn.Module):
    """An embedding that renormalises the rows it looks up, whose table is also the last layer's."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(CLASSES, 8, max_norm=1.0)
        self.head = nn.Linear(8, CLASSES, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        return self.head(self.table(x[:, 0].gt(0).long()) + x)


def patched(name):
    model = nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES))
    plain = getattr(model[1], name)
    setattr(model[1], name, lambda x: plain(x - x.mean(0) * (x.abs().max() > 50)))
    return model


class Centring(nn.Tanh):
    def __call__(self, x):
        return super().__call__(torch.where((x > 50).any(), x - x.mean(0), x))


class OwnVmap(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return gradient

    @staticmethod
    def vmap(info, in_dims, x):
        return x - 0.5 * x.mean(in_dims[0], keepdim=True), in_dims[0]


class Later(nn.Module):
    def __init__(self):
        super().__init__()
        self.last, self.calls, self.kept = nn.Linear(16, CLASSES), [0], [None]

    def forward(self, x):
        self.calls[0] += 1
        kept = self.kept[0]
        if self.calls[0] == 300:
            self.kept[0] = x.detach().mean(0)
        return self.last(x if kept is None else x + kept)


MIXING = {
    "a residual branch behind zeros": Branch,
    "features normalised over the batch": on_mixed_features,
    "scaled if the batch has a large value": lambda: On(lambda x: x / 255 if x.max() > 1 else x),
    "missing values filled with the batch's mean": lambda: On(lambda x: torch.where(x == -1, x[x != -1].mean(), x)),
    "a backward hook of a module": hooked,
    "a backward hook of a tensor": TensorHook,
    "reads a detached weight": Detached,
    "centred where a value is rare": lambda: On(lambda x: torch.where((x > 8).any(), x - x.mean(0), x)),
    "centred in large batches": lambda: On(lambda x: x - x.mean(0) if len(x) > 20 else x),
    "sorted over the batch": lambda: On(lambda x: x.sort(0).values),
    "cumulative over the batch": lambda: On(lambda x: x.cumsum(0)),
    "softmax over the batch": lambda: Glue(lambda x: x.softmax(0)),
    "softmax of torch over the batch": lambda: Glue(nn.Softmax(0)),
    "the batch flattened into features": lambda: On(lambda x: x + x.flatten()[: x.shape[1]]),
    "outer products of the batch": lambda: Glue(lambda x: (x @ x.t()) @ x),
    "ranks within the batch": lambda: Glue(lambda x: x.argsort(0).argsort(0).to(x.dtype)),
    "the batch's norm": lambda: Glue(lambda x: x / (x.norm() + 1)),
    "batch norm by function": lambda: Glue(lambda x: nn.functional.batch_norm(x, None, None, training=True)),
    "dropout by function": lambda: Glue(nn.functional.dropout),
    "a gradient that grows with the batch": lambda: Glue(Scaled.apply, zero=False),
    "a memory of the last batch": Keeps,
    "another function after many calls": Counter,
    "a forward function that was replaced": replaced_forward,
    "a subclass of a layer": lambda: nn.Sequential(SubLinear(16, 12), nn.Tanh(), nn.Linear(12, CLASSES)),
    "the first example's mean": lambda: On(lambda x: x - x[0].mean()),
    "a mean through einsum": lambda: Glue(lambda x: x - torch.einsum("bi->i", x)),
    "a table that renormalises rows of others": lambda: nn.Sequential(nn.Linear(16, 8), Tied()),
    "softmax over the batch counted from the end": lambda: nn.Sequential(
        nn.Hardshrink(1000.0), nn.LogSoftmax(-2), nn.Hardtanh(-100, -3), nn.Linear(16, CLASSES)
    ),
    "a patched call": lambda: patched("_call_impl"),
    "a patched class": lambda: nn.Sequential(nn.Linear(16, 12), Centring(), nn.Linear(12, CLASSES)),
    "an autograd function with its own vmap": lambda: Glue(OwnVmap.apply, zero=False),
    "features kept for much later": Later,
    "the batch shuffled by its values": lambda: On(lambda x: x[x[:, 0].argsort()]),
}


def engine_of(model):
    """The engine that a sweep would train the model with; None if it refuses it."""
    try:
        probe.refuse_mixing(model, SHAPE)
        return placement.choose_engine("auto", models.trained(model), models.trained_shape(model, SHAPE))[0]
    except ConfigError:
        return None


def pairs(seed, n=64):
    """Neighbouring batches, the second without its last example; which is huge, tiny, like the rest, or holds the values that models look for."""
    rng = np.random.default_rng(seed)
    for scale in (1.0, 0.01, 30.0, 300.0):
        x = rng.normal(size=(n, 16))
        x[-1] *= scale
        x[rng.random(x.shape) < 0.1] = -1
        yield torch.from_numpy(x.astype(np.float32)), torch.from_numpy(rng.integers(0, CLASSES, n))


def perturbed(model, seed):
    """With random weights, none of them zero."""
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return other


def most_moved(model, engine, clip=1.0):
    """The largest change of the clipped sum when one example leaves, at weights that differ from the initial ones."""
    head, worst = models.trained(model), 0.0
    frozen = models.features(model)
    for seed in range(3):
        parameters = stack([perturbed(head, seed)])
        step = ENGINES[engine](head, "float32")
        for x, y in pairs(seed):
            sums = []
            for count in (len(x), len(x) - 1):
                seen = x[:count] if frozen is None else models.apply(frozen, x[:count])
                out = {name: torch.zeros_like(value) for name, value in parameters.items()}
                weights = torch.ones(1, count, dtype=torch.bool)
                step(parameters, seen[None, :, None], y[None, :count], weights, clipper("flat", clip), out)
                sums.append(torch.cat([value.flatten() for value in out.values()]).double())
            worst = max(worst, float((sums[0] - sums[1]).norm()))
    return worst


@pytest.mark.parametrize("name", MIXING)
def test_01_mixing_models_are_refused_or_one_example_moves_the_sum_by_the_clip_at_most(name):
    torch.manual_seed(0)
    model = MIXING[name]()
    engine = engine_of(model)
    assert engine is None or most_moved(model, engine) <= 1 + 1e-5


def test_01_a_sound_model_of_a_user_stays_fast_and_bounded():
    model = Glue(torch.tanh, zero=False)
    assert engine_of(model) == "stacked"
    assert 0.5 < most_moved(model, "stacked") <= 1 + 1e-5
    assert math.isfinite(most_moved(model, "vmap"))


def lattice_phases(values, beyond=4.6):
    """Noise [P] -> the place of each pair's radius between two points of the lattice of 32-bit Box-Muller, in the tail where float32 shows it."""
    half = (len(values) + 1) // 2
    square = np.square(values[:half]) + np.square(np.resize(values[half:], half))
    radius = np.sqrt(square)
    kept = (radius > beyond) & (radius < beyond + 1)
    return 2.0**31 * np.exp(-square[kept] / 2) % 1


def alarms(values, level=1e-4):
    """Whether the phases of some noise lie too close together (Rayleigh's test)."""
    phases = lattice_phases(values)
    return bool(len(phases) * np.abs(np.exp(2j * np.pi * phases).mean()) ** 2 > -math.log(level)) if len(phases) else False


def one_step(member, seed):
    """Noise that an attacker finds in one released model, if the target was in it and if not: [2, 10^6]; T = 1, q = 1, epsilon .5."""
    rng = np.random.default_rng(seed)
    inputs = torch.from_numpy(rng.normal(size=(2, 1000)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 1000, 2))
    model = nn.Linear(1000, 1000, bias=False)
    nn.init.zeros_(model.weight)
    mechanism = accounting.calibrate(Mechanism(Sampling.POISSON, 2, 2, 1, 0.0, 1.0, 2), 0.5, 1e-5)
    setting = Setting("s", "dpsgd", 0.5, 1e-5, mechanism, Recipe(1.0))
    state = State.start([model])
    train(
        model,
        setting,
        "stacked",
        state,
        [sampling.seeded_key(seed, "lattice")],
        inputs,
        labels,
        np.array([[True, member]]),
        lambda *_: None,
    )
    noisy = -state.parameters["weight"][0].double().flatten() * mechanism.divisor
    found = []
    for inside in (True, False):
        out = {"weight": torch.zeros(1, 1000, 1000)}
        weights = torch.tensor([[True, inside]])
        step = ENGINES["stacked"](model, "float32")
        step(stack([model]), inputs[None, :, None], labels[None], weights, clipper("flat", 1.0), out)
        found.append(((noisy - out["weight"].double().flatten()) / (mechanism.noise_multiplier * mechanism.clip)).numpy())
    return found


def test_02_the_last_digits_of_noise_tell_nothing():
    """Before, the attack named 20 of 20 members and no other."""
    named = {True: 0, False: 0}
    for trial in range(100):
        member = trial % 2 == 0
        if_in, if_out = one_step(member, trial)
        named[member] += alarms(if_in) and not alarms(if_out)
    assert named == {True: 0, False: 0}


def test_02_released_steps_are_multiples_of_a_grid():
    model = nn.Linear(30, 10)
    mechanism = Mechanism(Sampling.POISSON, 4, 4, 1, 3.0, 0.7, 4)
    assert 2.1 / 32 < mechanism.spacing <= 2.1 / 16
    setting = Setting("s", "dpsgd", 1.0, 1e-5, mechanism, Recipe(1.0))
    state, before = State.start([model]), stack([model])
    inputs, labels = torch.randn(4, 30), torch.arange(4)
    train(model, setting, "stacked", state, [sampling.os_key()], inputs, labels, np.ones((1, 4), bool), lambda *_: None)
    steps = (before["weight"] - state.parameters["weight"]).double() * 4 / mechanism.spacing
    assert float((steps - steps.round()).abs().max()) < 0.01  # but for the rounding of the difference itself
    assert float(steps.abs().max()) > 20


def test_02_the_tail_has_no_gaps():
    """Radii beyond 5.4 come from 64 more bits: no two are alike, and they lie between the points of the 32-bit lattice."""
    source = GaussianNoise(1, 2_000_000)
    phases = np.concatenate(
        [lattice_phases(source.draw([sampling.seeded_key(0, "tail")], step)[0].double().numpy(), 5.45) for step in range(100)]
    )
    assert len(phases) > 20
    assert stats.kstest(phases, "uniform").pvalue > 1e-6


def go(folder, *overrides, **keys):
    """A sweep of seconds."""
    small = ["name=small", "dataset=digits", "dataset.pool=200", "dataset.population=60", "dataset.test=60", "training.batch_size=20"]
    quick = ["training.epochs=1", "training.width=2", "training.workers=1", "models_per_setting=4", "attacks=[loss]", "epsilons=[8]"]
    return pipeline.sweep(config.load("sweep", [*small, *quick, *overrides, f"output={folder}"]), show_progress=False)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("dptrain.opinions.prv_epsilon", lambda *_: 1.0)


def folds(seed=0):
    """Two disjoint folds of rows."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(400, 30)), rng.integers(0, 2, 400)
    return (x[:200], y[:200]), (x[200:], y[200:])


def fitted(x, y, noise=True, **options):
    """Parameters of a fit that is noise for the most part; without it, those that it starts from."""
    if not noise:
        model = DPClassifier(epsilon=math.inf, epochs=1e-9, learning_rate=1e-30, **options).fit(x, y)
        return torch.cat([value.flatten() for value in model._parameters.values()]).numpy()
    model = DPClassifier(epsilon=0.05, epochs=2, learning_rate=20.0, **options)  # noise, for the most part
    model.fit(x, y)
    return torch.cat([value.flatten() for value in model._parameters.values()]).numpy()


def test_05_two_fits_share_no_noise_whatever_the_random_state():
    one, other = folds()
    assert abs(np.corrcoef(fitted(*one, random_state=7), fitted(*other, random_state=7))[0, 1]) < 0.7


def test_05_a_noise_seed_repeats_a_fit_and_no_other():
    one, other = folds()
    neighbour = (one[0].copy(), one[1])
    neighbour[0][0] += 1
    options = {"random_state": 7, "noise_seed": 3}
    first = fitted(*one, **options)
    np.testing.assert_array_equal(first, fitted(*one, **options))
    for rows in (other, neighbour):
        assert abs(np.corrcoef(first, fitted(*rows, **options))[0, 1]) < 0.7
    statement = DPClassifier(epochs=1, **options).fit(*one).privacy_statement_
    assert statement["guarantee"].startswith("none against whoever knows the seed")


class Projected(nn.Module):
    """A random projection in a buffer, then softmax regression."""

    def __init__(self):
        super().__init__()
        self.register_buffer("projection", torch.randn(64, 30) / 8)
        self.head = nn.Linear(30, 10)

    def forward(self, x):
        return self.head(x.flatten(1) @ self.projection)


def test_06_engines_are_checked_at_other_weights():
    model = Detached()
    found = probe.disagreement("stacked", model, SHAPE)
    assert found is not None
    assert "is not that of plain autograd" in found
    assert placement.choose_engine("auto", model, SHAPE)[0] == "vmap"


def test_07_constants_are_the_same_in_training_attacks_and_files(tmp_path, monkeypatch, quick):
    monkeypatch.setitem(models.MODELS, "projected", lambda shape, classes: Projected())
    went = []
    judged = pipeline.evaluate
    monkeypatch.setattr(pipeline, "evaluate", lambda fleet, *rest: went.append(fleet) or judged(fleet, *rest))
    overrides = ("model=projected", "attacks=[gradient_norm]", "epsilons=[inf]", "training.epochs=20")
    go(tmp_path, *overrides)
    [fleet] = went
    [setting] = pipeline.plan(fleet.config).settings
    labels = torch.from_numpy(fleet.dataset.pool.labels)
    for index in range(4):
        stored = safetensors.torch.load(fleet.stored(setting, index)["parameters.safetensors"])
        model = Projected()
        model.load_state_dict(stored)  # the file holds all that the model is
        says = fleet.logits(setting)["pool"][index, :, 0]
        np.testing.assert_allclose(model(fleet.tensors["pool"]).detach().numpy(), says, atol=1e-5)
        found = measure.extras(fleet, setting, ["gradient_norm"])["gradient_norm"][index]
        expected = []
        for x, y in zip(fleet.tensors["pool"][:20], labels[:20], strict=True):
            model.zero_grad()
            nn.functional.cross_entropy(model(x[None]), y[None]).backward()
            expected.append(math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters())))
        np.testing.assert_allclose(found[:20], expected, rtol=1e-3)


def of_zero_head(function):
    def build(shape, classes):
        model = On(lambda x: function(x.flatten(1)))
        model.head = nn.Linear(64, classes)
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
        return model

    return build


def test_08_a_model_whose_code_changed_is_trained_anew(tmp_path, monkeypatch, quick):
    """Both say zero at first."""
    monkeypatch.setitem(models.MODELS, "mine", of_zero_head(lambda x: x))
    assert go(tmp_path, "model=mine").trained == 4
    assert go(tmp_path, "model=mine").trained == 0
    monkeypatch.setitem(models.MODELS, "mine", of_zero_head(lambda x: torch.relu(x) * 3))
    assert go(tmp_path, "model=mine").trained == 4


CODE = """
from torch import nn
import functools
WIDTHS = [8]
class Mine(nn.Module):
    def __init__(self, shape, classes, act=nn.functional.relu, *, scale=2.0):
        super().__init__()
        self.act, self.scale = act, scale
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, WIDTHS[0]), nn.Linear(WIDTHS[0], classes))
    def forward(self, x):  # a comment
        return self.layers(self.act(x) * self.scale)
made = functools.partial(Mine, scale=2.0)
"""


def code_of(folder, code, name="Mine", hash_seed="0"):
    (folder / "theirs.py").write_text(code)
    program = f"import theirs; from dptrain import plugins; print(plugins.code_of(theirs.{name}))"
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTHONHASHSEED": hash_seed, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True).stdout


def test_08_the_key_of_a_models_code_is_the_same_in_every_process_and_follows_what_it_uses(tmp_path):
    first = code_of(tmp_path, CODE)
    assert code_of(tmp_path, CODE, hash_seed="1") == first
    assert code_of(tmp_path, CODE.replace("# a comment", "# another")) == first
    for old, new in (
        ("scale=2.0):", "scale=3.0):"),
        ("WIDTHS = [8]", "WIDTHS = [9]"),
        ("nn.functional.relu", "nn.functional.gelu"),
        ("* self", "+ self"),
    ):
        assert code_of(tmp_path, CODE.replace(old, new)) != first
    partial = code_of(tmp_path, CODE, "made")
    assert code_of(tmp_path, CODE.replace("(Mine, scale=2.0)", "(Mine, scale=3.0)"), "made") != partial


def refuting(monkeypatch):
    """Let the loss attack read who is a member, so that every claim is refuted."""
    monkeypatch.setitem(attacks.ATTACKS, "loss", lambda scores, target: scores.membership[target] + scores.loss[target] * 1e-9)


def test_09_a_refuted_claim_is_shown_as_refuted_everywhere(tmp_path, monkeypatch, quick, capsys):
    refuting(monkeypatch)
    result = go(tmp_path)
    assert any(row.contradicted for row in result.rows)
    assert result.statements["dpsgd-8"]["guarantee"].startswith("REFUTED, so none: loss auc of 1.000")
    assert result.statements["dpsgd-8"]["evidence"].startswith("refuted")
    assert "dpsgd-8 (REFUTED)" in (tmp_path / "table.md").read_text()
    assert "REFUTED, so none" in (tmp_path / "report.html").read_text()
    advice = api.advise(tmp_path, max_epsilon=9)
    assert not advice.meeting
    assert [one.name for one in advice.refuted] == ["dpsgd-8"]
    assert "REFUTED, not to be used: dpsgd-8" in advice.text()
    assert cli.main(["advise", f"run={tmp_path}", "max_epsilon=9"]) == 1


def test_09_where_the_split_leaks_nothing_is_recommended(tmp_path, monkeypatch, quick):
    result = go(tmp_path)
    record = json.loads((tmp_path / "metrics.json").read_text())
    for row in record["rows"]:
        row["contradicted"] = row["attack"] == "blind"
    del record["checksum"]
    (tmp_path / "metrics.json").write_bytes(store.seal(record))
    advice = api.advise(tmp_path, max_epsilon=9)
    assert not advice.meeting
    assert advice.text().count("INVALID") == 1
    said = statement.refuted(result.statements["dpsgd-8"], "dpsgd-8", [Row(**row) for row in record["rows"]])
    assert said["measured"].startswith("INVALID")


def test_09_two_targets_are_enough_for_a_contradiction():
    """Student's quantile with one degree of freedom is 3e5 at 1e-6: no interval of two targets by themselves ends below 1."""
    rng = np.random.default_rng(0)
    member = sampling.memberships(2, 60, sampling.seeded_key(0, "two"))
    scores = Scores(rng.normal(size=(2, 60, 1, 3)), rng.integers(0, 3, 60), member)
    matrix = member + rng.normal(size=(2, 60)) * 0.3
    curve = accounting.claimed_trade_off(0.1, 1e-5)
    subject = Subject("s", "dpsgd", 0.1, 1e-5, 0.1, curve)
    rows = judge.attack_rows(subject, "loss", Judged(matrix), scores, ())
    assert next(row for row in rows if row.metric == "auc").contradicted
    chance = judge.attack_rows(subject, "loss", Judged(rng.normal(size=(2, 60))), scores, ())
    assert not any(row.contradicted for row in chance)


@pytest.mark.parametrize("seeded", [False, True])
def test_09_seeded_noise_guarantees_nothing_to_who_knows_the_seed(seeded):
    [setting] = defences.settings(config.load("sweep", ["epsilons=[8]"]))
    said = statement.statement(setting, PrivacyConfig(1e-5, "seeded" if seeded else "os"), "none", None)
    assert said["guarantee"].startswith("none against whoever knows the seed") == seeded


@pytest.mark.parametrize("clip", ["1e-300", "1e-44", "1e-7", "1e7", "1e30"])
def test_10_a_clip_that_float32_cannot_hold_is_refused(clip):
    with pytest.raises(ConfigError, match=r"defence\.dpsgd\.clip: must"):
        defences.settings(config.load("sweep", ["epsilons=[8]", f"defence.dpsgd.clip={clip}"]))
    with pytest.raises(ValueError, match="clip must lie in"):
        DPClassifier(clip=float(clip)).fit(*folds()[0])


def test_10_the_unit_of_groups_is_the_group():
    [setting] = defences.settings(config.load("sweep", ["epsilons=[8]"]))
    privacy = PrivacyConfig(1e-5, "os")
    assert "a person with more" in statement.statement(setting, privacy, "", None)["unit"]
    assert statement.statement(setting, privacy, "", None, "one person", (), True)["unit"] == "one person"


def pretrained(noise):
    weights = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))

    def build(shape, classes):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
        with torch.no_grad():
            model[1].weight.copy_(weights + noise * torch.randn(10, 64))
        return model

    return build


@pytest.mark.parametrize("noise", [0.0, 0.1, 1.5])
def test_10_weights_that_a_builder_brings_along_are_named(tmp_path, monkeypatch, quick, noise):
    monkeypatch.setitem(models.MODELS, "mine", pretrained(noise))
    said = go(tmp_path, "model=mine").statements["dpsgd-8"]
    assert "only if the initial weights" in said["guarantee"]
    assert "1.weight" in said["initial weights"]
    assert not any("no pretraining" in text for text in said.values())


def test_10_weights_that_are_drawn_are_not(tmp_path, monkeypatch, quick):
    monkeypatch.setitem(models.MODELS, "mine", lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(64, classes)))
    said = go(tmp_path, "model=mine").statements["dpsgd-8"]
    assert "initial weights" not in said
    assert "only if" not in said["guarantee"]


def test_05_seeded_fits_of_other_initial_weights_share_no_noise():
    """Subtracting two models of one noise left their gradients bare."""
    one, _ = folds()
    models = [fitted(*one, random_state=state, noise_seed=3) for state in (0, 1)]
    starts = [fitted(*one, random_state=state, noise_seed=3, noise=False) for state in (0, 1)]
    moved = [model - start for model, start in zip(models, starts, strict=True)]
    assert abs(np.corrcoef(*moved)[0, 1]) < 0.7


def test_11_a_damaged_private_model_is_announced_before_it_is_trained_again(tmp_path, quick, capsys):
    go(tmp_path)
    assert "WARNING" not in capsys.readouterr().err
    [damaged, *_] = sorted((tmp_path / "store" / "model").glob("*/parameters.safetensors"))
    damaged.write_bytes(b"damaged")
    (tmp_path / "metrics.json").unlink()
    result = go(tmp_path)
    assert result.trained == 1
    told = capsys.readouterr().err
    assert told.count("WARNING: models that were trained before are damaged or gone (dpsgd-8 ") == 1
    before, after = re.search(r"come to epsilon (\d+\.\d+), after (\d+\.\d+)", told).groups()
    assert float(before) > float(after)
    assert f"({before}, " in result.statements["dpsgd-8"]["composition"]


def test_11_another_configuration_in_the_same_folder_is_no_damage(tmp_path, quick, capsys):
    go(tmp_path)
    assert go(tmp_path, "training.epochs=2").trained == 4
    assert "WARNING" not in capsys.readouterr().err


def test_11_the_ledger_that_is_verified_is_the_one_that_is_named(tmp_path, monkeypatch, quick):
    """It changes between the two looks: what is named must still be what was verified."""
    seen = []
    read = ledger.read

    def once(folder):
        seen.append(read(folder))
        return seen[-1]

    judged = pipeline.evaluate

    def evaluate(fleet, *rest):
        found = judged(fleet, *rest)
        path = sorted((tmp_path / "store" / "ledger").glob("*.jsonl"))[0]
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
        return found

    monkeypatch.setattr(ledger, "read", once)
    monkeypatch.setattr(pipeline, "evaluate", evaluate)
    result = go(tmp_path)
    record = json.loads((tmp_path / "metrics.json").read_text())
    verified = next(
        snapshot for snapshot in seen if len(snapshot.accounts) == 4 and all(account.steps for account in snapshot.accounts.values())
    )
    assert record["ledger"] == verified.digest
    assert verified.digest[:12] in result.statements["dpsgd-8"]["record"]
