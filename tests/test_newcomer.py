"""What a newcomer met. Each test fails on the code of before; the number is that of the finding."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from dptrain import api, cli, config, data, datasets, defences, layers, models, pipeline, probe, report, store
from dptrain.judge import Row
from dptrain.types import ConfigError

SMALL = [
    *("name=small", "dataset=digits", "dataset.pool=100", "dataset.population=60", "dataset.test=60", "training.batch_size=20"),
    *("training.epochs=1", "training.width=2", "training.workers=1", "models_per_setting=2", "attacks=[loss]", "epsilons=[8]"),
]


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("dptrain.opinions.prv_epsilon", lambda *_: 1.0)


def names(*overrides):
    return [setting.name for setting in defences.settings(config.load("sweep", list(overrides)))]


def test_26_a_baseline_that_is_named_stays():
    assert names("defences=[none,dpsgd]", "epsilons=[8]") == ["none", "dpsgd-8"]
    assert names("defence=[none,dpsgd]", "epsilons=8") == ["none", "dpsgd-8"]
    assert names("epsilons=[8]") == ["dpsgd-8"]
    assert names("defences=[dpsgd]", "epsilons=[8]") == ["dpsgd-8"]


@pytest.mark.parametrize(
    ("overrides", "hint", "never"),
    [
        (["model=cnn", "model.hidden=[8]"], "unknown key", "did you mean 'model.hidden'"),
        (["training.learning_rate=1"], "defence.none.learning_rate' or 'defence.dpsgd.learning_rate'", "training.engine"),
        (["training.momentum=1"], "defence.none.momentum", "training"),
        (["dataset.columns=[a]"], "unknown key; see", "dataset.pool"),
        (["training.batchsize=8"], "did you mean 'training.batch_size'", "learning"),
        (["epsilon=[8]"], "did you mean 'epsilons'", "training"),
        (["seed=0,1,2"], "and a comma parts two; write a list as seed=[0,1,2], or run once for each", "multirun"),
        (["dataset.target=a,b"], "quote it: \"dataset.target='a,b'\"", "[a,b]"),
        (["--multirun", "seed=0"], "arguments are written key=value", "Lexer"),
    ],
)
def test_26_hints_help(overrides, hint, never):
    with pytest.raises(ConfigError) as error:
        config.load("sweep", overrides)
    assert hint in str(error.value)
    assert never not in str(error.value).split(":", 1)[1]


def row(attack, value, setting="none", metric="auc"):
    return Row(setting, "none", None, attack, metric, value, value - 0.01, value + 0.01, 4, 100, 100)


def test_27_the_table_names_the_strongest_attack_whatever_it_is():
    rows = [row(None, 0.9, metric="test_accuracy"), row("lira", 0.502), row("rmia", 0.52), row("of_a_package", 0.61)]
    head, body = report.summary(rows)
    assert body[0][head.index("strongest AUC")] == ".610 [.600, .620] of_a_package"
    head, body = report.summary(rows[:1])
    assert body[0][head.index("strongest AUC")] == "-"


def test_27_attacks_of_packages_are_listed(fake_package, capsys):
    assert cli.main(["list"]) == 0
    assert "scaled             of the package plugin-models" in capsys.readouterr().out


class GroupNormed(nn.Module):
    """A residual network whose batch norms were replaced, on images so small that rounding shows."""

    def __init__(self):
        super().__init__()
        blocks = [nn.Conv2d(1, 32, 3, padding=1)]
        for _ in range(8):
            blocks += [layers.ResidualBlock(32, 32, 1, 16), nn.GroupNorm(16, 32)]
        self.body, self.head = nn.Sequential(*blocks), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(1e3 * self.body(1e-3 * x).mean((2, 3)))


def test_28_rounding_is_not_taken_for_mixing():
    """In float32 the outputs of a deep network move by 1e-5 and more with the size of the batch."""
    for seed in range(6):
        torch.manual_seed(seed)
        probe.refuse_mixing(GroupNormed(), (1, 8, 8))
        probe.refuse_mixing(models.resnet((1, 8, 8), 10), (1, 8, 8))


def advice_on(folder, differences, accuracies):
    rows = []
    for name, (accuracy, epsilon, ceiling) in accuracies.items():
        about = (name, "dpsgd", epsilon)
        rows.append(Row(*about, None, "test_accuracy", accuracy, accuracy - 0.01, accuracy + 0.01, 4, 0, 100))
        rows.append(Row(*about, "loss", "auc", 0.51, 0.5, 0.52, 4, 100, 100, ceiling))
    record = {"rows": [one.to_json() for one in rows], "statements": {}, "differences": differences}
    (folder / "metrics.json").write_bytes(store.seal(record))
    return [one.name for one in api.advise(folder, max_epsilon=8).meeting]


def test_29_among_settings_that_cannot_be_told_apart_the_strongest_proof(tmp_path):
    settings = {"dpsgd-4": (0.817, 4.0, 0.8), "dpsgd-1": (0.815, 1.0, 0.58), "dpsgd-0.5": (0.79, 0.5, 0.54)}
    alike = {"dpsgd-4": {"dpsgd-1": [0.002, -0.001, 0.005], "dpsgd-0.5": [0.027, 0.02, 0.034]}}
    assert advice_on(tmp_path, alike, settings)[0] == "dpsgd-1"
    # The intervals overlap as before, and the paired difference tells them apart.
    apart = {"dpsgd-4": {"dpsgd-1": [0.002, 0.001, 0.003], "dpsgd-0.5": [0.027, 0.02, 0.034]}}
    assert advice_on(tmp_path, apart, settings)[0] == "dpsgd-4"


def test_29_differences_are_paired(tmp_path, quick):
    """What two settings have in common drops out: a sweep's differences are far narrower than those of unpaired intervals."""
    overrides = [*SMALL[:-1], "epsilons=[8,7]", "models_per_setting=8", "training.epochs=10", f"output={tmp_path}"]
    result = pipeline.sweep(config.load("sweep", overrides), show_progress=False)
    record = store.unseal((tmp_path / "metrics.json").read_bytes())
    accuracy = {row.setting: row for row in result.rows if row.metric == "test_accuracy"}
    estimate, low, high = record["differences"]["dpsgd-8"]["dpsgd-7"]
    assert estimate == pytest.approx(accuracy["dpsgd-8"].estimate - accuracy["dpsgd-7"].estimate)
    unpaired = np.hypot(*(accuracy[name].high - accuracy[name].low for name in ("dpsgd-8", "dpsgd-7")))
    assert high - low < unpaired
    assert record["differences"]["dpsgd-7"]["dpsgd-8"][0] == pytest.approx(-estimate)


def test_30_ids_are_rows_of_the_users_file(tmp_path):
    path = tmp_path / "t.csv"
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": np.arange(300.0), "b": rng.normal(size=300), "y": np.arange(300) % 2})
    pd.concat([frame.iloc[:3], frame]).to_csv(path, index=False)  # the first three stand twice, so positions shift
    split = ["dataset.pool=120", "dataset.population=100", "dataset.test=40", "training.batch_size=20"]
    chosen = config.load("sweep", ["dataset=csv", f"dataset.path={path}", "dataset.target=y", *split])
    dataset = data.load(datasets.source(chosen.dataset, 0), chosen.dataset, 0)
    written = pd.read_csv(path)
    assert (written.loc[dataset.pool.ids, "y"].to_numpy() == dataset.pool.labels).all()
    mean, spread = (getattr(written.loc[dataset.population.ids, "a"], name)() for name in ("mean", "std"))
    expected = (written.loc[dataset.pool.ids, "a"].to_numpy() - mean) / spread
    np.testing.assert_allclose(dataset.pool.inputs[:, 0], expected, rtol=0.02, atol=1e-3)


def test_30_the_last_result_stays_until_there_is_a_new_one(tmp_path, quick, monkeypatch):
    overrides = [*SMALL, f"output={tmp_path}"]
    pipeline.sweep(config.load("sweep", overrides), show_progress=False)
    before = (tmp_path / "metrics.json").read_bytes()

    def stops(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_jobs", stops)
    with pytest.raises(KeyboardInterrupt):
        pipeline.sweep(config.load("sweep", [*overrides, "training.epochs=2"]), show_progress=False)
    assert (tmp_path / "metrics.json").read_bytes() == before
