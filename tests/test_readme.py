"""The README's commands run, and what it shows is what is committed."""

import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dptrain import cli, config, report
from dptrain.judge import Row
from tests.conftest import committed

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
COMMANDS = [line[2:] for block in BLOCKS for line in block.splitlines() if line.startswith("$ ")]
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
FIRST = "scripts/quickstart"


def environment():
    """This interpreter's programs first; the virtual environment of the scripts is the one that runs the tests."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "VENV": sys.prefix}


def test_first_commands():
    assert COMMANDS[0] == FIRST
    assert "scripts/test" in COMMANDS


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """scripts/quickstart as the README gives it, with its output elsewhere."""
    folder = tmp_path_factory.mktemp("readme") / "results" / "quickstart"
    ran = subprocess.run([ROOT / FIRST, f"output={folder}"], env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return folder, ran.stdout


def rows(folder):
    found = json.loads((folder / "metrics.json").read_text())["rows"]
    return {(row["setting"], row["attack"], row["metric"]): row for row in found}


def test_quickstart_gives_the_numbers_that_are_promised(quickstart):
    """The project's own targets for the reference sweep."""
    folder, out = quickstart
    found = rows(folder)
    assert f"tensorboard --logdir {folder}/tensorboard" in out
    assert found["none", None, "test_accuracy"]["estimate"] >= 0.90
    assert found["none", "lira", "auc"]["estimate"] >= 0.68
    assert found["none", "lira", "tpr_at_fpr_0.01"]["estimate"] >= 0.10
    assert found["dpsgd-8", None, "test_accuracy"]["estimate"] >= 0.86
    assert abs(found["dpsgd-0.5", "lira", "auc"]["estimate"] - 0.5) <= 0.03
    order = ["none", "dpsgd-8", "dpsgd-2", "dpsgd-0.5"]
    for attack, metric in ((None, "test_accuracy"), ("lira", "auc"), ("lira_offline", "auc")):
        for more, less in itertools.pairwise(order):
            assert found[less, attack, metric]["low"] <= found[more, attack, metric]["high"]
            assert found[less, attack, metric]["estimate"] <= found[more, attack, metric]["high"]
    assert not any(row["contradicted"] for row in found.values())


def test_quickstart_again_trains_nothing(quickstart):
    folder, first = quickstart
    again = subprocess.run([ROOT / FIRST, f"output={folder}"], env=environment(), capture_output=True, text=True, check=True)
    assert "\n0 models trained now" in again.stdout
    assert again.stdout.replace("\n0 models", "\n64 models") == first


OTHERS = [command for command in dict.fromkeys(COMMANDS) if command.startswith("dptrain ")]


TRAINED = {"epsilons=[inf,8,4,2,0.5]": 16, "attacks=[loss,lira]": 0, "models_per_setting=16": 0}


CODES = {"claim=0.5": 1}


@pytest.fixture(scope="module")
def score_files(quickstart):
    """What the README's programs write, where its commands look for it."""
    where = quickstart[0].parent.parent
    written = [program for program in PROGRAMS if "np.savez" in program or "to_csv" in program]
    assert len(written) == 3
    for program in written:
        subprocess.run([sys.executable, "-c", program], cwd=where, env=environment(), check=True)


@pytest.mark.parametrize("command", OTHERS)
def test_other_commands(command, quickstart, score_files):
    """In the folder where quickstart's results lie, so that only what is new is computed."""
    folder, _ = quickstart
    where = folder.parent.parent
    ran = subprocess.run(shlex.split(command), cwd=where, env=environment(), capture_output=True, text=True)
    expected = next((code for part, code in CODES.items() if part in command), 0)
    assert ran.returncode == expected, ran.stderr[-2000:]
    for part, trained in TRAINED.items():
        if part in command:
            assert f"\n{trained} models trained now" in ran.stdout


def test_the_program_in_the_readme(tmp_path):
    (program,) = [program for program in PROGRAMS if "dptrain.sweep" in program]
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "results/mine (" in ran.stdout
    assert "differential privacy, an upper bound" in ran.stdout


def test_the_classifier_in_the_readme(tmp_path):
    (program,) = [program for program in PROGRAMS if "DPClassifier" in program]
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    accuracy, epsilon = map(float, ran.stdout.split()[:2])
    assert accuracy > 0.7
    assert 7.99 <= epsilon <= 8


def test_table_is_the_committed_one():
    assert committed("results/quickstart/table.md").strip() in README
    record = json.loads(committed("results/quickstart/metrics.json"))
    assert report.table(*report.summary([Row(**row) for row in record["rows"]])) in README
    for picture in re.findall(r"!\[.*?\]\(([^)]+)\)", README):
        assert (ROOT / picture).exists()


def test_help_shows_the_list(capsys):
    for arguments in ([], ["--help"], ["sweep", "--help"], ["list", "--help"]):
        assert cli.main(arguments) == 0
        assert "dptrain" in capsys.readouterr().out


def test_sweep_help_names_every_key(capsys):
    cli.main(["sweep", "--help"])
    out = capsys.readouterr().out
    for key in (
        "epsilons",
        "models_per_setting",
        "training.batch_size",
        "privacy.delta",
        "defence.dpsgd.clip",
        "model.hidden",
        "dataset.pool",
    ):
        assert key in out


def test_list_names_everything(capsys):
    assert cli.main(["list"]) == 0
    out = capsys.readouterr().out
    for group in ("dataset", "model", "defence", "attacks", "experiment"):
        for name in config.groups()[group]:
            assert re.search(rf"^  {name} +\S", out, re.MULTILINE)


def test_scripts_parse():
    for script in ("quickstart", "test", "venv", "reproduce"):
        path = ROOT / "scripts" / script
        assert os.access(path, os.X_OK)
        subprocess.run([shutil.which("bash"), "-n", path], check=True)
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text()
