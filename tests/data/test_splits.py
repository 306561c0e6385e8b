"""Tests of data.splits."""

import numpy as np
import pandas as pd
import pytest
from torch import nn

from dptrain import models
from dptrain.config import compose
from dptrain.core.errors import ConfigError, LayerError
from dptrain.data import datasets, splits
from dptrain.pipeline import run
from tests.helpers.tables import SPLIT, N, loaded, table


def pool_rows(folder):
    """Rows of the file that fall into the pool."""
    return loaded(folder, table())[1].pool.ids


def test_a_cell_of_the_pool_does_not_shape_the_features(tmp_path):
    plain = table()
    before, _ = loaded(tmp_path, plain)
    wild = plain.astype(object)
    wild.loc[pool_rows(tmp_path)[0], "a"] = "90+"
    wild.loc[pool_rows(tmp_path)[1], "c"] = "never seen"
    after, dataset = loaded(tmp_path, wild)
    assert before.shape == after.shape
    assert dataset.pool.inputs[0, 0] == 0  # the mean
    assert dataset.pool.inputs[1, 2:].sum() == 0  # no category


@pytest.mark.parametrize(
    "change", ["no label", "a copy of a population row", "a copy of a pool row", "junk"]
)
def test_no_row_of_the_pool_moves_the_population(tmp_path, change):
    """Whatever one pool row holds, population and features stay, and every other row is encoded as
    before.
    """
    plain = table()
    before, whole = loaded(tmp_path, plain)
    wild = plain.astype(object)
    row = whole.pool.ids[5]
    if change == "no label":
        wild.loc[row, "y"] = None
    elif change == "junk":
        wild.loc[row] = ["??", "\u2603", 12345, "1e400"]
    else:
        wild.loc[row] = plain.loc[
            (whole.population if "population" in change else whole.pool).ids[7]
        ].to_numpy()
    after, changed = loaded(tmp_path, wild)
    assert before.preprocessing == after.preprocessing
    np.testing.assert_array_equal(whole.population.ids, changed.population.ids)
    np.testing.assert_array_equal(whole.population.inputs, changed.population.inputs)
    here, there = (
        dict(zip(part.ids.tolist(), map(tuple, part.inputs), strict=True))
        for part in (whole.pool, changed.pool)
    )
    assert len(here.keys() & there.keys()) >= 118
    assert all(here[one] == there[one] for one in here.keys() & there.keys() if one != row)


def test_a_gap_in_one_row_leaves_the_other_rows_what_they_were(tmp_path):
    """In a Parquet file it turns a column of whole numbers into one of others."""
    schema = tmp_path / "schema.yaml"
    schema.write_text("classes: [0, 1]\ncolumns: {a: [30, 40, 50, 60], c: ignore, z: number}\n")
    split = [*SPLIT, f"dataset.schema={schema}"]
    found = []
    for gap in (False, True):
        frame = table().assign(a=np.arange(N) % 4 * 10 + 30)
        if gap:
            frame.loc[3, "a"] = None
        frame.to_parquet(tmp_path / "t.parquet")
        chosen = compose.load(
            "sweep",
            ["dataset=parquet", f"dataset.path={tmp_path}/t.parquet", "dataset.target=y", *split],
        )
        found.append(splits.load(datasets.source(chosen.dataset, 0), chosen.dataset, 0))
    one, other = found
    others = one.pool.ids != 3
    np.testing.assert_array_equal(one.pool.inputs[others], other.pool.inputs[others])
    assert one.pool.inputs[:, :4].any()


def test_classes_come_from_the_population(tmp_path):
    wild = table().astype(object)
    wild.loc[pool_rows(tmp_path)[:3], "y"] = 7
    declared, dataset = loaded(tmp_path, wild)
    assert declared.classes == 2
    assert len(dataset.pool.labels) == 120
    assert dataset.pool.labels.max() == 1


def test_no_count_of_private_rows_stands_in_what_is_released(tmp_path):
    frame = table()
    texts = set()
    for copies in (0, 3, 9):  # rows that copy another
        again = pd.concat([frame, frame.iloc[:copies]])
        declared, _ = loaded(tmp_path, again)
        texts.add(declared.preprocessing)
    assert len(texts) == 1
    assert "copies another" in next(iter(texts))  # the statement owns up to it
    assert declared.notes == ("9 rows that copy another left out",)


def test_a_schema_names_columns_kinds_and_classes(tmp_path):
    schema = tmp_path / "schema.yaml"
    schema.write_text("classes: [0, 1, 2]\ncolumns: {a: [30, 40], c: ignore, z: number}\n")
    declared, _ = loaded(tmp_path, table(), f"dataset.schema={schema}")
    assert declared.classes == 3
    assert declared.shape == (4,)  # two categories, the rest, and z
    assert "by the schema and" in declared.preprocessing
    changed = schema.read_text()
    schema.write_text(changed.replace("30, 40", "30, 41"))
    assert loaded(tmp_path, table(), f"dataset.schema={schema}")[0].digest != declared.digest
    schema.write_text("classes: [no, yes]\ncolumns: {a: number}\n")
    words, _ = loaded(
        tmp_path, table(y=np.where(np.arange(N) % 2, "yes", "no")), f"dataset.schema={schema}"
    )
    assert words.classes == 2
    for text, reason in (
        ("columns: {b: number}", "there is no column 'b'"),
        ("columns: {a: text}", "must be number, category, ignore, a list"),
        ("rows: 3", "must hold `classes"),
        ("a: [", "cannot be read"),
        ("!!python/object/apply:os.system [echo]", "must hold `classes"),
        ("classes: [1]", "the classes are"),
    ):
        schema.write_text(text)
        with pytest.raises((ConfigError, LayerError), match=reason):
            loaded(tmp_path, table(), f"dataset.schema={schema}")


@pytest.mark.parametrize("who", ["NA", "none", "nan", "?", "-", "null"])
def test_ids_of_groups_are_taken_literally(tmp_path, who):
    people = [who if n < 60 else f"p{n}" for n in range(N)]
    declared, _ = loaded(
        tmp_path,
        table(who=people),
        "dataset.group=who",
        "dataset.pool=100",
        "dataset.population=80",
        "dataset.test=40",
    )
    assert declared.size == N - 59


def test_rows_without_a_group_are_refused(tmp_path):
    people = ["" if n < 3 else f"p{n}" for n in range(N)]
    with pytest.raises((ConfigError, LayerError), match=r"(dataset\.)?group: 3 rows have no who"):
        loaded(tmp_path, table(who=people), "dataset.group=who")


@pytest.mark.long
def test_whole_numbers_stay_tokens_for_a_model_that_looks_them_up(tmp_path, monkeypatch):
    def bag(shape, classes):
        class Bag(nn.Module):
            def __init__(self):
                super().__init__()
                self.table, self.out = nn.Embedding(50, 4), nn.Linear(4 * shape[0], classes)

            def forward(self, x):
                return self.out(self.table(x).flatten(1))

        return Bag()

    monkeypatch.setitem(models.MODELS, "bag", bag)
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "t.npz", inputs=rng.integers(0, 50, (300, 6)), labels=rng.integers(0, 2, 300)
    )
    overrides = [
        "dataset=npz",
        f"dataset.path={tmp_path}/t.npz",
        "model=bag",
        "name=bag",
        f"output={tmp_path}/out",
        "epsilons=[8]",
        *SPLIT,
    ]
    chosen = compose.load(
        "sweep",
        [
            *overrides,
            "models_per_setting=2",
            "training.epochs=1",
            "attacks=[loss]",
            "training.width=2",
        ],
    )
    result = run.sweep(chosen, show_progress=False)
    assert result.trained == 2
    numbers = compose.load(
        "sweep", [part if part != "model=bag" else "model=logistic" for part in overrides]
    )
    ready = run.plan(numbers)
    assert (
        splits.load(ready.source, numbers.dataset, 0, ready.tokens).pool.inputs.dtype == np.float32
    )


def test_a_group_that_is_too_coarse_is_named(tmp_path):
    with pytest.raises(
        LayerError,
        match=r"(dataset\.)?group: c has 2 different values, of each of which one row is used",
    ):
        loaded(tmp_path, table(), "dataset.group=c")


def test_ids_are_rows_of_the_users_file(tmp_path):
    path = tmp_path / "t.csv"
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"a": np.arange(300.0), "b": rng.normal(size=300), "y": np.arange(300) % 2}
    )
    # The first three stand twice, so positions shift.
    pd.concat([frame.iloc[:3], frame]).to_csv(path, index=False)
    split = [
        "dataset.pool=120",
        "dataset.population=100",
        "dataset.test=40",
        "training.batch_size=20",
    ]
    chosen = compose.load(
        "sweep", ["dataset=csv", f"dataset.path={path}", "dataset.target=y", *split]
    )
    dataset = splits.load(datasets.source(chosen.dataset, 0), chosen.dataset, 0)
    written = pd.read_csv(path)
    assert (written.loc[dataset.pool.ids, "y"].to_numpy() == dataset.pool.labels).all()
    mean, spread = (
        getattr(written.loc[dataset.population.ids, "a"], name)() for name in ("mean", "std")
    )
    expected = (written.loc[dataset.pool.ids, "a"].to_numpy() - mean) / spread
    np.testing.assert_allclose(dataset.pool.inputs[:, 0], expected, rtol=0.02, atol=1e-3)
