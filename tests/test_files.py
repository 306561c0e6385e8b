"""Files, faults and inputs with which a hostile reader once broke a run. The number is that of the finding."""

import gzip
import io
import os
import time
import zipfile

import numpy as np
import pandas as pd
import pytest
from torch import nn

from dptrain import config, data, datasets, images, models
from dptrain.types import ConfigError

N = 300
SPLIT = ("dataset.pool=120", "dataset.population=100", "dataset.test=40", "training.batch_size=20")


def table(**columns):
    rng = np.random.default_rng(1)
    plain = {"a": rng.integers(20, 90, N), "c": rng.choice(["x", "y"], N), "y": rng.integers(0, 2, N), "z": rng.normal(size=N)}
    return pd.DataFrame(plain | columns)


def loaded(folder, frame, *more, tokens=False):
    path = folder / "t.csv"
    path.write_text(frame if isinstance(frame, str) else frame.to_csv(index=False))
    chosen = config.load("sweep", ["dataset=csv", f"dataset.path={path}", "dataset.target=y", *SPLIT, *more])
    declared = datasets.source(chosen.dataset, 0)
    return declared, data.load(declared, chosen.dataset, 0, **({"tokens": True} if tokens else {}))


def pool_rows():
    """Rows of the file that fall into the pool."""
    chosen = config.load("sweep", ["dataset=csv", *SPLIT])
    return data.parts(chosen.dataset, 0, N)[0]


def test_03_a_cell_of_the_pool_does_not_shape_the_features(tmp_path):
    plain = table()
    before, _ = loaded(tmp_path, plain)
    wild = plain.astype(object)
    wild.loc[pool_rows()[0], "a"] = "90+"
    wild.loc[pool_rows()[1], "c"] = "never seen"
    after, dataset = loaded(tmp_path, wild)
    assert before.shape == after.shape
    assert dataset.pool.inputs[0, 0] == 0  # the mean
    assert dataset.pool.inputs[1, 1:3].sum() == 0  # no category


def test_03_classes_come_from_the_population(tmp_path):
    wild = table().astype(object)
    wild.loc[pool_rows()[:3], "y"] = 7
    declared, dataset = loaded(tmp_path, wild)
    assert declared.classes == 2
    assert len(dataset.pool.labels) == 120
    assert dataset.pool.labels.max() == 1


def test_03_no_count_of_private_rows_stands_in_what_is_released(tmp_path):
    frame = table()
    texts = set()
    for copies in (0, 3, 9):  # rows that copy another
        again = pd.concat([frame, frame.iloc[:copies]])
        declared, _ = loaded(tmp_path, again)
        texts.add(declared.preprocessing)
    assert len(texts) == 1
    assert "copies another" in next(iter(texts))  # the statement owns up to it
    assert declared.notes == ("9 rows that copy another left out",)


def test_03_a_schema_names_columns_kinds_and_classes(tmp_path):
    schema = tmp_path / "schema.yaml"
    schema.write_text("classes: [0, 1, 2]\ncolumns: {a: [30, 40], c: ignore, z: number}\n")
    declared, _ = loaded(tmp_path, table(), f"dataset.schema={schema}")
    assert declared.classes == 3
    assert declared.shape == (4,)  # two categories, the rest, and z
    assert "dataset.schema" in declared.preprocessing
    for text, reason in (
        ("columns: {b: number}", "there is no column 'b'"),
        ("columns: {a: text}", "must be number, ignore or a list"),
        ("rows: 3", "must hold `classes"),
        ("a: [", "cannot be read"),
        ("!!python/object/apply:os.system [echo]", "cannot be read"),
        ("classes: [1]", "the classes are"),
    ):
        schema.write_text(text)
        with pytest.raises(ConfigError, match=reason):
            loaded(tmp_path, table(), f"dataset.schema={schema}")


@pytest.mark.parametrize("who", ["NA", "none", "nan", "?", "-", "null"])
def test_04_ids_of_groups_are_taken_literally(tmp_path, who):
    people = [who if n < 60 else f"p{n}" for n in range(N)]
    declared, _ = loaded(tmp_path, table(who=people), "dataset.group=who", "dataset.pool=100", "dataset.population=80", "dataset.test=40")
    assert declared.size == N - 59


def test_04_rows_without_a_group_are_refused(tmp_path):
    people = ["" if n < 3 else f"p{n}" for n in range(N)]
    with pytest.raises(ConfigError, match=r"dataset\.group: 3 rows have no who"):
        loaded(tmp_path, table(who=people), "dataset.group=who")


def test_20_a_row_with_more_cells_than_the_header_is_refused(tmp_path):
    lines = table().to_csv(index=False).splitlines()
    shifted = "\n".join([lines[0], *(f"{number},{line}" for number, line in enumerate(lines[1:]))])
    with pytest.raises(ConfigError, match=r"line 2 of .* has 5 cells, and the first line 4"):
        loaded(tmp_path, shifted)


def refused_within(seconds, reason, call):
    start = time.monotonic()
    with pytest.raises(ConfigError, match=reason):
        call()
    assert time.monotonic() - start < seconds


def test_24_wide_tables_end(tmp_path):
    header = ",".join(f"c{n}" for n in range(100_000)) + ",y\n"
    refused_within(10, "there may be 10,000", lambda: loaded(tmp_path, header + "1,2\n"))
    refused_within(10, "longer than", lambda: loaded(tmp_path, "c" * 20_000_000 + ",y\n"))
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.integers(0, 9, (N, 3000)), columns=[f"k{n}" for n in range(3000)]).assign(y=np.arange(N) % 2)
    start = time.monotonic()
    declared, _ = loaded(tmp_path, wide)
    assert declared.shape == (3000,)
    assert time.monotonic() - start < 20


def npz(path, **arrays):
    np.savez(path, **arrays)
    return lambda: datasets.source(config.load("sweep", ["dataset=npz", f"dataset.path={path}"]).dataset, 0)


def test_24_bombs_are_refused_before_memory_is_taken(tmp_path):
    refused_within(5, "a label is 10,000,000", npz(tmp_path / "a.npz", inputs=np.zeros((4, 2)), labels=np.array([0, 1, 0, 10**7])))
    bomb = tmp_path / "b.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 8)})
        archive.writestr("inputs.npy", header.getvalue() + bytes(800))
    refused_within(
        5,
        "does not fit its bytes|half of this machine",
        lambda: datasets.source(config.load("sweep", ["dataset=npz", f"dataset.path={bomb}"]).dataset, 0),
    )
    for name in ("train", "t10k"):
        head = bytes([0, 0, 8, 3]) + b"".join(int(d).to_bytes(4, "big") for d in (10, 4, 4))
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + bytes(200_000_000), 1))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 10]) + bytes(10)))
    refused_within(5, "more than the 176 bytes", lambda: images.idx_parts(tmp_path))


def test_24_a_pipe_is_no_file(tmp_path):
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    source = ["dataset=npz", f"dataset.path={pipe}"]
    refused_within(5, "no regular file", lambda: datasets.source(config.load("sweep", source).dataset, 0))


@pytest.mark.parametrize("override", ["dataset.population=9223372036854775807", "models_per_setting=100000", "dataset.pool=10000000000"])
def test_24_numbers_without_end_are_refused_at_once(override):
    refused_within(5, r"(must lie in 1\.\.|must be at most)", lambda: config.load("sweep", [override]))


def test_30_whole_numbers_stay_tokens_for_a_model_that_looks_them_up(tmp_path, monkeypatch):
    from dptrain import pipeline

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
    np.savez(tmp_path / "t.npz", inputs=rng.integers(0, 50, (300, 6)), labels=rng.integers(0, 2, 300))
    overrides = ["dataset=npz", f"dataset.path={tmp_path}/t.npz", "model=bag", "name=bag", f"output={tmp_path}/out", "epsilons=[8]", *SPLIT]
    chosen = config.load("sweep", [*overrides, "models_per_setting=2", "training.epochs=1", "attacks=[loss]", "training.width=2"])
    result = pipeline.sweep(chosen, show_progress=False)
    assert result.trained == 2
    numbers = config.load("sweep", [part if part != "model=bag" else "model=logistic" for part in overrides])
    ready = pipeline.plan(numbers)
    assert data.load(ready.source, numbers.dataset, 0, ready.tokens).pool.inputs.dtype == np.float32


def test_30_a_group_that_is_too_coarse_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"dataset\.group: c has 2 different values, of each of which one row is used"):
        loaded(tmp_path, table(), "dataset.group=c")
