"""`dptrain attack`: anyone's scores, without torch; every wrong file answered in one line."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest

from dptrain.attacks import score_file
from dptrain.attacks.scores import EXTRAS
from dptrain.core.errors import ConfigError, LayerError
from tests.common import ROOT, strict_json
from tests.fleets import fleet, rich
from tests.helpers.foreign import arrays_of, run, save


def test_it_loads_no_torch(good, tmp_path):
    """With torch blocked: whatever asks for it fails."""
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "opacus"):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
from dptrain import cli
sys.exit(cli.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", code, "attack", f"scores={good}", f"output={tmp_path / 'out'}"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "| lira " in ran.stdout
    for name in ("report.html", "metrics.json", "roc.png"):
        assert (tmp_path / "out" / name).stat().st_size > 1000


def test_every_form_of_the_same_scores_gives_the_same_numbers(tmp_path, capsys):
    scores = fleet(models=8, examples=60, leak=2.0)
    probabilities = np.exp(scores.log_posteriors(np.arange(8)))
    plain = {"labels": scores.labels, "membership": scores.membership.astype(int)}
    forms = {
        "logits": arrays_of(scores),
        "three_axes": {**plain, "logits": scores.logits[:, :, 0]},
        "probabilities": {**plain, "probabilities": probabilities},
        "loss": {**plain, "loss": scores.loss},
        "confidence": {**plain, "confidence": scores.confidence},
    }
    found = {}
    for name, arrays in forms.items():
        assert (
            run(
                f"scores={save(tmp_path / f'{name}.npz', **arrays)}",
                "attacks=[loss,lira,rmia]",
                "format=json",
            )
            == 0
        )
        found[name] = [
            row["estimate"]
            for row in strict_json(capsys.readouterr().out)["rows"]
            if row["metric"] != "epsilon_one_run"
        ]
    table = tmp_path / "my.csv"
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "id", "member", "label", "p0", "p1", "p2"])
        for m in range(8):
            for i in np.random.default_rng(m).permutation(60):
                writer.writerow(
                    [
                        f"m{m}",
                        f"row {i:03}",
                        int(scores.membership[m, i]),
                        scores.labels[i],
                        *probabilities[m, i],
                    ]
                )
    assert run(f"scores={table}", "attacks=[loss,lira,rmia]", "format=json") == 0
    found["csv"] = [
        row["estimate"]
        for row in strict_json(capsys.readouterr().out)["rows"]
        if row["metric"] not in ("epsilon_one_run",)
    ]
    for name, numbers in found.items():
        for one, other in zip(numbers, found["logits"], strict=True):
            assert (one is None) == (other is None)
            # Csv: other blocks of the jackknife.
            assert one is None or one == pytest.approx(other, abs=0.02 if name == "csv" else 1e-9)


def test_single_target_of_a_csv(tmp_path, capsys):
    scores = fleet(models=2, examples=300, leak=2.0)
    table = tmp_path / "one.csv"
    lines = [f"{i},{int(scores.membership[0, i])},{scores.loss[0, i]}" for i in range(300)]
    table.write_text("id,member,loss\n" + "\n".join(lines) + "\n")
    assert run(f"scores={table}", "attacks=[loss,entropy]") == 0
    out = capsys.readouterr().out
    assert "One attacked model [95 % interval over examples]" in out
    assert "entropy: refused: needs logits" in out


def test_everything_a_file_can_bring_is_read(tmp_path, capsys):
    scores = rich(models=8, examples=80, leak=1.0)
    outside = scores.population
    more = {
        "population_logits": outside.logits,
        "population_labels": outside.labels,
        "population_inputs": outside.inputs,
    }
    file = save(
        tmp_path / "all.npz",
        **arrays_of(scores),
        **more,
        inputs=scores.inputs,
        ids=np.arange(80) + 1000,
        targets=[1, 4],
        **scores.extras,
    )
    assert set(scores.extras) == set(EXTRAS)
    assert run(f"scores={file}", "format=json") == 0
    record = strict_json(capsys.readouterr().out)
    assert not [row for row in record["rows"] if row["metric"] == "auc" and row["estimate"] is None]
    assert {row["targets"] for row in record["rows"] if row["attack"] != "blind"} == {2}
    assert any(row["attack"] == "blind" for row in record["rows"])


def test_inputs_that_tell_members_apart_fail_loudly(tmp_path, capsys):
    scores = fleet(models=2, examples=600)
    inputs = np.random.default_rng(0).normal(size=(600, 4)) + scores.membership[0][:, None]
    file = save(tmp_path / "split.npz", **arrays_of(scores), inputs=inputs, targets=[0])
    assert run(f"scores={file}", "attacks=[loss]") == 1
    assert "INVALID" in capsys.readouterr().err


S = fleet(models=4, examples=30)


BASE = arrays_of(S)


NAN = S.logits.copy()


NAN[1, 2, 0, 0] = np.nan


SHADOW = {
    "shadow_logits": S.logits[1, :, 0],
    "shadow_labels": S.labels,
    "shadow_member": S.membership[1],
}


TARGET = {
    "target_logits": S.logits[0, :, 0],
    "target_labels": S.labels,
    "target_member": S.membership[0],
}


MANY = arrays_of(fleet(models=6, examples=400))


TOLD = MANY["membership"][0] ^ (
    np.random.default_rng(0).random((6, 400)) < 0.2 * (np.arange(6) > 0)[:, None]
)


WRONG = {
    "no scores": ({"labels": S.labels, "membership": S.membership}, "give exactly one of logits"),
    "two scores": ({**BASE, "loss": S.loss}, "give exactly one of logits"),
    "no labels": ({"logits": S.logits, "membership": S.membership}, "no array 'labels'"),
    "no membership": ({"logits": S.logits, "labels": S.labels}, "no array 'membership'"),
    "unknown array": ({**BASE, "logit": S.logits}, "unknown array 'logit'"),
    "labels too short": ({**BASE, "labels": S.labels[:-1]}, r"labels must be \[30\]"),
    "labels of another class": ({**BASE, "labels": S.labels + 1}, r"labels must lie in 0\.\.2"),
    "labels not whole": ({**BASE, "labels": S.labels + 0.5}, "labels must be whole numbers"),
    "membership of another shape": (
        {**BASE, "membership": S.membership[:, :-1]},
        r"membership must be \[4, 30\]",
    ),
    "membership not binary": (
        {**BASE, "membership": S.membership * 2},
        "membership must hold 0 and 1",
    ),
    "nobody is a member": ({**BASE, "membership": np.zeros((4, 30))}, "model 0 has no member"),
    "everybody is a member": (
        {**BASE, "membership": np.ones((4, 30))},
        "model 0 has no non-member",
    ),
    "NaN": ({**BASE, "logits": NAN}, r"logits holds NaN or infinity, first at \[1, 2, 0, 0\]"),
    "one axis": ({**BASE, "logits": np.zeros(30)}, "logits must be"),
    "one class": ({**BASE, "logits": np.zeros((4, 30, 1, 1))}, "two classes"),
    "text": ({**BASE, "logits": np.full((4, 30, 3), "a")}, "logits must be real numbers"),
    "probabilities that are logits": (
        {**BASE, "probabilities": BASE["logits"], "logits": None},
        r"probabilities must lie in 0\.\.1",
    ),
    "probabilities that do not add up": (
        {**BASE, "probabilities": np.full((4, 30, 3), 0.5), "logits": None},
        "must add up to 1",
    ),
    "negative loss": ({**BASE, "loss": S.loss - 9, "logits": None}, "loss must be 0 or more"),
    "confidence above 1": (
        {**BASE, "confidence": S.loss * 90, "logits": None},
        "confidence must lie in",
    ),
    "target that is not there": (
        {**BASE, "targets": [4]},
        r"targets must be different numbers in 0\.\.3",
    ),
    "ids twice": ({**BASE, "ids": np.zeros(30)}, "ids must be 30 different values"),
    "population of other models": ({**BASE, "population_loss": S.loss[:2]}, "must hold 4 models"),
    "extra of another shape": ({**BASE, "gradient_norm": S.loss[:, :5]}, "gradient_norm must be"),
    "extra with NaN": (
        {**BASE, "gradient_norm": S.loss * np.nan},
        "gradient_norm must be finite real",
    ),
    "copy of the membership": (
        {**BASE, "loss": S.membership * 1.0, "logits": None},
        "a copy of the membership",
    ),
    "membership among the inputs": (
        {**BASE, "inputs": np.column_stack([S.loss[0], S.membership[0]])},
        "column 1 of inputs is a copy",
    ),
    "shadows chosen by the target's split": (
        {**MANY, "membership": TOLD},
        "the number of shadow models that hold an example tells",
    ),
    "the target among its shadows": (
        {**BASE, "logits": S.logits[[0, 1, 2, 0]]},
        "models 0 and 3 are the same model",
    ),
    "shadow records of the target": (
        {**TARGET, **SHADOW, "shadow_logits": S.logits[0, :, 0]},
        "is a record of the target",
    ),
    "shadows without members": (
        {**TARGET, **SHADOW, "shadow_member": np.zeros(30)},
        "shadow_member: model 0 has no member",
    ),
    "targets twice": ({**BASE, "targets": [1, 1]}, "targets must be different"),
    "targets that are no numbers": ({**BASE, "targets": [[0, 1]]}, "targets must be a list"),
    "inputs beyond float32": (
        {**BASE, "inputs": np.full((30, 2), 1e39)},
        "inputs must be finite real",
    ),
    "labels of text": ({**BASE, "labels": np.full(30, "a")}, "labels must be whole numbers"),
    "logits beyond reason": ({**BASE, "logits": S.logits * 1e300}, "a model diverged"),
    "no models": (
        {"logits": np.zeros((0, 30, 3)), "labels": S.labels, "membership": np.zeros((0, 30))},
        "logits is empty",
    ),
    "copies of other classes": (
        {**BASE, "jittered_logits": np.zeros((4, 30, 2, 5))},
        "must have the 3 classes",
    ),
    "a trajectory of one axis": ({**BASE, "trajectory_loss": S.loss}, "trajectory_loss must be"),
    "a fleet beside a target": (
        {**TARGET, **SHADOW, "membership": S.membership},
        "membership does not belong beside",
    ),
    "shadows of other classes": (
        {**TARGET, **SHADOW, "shadow_logits": np.zeros((30, 2)), "shadow_labels": S.labels % 2},
        "the target's 3",
    ),
    "target without membership": (
        {"target_logits": S.logits[0, :, 0], "target_labels": S.labels},
        "no array 'target_member'",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arrays_are_answered_in_one_line(name, tmp_path, capsys):
    arrays, message = WRONG[name]
    file = save(
        tmp_path / "bad.npz", **{key: value for key, value in arrays.items() if value is not None}
    )
    with pytest.raises((ConfigError, LayerError), match=message):
        score_file.read(file)
    assert run(f"scores={file}") == 2
    error = capsys.readouterr().err
    assert error.startswith("dptrain: error: scores: ")
    assert error.count("\n") == 1


HEAD = "id,member,loss\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'id'"),
        ("id,loss\n1,2\n", "no column 'member'"),
        (HEAD, "no rows"),
        (HEAD + "\n1,1,x\n", "line 3: loss is 'x'"),
        ("id,member,loss,loss\n1,1,1,1\n", "twice"),
        ("id,member,label,loss\n1,1,1e30,1\n", "line 2: label is"),
        (HEAD + "1,1,x\n", "line 2: loss is 'x'"),
        (HEAD + "1,1\n", "line 2: loss is None"),
        (HEAD + "1,2,0.5\n2,0,0.5\n", "0 and 1 only"),
        (HEAD + "1,1,nan\n2,0,0.5\n", "NaN or infinity"),
        (HEAD + "1,1,0.2\n1,0,0.5\n", "twice"),
        ("id,member,losses\n1,1,2\n", "unknown column 'losses'"),
        ("id,member,label,p0,p2\n1,1,0,0.5,0.5\n", "without a gap"),
        ("id,member,p0,p1\n1,1,0.5,0.5\n2,0,0.5,0.5\n", "no array 'labels'"),
        ("model,id,member,loss\na,1,1,2\na,2,0,1\nb,1,0,1\n", "model b has no row for id 2"),
    ],
)
def test_wrong_tables_are_answered_in_one_line(text, message, tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text(text)
    with pytest.raises((ConfigError, LayerError), match=message):
        score_file.read(str(file))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "scores: give the file"),
        (["scores=absent.npz"], "scores: no such file"),
        (["scores=pyproject.toml"], "neither .npz nor .csv"),
        (["scores=x.npz", "attack=[loss]"], "attack: unknown key; did you mean 'attacks'"),
        (["scores=x.npz", "delta=2"], "delta: must lie in"),
        (["scores=x.npz", "claim=0"], "claim: must lie in (0, 100]"),
        (["scores=x.npz", "format=xml"], "format: unknown value"),
        (["scores=x.npz", "audits=[best]"], "audits: unknown value"),
        (
            ["scores=x.npz", "attacks=[lira]", "attacks.lira.variance=1"],
            "attacks.lira.variance: unknown value",
        ),
    ],
)
def test_wrong_configurations(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert run(*arguments) == 2
    assert message in capsys.readouterr().err


def test_torn_and_pickled_files_are_refused(tmp_path):
    torn = tmp_path / "torn.npz"
    torn.write_bytes(b"PK\x03\x04 and no more")
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, **BASE, ids=np.array([object()] * 30))
    for file in (torn, pickled):
        with pytest.raises((ConfigError, LayerError), match="cannot be read"):
            score_file.read(str(file))


def test_help_documents_every_array(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    for name in (
        "logits",
        "probabilities",
        "membership",
        "target_logits",
        "shadow_member",
        "population_logits",
        *EXTRAS,
    ):
        assert name in out
    assert "attacks.rmia.gamma" in out


def test_audits_of_every_kind(good, capsys):
    names = ["one_run", "one_run_fdp", "clopper_pearson", "gdp", "joint_beta"]
    assert (
        run(f"scores={good}", "attacks=[loss]", f"audits=[{','.join(names)}]", "format=json") == 0
    )
    rows = {row["metric"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    for name in names:
        assert rows[f"epsilon_{name}"]["estimate"] is not None
    assert "Gaussian" in rows["epsilon_gdp"]["note"]
    assert "credible" in rows["epsilon_joint_beta"]["note"]
    assert "independent fair coins" in rows["epsilon_one_run"]["note"]
