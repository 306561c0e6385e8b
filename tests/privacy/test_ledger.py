"""What was spent is written before the noise is drawn, and nothing takes it away."""

import json
import math
import os
from dataclasses import replace

import pytest
import torch

from dptrain import models
from dptrain.core import streams
from dptrain.core.errors import LayerError
from dptrain.core.types import Mechanism, Sampling, Setting
from dptrain.privacy import ledger, pld
from dptrain.privacy.ledger import Account, Ledger, key_name, read, total
from dptrain.training.state import State
from tests.runs import make_recipe, train

PLAN = Mechanism(Sampling.POISSON, 5, 20, 6, 1.3, 0.7, 5)


KEYS = [streams.seeded_key(k, "ledger") for k in range(3)]


def written(path, steps=6, keys=KEYS[:2], models=(0, 1), plan=PLAN):
    book = Ledger(path, "s", "a", models, keys)
    for step in range(steps):
        book.charge(step, plan, plan.noise_multiplier * plan.clip)
    book.sync()
    book.close()


def test_a_whole_run(tmp_path):
    written(tmp_path / "a.jsonl")
    accounts = read(tmp_path).accounts
    assert set(accounts) == {key_name(key) for key in KEYS[:2]}
    assert all(account.matches(PLAN) for account in accounts.values())
    [spent] = total(list(accounts.values()))
    assert pld.epsilon(spent, 1e-5) == pytest.approx(pld.epsilon(PLAN, 1e-5))
    assert KEYS[0].hex() not in (tmp_path / "a.jsonl").read_text()


def test_a_repeated_step_stands_once_and_a_new_key_stands_beside(tmp_path):
    path = tmp_path / "a.jsonl"
    written(path, steps=4)
    before = path.read_bytes()
    written(path)  # a restart from the first step, with the same keys
    assert path.read_bytes().startswith(before)
    assert all(account.matches(PLAN) for account in read(tmp_path).accounts.values())
    once = total(list(read(tmp_path).accounts.values()))
    # A lost checkpoint: other keys, so other noise.
    written(path, steps=3, keys=[KEYS[2], streams.seeded_key(3, "ledger")])
    twice = total(list(read(tmp_path).accounts.values()))
    assert path.read_bytes().startswith(before)
    assert pld.epsilon(pld.composition(twice), 1e-5) > pld.epsilon(pld.composition(once), 1e-5)


def test_interrupted_equals_uninterrupted(tmp_path):
    written(tmp_path / "whole" / "a.jsonl")
    for steps in (1, 4, 4, 6):
        written(tmp_path / "parts" / "a.jsonl", steps=steps)
    assert (tmp_path / "whole" / "a.jsonl").read_bytes() == (
        tmp_path / "parts" / "a.jsonl"
    ).read_bytes()
    assert read(tmp_path / "whole").digest == read(tmp_path / "parts").digest


def test_noise_is_not_repeated_under_another_mechanism(tmp_path):
    written(tmp_path / "a.jsonl")
    with pytest.raises(RuntimeError, match="another mechanism"):
        written(tmp_path / "a.jsonl", plan=replace(PLAN, noise_multiplier=1.0))


def test_one_noise_under_two_mechanisms_or_for_two_models_gives_no_epsilon(tmp_path):
    """Whichever file is read last: neither may stand for both."""
    written(tmp_path / "b.jsonl")
    written(tmp_path / "a.jsonl")  # the same stack in another file is the same noise
    assert len(read(tmp_path).accounts) == 2
    for name in ("a", "z"):
        folder = tmp_path / name
        written(folder / "m.jsonl")
        written(folder / f"{name}.jsonl", plan=replace(PLAN, noise_multiplier=9.0))
        with pytest.raises(LayerError, match="noise of another model"):
            read(folder)
    written(tmp_path / "c.jsonl", models=(2, 3))
    with pytest.raises(LayerError, match="noise of another model"):
        read(tmp_path)


def test_what_is_no_ledger_is_one_line(tmp_path):
    (tmp_path / "x.jsonl").mkdir()
    with pytest.raises(LayerError, match="cannot be read"):
        read(tmp_path)
    for number, row in enumerate(
        (
            {"step": 1},
            {"keys": ["a"]},
            {"keys": ["a", "b"], "models": [1], "setting": "s", "split": "a"},
        )
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "x.jsonl").write_bytes(ledger._sealed(row, "")[0])
        with pytest.raises(LayerError, match="was altered"):
            read(folder)


@pytest.mark.parametrize("cut", [1, 30, 150])
def test_half_a_line_is_no_step(tmp_path, cut):
    path = tmp_path / "a.jsonl"
    written(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert not any(account.matches(PLAN) for account in read(tmp_path).accounts.values())
    written(path)
    assert path.read_bytes() == whole


@pytest.mark.parametrize("change", ["flip", "drop", "swap", "noise", "rubbish"])
def test_an_altered_ledger_gives_no_epsilon(tmp_path, change):
    path = tmp_path / "a.jsonl"
    written(path)
    lines = path.read_bytes().splitlines(keepends=True)
    if change == "flip":
        lines[3] = lines[3].replace(b'"step": 2', b'"step": 3')
    elif change == "drop":
        del lines[2]
    elif change == "swap":
        lines[2], lines[3] = lines[3], lines[2]
    elif change == "noise":
        row = json.loads(lines[4])
        lines[4] = (
            json.dumps({**row, "noise_std": 2 * row["noise_std"]}, sort_keys=True) + "\n"
        ).encode()
    else:
        lines[1] = b"\xff\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(LayerError, match="was altered"):
        read(tmp_path)
    with pytest.raises(LayerError, match="was altered"):
        written(path)


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": 0.65},
        {"steps": 7},
        {"steps": 5},
        {"batch_size": 6},
        {"clip": 1.0},
        {"divisor": 6},
    ],
)
def test_another_plan_does_not_match(tmp_path, change):
    written(tmp_path / "a.jsonl")
    assert not any(
        account.matches(replace(PLAN, **change)) for account in read(tmp_path).accounts.values()
    )


def test_the_total_counts_each_pair_once_and_settings_all():
    one = replace(PLAN, steps=1)
    other = replace(one, noise_multiplier=2.0)

    def account(model, steps, used=one, split="a"):
        return Account("s", split, model, dict.fromkeys(range(steps), used))

    assert total([account(0, 6), account(1, 4)]) == [replace(one, steps=6)]
    assert total([account(0, 6), account(2, 4)]) == [replace(one, steps=10)]
    assert total([account(0, 6), account(1, 3), account(1, 5)]) == [replace(one, steps=8)]
    assert set(total([account(0, 6), account(1, 4, other)])) == {
        replace(one, steps=6),
        replace(other, steps=4),
    }
    # An example can be in both.
    assert total([account(0, 6), account(1, 4, split="b")]) == [replace(one, steps=10)]
    assert total([]) == []


def run(charge, steps=6, sigma=1.3):
    setting = Setting(
        "s",
        "dpsgd",
        1.0,
        1e-5,
        replace(PLAN, steps=steps, noise_multiplier=sigma),
        make_recipe(0.1),
    )
    model = models.mlp((3, 4), 3, (6,))
    inputs, labels = torch.randn(40, 3, 4), torch.zeros(40, dtype=torch.int64)
    membership = streams.memberships(2, 40, KEYS[0])
    return train(
        model,
        setting,
        "stacked",
        State.start([model, model]),
        KEYS[:2],
        inputs,
        labels,
        membership,
        lambda *_: None,
        None,
        charge,
    )


def test_training_charges_every_step_with_what_it_uses(tmp_path):
    book = Ledger(tmp_path / "a.jsonl", "s", "a", (0, 1), KEYS[:2])
    run(book.charge)
    book.close()
    assert all(account.matches(PLAN) for account in read(tmp_path).accounts.values())


def test_a_step_is_charged_before_its_noise_is_drawn(monkeypatch):
    from dptrain.training.noise import GaussianNoise

    events = []
    draw = GaussianNoise.draw
    monkeypatch.setattr(
        GaussianNoise, "draw", lambda *given: (events.append("noise"), draw(*given))[1]
    )
    run(lambda step, used, noise_std: events.append((step, noise_std)))
    assert events == [
        event for step in range(6) for event in ((step, pytest.approx(1.3 * 0.7)), "noise")
    ]


def test_a_ledger_that_cannot_be_written_stops_the_noise(monkeypatch, tmp_path):
    from dptrain.training.noise import GaussianNoise

    drawn = []
    draw = GaussianNoise.draw
    monkeypatch.setattr(GaussianNoise, "draw", lambda *given: (drawn.append(1), draw(*given))[1])
    book = Ledger(tmp_path / "a.jsonl", "s", "a", (0, 1), KEYS[:2])
    write, lines = os.write, []

    def full(file, data):
        lines.append(data)
        if len(lines) > 3:
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr(ledger.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        run(book.charge)
    assert len(drawn) == 2  # the first line opens, two are steps


def test_plain_sgd_leaves_no_ledger(tmp_path):
    book = Ledger(tmp_path / "a.jsonl", "s", "a", (0, 1), KEYS[:2])
    setting = Setting(
        "s",
        "none",
        None,
        1e-5,
        replace(PLAN, noise_multiplier=0.0, clip=math.inf),
        make_recipe(0.1),
    )
    model = models.mlp((3, 4), 3, (6,))
    data = torch.randn(40, 3, 4), torch.zeros(40, dtype=torch.int64)
    train(
        model,
        setting,
        "stacked",
        State.start([model]),
        KEYS[:1],
        *data,
        streams.memberships(2, 40, KEYS[0])[:1],
        lambda *_: None,
        None,
        book.charge,
    )
    book.sync()
    book.close()
    assert not list(tmp_path.iterdir())
