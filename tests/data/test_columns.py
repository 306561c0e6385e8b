"""Kinds of columns: what names rows is no input, what leaks is said, and the user's word counts."""

import gzip
import math

import numpy as np
import pandas as pd
import pytest

from dptrain.config import compose
from dptrain.core.errors import ConfigError, LayerError
from dptrain.data import datasets, splits
from dptrain.data.columns import Column, Kind, kind_of, names_rows, predicts_alone
from tests.helpers.tables import N, loaded, table

RNG = np.random.default_rng(5)
EVERYONE = np.arange(200)
UNIQUE = RNG.permutation(10**6)[:200]


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("encounter_id", UNIQUE, True),
        ("patientId", UNIQUE, True),
        ("patient_nbr", np.repeat(UNIQUE[:120], 2)[:200], True),  # people, of two rows each
        ("row", np.arange(200) * 3, True),  # rises throughout the file
        ("row", np.arange(200)[::-1], True),
        ("comment", [f"text {n}" for n in UNIQUE], True),
        ("amount", UNIQUE, False),  # whole numbers, but neither name nor order tells
        ("id", RNG.integers(0, 5, 200), False),  # a code of few values
        ("measured", np.sort(RNG.normal(size=200)), False),  # no whole numbers
        ("kind", RNG.choice(["a", "b"], 200), False),
        ("paid", UNIQUE, False),  # ends in id, but is no word of its own
        ("grid", UNIQUE, False),
        ("income", [*RNG.lognormal(size=199), "unknown"], False),  # a word makes no texts
        ("glucose", [*RNG.normal(size=199), math.inf], False),
        ("seen", pd.date_range("2024-01-01", periods=200), False),
        ("heat_index", UNIQUE, False),
        ("id", np.full(200, np.nan), False),
    ],
)
def test_what_names_rows(name, values, expected):
    assert names_rows(pd.Series(values, name=name)) == expected


def test_the_order_of_the_file_counts_and_not_that_of_the_deal():
    shuffled = pd.Series(np.arange(200), name="row").sample(frac=1, random_state=0)
    assert names_rows(shuffled)


def test_the_users_word_comes_first():
    column = pd.Series(UNIQUE, name="id")
    assert kind_of(column, EVERYONE) == Kind.ROW_NAME
    for kind in (Kind.NUMBER, Kind.IGNORED):
        assert kind_of(column, EVERYONE, Column(kind)) == kind
    codes = pd.Series(RNG.integers(0, 3, 200), name="ward")
    assert kind_of(codes, EVERYONE) == Kind.NUMBER
    assert kind_of(codes, EVERYONE, Column(Kind.CATEGORY)) == Kind.CATEGORY


def test_only_what_predicts_alone_is_named():
    labels = RNG.integers(0, 3, 300)
    rows = pd.DataFrame(
        {
            "leak": np.array(["u", "v", "w"])[labels],
            "gaps": np.where(labels == 0, np.nan, labels * 1.0),
            "noisy": labels + RNG.normal(size=300),
            "nothing": RNG.normal(size=300),
        }
    )
    assert list(predicts_alone(rows, labels, list(rows))) == ["leak", "gaps"]
    assert predicts_alone(rows, labels, ["noisy"]) == {}
    few = np.r_[np.zeros(292, dtype=int), np.ones(8, dtype=int)]
    assert predicts_alone(rows.assign(leak=few), few, ["leak"]) == {}


def test_a_leak_and_a_name_of_rows_are_said_before_a_sweep(tmp_path):
    plain = table(customer_id=RNG.permutation(10**6)[:N])
    declared, _ = loaded(tmp_path, plain.assign(billed=np.where(plain.y == 1, "yes", "no")))
    said = "\n".join(declared.notes)
    assert "billed alone predicts y" in said
    assert "many rows have a value of their own there: customer_id" in said
    assert (
        "left out, since many rows have a value of their own there: customer_id"
        in declared.preprocessing
    )
    named, _ = loaded(tmp_path, plain, "dataset.numeric=[customer_id]")
    assert named.shape[0] == declared.shape[0] - 2 + 1  # billed has two columns
    assert "by the keys of dataset and the population split only" in named.preprocessing


def test_ordered_categories_are_numbers_in_their_order(tmp_path):
    sizes = RNG.choice(["small", "mid", "large"], N)
    frame = table(size=sizes)[["size", "z", "y"]]
    declared, dataset = loaded(tmp_path, frame, "dataset.ordinal={size:[small,mid,large]}")
    same, _ = loaded(tmp_path, frame, "dataset.ordinal.size=[small,mid,large]")
    assert same.preprocessing == declared.preprocessing
    values = {
        size: {
            float(dataset.pool.inputs[i, 1])
            for i, row in enumerate(dataset.pool.ids)
            if sizes[row] == size
        }
        for size in ("small", "mid", "large")
    }
    small, mid, large = (values[size].pop() for size in ("small", "mid", "large"))
    assert not any(values.values())
    assert mid - small == pytest.approx(large - mid)
    assert small < mid < large
    assert "2 columns of numbers" in declared.preprocessing


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("dataset.drop=[b]", r"dataset.drop: 'b' is no column"),
        ("dataset.numeric=[y]", r"dataset.numeric: 'y' is no input anyway"),
        ("dataset.drop=[a,a]", r"dataset.drop: each may stand there once"),
        ("dataset.ordinal={c:[x]}", r"dataset.ordinal: 'c' needs at least two values"),
        ("dataset.numeric=[c]", r"dataset.numeric: 'c' holds no number in any population row"),
        ("dataset.ordinal={c:[no,such]}", r"dataset.ordinal: the population has none"),
        ("dataset.time=c", r"dataset.time: '[xy]' in c is neither a number nor a date"),
        ("dataset.time=y", r"dataset.time: is the target"),
        ("dataset.time=t", r"dataset.time: there is no column 't'"),
    ],
)
def test_what_is_wrong_with_keys_of_columns(tmp_path, override, complaint):
    from dptrain.config.keys import named

    with pytest.raises((ConfigError, LayerError), match=complaint), named():
        loaded(tmp_path, table(), override)


def test_something_else_may_not_be_said_twice(tmp_path):
    with pytest.raises(LayerError, match="something else is said of 'a' too"):
        loaded(tmp_path, table(), "dataset.drop=[a]", "dataset.numeric=[a]")


def whole(path, *more, target="y"):
    given = ["dataset=csv", f"dataset.path={path}", f"dataset.target={target}"]
    chosen = compose.load("sweep", [*given, *more]).dataset
    declared = datasets.source(chosen, 0)
    sized = splits.sized(chosen, declared)
    return declared, sized, splits.load(declared, sized, 0)


def test_the_whole_table_is_split_where_no_size_is_given(tmp_path):
    path = tmp_path / "t.csv"
    table().to_csv(path, index=False)
    declared, sized, dataset = whole(path)
    assert (sized.pool, sized.population, sized.test) == (210, 30, 60)
    ids = np.concatenate([part.ids for part in dataset.parts.values()])
    assert sorted(ids) == list(range(N))
    assert "that of the pool from how many are left" in declared.preprocessing
    _, sized, _ = whole(path, "dataset.test=101")
    assert (sized.pool, sized.population, sized.test) == (168, 30, 101)
    assert "the next takes its place" in loaded(tmp_path, table())[0].preprocessing


@pytest.mark.parametrize("more", [(), ("dataset.time=day",)])
@pytest.mark.parametrize("mend", [{"y": ""}, {"copy": True}])
def test_a_pool_row_that_is_left_out_moves_no_other_part(tmp_path, mend, more):
    """Whatever the default sizes: population and test set, and what is fitted, stay as they are."""
    path = tmp_path / "t.csv"
    frame = table(day=np.arange(N)).astype(str)
    frame.to_csv(path, index=False)
    before, started, parts = whole(path, *more)
    for row in parts.pool.ids[:12]:
        if "copy" in mend:
            frame.loc[row] = frame.loc[parts.pool.ids[-1]]
        else:
            frame.loc[row, "y"] = mend["y"]
    frame.to_csv(path, index=False)
    after, sized, left = whole(path, *more)
    assert started.pool - 12 == sized.pool
    assert before.preprocessing == after.preprocessing
    for part in ("population", "test"):
        np.testing.assert_array_equal(left.parts[part].ids, parts.parts[part].ids)
        np.testing.assert_array_equal(left.parts[part].inputs, parts.parts[part].inputs)


def test_a_table_too_small_to_split_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    table().iloc[:50].to_csv(path, index=False)
    with pytest.raises(LayerError, match="are left for it, which needs 40"):
        whole(path)


def test_rows_of_other_classes_leave_the_pool_even(tmp_path):
    frame = table(a=np.arange(N))
    path = tmp_path / "t.csv"
    labels = frame.y.astype(str).to_numpy()
    frame.assign(y=labels).to_csv(path, index=False)
    _, _, dataset = whole(path)
    odd = dataset.pool.ids[0]
    labels[odd] = "neither"  # a class that the population does not have
    frame.assign(y=labels).to_csv(path, index=False)
    _, sized, dataset = whole(path)
    assert sized.pool == 208
    assert odd not in dataset.pool.ids


def test_time_trains_on_the_past_and_tests_on_what_follows(tmp_path):
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(RNG.permutation(N), unit="D")
    path = tmp_path / "t.csv"
    table(day=days.strftime("%Y-%m-%d")).to_csv(path, index=False)
    declared, sized, dataset = whole(path, "dataset.time=day")
    time = days.to_numpy()
    latest = max(time[part.ids].max() for part in (dataset.pool, dataset.population))
    assert latest < time[dataset.test.ids].min()
    assert "trained on the past: the test set are rows whose day lies above 2024-" in (
        declared.preprocessing
    )
    assert sized.test == len(dataset.test.labels) > 0
    assert declared.shape == whole(path, "dataset.drop=[day]")[0].shape  # the day is no input


def test_the_cut_in_time_comes_from_the_population_alone(tmp_path):
    """The times of the other rows, which hold the pool, do not move it."""
    frame = table(day=np.arange(N))
    path = tmp_path / "t.csv"
    frame.to_csv(path, index=False)
    before, _, _ = whole(path, "dataset.time=day", "dataset.population=60")
    chosen = compose.load("sweep", ["dataset=csv", f"dataset.path={path}"]).dataset
    order = splits.order_of(chosen, 0, N)
    frame.loc[order[60:], "day"] -= 1000
    frame.to_csv(path, index=False)
    after, _, _ = whole(path, "dataset.time=day", "dataset.population=60")
    cuts = [each.preprocessing.split("lies above ")[1].split(",")[0] for each in (before, after)]
    assert cuts[0] == cuts[1]
    assert float(cuts[0]) in frame.day.to_numpy()[order[:60]]
    with pytest.raises(LayerError, match=r"time: .* asked for; use less"):
        whole(path, "dataset.time=day", "dataset.test=60")


def test_a_population_row_of_no_class_of_the_schema_is_no_example(tmp_path):
    """It once stood in the population as one of the first class."""
    frame = table()
    labels = np.array(["a", "b", "c"])[RNG.integers(0, 3, N)]
    schema = tmp_path / "schema.yaml"
    schema.write_text("classes: [b, c]\n")
    path = tmp_path / "t.csv"
    frame.assign(y=labels).to_csv(path, index=False)
    _, _, dataset = whole(path, f"dataset.schema={schema}")
    for part in dataset.parts.values():
        assert [["b", "c"][label] for label in part.labels] == list(labels[part.ids])


def test_a_packed_csv_and_a_sheet_are_the_same_table(tmp_path):
    frame = table()
    plain, packed, sheet = (tmp_path / name for name in ("t.csv", "t.csv.gz", "t.xlsx"))
    frame.to_csv(plain, index=False)
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    _, _, expected = whole(plain)
    _, _, unpacked = whole(packed)
    assert unpacked.digest == expected.digest
    pytest.importorskip("openpyxl")
    frame.to_excel(sheet, index=False)
    _, _, of_sheet = whole(sheet, "dataset=excel")
    assert sorted(map(tuple, of_sheet.population.inputs.round(5).tolist())) != []
    assert of_sheet.pool.inputs.shape == expected.pool.inputs.shape
    for broken in (b"no sheet", packed.read_bytes()):
        sheet.write_bytes(broken)
        with pytest.raises(LayerError, match=r"give an .xlsx file"):
            whole(sheet, "dataset=excel")
