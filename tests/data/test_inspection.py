"""`dptrain inspect`: what an owner must know of a table before training."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from dptrain import cli
from dptrain.config import compose
from dptrain.core.errors import ConfigError, LayerError
from dptrain.data import columns, datasets, splits
from dptrain.data.inspection import inspect, schema
from dptrain.report import inspection as report


@pytest.fixture
def visits(tmp_path):
    """Names of rows, people with several rows, a leak, dates, codes, gaps, a constant."""
    rng, n = np.random.default_rng(0), 3000
    people, age = rng.integers(0, 1200, n), rng.integers(18, 90, n)
    outcome = np.where(age + 10 * rng.standard_normal(n) > 75, "yes", "no")
    frame = pd.DataFrame(
        {
            "encounter_id": rng.permutation(10**6)[:n],
            "patient_nbr": people * 13 + 7,
            "age": age,
            "ward": rng.integers(1, 6, n),
            "weight": np.where(rng.random(n) < 0.7, np.nan, rng.normal(70, 9, n)),
            "note": [f"text {number}" for number in rng.permutation(n)],
            "admitted": pd.date_range("2020-01-01", periods=n).strftime("%Y-%m-%d"),
            "billing": np.where(outcome == "yes", "A", "B"),
            "country": "NL",
            "outcome": outcome,
        }
    )
    path = tmp_path / "visits.csv"
    frame.to_csv(path, index=False)
    return path


def inspected(*overrides):
    return inspect(compose.load("inspect", list(overrides)))


def test_everything_is_noticed(visits):
    result = inspected(f"dataset.path={visits}", "dataset.target=outcome")
    notes = {column.name: "; ".join(column.notes) for column in result.columns}
    for name, part in {
        "encounter_id": "dataset.numeric=[encounter_id] would use it",
        "patient_nbr": "if they are people, dataset.unit=patient_nbr protects each",
        "ward": "5 whole numbers: dataset.categorical=[ward] if they are codes",
        "note": "dataset.categorical=[note] would use it",
        "admitted": "dates: dataset.time=admitted",
        "billing": "alone predicts the target (balanced accuracy 1.000 on the population)",
        "country": "constant or too rare",
    }.items():
        assert part in notes[name]
    assert "of the rows have no value" in notes["weight"]
    assert notes["age"] == ""
    assert result.rows == result.used == 3000
    assert sum(result.classes.values()) == 3000
    assert result.split == (2100, 300, 600)
    assert any("always to predict 'no' is right for" in note for note in result.notes)


def test_without_a_target_the_columns_are_shown(visits):
    result = inspected(f"dataset.path={visits}")
    assert result.classes == {}
    assert {column.name for column in result.columns} == {*pd.read_csv(visits)}


def test_the_kinds_are_those_of_a_sweep(visits, tmp_path):
    """And the file that is written gives the same examples."""
    given = [f"dataset.path={visits}", "dataset.target=outcome"]
    said = [*given, "dataset.categorical=[ward]", "dataset.ordinal={billing:[A,B]}"]
    chosen = compose.load("inspect", said)
    file = tmp_path / "schema.yaml"
    file.write_text(schema(chosen, inspect(chosen)))
    kinds = yaml.safe_load(file.read_text())["columns"]
    assert kinds["ward"] == "category"
    assert kinds["billing"] == {"ordered": ["A", "B"]}
    assert "at seed 0 (pool 2,100, population 300, test 600)" in file.read_text()
    plain, by_file = (
        datasets.source(compose.load("sweep", ["dataset=csv", *given, *more]).dataset, 0)
        for more in (said[2:], [f"dataset.schema={file}"])
    )
    np.testing.assert_array_equal(plain.read().inputs, by_file.read().inputs)


def test_the_command(visits, tmp_path, capsys):
    given = [f"dataset.path={visits}", "dataset.target=outcome"]
    file = tmp_path / "kinds.yaml"
    assert cli.main(["inspect", *given, f"output={file}"]) == 0
    printed = capsys.readouterr()
    assert "Classes: no " in printed.out
    assert "Splits: pool 2,100, population 300, test 600." in printed.out
    assert f"dataset.schema={file}" in printed.err
    assert "billing: category" in file.read_text()
    assert cli.main(["inspect", *given, "format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["split"]["pool"] == 2100


@pytest.mark.parametrize(
    "more",
    [
        ["dataset.time=admitted"],
        ["dataset.group=patient_nbr"],
        ["dataset.pool=500", "dataset.population=100"],
        ["seed=3"],
    ],
)
def test_splits_and_kinds_are_those_of_a_sweep(visits, more):
    given = [f"dataset.path={visits}", "dataset.target=outcome", *more]
    result = inspected(*given)
    chosen = compose.load("sweep", ["dataset=csv", *given])
    declared = datasets.source(chosen.dataset, chosen.seed)
    sized = splits.sized(chosen.dataset, declared)
    assert result.split == (sized.pool, sized.population, sized.test)
    left_out = {each.name for each in result.columns if each.kind and not each.kind.used}
    assert left_out
    for name in left_out:
        assert name in declared.preprocessing


def test_names_that_need_quotes_are_quoted(tmp_path):
    path = tmp_path / "t.csv"
    frame = pd.DataFrame({"worst radius (mm)": np.arange(800) % 2, "y": np.arange(800) % 2})
    frame.assign(z=np.random.default_rng(0).normal(size=800)).to_csv(path, index=False)
    result = inspected(f"dataset.path={path}", "dataset.target=y")
    [note] = [column.notes[0] for column in result.columns if "radius" in column.name]
    command = note[note.index('"dataset.drop') :].strip('"')
    assert command == "dataset.drop=['worst radius (mm)']"
    inspected(f"dataset.path={path}", "dataset.target=y", command)


def test_what_is_no_column_of_numbers_and_texts_is_one_line(tmp_path):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": [[1], [2]], "y": [0, 1]}).to_parquet(path)
    with pytest.raises(LayerError, match="lists or records"):
        inspected("dataset=parquet", f"dataset.path={path}")
    pd.DataFrame({"a": [1.0, 2], "y": [0, 1]}).to_parquet(path)
    with pytest.raises(LayerError, match="there is no column 'foo'"):
        inspected("dataset=parquet", f"dataset.path={path}", "dataset.group=foo")


def test_tables_that_are_named(capsys):
    assert cli.main(["inspect", "dataset=breast_cancer"]) == 0
    assert "Classes: 1 62.7%, 0 37.3%." in capsys.readouterr().out
    assert cli.main(["inspect", "dataset=digits"]) == 2
    assert "digits is no table; choose from csv" in capsys.readouterr().err


def test_a_target_of_numbers_is_questioned(tmp_path):
    path = tmp_path / "t.csv"
    rng = np.random.default_rng(0)
    pd.DataFrame({"a": rng.normal(size=500), "y": rng.normal(size=500)}).to_csv(path, index=False)
    result = inspected(f"dataset.path={path}", "dataset.target=y")
    assert any("each is a class of its own" in note for note in result.notes)
    with pytest.raises(ConfigError, match="seed"):
        inspected(f"dataset.path={path}", "seed=-1")


def test_suggested_sizes_are_those_of_a_sweep(visits):
    """Typed as they stand they give the splits that a sweep has without them."""
    first = inspected(f"dataset.path={visits}", "dataset.target=outcome")
    keys = [f"dataset.{key}={size}" for key, size in first.suggested._asdict().items()]
    again = inspected(f"dataset.path={visits}", "dataset.target=outcome", *keys)
    assert again.split == again.suggested == first.suggested
    assert first.suggested.pool % 2 == 0
    assert sum(first.split) - sum(first.suggested) in (0, 1)
    assert f"by default: {' '.join(keys)}." in report.text(first)
    people = inspected(
        f"dataset.path={visits}", "dataset.target=outcome", "dataset.unit=patient_nbr"
    )
    assert sum(people.suggested) < sum(people.split)
    assert "(of users)." in report.text(people)


@pytest.mark.parametrize(
    ("name", "text"),
    [("age", "dataset.unit=age"), ("user, id", "\"dataset.unit='user, id'\"")],
)
def test_names_are_quoted_where_they_need_it(name, text):
    assert columns.chosen("unit", name) == text
