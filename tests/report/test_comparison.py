"""Several runs as one record: numbers unchanged, and what forbids comparing them said."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dptrain import cli
from dptrain.core.errors import ComparisonError
from dptrain.core.store import seal, unseal
from dptrain.evaluation.rows import BLIND
from dptrain.evaluation.utility import CONSTANT
from dptrain.report.comparison import merged, remarks
from dptrain.report.record import METRICS, read
from dptrain.report.settings import parameters


@pytest.fixture(scope="module")
def folders(done, tmp_path_factory):
    """Two runs of different names and seeds."""
    where = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        shutil.copytree(done.folder, where / name, ignore=shutil.ignore_patterns("store"))
    metrics = unseal((where / "b" / METRICS).read_bytes())
    metrics["config"]["seed"] = 7
    metrics["privacy"]["dpsgd-8"]["delta"] = 1e-6
    (where / "b" / METRICS).write_bytes(seal(metrics))
    return [where / "a", where / "b"]


def test_every_number_of_every_setting_is_there(folders):
    both = merged(folders)
    assert both.settings == ["a/none", "a/dpsgd-8", "b/none", "b/dpsgd-8"]
    for folder in folders:
        for row in read(folder).rows:
            there = replace(row, setting=f"{folder.name}/{row.setting}") in both.rows
            assert there == (row.setting != CONSTANT and row.attack != BLIND)


def test_what_differs_is_said(folders):
    said = merged(folders).remarks
    assert "seed: a 0, b 7." in said
    assert any(line.startswith("Epsilons of these runs are not comparable") for line in said)
    same = {name: read(folders[0]) for name in ("a", "b")}
    assert len(remarks(same)) == 1


def test_what_cannot_be_compared_is_refused(folders, tmp_path):
    with pytest.raises(ComparisonError, match="give two or more"):
        merged(folders[:1])
    with pytest.raises(ComparisonError, match="twice"):
        merged([folders[0], folders[0]])
    shutil.copytree(folders[0], tmp_path / "c")
    metrics = unseal((tmp_path / "c" / METRICS).read_bytes())
    metrics["config"]["utility"] = "auroc"
    (tmp_path / "c" / METRICS).write_bytes(seal(metrics))
    with pytest.raises(ComparisonError, match="different utilities"):
        merged([folders[0], tmp_path / "c"])
    metrics = unseal((folders[0] / METRICS).read_bytes())
    for row in metrics["rows"]:
        row["contradicted"] = row["attack"] == BLIND
    (tmp_path / "c" / METRICS).write_bytes(seal(metrics))
    with pytest.raises(ComparisonError, match="members differ before training"):
        merged([folders[0], tmp_path / "c"])


def test_the_command_writes_a_folder_that_can_be_shown(folders, tmp_path, capsys):
    runs = f"runs=[{folders[0]},{folders[1]}]"
    output = tmp_path / "both"
    assert cli.main(["report", runs, f"output={output}", "export=[csv]"]) == 0
    assert f"Written: {output}/exports/csv" in capsys.readouterr().out
    assert cli.main(["show", f"run={output}"]) == 0
    out = capsys.readouterr().out
    assert "| a/dpsgd-8 |" in out
    assert "not comparable" in out
    assert cli.main(["report", runs, f"output={output}"]) == 0  # once more
    for wrong, message in (
        ([f"run={folders[0]}", runs], "run: give the folder"),
        ([runs, f"output={folders[0]}"], "holds other files"),
        ([runs, "compliance=true"], "compliance: is of one run"),
        ([f"run={folders[0]}", "export=[docx]"], "export: choose from csv"),
    ):
        capsys.readouterr()
        assert cli.main(["report", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_no_name_of_a_run_leads_out_of_the_folder(folders, tmp_path, monkeypatch):
    """Absolute paths with the same last part, and `.`, of which TensorBoard makes folders."""
    for name in ("x", "y"):
        shutil.copytree(folders[0], tmp_path / name / "same")
    both = merged([tmp_path / "x" / "same", tmp_path / "y" / "same"])
    monkeypatch.chdir(folders[0])
    here = merged([Path("."), Path("../b")])
    for record in (both, here):
        for setting in record.settings:
            run, _, name = setting.partition("/")
            assert run not in ("", ".", "..")
            assert name in ("none", "dpsgd-8")
            assert not setting.startswith("/")
    assert here.settings[0] == "a/none"


def test_a_run_may_be_called_as_a_key_is(folders, tmp_path):
    for name in ("utility", "dataset"):
        shutil.copytree(folders[0], tmp_path / name)
    record = merged([tmp_path / "utility", tmp_path / "dataset"])
    assert record.utility == "accuracy"
    shown = parameters(record, "dataset/dpsgd-8")
    assert shown["batch size"] == 8
    assert shown["data set"] == "mnist5k"


def test_a_comparison_keeps_its_name_and_answers_for_no_run(folders, tmp_path, capsys):
    output = tmp_path / "both"
    runs = f"runs=[{folders[0]},{folders[1]}]"
    assert cli.main(["report", runs, f"output={output}"]) == 0
    assert read(output).name == "a, b"
    assert cli.main(["report", f"run={output}", "compliance=true"]) == 2
    assert "hazards are of one run" in capsys.readouterr().err
