"""The README's commands run and print what stands below them; its table is the committed one."""

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

from dptrain import cli
from dptrain.config import files
from dptrain.evaluation.rows import Row
from dptrain.report import tables
from tests.common import committed
from tests.helpers.sessions import environment, programs, require_shown, sessions

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SESSIONS = sessions(README)
SHOWN = dict(SESSIONS)
COMMANDS = list(SHOWN)
REFERENCE = (ROOT / "docs" / "reference.md").read_text()
PROGRAMS = programs(README + REFERENCE)
FIRST = "scripts/quickstart"


def test_first_commands():
    assert COMMANDS[0] == FIRST
    assert COMMANDS[1] == "scripts/test"
    assert len(SESSIONS) == len(COMMANDS)


def require_shown_below(command, out, folder):
    """As the page has it, whose results lie elsewhere here."""
    lines = [line.replace(str(folder), "results/quickstart") for line in out]
    require_shown(SHOWN[command], lines, command)


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """scripts/quickstart as the README gives it, with its output elsewhere."""
    folder = tmp_path_factory.mktemp("readme") / "results" / "quickstart"
    ran = subprocess.run(
        [ROOT / FIRST, f"output={folder}"], env=environment(), capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return folder, ran.stdout


def rows(folder):
    found = json.loads((folder / "metrics.json").read_text())["rows"]
    return {(row["setting"], row["attack"], row["metric"]): row for row in found}


def test_quickstart_gives_the_numbers_that_are_promised(quickstart):
    """The project's own targets for the reference sweep."""
    folder, out = quickstart
    found = rows(folder)
    require_shown_below(FIRST, out.splitlines(), folder)
    assert f"dptrain tensorboard run={folder}" in out
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
    again = subprocess.run(
        [ROOT / FIRST, f"output={folder}"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "\n0 models trained now" in again.stdout
    assert again.stdout.replace("\n0 models", "\n64 models") == first


OTHERS = [command for command in dict.fromkeys(COMMANDS) if command.startswith("dptrain ")]


TRAINED = {"epsilons=[inf,8,4,2,0.5]": 16, "experiment=quickstart --statements": 0}


CODES = {"claim=0.5": 1}


@pytest.fixture(scope="module")
def score_files(quickstart):
    """What the README's programs write, where its commands look for it."""
    where = quickstart[0].parent.parent
    written = [program for program in PROGRAMS if "np.savez" in program or "to_csv" in program]
    assert len(written) == 2
    for program in written:
        subprocess.run([sys.executable, "-c", program], cwd=where, env=environment(), check=True)


# They train much, or start a cluster, and nothing else reads what they leave.
LONG = ("dptrain sweep experiment=quickstart epsilons=", "dptrain sweep name=")
READ = "name=biopsies"


def is_long(command):
    return command.startswith(LONG) and READ not in command


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.long if is_long(command) else ())
        for command in OTHERS
    ],
)
def test_other_commands(command, quickstart, score_files):
    """In the folder where quickstart's results lie, so that only what is new is computed."""
    folder, _ = quickstart
    where = folder.parent.parent
    ran = subprocess.run(
        shlex.split(command), cwd=where, env=environment(), capture_output=True, text=True
    )
    expected = next((code for part, code in CODES.items() if part in command), 0)
    assert ran.returncode == expected, ran.stderr[-2000:]
    require_shown_below(command, [*ran.stdout.splitlines(), *ran.stderr.splitlines()], folder)
    if "dry_run" in command:  # nothing is random
        assert set(SHOWN[command]) - {"..."} <= set(ran.stdout.splitlines())
    for part, trained in TRAINED.items():
        if part in command:
            assert f"\n{trained} models trained now" in ran.stdout


def printed_by(name, folder):
    """Lines that the program which holds `name` prints, run in `folder`."""
    (program,) = [program for program in PROGRAMS if name in program]
    ran = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return ran.stdout.splitlines()


def test_the_program_in_the_readme(tmp_path):
    folder, epsilon, noise = printed_by("dptrain.sweep", tmp_path)[-1].split()
    assert folder == "results/mine"
    assert 7.9 <= float(epsilon) <= 8
    assert float(noise) > 0


def test_the_classifier_in_the_readme(tmp_path):
    accuracy, guarantee = printed_by("DPClassifier", tmp_path)
    assert float(accuracy) > 0.7
    assert guarantee == "epsilon 8.00 at delta 1e-05"
    assert f"`{guarantee}`" in README


def test_table_is_the_committed_one():
    assert committed("results/reference/quickstart/table.md").strip() in README
    record = json.loads(committed("results/reference/quickstart/metrics.json"))
    assert tables.table(*tables.summary([Row.of(row) for row in record["rows"]])) in README
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
        for name in files.groups()[group]:
            assert re.search(rf"^  {name} +\S", out, re.MULTILINE)


def test_scripts_parse():
    for script in ("quickstart", "test", "venv", "reproduce"):
        path = ROOT / "scripts" / script
        assert os.access(path, os.X_OK)
        subprocess.run([shutil.which("bash"), "-n", path], check=True)
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text()
