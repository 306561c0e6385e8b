"""Tests of pipeline.outputs."""

import dataclasses
import html
import itertools
import json
import math
import shutil

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dptrain import cli
from dptrain.config import compose
from dptrain.core import guard
from dptrain.core.errors import ConfigError, LayerError
from dptrain.core.store import Store, from_npy, unseal
from dptrain.evaluation.rows import TEST_ACCURACY
from dptrain.evaluation.utility import CONSTANT
from dptrain.evaluation.vulnerability import standing_out
from dptrain.pipeline import outputs, run, training
from dptrain.pipeline.outputs import OUTPUTS
from dptrain.report.charts.figures import PANELS
from dptrain.report.charts.tensorboard import COVERED, UNCOVERED
from dptrain.report.exports.files import export
from dptrain.report.reading import reading
from dptrain.report.statement import sentences
from dptrain.report.tables import summary
from tests.common import TINY, strict_json
from tests.fleets import COLUMNS
from tests.helpers.sweep import go, parameters
from tests.helpers.tables import DIGITS, digits_sweep


def damages(data, rng, count):
    """Altered copies of a file: cut, with bits changed, with digits changed, with a part twice,
    empty.
    """
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
            yield (
                data[:place]
                + bytes([48 + (data[place] - 48 + 1 + int(rng.integers(9))) % 10])
                + data[place + 1 :]
            )
        elif kind == 3:
            yield data[:spot] + data[spot // 2 :]
        elif kind == 4:
            yield bytes(len(data))
        else:
            yield data[:spot] + b"\xff\x00NaN" + data[spot:]


def same(one, other):
    return [row.to_json() for row in one.rows] == [row.to_json() for row in other.rows]


@pytest.mark.long
def test_no_damaged_file_is_printed_as_a_result(tmp_path):
    """300 damaged files of a finished run: each is answered, mended from what is whole, or changes
    nothing. None changes a number in silence.
    """
    whole = digits_sweep(tmp_path / "run")
    files = sorted(
        path
        for path in (tmp_path / "run").rglob("*")
        if path.is_file() and path.name not in (guard.LOCK, guard.WORKERS, ".dptrain")
    )
    rng, ready = (
        np.random.default_rng(0),
        run.plan(compose.load("sweep", [*DIGITS, f"output={tmp_path / 'run'}"])),
    )
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
        except LayerError:
            counts["answered"] += 1
            continue
        if found is None:
            counts["mended"] += 1
            continue
        assert same(found, whole), path  # a file that no result is read from
        assert "store" in path.parts, path
    assert tried >= 100
    assert counts["answered"] + counts["mended"] > tried / 4


@pytest.mark.long
def test_a_damaged_report_or_table_is_written_anew(tmp_path):
    whole = digits_sweep(tmp_path)
    for name in outputs.OUTPUTS:
        path = tmp_path / name
        path = next(item for item in sorted(path.rglob("events*"))) if path.is_dir() else path
        good = path.read_bytes()
        path.write_bytes(good[: len(good) // 2])
        again = digits_sweep(tmp_path)
        assert (again.trained, same(again, whole)) == (0, True)
        assert not path.exists() or path.read_bytes() != good[: len(good) // 2]
        assert outputs.read_result(
            tmp_path, run.plan(compose.load("sweep", [*DIGITS, f"output={tmp_path}"]))
        )


def test_temporaries_of_a_killed_run_are_removed(tmp_path):
    tmp_path.joinpath(".metrics.json.0123456789abcdef.tmp").write_text("half")
    digits_sweep(tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_the_last_result_stays_until_there_is_a_new_one(tmp_path, monkeypatch):
    overrides = [*DIGITS, f"output={tmp_path}"]
    run.sweep(compose.load("sweep", overrides), show_progress=False)
    before = (tmp_path / "metrics.json").read_bytes()

    def stops(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "execute", stops)
    with pytest.raises(KeyboardInterrupt):
        run.sweep(compose.load("sweep", [*overrides, "training.epochs=2"]), show_progress=False)
    assert (tmp_path / "metrics.json").read_bytes() == before


def test_outputs(done):
    assert done.trained == 12
    assert all((done.folder / name).exists() for name in OUTPUTS)


def test_metrics_json_is_tidy(done):
    record = strict_json((done.folder / "metrics.json").read_text())
    assert set(record) >= {"rows", "privacy", "config", "versions"}
    assert all(set(COLUMNS) <= set(row) for row in record["rows"])
    assert {row["setting"] for row in record["rows"]} == {"none", "dpsgd-8", CONSTANT, "all"}
    assert {row["epsilon"] for row in record["rows"]} == {None, 8.0}
    for row in record["rows"]:
        if row["estimate"] is None:
            assert row["note"].startswith("refused: ")
        else:
            lower_bound = row["metric"].startswith("epsilon")
            assert (row["high"] is None) == lower_bound
            assert (
                row["low"] <= row["estimate"] <= (row["estimate"] if lower_bound else row["high"])
            )
            proved = (
                row["epsilon"] is not None
                and row["attack"] is not None
                and not row["metric"].startswith("ppv")
                and "oracle" not in row["metric"]
            )
            assert (row["ceiling"] is not None) == proved
    assert record["config"]["epsilons"] == [None, 8.0]


def test_statement_stands_everywhere(done):
    guarantee = sentences(done.statements["dpsgd-8"])["guarantee"]
    assert "1e-05)-differential privacy, an upper bound" in guarantee
    assert guarantee in (done.folder / "report.html").read_text()
    assert sentences(done.statements["none"])["guarantee"].startswith("none")
    found = 0
    for path in (done.folder / "store" / "model").glob("*/parameters.safetensors"):
        with safe_open(path, "numpy") as file:
            found += guarantee in file.metadata()["statement"]
    assert found == 6


def test_report_is_self_contained(done):
    page = (done.folder / "report.html").read_text()
    before, _, library = page.partition("<script>")
    assert "window.vegaEmbed" in library
    assert 'src="http' not in page
    assert "<script src" not in page
    assert "<link" not in page
    assert "href=" not in before
    assert page.count("data:image/png;base64,") == 2


def test_tensorboard(done):
    folder = done.folder / "tensorboard"
    runs = {path.parent.relative_to(folder).as_posix() for path in folder.rglob("events*")}
    assert runs == {"none", "dpsgd-8", "overview"}
    for setting in ("none", "dpsgd-8"):
        events = EventAccumulator(str(folder / setting)).Reload()
        tags = events.Tags()
        shown = {f"{UNCOVERED}/{name}" for name in ("loss", "test accuracy")}
        private = {f"{UNCOVERED}/gradient norm, median", f"{UNCOVERED}/share of examples clipped"}
        spent = f"{COVERED}/epsilon spent so far, of each model by itself"
        assert shown <= set(tags["scalars"])
        assert (private <= set(tags["scalars"])) == (setting != "none")
        assert (spent in tags["scalars"]) == (setting != "none")
        if setting != "none":
            last = events.Scalars(spent)[-1]
            assert (last.step, last.value) == (8, np.float32(done.statements[setting].epsilon))
        assert tags["images"] == ["ROC, logarithmic axes", "Precision and recall"]
        assert "_hparams_/session_start_info" in events.summary_metadata
        steps = [event.step for event in events.Scalars(f"{UNCOVERED}/loss")]
        assert steps == sorted(steps)
        assert steps[-1] == 8
        rows = [row for row in done.rows if row.setting == setting]
        accuracy = next(row for row in rows if row.metric == TEST_ACCURACY)
        for tag, number in (
            ("compared by/test accuracy", accuracy.estimate),
            ("trade-off/utility", accuracy.estimate),
            ("trade-off/utility, low", accuracy.low),
            ("trade-off/utility, high", accuracy.high),
        ):
            assert events.Scalars(tag)[0].value == np.float32(number)
    images = EventAccumulator(str(folder / "overview")).Reload().Tags()["images"]
    assert images == [f"Privacy and utility/{panel}" for panel in PANELS]


@pytest.mark.long
@pytest.mark.whole
def test_a_report_is_made_anew_from_its_record(done, tmp_path):
    """The page, the table and the charts are the same; nothing is trained; and the sweep is still
    finished.
    """
    shutil.copytree(done.folder, tmp_path / "run")
    folder, same = tmp_path / "run", ("report.html", "table.md", "frontier.svg", "roc.svg")
    before = {name: (folder / name).read_bytes() for name in same}
    for name in same:
        (folder / name).unlink()
    assert cli.main(["report", f"run={folder}"]) == 0
    assert {name: (folder / name).read_bytes() for name in same} == before
    ready = run.plan(compose.load("sweep", [*TINY, f"output={folder}"]))
    again = outputs.read_result(folder, ready)
    assert again is not None
    assert [*again.rows] == [*done.rows]


def test_a_finished_sweep_is_shown_as_it_was_printed(done, capsys):
    assert cli.main(["show", f"run={done.folder}"]) == 0
    shown = capsys.readouterr().out
    assert cli.main(["sweep", *TINY, f"output={done.folder}"]) == 0
    assert capsys.readouterr().out.endswith(shown + "0 models trained now.\n")
    assert cli.main(["show", f"run={done.folder}", "--statements"]) == 0
    assert "neighbours: add-or-remove-one" in capsys.readouterr().out
    for command in ("show", "report", "tensorboard"):
        assert cli.main([command, "run=nowhere"]) == 2
        said = capsys.readouterr().err
        assert said.startswith("dptrain: error: run:")
        assert said.count("\n") == 1


def test_what_was_made_of_other_numbers_does_not_stay(tmp_path):
    """Model cards of settings that the run has no longer would go on claiming."""
    few = ("models_per_setting=2", "attacks=[loss]")
    go(tmp_path, "epsilons=[8]", *few)
    assert cli.main(["report", f"run={tmp_path}", "compliance=true", "export=[csv]"]) == 0
    assert (tmp_path / "compliance" / "dpsgd-8").is_dir()
    go(tmp_path, "epsilons=[4]", *few)
    assert not (tmp_path / "compliance").exists()
    assert not (tmp_path / "exports").exists()


def test_a_folder_of_the_users_is_never_deleted(tmp_path, capsys):
    """output=. puts ours beside whatever lies there."""
    few = ("epsilons=[8]", "models_per_setting=2", "attacks=[loss]")
    for name in ("compliance", "exports"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("a year of work")
    go(tmp_path, *few)
    for more in ("compliance=true", "export=[csv]"):
        assert cli.main(["report", f"run={tmp_path}", more]) == 2
        assert "files that dptrain did not write" in capsys.readouterr().err
    assert len(list(tmp_path.glob("*/mine.txt"))) == 2


def test_a_folder_without_a_run_is_not_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (["show"], ["report"], ["train", "setting=none"], ["advise"]):
        assert cli.main([command[0], "run=nowhere", *command[1:]]) == 2
    assert list(tmp_path.iterdir()) == []


def test_every_place_has_the_same_digits(done, tmp_path, capsys):
    """Console, table, page, TensorBoard, exports and metrics.json agree, number by number."""
    metrics = unseal((done.folder / "metrics.json").read_bytes())
    assert metrics["rows"] == [row.to_json() for row in done.rows]

    assert cli.main(["show", f"run={done.folder}"]) == 0
    console = capsys.readouterr().out
    page, table = ((done.folder / name).read_text() for name in ("report.html", "table.md"))
    events = EventAccumulator(str(done.folder / "tensorboard" / "overview")).Reload()
    text = events.Tensors("What the result says/text_summary")[0].tensor_proto.string_val[0]
    said = text.decode().replace("\\", "")
    export(tmp_path, done.record, ["csv", "json", "parquet", "latex"])
    exports = tmp_path / "exports"
    latex = (exports / "latex" / "summary.tex").read_text()
    for cell in itertools.chain.from_iterable(summary(done.rows)[1]):
        assert html.escape(cell) in page
        assert all(cell in place for place in (console, table, said))
        assert cell.replace("_", r"\_").replace("<=", r"$\leq$") in latex
    for sentence in reading(done.record):
        assert html.escape(sentence) in page
        assert all(sentence in place for place in (console, said))

    written = {
        "csv": pd.read_csv(exports / "csv" / "numbers.csv"),
        "json": pd.DataFrame(json.loads((exports / "json" / "numbers.json").read_text())),
        "parquet": pd.read_parquet(exports / "parquet" / "numbers.parquet"),
    }
    for numbers in written.values():
        for column in ("estimate", "low", "high", "ceiling"):
            expected = [math.nan if row[column] is None else row[column] for row in metrics["rows"]]
            np.testing.assert_array_equal(numbers[column].astype(float), expected)

    for setting in done.record.settings:
        scalars = EventAccumulator(str(done.folder / "tensorboard" / setting)).Reload()
        [row] = [
            row
            for row in metrics["rows"]
            if (row["setting"], row["metric"]) == (setting, "test_accuracy")
        ]
        for tag, end in (("", "estimate"), (", low", "low"), (", high", "high")):
            bar = scalars.Scalars(f"trade-off/utility{tag}")
            assert {event.value for event in bar} == {np.float32(row[end])}


def test_second_run_only_prints(done, monkeypatch):
    monkeypatch.setattr("dptrain.pipeline.run.load", None)
    again = go(done.folder)
    assert again.trained == 0
    assert [row.to_json() for row in again.rows] == [row.to_json() for row in done.rows]
    assert again.statements == done.statements


def test_a_finished_sweep_whose_ledger_changed_is_told_anew(tmp_path):
    first = go(tmp_path, "epsilons=[8]", "models_per_setting=2")
    assert go(tmp_path, "epsilons=[8]", "models_per_setting=2").statements == first.statements
    for path in (tmp_path / "store" / "ledger").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="its epsilon is not known"):
        go(tmp_path, "epsilons=[8]", "models_per_setting=2")


def test_all_models_differ(done):
    assert len(set(parameters(done.folder).values())) == 12


@pytest.mark.long
def test_a_finished_result_does_not_vouch_for_anothers_files(tmp_path, monkeypatch):
    first = go(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(
            "dptrain.report.render.tensorboard.rebuild",
            lambda *_: (_ for _ in ()).throw(SystemExit),
        )
        with pytest.raises(SystemExit):
            go(tmp_path, "epsilons=[inf,3]")
    again = go(tmp_path)
    assert list(again.rows) == list(first.rows)
    assert "dpsgd-8" in (tmp_path / "table.md").read_text()


def test_scores_in_the_store_are_the_models_logits(done):
    store = Store(done.folder / "store")
    shapes = {
        from_npy(store.read("scores", path.name)["pool.npy"]).shape
        for path in (done.folder / "store" / "scores").iterdir()
    }
    assert shapes == {(60, 1, 10)}


def test_a_contradiction_is_loud(done, monkeypatch, capsys):
    rows = [
        row
        if row.metric.name != "auc" or row.ceiling is None
        else dataclasses.replace(row, contradicted=True)
        for row in done.rows
    ]
    monkeypatch.setattr(
        "dptrain.pipeline.run.sweep",
        lambda *_: dataclasses.replace(done, record=dataclasses.replace(done.record, rows=rows)),
    )
    assert cli.main(["sweep", *TINY]) == 1
    assert "CONTRADICTION: dpsgd-8, loss auc" in capsys.readouterr().err


def test_curves_say_what_was_clipped_and_spent(done):
    """The last epsilon of a curve is the statement's; plain training clips nothing."""
    for point in done.record.training["none"]:
        assert {point[name] for name in ("clipped", "gradient_norm_50", "epsilon")} == {None}
    points = done.record.training["dpsgd-8"]
    spent = [point["epsilon"] for point in points if point["epsilon"] is not None]
    assert spent == sorted(spent)
    assert spent[-1] == done.statements["dpsgd-8"].epsilon
    for point in points:
        if point["clipped"] is not None:
            assert 0 <= point["clipped"] <= 1
            assert (
                point["gradient_norm_10"] <= point["gradient_norm_50"] <= point["gradient_norm_90"]
            )


def test_accuracy_by_class_adds_up_to_the_accuracy(done, tmp_path):
    result = go(tmp_path, "dataset.test=600", "dataset.population=200")
    by_class = [row for row in result.record.classes if row.setting == "none"]
    assert [row.group for row in by_class] == [str(digit) for digit in range(10)]
    assert sum(row.rows for row in by_class) == 600
    whole = sum(row.rows * row.value[0] for row in by_class) / 600
    [accuracy] = [
        row.estimate
        for row in result.rows
        if (row.setting, row.metric.name) == ("none", "test_accuracy")
    ]
    assert whole == pytest.approx(accuracy)


def test_quiet_prints_nothing_but_alarms(done, capsys):
    assert cli.main(["sweep", *TINY, f"output={done.folder}", "--quiet"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def test_examples_are_shown_only_where_that_is_asked_for(tmp_path):
    """Rows of people do not travel in a page that opens from a mail, unless somebody wants it."""
    more = ("models_per_setting=8", "training.epochs=30", "epsilons=[inf]")
    hidden = go(tmp_path / "hidden", *more)
    assert hidden.record.examples == {}
    page = (tmp_path / "hidden" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    shown = go(tmp_path / "shown", *more, "show_examples=true")
    places = {
        str(each["place"])
        for record in shown.record.exposed.values()
        for each in standing_out(record)
    }
    assert set(shown.record.examples) == places
    page = (tmp_path / "shown" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 + len(places)
