"""Tests of fleet.spending."""

import json
import re
import shutil

import pytest

from dptrain import cli
from dptrain.pipeline import run
from dptrain.privacy import ledger
from dptrain.report.statement import sentences
from dptrain.training.noise import GaussianNoise
from tests.common import TINY
from tests.helpers.small_sweep import small_sweep
from tests.helpers.sweep import go


def test_the_ledger_that_is_verified_is_the_one_that_is_named(tmp_path, monkeypatch):
    """It changes between the two looks: what is named must still be what was verified."""
    seen = []
    read = ledger.read

    def once(folder):
        seen.append(read(folder))
        return seen[-1]

    judged = run.evaluate_sweep

    def evaluate(fleet, *rest):
        found = judged(fleet, *rest)
        path = sorted((tmp_path / "store" / "ledger").glob("*.jsonl"))[0]
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
        return found

    monkeypatch.setattr(ledger, "read", once)
    monkeypatch.setattr(run, "evaluate_sweep", evaluate)
    result = small_sweep(tmp_path)
    record = json.loads((tmp_path / "metrics.json").read_text())
    verified = next(
        snapshot
        for snapshot in seen
        if len(snapshot.accounts) == 4
        and all(account.steps for account in snapshot.accounts.values())
    )
    assert record["ledger"] == verified.digest
    assert verified.digest[:12] in sentences(result.statements["dpsgd-8"])["record"]


@pytest.mark.long
def test_sweeps_in_one_folder_share_no_noise_and_are_all_charged(tmp_path):
    """Another architecture, another pool: the same seed, but other keys, and the ledger holds every
    one.
    """
    folder, seen = tmp_path / "one", 0
    for change in ((), ("dataset.pool=44", "dataset.population=10"), ("model.hidden=[9]",)):
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        result = go(folder, "epsilons=[8]", "models_per_setting=2", *change)
        accounts = ledger.read(folder / "store" / "ledger").accounts
        seen += 2
        assert len(accounts) == seen
        assert (
            f"all {seen} private models" in sentences(result.statements["dpsgd-8"])["composition"]
        )


def test_noise_that_was_drawn_is_never_refunded(tmp_path, monkeypatch):
    """A run is killed and its checkpoint lost: what its models cost stands in the ledger beside
    those that replace them.
    """
    os_noise = ["privacy.noise=os", "epsilons=[8]"]
    drawn = []
    draw = GaussianNoise.draw

    def dies(*given):
        drawn.append(1)
        if len(drawn) == 3:
            raise SystemExit
        return draw(*given)

    with monkeypatch.context() as patch:
        patch.setattr(GaussianNoise, "draw", dies)
        with pytest.raises(SystemExit):
            go(tmp_path, *os_noise)
    first = ledger.read(tmp_path / "store" / "ledger").accounts
    # The third is charged, though it was never drawn.
    assert [len(account.steps) for account in first.values()] == [3, 3]
    shutil.rmtree(tmp_path / "store" / "checkpoint")
    done = go(tmp_path, *os_noise)
    found = ledger.read(tmp_path / "store" / "ledger").accounts
    assert len(found) == 8
    assert {key: account for key, account in found.items() if key in first} == first
    text = sentences(done.statements["dpsgd-8"])["composition"]
    assert "all 8 private models" in text
    alone = go(tmp_path / "untouched", *os_noise).statements["dpsgd-8"]
    untouched = sentences(alone)["composition"]
    assert "all 6 private models" in untouched
    assert composed(text) > composed(untouched) > 8


def composed(text):
    return float(re.search(r"\(([\d.]+), 1e-05\)", text)[1])


@pytest.mark.parametrize("damage", ["gone", "altered", "short"])
def test_without_its_ledger_a_model_has_no_epsilon(tmp_path, damage, capsys):
    go(tmp_path, "epsilons=[8]")
    (tmp_path / "metrics.json").unlink()
    for path in (tmp_path / "store" / "ledger").iterdir():
        content = path.read_bytes()
        if damage == "gone":
            path.unlink()
        elif damage == "altered":
            path.write_bytes(content.replace(b'"clip": 1.0', b'"clip": 0.5', 1))
        else:
            path.write_bytes(content[: content.rindex(b"{")])
    assert cli.main(["sweep", *TINY, "epsilons=[8]", f"output={tmp_path}"]) == 2
    assert "dptrain: error: output: " in capsys.readouterr().err
