"""The whole command, small: resume, caches, outputs."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dptrain import cli, models
from dptrain.config import compose
from dptrain.core import streams
from dptrain.pipeline.run import sweep
from dptrain.report.statement import sentences
from tests.common import TINY
from tests.helpers.small_sweep import On, small_sweep
from tests.helpers.sweep import NO_MODEL, go


def of_zero_head(function):
    def build(shape, classes):
        model = On(lambda x: function(x.flatten(1)))
        model.head = nn.Linear(64, classes)
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
        return model

    return build


@pytest.mark.long
def test_a_model_whose_code_changed_is_trained_anew(tmp_path, monkeypatch):
    """Both say zero at first."""
    monkeypatch.setitem(models.MODELS, "mine", of_zero_head(lambda x: x))
    assert small_sweep(tmp_path, "model=mine").trained == 4
    assert small_sweep(tmp_path, "model=mine").trained == 0
    monkeypatch.setitem(models.MODELS, "mine", of_zero_head(lambda x: torch.relu(x) * 3))
    assert small_sweep(tmp_path, "model=mine").trained == 4


def touched(folder):
    return {
        path: path.stat().st_mtime_ns for path in (folder / "store").rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        (["epsilons=[inf,8,3]"], 6),
        (["models_per_setting=8"], 4),
        (["attacks=[loss,lira,lira_offline]"], 0),
        pytest.param(["attacks.lira.variance=per_example"], 0, marks=pytest.mark.long),
        pytest.param(["training.checkpoint_seconds=5"], 0, marks=pytest.mark.long),
        pytest.param(["training.width=3"], 0, marks=pytest.mark.long),
        pytest.param(["epsilons=[8]"], 0, marks=pytest.mark.long),
        (["model.hidden=[9]"], 12),
        pytest.param(["seed=1"], 12, marks=pytest.mark.long),
        pytest.param(["privacy.delta=1e-6"], 6, marks=pytest.mark.long),
        pytest.param(["defence.none.learning_rate=.2"], 6, marks=pytest.mark.long),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.long
def test_only_what_is_new_is_computed(tmp_path, change, trained):
    go(tmp_path)
    before = touched(tmp_path)
    assert go(tmp_path, *change).trained == trained
    after = touched(tmp_path)
    assert {path: after.get(path) for path in before} == before


@pytest.mark.long
def test_adding_an_attack_changes_no_other_number(tmp_path):
    few = go(tmp_path / "few", "attacks=[loss]")
    more = go(tmp_path / "few", "attacks=[loss,lira]")
    whole = go(tmp_path / "whole", "attacks=[loss,lira]")
    assert [row for row in more.rows if row.attack != "lira"] == list(few.rows)
    assert list(more.rows) == list(whole.rows)


@pytest.mark.long
def test_a_plugin_whose_code_changes_is_trained_anew(tmp_path, monkeypatch):
    overrides = [
        *(o for o in TINY if not o.startswith("model.")),
        "model.name=own",
        "~model.hidden",
        "~model.activation",
        "models_per_setting=2",
    ]
    for width, trained in ((8, 4), (9, 4), (9, 0)):
        monkeypatch.setitem(
            models.MODELS,
            "own",
            lambda shape, classes, width=width: models.mlp(shape, classes, [width]),
        )
        assert go(tmp_path, overrides=overrides).trained == trained


def test_a_model_that_diverges_names_the_key(tmp_path, capsys):
    assert (
        cli.main(
            [
                "sweep",
                *TINY,
                "model.activation=relu",
                "defence.none.learning_rate=1e20",
                f"output={tmp_path}",
            ]
        )
        == 2
    )
    assert (
        "defence.none.learning_rate: the models of none diverged; lower it"
        in capsys.readouterr().err
    )


def test_two_at_once_are_refused(tmp_path, capsys):
    import fcntl

    with open(tmp_path / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli.main(["sweep", *TINY, f"output={tmp_path}"]) == 2
    assert "output: another dptrain is at work" in capsys.readouterr().err


@pytest.mark.long
def test_opacus_engine_gives_the_same_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "dptrain.fleet.stacks.secret_key",
        lambda _, *of: streams.seeded_key(0, "noise", of[0].name, str(of[1])),
    )
    done, other = go(tmp_path / "stacked"), go(tmp_path / "opacus", "training.engine=opacus")
    ours = {
        (row.setting, row.metric.name): row.estimate for row in done.rows if row.attack == "loss"
    }
    for row in other.rows:
        if row.attack == "loss" and row.metric.name == "auc":
            assert row.estimate == pytest.approx(
                ours[row.setting, row.metric.name], abs=5e-3
            )  # parameters agree to 1e-5; losses that nearly tie change places


def test_techniques_together(tmp_path):
    """A convolutional network with views, a moving average, AdamW, a schedule, automatic clipping
    and batches in parts.
    """
    changes = [
        "model=cnn",
        "models_per_setting=2",
        "training.augmentations=[crop,flip]",
        "training.multiplicity=2",
        "training.average=0.9",
        "training.optimiser=adamw",
        "training.weight_decay=0.01",
        "training.schedule=cosine",
        "training.warmup=0.1",
        "defence.dpsgd.clipping=automatic",
        "defence.dpsgd.learning_rate=0.01",
        "defence.none.learning_rate=0.01",
    ]
    done = go(tmp_path, *changes, "training.physical_batch=3", overrides=NO_MODEL)
    assert done.trained == 4
    assert (
        "clip 1 (automatic), the mean over 2 views of an example clipped as one"
        in sentences(done.statements["dpsgd-8"])["mechanism"]
    )
    assert "the moving average of its iterates" in sentences(done.statements["dpsgd-8"])["released"]
    assert go(tmp_path, *changes, overrides=NO_MODEL).trained == 0  # parts change no result


def test_two_models_are_enough_to_run(tmp_path, capsys):
    assert cli.main(["sweep", *TINY, "models_per_setting=2", f"output={tmp_path}"]) == 0
    out = capsys.readouterr().out
    assert "models_per_setting of at least 6" in out
    assert f"dptrain tensorboard run={tmp_path}" in out


def test_works_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = sweep(compose.load("sweep", TINY), show_progress=False)
    assert result.folder == Path("results/tiny")
    assert (tmp_path / "results" / "tiny" / "report.html").exists()


@pytest.mark.long
def test_each_setting_has_its_own_second_opinion(tmp_path, monkeypatch):
    """And one that was not given is asked for again: the process may have been stopped."""
    asked = []

    def opinion(mechanism, delta):
        asked.append(mechanism.noise_multiplier)
        return mechanism.noise_multiplier if silent is None else None

    monkeypatch.setattr("dptrain.privacy.prv.prv_epsilon", opinion)
    silent = "both"
    first = go(tmp_path, "epsilons=[8,2]", "attacks=[loss]")
    assert [each.accountants.prv for each in first.statements.values()] == [None, None]
    silent = None
    second = go(tmp_path, "epsilons=[8,2]", "attacks=[confidence]")
    assert len(asked) == 4
    for statement in second.statements.values():
        assert statement.accountants.prv == statement.noise_multiplier
    go(tmp_path, "epsilons=[8,2]", "attacks=[entropy]")
    assert len(asked) == 4
