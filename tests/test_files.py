"""Files, faults and inputs with which a hostile reader once broke a run. The number is that of the finding."""

import errno
import fcntl
import gzip
import io
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from torch import nn

from dptrain import (
    accounting,
    api,
    cli,
    config,
    data,
    datasets,
    guard,
    images,
    limits,
    models,
    opinions,
    outputs,
    pipeline,
    store,
    tensorboard,
)
from dptrain.executor import WorkerDied
from dptrain.types import ConfigError, Mechanism, Sampling

ROOT = Path(__file__).parent.parent
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


def pool_rows(folder):
    """Rows of the file that fall into the pool."""
    return loaded(folder, table())[1].pool.ids


def test_03_a_cell_of_the_pool_does_not_shape_the_features(tmp_path):
    plain = table()
    before, _ = loaded(tmp_path, plain)
    wild = plain.astype(object)
    wild.loc[pool_rows(tmp_path)[0], "a"] = "90+"
    wild.loc[pool_rows(tmp_path)[1], "c"] = "never seen"
    after, dataset = loaded(tmp_path, wild)
    assert before.shape == after.shape
    assert dataset.pool.inputs[0, 0] == 0  # the mean
    assert dataset.pool.inputs[1, 1:3].sum() == 0  # no category


@pytest.mark.parametrize("change", ["no label", "a copy of a population row", "a copy of a pool row", "junk"])
def test_03_no_row_of_the_pool_moves_the_population(tmp_path, change):
    """Whatever one pool row holds, population and features stay, and every other row is encoded as before."""
    plain = table()
    before, whole = loaded(tmp_path, plain)
    wild = plain.astype(object)
    row = whole.pool.ids[5]
    if change == "no label":
        wild.loc[row, "y"] = None
    elif change == "junk":
        wild.loc[row] = ["??", "\u2603", 12345, "1e400"]
    else:
        wild.loc[row] = plain.loc[(whole.population if "population" in change else whole.pool).ids[7]].to_numpy()
    after, changed = loaded(tmp_path, wild)
    assert before.preprocessing == after.preprocessing
    np.testing.assert_array_equal(whole.population.ids, changed.population.ids)
    np.testing.assert_array_equal(whole.population.inputs, changed.population.inputs)
    here, there = (dict(zip(part.ids.tolist(), map(tuple, part.inputs), strict=True)) for part in (whole.pool, changed.pool))
    assert len(here.keys() & there.keys()) >= 118
    assert all(here[one] == there[one] for one in here.keys() & there.keys() if one != row)


def test_03_a_gap_in_one_row_leaves_the_other_rows_what_they_were(tmp_path):
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
        chosen = config.load("sweep", ["dataset=parquet", f"dataset.path={tmp_path}/t.parquet", "dataset.target=y", *split])
        found.append(data.load(datasets.source(chosen.dataset, 0), chosen.dataset, 0))
    one, other = found
    others = one.pool.ids != 3
    np.testing.assert_array_equal(one.pool.inputs[others], other.pool.inputs[others])
    assert one.pool.inputs[:, :4].any()


def test_03_classes_come_from_the_population(tmp_path):
    wild = table().astype(object)
    wild.loc[pool_rows(tmp_path)[:3], "y"] = 7
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
    changed = schema.read_text()
    schema.write_text(changed.replace("30, 40", "30, 41"))
    assert loaded(tmp_path, table(), f"dataset.schema={schema}")[0].digest != declared.digest
    schema.write_text("classes: [no, yes]\ncolumns: {a: number}\n")
    words, _ = loaded(tmp_path, table(y=np.where(np.arange(N) % 2, "yes", "no")), f"dataset.schema={schema}")
    assert words.classes == 2
    for text, reason in (
        ("columns: {b: number}", "there is no column 'b'"),
        ("columns: {a: text}", "must be number, ignore or a list"),
        ("rows: 3", "must hold `classes"),
        ("a: [", "cannot be read"),
        ("!!python/object/apply:os.system [echo]", "must hold `classes"),
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
    refused_within(60, "there may be 10,000", lambda: loaded(tmp_path, header + "1,2\n"))
    refused_within(60, "longer than", lambda: loaded(tmp_path, "c" * 20_000_000 + ",y\n"))
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(rng.integers(0, 9, (N, 3000)), columns=[f"k{n}" for n in range(3000)]).assign(y=np.arange(N) % 2)
    start = time.monotonic()
    declared, _ = loaded(tmp_path, wide)
    assert declared.shape == (3000,)
    assert time.monotonic() - start < 120


def npz(path, **arrays):
    np.savez(path, **arrays)
    return lambda: datasets.source(config.load("sweep", ["dataset=npz", f"dataset.path={path}"]).dataset, 0)


def test_24_bombs_are_refused_before_memory_is_taken(tmp_path):
    refused_within(60, "a label is 10,000,000", npz(tmp_path / "a.npz", inputs=np.zeros((4, 2)), labels=np.array([0, 1, 0, 10**7])))
    bomb = tmp_path / "b.npz"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 8)})
        archive.writestr("inputs.npy", header.getvalue() + bytes(800))
    refused_within(
        60,
        "does not fit its bytes|half of this machine",
        lambda: datasets.source(config.load("sweep", ["dataset=npz", f"dataset.path={bomb}"]).dataset, 0),
    )
    for name in ("train", "t10k"):
        head = bytes([0, 0, 8, 3]) + b"".join(int(d).to_bytes(4, "big") for d in (10, 4, 4))
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + bytes(200_000_000), 1))
        (tmp_path / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 10]) + bytes(10)))
    refused_within(60, "more than the 176 bytes", lambda: images.idx_parts(tmp_path))


def test_24_a_pipe_is_no_file(tmp_path):
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    source = ["dataset=npz", f"dataset.path={pipe}"]
    refused_within(60, "no regular file", lambda: datasets.source(config.load("sweep", source).dataset, 0))


@pytest.mark.parametrize("override", ["dataset.population=9223372036854775807", "models_per_setting=100000", "dataset.pool=10000000000"])
def test_24_numbers_without_end_are_refused_at_once(override):
    refused_within(60, r"(must lie in 1\.\.|must be at most)", lambda: config.load("sweep", [override]))


def test_30_whole_numbers_stay_tokens_for_a_model_that_looks_them_up(tmp_path, monkeypatch):
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


SMALL = [
    *("name=small", "dataset=digits", "dataset.pool=100", "dataset.population=60", "dataset.test=60", "training.batch_size=20"),
    *("training.epochs=1", "training.width=2", "training.workers=1", "models_per_setting=2", "attacks=[loss]", "epsilons=[8]"),
]


def go(folder, *overrides):
    return pipeline.sweep(config.load("sweep", [*SMALL, *overrides, f"output={folder}"]), show_progress=False)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("dptrain.opinions.prv_epsilon", lambda *_: 1.0)


def slow_work(folder, place):
    def work(job, emit, stop):
        (folder / "started").touch()
        time.sleep(job)
        (folder / "written").touch()

    return work


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_21_a_worker_whose_parent_was_killed_writes_nothing(tmp_path):
    code = (
        "import functools, pathlib, sys\n"
        "from tests.test_files import slow_work\n"
        "from dptrain import executor, guard\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "with guard.only_writer(folder):\n"
        "    places = [executor.Place('cpu', 1)] * 2\n"
        "    executor.run([4, 4], functools.partial(slow_work, folder), places, print, lambda: False, folder)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    for _ in range(600):
        if (tmp_path / "started").exists():
            break
        time.sleep(0.1)
    with pytest.raises(ConfigError, match="another dptrain is at work"), guard.only_writer(tmp_path):
        pass
    parent.kill()
    parent.wait()
    time.sleep(5)
    assert not (tmp_path / "written").exists()
    with guard.only_writer(tmp_path):
        pass


def test_21_a_folder_is_not_held_while_a_worker_of_an_earlier_run_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "ORPHAN_SECONDS", 0.3)
    with guard.only_writer(tmp_path):
        pass
    worker = os.open(tmp_path / guard.WORKERS, os.O_RDWR)
    fcntl.flock(worker, fcntl.LOCK_SH)
    with pytest.raises(ConfigError, match="workers of a dptrain that was killed are still at work"), guard.only_writer(tmp_path):
        pass
    os.close(worker)
    with guard.only_writer(tmp_path):
        pass


def damages(data, rng, count):
    """Altered copies of a file: cut, with bits changed, with digits changed, with a part twice, empty."""
    for number in range(count):
        kind = number % 6
        spot = int(rng.integers(1, max(2, len(data) - 1)))
        if kind == 0:
            yield data[:spot]
        elif kind == 1:
            yield data[:spot] + bytes([data[spot] ^ (1 << int(rng.integers(8)))]) + data[spot + 1 :]
        elif kind == 2:  # another digit in a number: JSON as before
            digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
            if not digits:
                yield b""
                continue
            place = digits[int(rng.integers(len(digits)))]
            yield data[:place] + bytes([48 + (data[place] - 48 + 1 + int(rng.integers(9))) % 10]) + data[place + 1 :]
        elif kind == 3:
            yield data[:spot] + data[spot // 2 :]
        elif kind == 4:
            yield bytes(len(data))
        else:
            yield data[:spot] + b"\xff\x00NaN" + data[spot:]


def same(one, other):
    return [row.to_json() for row in one.rows] == [row.to_json() for row in other.rows]


def test_22_no_damaged_file_is_printed_as_a_result(tmp_path, quick):
    """300 damaged files of a finished run: each is answered, mended from what is whole, or changes nothing. None changes a number in silence."""
    whole = go(tmp_path / "run")
    files = sorted(
        path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.name not in (guard.LOCK, guard.WORKERS, ".dptrain")
    )
    rng, ready = np.random.default_rng(0), pipeline.plan(config.load("sweep", [*SMALL, f"output={tmp_path / 'run'}"]))
    counts, tried = {"answered": 0, "mended": 0}, 0
    for number in range(300):
        path = files[number % len(files)]
        if not path.exists():
            continue
        before = path.read_bytes()
        damaged = list(damages(before, rng, 1 + number % 6))[-1]
        if damaged == before:
            continue
        tried += 1
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(tmp_path / "run", copy)
        (copy / path.relative_to(tmp_path / "run")).write_bytes(damaged)
        try:
            found = outputs.read_result(copy, ready)
        except ConfigError:
            counts["answered"] += 1
            continue
        if found is None:
            counts["mended"] += 1
            continue
        assert same(found, whole), path  # a file that no result is read from
        assert "store" in path.parts, path
    assert tried >= 100
    assert counts["answered"] + counts["mended"] > tried / 4


def test_22_a_damaged_report_or_table_is_written_anew(tmp_path, quick):
    whole = go(tmp_path)
    for name in outputs.OUTPUTS:
        path = tmp_path / name
        path = next(item for item in sorted(path.rglob("events*"))) if path.is_dir() else path
        good = path.read_bytes()
        path.write_bytes(good[: len(good) // 2])
        again = go(tmp_path)
        assert (again.trained, same(again, whole)) == (0, True)
        assert not path.exists() or path.read_bytes() != good[: len(good) // 2]
        assert outputs.read_result(tmp_path, pipeline.plan(config.load("sweep", [*SMALL, f"output={tmp_path}"])))


@pytest.mark.parametrize(
    "text", ['{"rows": [], "checksum": "0"}', '{"rows": [{"estimate": NaN}]}', "[" * 100_000, '{"rows": [{"estimate": 1e999}]}']
)
def test_25_advice_takes_no_damaged_file(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ConfigError, match=r"run: .* was altered"):
        api.advise(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS, errno.EMFILE])
def test_23_faults_of_the_machine_are_one_line_and_exit_code_3(tmp_path, quick, monkeypatch, capsys, code):
    def fails(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(store, "_write_synced", fails)
    assert cli.main(["sweep", *SMALL, f"output={tmp_path}"]) == 3
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dptrain: ")]
    assert len(told) == 1
    assert os.strerror(code) in told[0]
    assert "the same command goes on" in told[0]


def test_23_a_worker_that_dies_is_one_line(tmp_path, quick, monkeypatch, capsys):
    def dies(*_, **__):
        raise WorkerDied("a worker died with exit code -9")

    monkeypatch.setattr(pipeline, "run_jobs", dies)
    assert cli.main(["sweep", *SMALL, f"output={tmp_path}"]) == 3
    assert "dptrain: stopped: a worker died with exit code -9. What was finished is kept" in capsys.readouterr().err


def test_25_second_opinions_run_nothing_of_the_working_folder(tmp_path, monkeypatch):
    for name in ("json", "opacus", "math"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise SystemExit\n")
    monkeypatch.chdir(tmp_path)
    ran = Mechanism(Sampling.POISSON, 10, 100, 20, 1.0, 1.0, 10)
    assert opinions.prv_epsilon(ran, 1e-5) == pytest.approx(accounting.epsilon(ran, 1e-5), abs=0.05)
    assert not (tmp_path / "ran").exists()


def test_25_a_plug_in_that_fails_at_import_stops_nobody_else(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('no such library')\n")
    info = tmp_path / "broken_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    groups = "".join(f"[dptrain.{kind}]\nbroken = broken_plugin:thing\n" for kind in ("models", "datasets", "attacks"))
    (info / "entry_points.txt").write_text(groups)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.main(["list"]) == 0
    assert "broken             of the package broken-plugin" in capsys.readouterr().out
    assert config.load("sweep", ["model=logistic", "attacks=[loss]"]).attacks
    pipeline.plan(config.load("sweep", SMALL))
    for override in ("model=broken", "dataset=broken", "attacks=[broken]"):
        with pytest.raises(ConfigError, match=r"broken-plugin, which adds 'broken' .* fails at import"):
            pipeline.plan(config.load("sweep", [part for part in SMALL if part.split("=")[0] != override.split("=")[0]] + [override]))


def test_25_a_lock_that_is_a_link_leads_nowhere(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(precious)
    with pytest.raises(ConfigError, match="cannot write"), guard.only_writer(tmp_path / "run"):
        pass
    assert precious.read_text() == "kept"


def test_25_temporaries_of_a_killed_run_are_removed(tmp_path, quick):
    tmp_path.joinpath(".metrics.json.0123456789abcdef.tmp").write_text("half")
    go(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_25_column_names_reach_no_terminal_and_no_page_as_they_are(tmp_path, capsys):
    frame = table().rename(columns={"a": "\x1b[2J\x07evil"})
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, frame)
    assert "\x1b" not in str(error.value)
    assert "\\x1b[2J" in str(error.value)
    assert cli.main(["sweep", "dataset.path=\x1b[2J"]) == 2
    assert "\x1b" not in capsys.readouterr().err
    assert tensorboard._plain("![x](http://there/pixel.png) <img src=x>") == r"\!\[x\]\(http://there/pixel.png\) \<img src=x\>"


@pytest.mark.parametrize(
    "arguments",
    [
        ["experiment=../../etc/passwd"],
        ["dataset=../../x"],
        ["defences=[../none]"],
        ["attacks=[../../loss]"],
        ["epsilons=" + "[" * 5000],
        ["model.hidden=" + "{a:" * 2000],
        ["name=\udcff"],
        ["epsilons=[8", "name=]["],
        ["--multirun", "seed=0,1"],
    ],
)
def test_25_hostile_arguments_are_one_line(arguments, capsys):
    assert cli.main(["sweep", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("dptrain: error: ")
    assert told.count("\n") == 1
    assert len(told) < 7000


def test_24_what_a_run_takes_is_said_and_checked_before_it_starts(tmp_path, quick, monkeypatch, capfd):
    measured = [part for part in SMALL if not part.startswith("training.width")]
    pipeline.sweep(config.load("sweep", [*measured, f"output={tmp_path / 'one'}"]))
    assert re.search(r"2 models to train, .*; about [\d,]+ s, [\d,]+ MiB on disk", capfd.readouterr().err)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10_000))
    with pytest.raises(ConfigError, match="GiB are free at"):
        go(tmp_path / "other")
    monkeypatch.setattr(limits, "memory", lambda: 10_000)
    with pytest.raises(ConfigError, match="half of this machine's memory"):
        go(tmp_path / "third")
