"""A model to give away: trained on all rows, written to a folder, loaded elsewhere."""

import json
import subprocess
import sys
import venv
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import dptrain
from dptrain import cli, models
from dptrain.config import compose
from dptrain.core.errors import ConfigError
from dptrain.core.store import unseal
from dptrain.data import datasets
from dptrain.pipeline.plan import plan
from dptrain.privacy import pld
from dptrain.privacy.statement import PrivacyStatement, Refutation
from dptrain.release import predict
from dptrain.release.export import Exported, layers_of
from dptrain.report.statement import sentences
from tests.common import TINY

N = 400
pytestmark = pytest.mark.long


def frame(seed=0):
    """Every kind of column, with gaps, odd texts, whole numbers as texts, rare categories."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, N)
    city = rng.choice(["Bern", " Rome", "Łódź", "?", "rare"], N, p=[0.5, 0.3, 0.15, 0.04, 0.01])
    table = pd.DataFrame(
        {
            "age": age,
            "income": np.round(rng.lognormal(10, 1, N), 2),
            "odd": rng.choice(["1.5", "2e3", "-7", "1e400", "n/a", ".25"], N),
            "city": city,
            "code": rng.choice(["1", "2", "03", "7"], N),
            "size": rng.choice(["small", "mid", "large", "none of these"], N),
            "listed": rng.choice(["a", "b", "c"], N),
            "flag": rng.choice(["True", "False"], N),
            "y": np.where(age + rng.normal(0, 20, N) > 54, "yes", "no"),
        }
    )
    table.loc[rng.random(N) < 0.1, "income"] = np.nan
    return table


OPTIONS = [
    "dataset=csv",
    "dataset.target=y",
    "dataset.pool=100",
    "dataset.population=150",
    "dataset.test=100",
    "dataset.numeric=[odd]",
    "dataset.categorical=[code]",
    "dataset.ordinal={size: [small, mid, large]}",
    "attacks=[loss]",
    *(part for part in TINY if not part.startswith("dataset.")),
]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A finished sweep of the table, the file, and its configuration."""
    folder = tmp_path_factory.mktemp("swept")
    file = folder / "t.csv"
    frame().to_csv(file, index=False)
    (folder / "schema.yaml").write_text("columns:\n  listed: [c, a]\n")
    options = [*OPTIONS, f"dataset.path={file}", f"dataset.schema={folder}/schema.yaml"]
    dptrain.sweep(*options, output=folder / "run")
    return folder / "run", file, options


@pytest.fixture(scope="module")
def exported(swept):
    run, _, _ = swept
    return dptrain.export(run, "dpsgd-8", model=1)


def test_preprocessing_equals_the_sweep_s_bit_for_bit(swept, exported):
    _, file, options = swept
    ready = plan(compose.load("sweep", options))
    examples = ready.source.read()
    model = dptrain.load(exported)
    rows = list(predict.rows_of(file, header=True))
    encoded = model.encode(rows).numpy()
    assert len(rows) == N
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(encoded[examples.ids], examples.inputs)
    assert len(np.unique(encoded, axis=1).T) > 15  # no column is empty


@pytest.mark.parametrize("kind", ["frame", "parquet"])
def test_typed_tables_are_encoded_as_the_sweep_does(kind, tmp_path):
    """Whole numbers with and without gaps, booleans and dates keep their types there."""
    rng = np.random.default_rng(3)
    table = frame().assign(
        code=rng.integers(1, 5, N),
        many=rng.choice([1.0, 2.0, 2.5, np.nan], N),
        when=pd.to_datetime(rng.choice(["2020-01-01", "2021-06-30"], N)),
        flag=rng.random(N) < 0.5,
    )
    options = [*OPTIONS, "dataset.name=typed"]
    if kind == "parquet":
        table.to_parquet(tmp_path / "t.parquet")
        options = [*OPTIONS, "dataset=parquet", f"dataset.path={tmp_path}/t.parquet"]
        options.remove("dataset=csv")
    else:
        datasets.hold("typed", table)
    options[options.index("dataset.categorical=[code]")] = "dataset.categorical=[code,many]"
    source = plan(compose.load("sweep", options)).source
    examples = source.read()
    plain = table.astype(object).where(table.notna(), None).to_dict("records")
    encoded = np.array([predict._encoded(row, source.how) for row in plain], dtype=np.float32)
    np.testing.assert_array_equal(encoded[examples.ids], examples.inputs)


def test_logits_are_those_of_the_sweep(swept, exported):
    """The exported parameters are those of the very model, in the store under its name."""
    run, _, _ = swept
    mine = load_file(exported / "parameters.safetensors")
    stored = [
        load_file(path) for path in (run / "store" / "model").glob("*/parameters.safetensors")
    ]
    equal = [
        each
        for each in stored
        if all(torch.equal(each[name], value) for name, value in mine.items())
    ]
    assert len(equal) == 1
    assert {path.name for path in exported.iterdir()} == {
        "parameters.safetensors",
        "model.json",
        "README.md",
        "predict.py",
    }


ELSEWHERE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
sys.path.insert(0, {folder!r})
import predict
from pathlib import Path
model = predict.Model({folder!r})
inputs = model.encode(predict.rows_of(Path({file!r}), True))
print([value.hex() for row in model.probabilities(inputs).tolist() for value in row])
assert "numpy" not in sys.modules
"""


def _elsewhere(python, folder, file, absent=()):
    code = ELSEWHERE.format(absent=set(absent) | {"nothing"}, folder=str(folder), file=str(file))
    ran = subprocess.run([python, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def _here(folder, file):
    model = dptrain.load(folder)
    probabilities = model.probabilities(model.encode(predict.rows_of(file, header=True)))
    return f"{[value.hex() for row in probabilities.tolist() for value in row]}\n"


def test_predictions_are_bit_equal_without_any_other_package(swept, exported):
    _, file, _ = swept
    absent = ("numpy", "pandas", "scipy", "sklearn", "dptrain", "hydra", "opacus", "jaxtyping")
    assert _elsewhere(sys.executable, exported, file, absent) == _here(exported, file)


@pytest.mark.slow
def test_predictions_are_bit_equal_in_a_fresh_environment(swept, exported, tmp_path):
    _, file, _ = swept
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    wanted = [f"torch=={torch.__version__.partition('+')[0]}", "safetensors"]
    subprocess.run([python, "-m", "pip", "install", "-q", *wanted], check=True)
    listed = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True).stdout
    assert "numpy" not in listed
    assert _elsewhere(python, exported, file) == _here(exported, file)


def test_the_command_and_the_folder_s_program_print_the_same(swept, exported, tmp_path, capsys):
    _, file, _ = swept
    assert cli.main(["predict", f"model={exported}", f"data={file}"]) == 0
    printed = capsys.readouterr().out
    program = [sys.executable, str(exported / "predict.py"), str(file)]
    ran = subprocess.run(program, capture_output=True, text=True)
    assert ran.stdout == printed
    lines = printed.splitlines()
    assert lines[0] == "prediction,p_no,p_yes"
    assert len(lines) == N + 1
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    reordered = table[table.columns[::-1]].assign(extra=1)
    reordered.to_csv(tmp_path / "other.csv", sep=";", index=False)
    out = tmp_path / "out.csv"
    assert (
        cli.main(["predict", f"model={exported}", f"data={tmp_path}/other.csv", f"output={out}"])
        == 0
    )
    assert out.read_text() == printed


@pytest.mark.parametrize(
    ("text", "key"),
    [("age;income\n3;4\n", "odd"), ("", "read"), ("a,b\n1,2,3\n", "cells")],
)
def test_data_that_do_not_fit(text, key, exported, tmp_path, capsys):
    (tmp_path / "new.csv").write_text(text)
    assert cli.main(["predict", f"model={exported}", f"data={tmp_path}/new.csv"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dptrain: error: data: ")
    assert key in error
    assert error.count("\n") == 1


def test_no_file_of_a_folder_is_run(exported, tmp_path):
    """dptrain loads a stranger's folder: neither its layers nor its program are imported."""
    for path in exported.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in ("layers.py", "predict.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    record = json.loads((tmp_path / "model.json").read_text())
    dptrain.load(tmp_path)
    record["layers"].insert(
        0,
        {
            "layer": "ResidualBlock",
            "options": dict.fromkeys(("inside", "outside", "stride", "groups"), 1),
        },
    )
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        dptrain.load(tmp_path)
    assert not (tmp_path / "ran").exists()
    record["layers"][0]["layer"] = "Module"
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="unknown layer 'Module'"):
        dptrain.load(tmp_path)


def test_nothing_that_was_measured_is_given_away(swept, exported):
    """What attacks and the accuracy on members say depends on the pool beyond the epsilon, and the
    fleet's means on models that stay.
    """
    record = json.loads((exported / "model.json").read_text())
    assert record["privacy"]["evaluated"] is None
    assert {row["metric"].split("_")[0] for row in record["utility"]} == {"test"}
    assert {row["targets"] for row in record["utility"]} == {1}
    card = (exported / "README.md").read_text()
    assert "by loss" not in card
    assert "(8.000, 1e-05)" in card or "(7.99" in card
    run, _, _ = swept
    means = [
        row["estimate"]
        for row in unseal((run / "metrics.json").read_bytes())["rows"]
        if row["setting"] == "dpsgd-8" and row["metric"] == "test_accuracy"
    ]
    alone = [row["estimate"] for row in record["utility"] if row["metric"] == "test_accuracy"]
    assert alone != means


def test_a_refuted_model_is_given_away_with_its_refutation_alone(swept):
    """A reader must know that the claim is refuted, and no mean over models that stay."""
    run, _, _ = swept
    statement = PrivacyStatement.of(
        unseal((run / "metrics.json").read_bytes())["privacy"]["dpsgd-8"]
    )
    refuted = Refutation(
        attack="loss", metric="auc", estimate=0.99, low=0.98, ceiling=0.87, count=1
    )
    broken = replace(statement, evaluated=replace(statement.evaluated, refuted=refuted))
    assert broken.evaluated.utilities
    claimed = Exported.claimed.fget(SimpleNamespace(statement=broken))
    assert claimed.evaluated.refuted == refuted
    assert claimed.evaluated.utilities == {}
    assert claimed.evaluated.measured is None
    text = sentences(claimed)
    assert text["guarantee"].startswith("REFUTED")
    assert "utility" not in text


@pytest.mark.parametrize(
    "rows",
    [
        "pool",
        "pool_and_test",
    ],
)
def test_a_final_model_learns_from_all_rows_that_are_asked_for(rows, swept, tmp_path):
    run, _, _ = swept
    final = dptrain.train(run=run, setting="dpsgd-8", rows=rows, output=tmp_path / "final")
    count = {"pool": 100, "pool_and_test": 200}[rows]
    statement = final.statement
    assert statement.public_n == count
    assert statement.epsilon == pytest.approx(8, abs=0.01)
    assert statement.epsilon <= 8
    ran = [
        json.loads(path.read_text()) for path in final.folder.glob("store/model/*/mechanism.json")
    ]
    assert [each["public_n"] for each in ran] == [count]
    # Two epochs over so many rows, in batches of 8.
    assert [each["steps"] for each in ran] == [-(-2 * count // 8)]
    measured = {row.metric.name for row in final.rows}
    assert ("test_accuracy" in measured) == (rows == "pool")
    again = dptrain.train(run=run, setting="dpsgd-8", rows=rows, output=tmp_path / "final")
    assert not again.trained
    assert again.statement == statement
    lines = (final.model / "README.md").read_text()
    assert "chosen by hand among 2 settings" in lines
    assert "for this model by itself" in lines
    unit = "pool or test set" if rows == "pool_and_test" else "the pool"
    assert f"**unit**: one example of {unit};" in lines


def test_all_rows_are_for_what_claims_nothing_or_fits_nothing(swept, tmp_path):
    run, _, _ = swept
    plain = dptrain.train(run=run, setting="none", rows="all", output=tmp_path / "none")
    assert plain.statement.public_n == 350
    images = [part for part in TINY if not part.startswith("models_per")]
    final = dptrain.train(*images, setting="dpsgd-8", rows="all", output=tmp_path / "images")
    assert final.statement.public_n == 100
    assert final.statement.unit == "one example of the data"


def copied(exported, folder):
    for path in exported.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return json.loads((folder / "model.json").read_text())


def test_a_record_cannot_make_dptrain_allocate_more_than_its_file_holds(exported, tmp_path):
    record = copied(exported, tmp_path)
    huge = {"in_features": 10**7, "out_features": 10**7, "bias": True}
    elsewhere = {"in_features": 2, "out_features": 2, "device": "cuda"}
    empty = {"inside": 1, "outside": 1, "stride": 1, "groups": 0}
    for layer in (
        {"layer": "Linear", "options": huge},
        {"layer": "AdaptiveAvgPool2d", "options": {"output_size": 10**9}},
        {"layer": "Linear", "options": elsewhere},
        {"layer": "ResidualBlock", "options": empty},
    ):
        changed = {**record, "layers": [*record["layers"], layer]}
        (tmp_path / "model.json").write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match=r"model: .* cannot be loaded"):
            dptrain.load(tmp_path)
    big = {"name": "mlp", "options": {"hidden": [10**7, 10**7]}}
    (tmp_path / "model.json").write_text(json.dumps({**record, "layers": None, "model": big}))
    with pytest.raises(ConfigError, match="not those of its architecture"):
        dptrain.load(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"layers": record["layers"]}))
    with pytest.raises(ConfigError, match="its record is not whole"):
        dptrain.load(tmp_path)


def test_data_that_changed_or_moved(swept, tmp_path):
    """The file may lie elsewhere; other rows are not those that the sweep attacked."""
    run, file, _ = swept
    moved = tmp_path / "moved.csv"
    moved.write_bytes(file.read_bytes())
    final = dptrain.train(
        run=run, setting="none", output=tmp_path / "final", **{"dataset.path": str(moved)}
    )
    assert final.trained == 1
    assert dptrain.export(run, "none", path=str(moved), output=tmp_path / "e").is_dir()
    moved.write_text(frame(seed=5).to_csv(index=False))
    for act in (
        lambda: dptrain.export(run, "none", path=str(moved), output=tmp_path / "x"),
        lambda: dptrain.train(
            run=run, setting="none", output=tmp_path / "y", **{"dataset.path": str(moved)}
        ),
    ):
        with pytest.raises(ConfigError, match="run: the data are not those of"):
            act()


def test_a_folder_with_predictions_in_it_is_written_again(swept, tmp_path):
    run, _, _ = swept
    folder = dptrain.export(run, "none", output=tmp_path / "model")
    (folder / "predictions.csv").write_text("mine")
    (folder / "layers.py").write_text("of another model")
    assert dptrain.export(run, "none", output=folder) == folder
    assert (folder / "predictions.csv").read_text() == "mine"
    assert not (folder / "layers.py").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"output: .* holds other files"):
        dptrain.export(run, "none", output=tmp_path / "other")
    final = dptrain.train(run=run, setting="none", output=tmp_path / "final")
    with pytest.raises(ConfigError, match=r"run: .* holds no sweep but a final model"):
        dptrain.export(final.folder, "none")


def test_a_table_without_rows(exported, tmp_path, capsys):
    header = ",".join(frame().columns)
    (tmp_path / "none.csv").write_text(f"{header}\n")
    assert cli.main(["predict", f"model={exported}", f"data={tmp_path}/none.csv"]) == 0
    assert capsys.readouterr().out == "prediction,p_no,p_yes\n"


def test_every_row_is_in_and_canaries_by_a_coin(swept, tmp_path, monkeypatch):
    from dptrain.release import final as train

    seen = []
    built = train.fleet_of
    monkeypatch.setattr(
        "dptrain.release.train.fleet_of", lambda *given: seen.append(built(*given)) or seen[-1]
    )
    run, _, _ = swept
    final = dptrain.train(run=run, setting="dpsgd-8", output=tmp_path, **{"dataset.canaries": 60})
    [fleet] = seen
    assert fleet.membership.shape == (1, 160)
    assert fleet.membership[0, 60:].all()
    assert 10 < fleet.membership[0, :60].sum() < 50
    assert final.statement.public_n == 160
    # Canaries are made of population rows: nobody of the pool stands there twice.
    pool = fleet.dataset.pool.inputs
    population = {row.tobytes() for row in fleet.dataset.population.inputs}
    assert {row.tobytes() for row in pool[:60]} <= population
    audited = [row for row in final.rows if row.examples == "canaries"]
    assert {row.attack for row in audited} == {"loss"}
    assert any(row.metric.name == "epsilon_one_run" for row in audited)
    assert "60 canaries" in (final.model / "README.md").read_text()


def test_the_ledger_s_epsilon_is_the_statement_s(swept, tmp_path):
    """What was charged, and nothing else, is what the claim bounds; and with the sweep's models it
    composes.
    """
    from dptrain.privacy import ledger

    run, _, _ = swept
    final = dptrain.train(run=run, setting="dpsgd-8", output=tmp_path)
    spent = ledger.read(tmp_path / "store" / "ledger").accounts
    assert len(spent) == 1
    alone = pld.epsilon(pld.composition(ledger.total(list(spent.values()))), 1e-5)
    assert alone == pytest.approx(final.statement.epsilon, rel=1e-6)
    composed = final.statement.evaluated.composed
    assert composed.models == 1 + len(ledger.read(run / "store" / "ledger").accounts)
    assert composed.epsilon > alone


def test_training_from_a_configuration(tmp_path):
    options = [part for part in TINY if not part.startswith("models_per")]
    final = dptrain.train(*options, setting="none", output=tmp_path)
    assert final.statement.public_n == 60
    assert final.statement.chosen_among == 0
    assert not final.statement.private
    model = dptrain.load(final.model)
    inputs = torch.zeros(3, 28, 28, dtype=torch.uint8)
    np.savez(tmp_path / "new.npz", inputs=inputs.unsqueeze(1).numpy())
    from dptrain.release.predictions import inputs_of

    scaled = inputs_of(model, tmp_path / "new.npz")
    assert scaled.shape == (3, 1, 28, 28)
    assert torch.equal(scaled.unique(), (torch.zeros(1) / 255 - 0.1307) / 0.3081)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"setting": "dpsgd-3"}, "setting: there is no 'dpsgd-3'"),
        ({}, "setting: give one of none, dpsgd-8"),
        ({"setting": "none", "training.epochs": 3}, "training.epochs: is that of the run"),
        ({"setting": "none", "dataset.canaries": 3}, "dataset.canaries: are made of population"),
        (
            {"setting": "none", "dataset.canaries": 30, "rows": "all"},
            "dataset.canaries: are made of population",
        ),
        ({"setting": "none", "run": "nowhere"}, "run: there is no finished sweep"),
        (
            {"setting": "dpsgd-8", "rows": "all"},
            "rows: what is fitted to the population, such as means of columns, is given away",
        ),
    ],
)
def test_what_cannot_be_trained(given, said, swept, tmp_path):
    run, _, _ = swept
    with pytest.raises(ConfigError, match=said):
        dptrain.train(**{"run": run, "output": tmp_path, **given})


@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "resnet"])
def test_layers_are_built_again(name):
    options = {"depth": 10, "groups": 4} if name == "resnet" else {}
    module = models.build(name, options, (1, 28, 28), 10, 3)
    chain = json.loads(json.dumps(layers_of(module)))
    from dptrain.models import layers

    again = predict.built_of(chain, lambda: layers)
    again.load_state_dict(module.state_dict())
    inputs = torch.randn(4, 1, 28, 28)
    assert torch.equal(again(inputs), module(inputs))


def test_layers_that_are_not_known_are_not_written():
    class Linear(nn.Linear):
        """Another one of the same name."""

    assert layers_of(nn.Linear(2, 2)) is None
    assert layers_of(nn.Sequential(Linear(2, 2))) is None
    assert layers_of(nn.Sequential(nn.Softmax(-1))) is None
