"""Claims that a hostile reader once showed to be false. Each test fails on the code of before; the number is that of the finding."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from dptrain import accounting, layers, models, noise, placement, probe, sampling
from dptrain.clipping import ENGINES, clipper, stack
from dptrain.noise import GaussianNoise
from dptrain.train import State, train
from dptrain.types import ConfigError, Mechanism, Recipe, Sampling, Setting

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
    train(model, setting, "stacked", state, [sampling.os_key()], inputs, labels, np.array([[True, member]]), lambda *_: None)
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
    grid = noise.grid
    assert grid(1.0) == 2.0**-8
    sigma = accounting.calibrate(Mechanism(Sampling.POISSON, 2, 2, 1, 0.0, 1.0, 2), 0.5, 1e-5).noise_multiplier
    assert grid(sigma) <= sigma * 2**-8 < 2 * grid(sigma)
    model = nn.Linear(30, 10)
    setting = Setting("s", "dpsgd", 1.0, 1e-5, Mechanism(Sampling.POISSON, 4, 4, 1, 3.0, 0.7, 4), Recipe(1.0))
    state, before = State.start([model]), stack([model])
    inputs, labels = torch.randn(4, 30), torch.arange(4)
    train(model, setting, "stacked", state, [sampling.os_key()], inputs, labels, np.ones((1, 4), bool), lambda *_: None)
    steps = (before["weight"] - state.parameters["weight"]).double() * 4 / grid(2.1)
    assert float((steps - steps.round()).abs().max()) < 0.01  # but for the rounding of the difference itself
    assert float(steps.abs().max()) > 200


def test_02_the_tail_has_no_gaps():
    """Radii beyond 5.4 come from 64 more bits: no two are alike, and they lie between the points of the 32-bit lattice."""
    source = GaussianNoise(1, 2_000_000)
    phases = np.concatenate([lattice_phases(source.draw([sampling.seeded_key(0, "tail")], step)[0].double().numpy(), 5.45) for step in range(100)])
    assert len(phases) > 20
    assert stats.kstest(phases, "uniform").pvalue > 1e-6
