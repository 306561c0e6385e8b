"""Anyone's tables: handled as documented, or one line that says what to mend; never a traceback."""

import numpy as np
import pandas as pd
import pytest

from dptrain import cli
from dptrain.config import compose
from dptrain.core.errors import ConfigError, LayerError
from dptrain.data import datasets, splits

N = 200


RNG = np.random.default_rng(0)


def frame(**columns):
    """A table of N rows that can be trained on, with columns added or replaced."""
    rng = np.random.default_rng(1)
    plain = {
        "a": rng.normal(size=N),
        "b": rng.integers(0, 9, N),
        "c": rng.choice(["x", "y", "z"], N),
        "y": np.arange(N) % 2,
    }
    return pd.DataFrame(plain | columns)


def text(table, **options):
    return table.to_csv(index=False, **options).encode()


def loaded(path, *more, name="csv", target="y"):
    overrides = [
        f"dataset={name}",
        f"dataset.path={path}",
        "dataset.pool=100",
        "dataset.population=60",
        "dataset.test=20",
    ]
    if target:
        overrides.append(f"dataset.target={target}")
    chosen = compose.load("sweep", [*overrides, "training.batch_size=20", *more])
    declared = datasets.source(chosen.dataset, 0)
    return declared, splits.load(declared, chosen.dataset, 0)


GOOD = text(frame())


ROWS = GOOD.decode().splitlines()


INDEX = np.arange(N)


REFUSED = {
    "empty file": (b"", "first line is empty"),
    "only a newline": (b"\n", "first line is empty"),
    "header only": ((ROWS[0] + "\n").encode(), "no rows"),
    "one row": ("\n".join(ROWS[:2]).encode(), "same value|has 1 examples"),
    "few rows": ("\n".join(ROWS[:30]).encode(), "has 29 examples; (use such as|it is too small)"),
    "one class": (text(frame(y=1)), "same value"),
    "all labels missing": (text(frame(y=np.nan)), "no row has a value"),
    "target absent": (
        text(frame().drop(columns="y")),
        r"(dataset\.)?target: there is no column 'y'; choose from a, b, c",
    ),
    "target in another case": (text(frame().rename(columns={"y": "Y"})), "there is no column 'y'"),
    "only the target": (text(frame()[["y"]].assign(y=np.arange(N))), "no column is left"),
    "column twice": (GOOD.replace(b"a,b,", b"b,b,", 1), "the column 'b' stands more than once"),
    "unnamed twice": (GOOD.replace(b"a,b,", b",,", 1), "stands more than once"),
    "constant columns only": (
        text(
            frame()[["y"]].assign(k=1, m="same", y=np.arange(N) % 2, i=[f"id{n}" for n in range(N)])
        ),
        "no column tells",
    ),
    "latin-1": (text(frame(c=RNG.choice(["é", "ü"], N))).decode().encode("latin-1"), "not UTF-8"),
    "utf-16": (GOOD.decode().encode("utf-16"), "not UTF-8"),
    "binary": (bytes(range(256)) * 20, "not UTF-8|cannot be read"),
    "nulls": (b"\0" * 500, "first line is empty or not text"),
    "a zip": (b"PK\x03\x04" + b"\0" * 60 + b"\n\xff\xfe", "not UTF-8|not text"),
    "more fields in a row": (
        GOOD + b"1,2,3,4,5,6\n",
        "line 202 of .* has 6 cells, and the first line 4",
    ),
    "open quote": (GOOD + b'"1,2,3,4\n', "cannot be read as CSV|EOF"),
    "every label different": (
        text(
            pd.concat([frame()] * 6).assign(a=np.arange(6 * N), y=[f"l{n}" for n in range(6 * N)])
        ),
        "a label that the population does not have",
    ),
    "every label another number": (
        text(pd.concat([frame()] * 6).assign(a=np.arange(6 * N), y=np.arange(6 * N))),
        "different numbers on the population alone",
    ),
    "all rows alike": (text(frame(a=1, b=1, c="x", y=INDEX % 2)), "has 2 examples"),
    "html": (b"<!DOCTYPE html>\n<html><body>404</body></html>\n", "there is no column 'y'"),
    "json": (b'{"y": 1,\n"a": 2}\n', "there is no column"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name, tmp_path, capsys):
    content, message = REFUSED[name]
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    with pytest.raises((ConfigError, LayerError), match=message):
        loaded(path)
    sizes = [
        "dataset.pool=100",
        "dataset.population=60",
        "dataset.test=20",
        "training.batch_size=20",
    ]
    assert (
        cli.main(
            [
                "sweep",
                "dataset=csv",
                f"dataset.path={path}",
                "dataset.target=y",
                *sizes,
                f"output={tmp_path / 'out'}",
            ]
        )
        == 2
    )
    told = capsys.readouterr()
    assert told.err.startswith("dptrain: error: dataset.")
    assert told.err.count("\n") == 1


def gaps(column, every=7):
    return [None if n % every == 0 else value for n, value in enumerate(column)]


plain = frame()


HANDLED = {
    "plain": (GOOD, 5, 2),
    "byte order mark": (b"\xef\xbb\xbf" + GOOD, 5, 2),
    "windows line ends": (GOOD.replace(b"\n", b"\r\n"), 5, 2),
    "old mac line ends": (GOOD.replace(b"\n", b"\r"), 5, 2),
    "no newline at the end": (GOOD.rstrip(), 5, 2),
    "empty lines": (GOOD.replace(b"\n", b"\n\n", 3), 5, 2),
    "semicolons": (text(plain, sep=";"), 5, 2),
    "tabs": (text(plain, sep="\t"), 5, 2),
    "pipes": (text(plain, sep="|"), 5, 2),
    "spaces after commas": (GOOD.replace(b",", b", "), 5, 2),
    "all quoted": (text(plain, quoting=1), 5, 2),
    "commas in quotes": (text(frame(c=RNG.choice(["p, q", "r"], N))), 4, 2),
    "newlines in quotes": (text(frame(c=RNG.choice(["p\nq", "r"], N))), 4, 2),
    "text labels": (text(frame(y=np.where(INDEX % 2, "yes", "no"))), 5, 2),
    "a class called none": (text(frame(y=np.where(INDEX % 2, "none", "mild"))), 5, 2),
    "boolean labels": (text(frame(y=INDEX % 2 == 0)), 5, 2),
    "labels of 1 and 2": (text(frame(y=INDEX % 2 + 1)), 5, 2),
    "negative labels": (text(frame(y=INDEX % 2 * 2 - 1)), 5, 2),
    "float labels": (text(frame(y=INDEX % 2 + 0.5)), 5, 2),
    "mixed labels": (text(frame(y=[1 if n % 2 else "one" for n in range(N)])), 5, 2),
    "labels with spaces": (text(frame(y=[" a" if n % 2 else "b " for n in range(N)])), 5, 2),
    "three classes, one rare": (
        text(frame(y=[2 if n % 9 == 5 else n % 2 for n in range(N)])),
        5,
        3,
    ),
    "some labels missing": (text(frame(y=gaps(INDEX % 2, 21))), 5, 2),
    "missing numbers": (text(frame(a=gaps(plain.a))), 6, 2),
    "question marks": (text(frame(a=gaps(plain.a)), na_rep="?"), 6, 2),
    "dashes for numbers": (text(frame(a=gaps(plain.a)), na_rep="-"), 6, 2),
    "question marks and spaces": (text(frame(a=gaps(plain.a)), na_rep="? "), 6, 2),
    "missing categories": (text(frame(c=gaps(plain.c, 3))), 6, 2),
    "a column all missing": (text(frame(k=None)), 5, 2),
    "a constant column": (text(frame(k=3)), 5, 2),
    "a constant text": (text(frame(k="k")), 5, 2),
    "an identifier": (text(frame(k=[f"id{n:04}" for n in range(N)])), 5, 2),
    "dates": (text(frame(k=pd.date_range("2020-01-01", periods=N).astype(str))), 5, 2),
    "few dates": (text(frame(k=RNG.choice(["2020-01-01", "2021-01-01"], N))), 7, 2),
    "mixed numbers and text": (text(frame(k=[n % 3 if n % 2 else "t" for n in range(N)])), 9, 2),
    "infinite numbers": (text(frame(k=[np.inf if n % 2 else 1.0 for n in range(N)])), 7, 2),
    "huge numbers": (text(frame(k=RNG.normal(size=N) * 1e300)), 5, 2),
    "tiny numbers": (text(frame(k=RNG.normal(size=N) * 1e-300)), 5, 2),
    "large numbers": (text(frame(k=RNG.normal(size=N) * 1e30)), 6, 2),
    "numbers with thousands separators": (
        text(frame(k=[f"{n % 2 + 1},000" for n in range(N)])),
        7,
        2,
    ),
    "booleans": (text(frame(k=RNG.random(N) < 0.5)), 7, 2),
    "rows that repeat": (text(pd.concat([plain, plain[:50]])), 5, 2),
    "unicode": (text(frame(c=RNG.choice(["日本", "naïve", "🙂"], N))), 5, 2),
    "odd names": (text(plain.rename(columns={"a": "a b", "b": "100%"})), 5, 2),
    "many columns": (
        text(
            pd.concat(
                [
                    plain,
                    pd.DataFrame(RNG.normal(size=(N, 500)), columns=[f"k{n}" for n in range(500)]),
                ],
                axis=1,
            )
        ),
        505,
        2,
    ),
    "fewer fields in a row": (GOOD + b"1,2\n", 5, 2),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.long if "many" in name else ()) for name in HANDLED],
)
def test_handled_as_documented(name, tmp_path):
    content, columns, classes = HANDLED[name]
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    declared, dataset = loaded(path)
    assert (declared.shape, declared.classes) == ((columns,), classes)
    assert [len(part.labels) for part in (dataset.pool, dataset.population, dataset.test)] == [
        100,
        60,
        20,
    ]
    for part in (dataset.pool, dataset.population, dataset.test):
        assert part.inputs.dtype == np.float32
        assert np.isfinite(part.inputs).all()
        assert np.abs(part.inputs).max() <= 5
        assert part.labels.min() >= 0
        assert part.labels.max() < classes


def test_what_is_fitted_is_fitted_on_the_population(tmp_path):
    """Whatever the pool and the test set hold, the population comes out the same."""
    path = tmp_path / "t.csv"
    path.write_bytes(GOOD)
    _, before = loaded(path)
    population = before.population.ids
    wild = frame()
    others = np.setdiff1d(np.arange(N), population)
    wild.loc[others, "a"] = 1000.0 + np.arange(len(others))
    wild.loc[others, "c"] = "never seen"
    path.write_bytes(text(wild))
    _, after = loaded(path)
    np.testing.assert_array_equal(before.population.inputs, after.population.inputs)
    assert before.population.inputs[:, :2].mean(0) == pytest.approx([0, 0], abs=1e-6)
    assert before.population.inputs[:, :2].std(0) == pytest.approx([1, 1], abs=1e-5)


def test_a_group_is_the_unit_and_has_one_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(text(pd.concat([frame(who=INDEX), frame(a=0.5, who=INDEX)])))
    declared, dataset = loaded(path, "dataset.group=who")
    assert declared.size == N
    assert declared.unit == "one who (a group, of which one row is kept)"
    assert declared.notes == ("200 rows left out, so that each who has one",)
    assert dataset.pool.inputs.shape[1] == 5
    for key, value in (("group", "y"), ("group", "none")):
        with pytest.raises((ConfigError, LayerError), match=r"group"):
            loaded(path, f"dataset.{key}={value}")


def test_copies_are_told(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(text(pd.concat([plain, plain.assign(y=1 - plain.y)])))
    _, dataset = loaded(path)
    assert dataset.copies > 0  # the same inputs under another label


def test_no_header(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(text(plain, header=False))
    assert loaded(path, "dataset.header=false", target="c3")[0].shape == (5,)


def test_a_hundred_thousand_categories(tmp_path):
    path = tmp_path / "t.csv"
    rows = 100_000
    table = pd.DataFrame(
        {
            "k": [f"v{n}" for n in range(rows)],
            "m": [f"w{n % 300}" for n in range(rows)],
            "y": np.arange(rows) % 2,
        }
    )
    path.write_bytes(text(table))
    declared, _ = loaded(path, "dataset.population=20000")
    assert declared.shape == (101,)  # a hundred categories of m, and the rest
    assert "left out, since many rows have a value of their own there: k" in declared.preprocessing


def test_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    table = frame(
        when=pd.date_range("2020-01-01", periods=N),
        kind=pd.Categorical(RNG.choice(["p", "q"], N)),
        flag=RNG.random(N) < 0.5,
    )
    table.to_parquet(path)
    declared, dataset = loaded(path, name="parquet")
    assert declared.shape == (8,)  # the date is left out; the flag is a number
    assert np.isfinite(dataset.pool.inputs).all()
    path.write_bytes(GOOD)
    with pytest.raises((ConfigError, LayerError), match="give a Parquet file"):
        loaded(path, name="parquet")
    pd.DataFrame({"k": [[1], [2]] * 50, "y": [0, 1] * 50}).to_parquet(path)
    with pytest.raises((ConfigError, LayerError), match="lists or records"):
        loaded(path, name="parquet")


def test_no_file(tmp_path):
    for path in (tmp_path, tmp_path / "none.csv"):
        with pytest.raises((ConfigError, LayerError), match="there is no file"):
            loaded(path)
    with pytest.raises((ConfigError, LayerError), match=r"give path=FILE\.csv target=COLUMN"):
        loaded("null")
    path = tmp_path / "t.csv"
    path.write_bytes(GOOD)
    with pytest.raises(
        (ConfigError, LayerError), match="give the column to predict, one of a, b, c, y"
    ):
        loaded(path, target=None)
