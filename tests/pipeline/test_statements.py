"""Tests of pipeline.statements."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from dptrain import api, attacks, cli
from dptrain.config import compose
from dptrain.core import store
from dptrain.evaluation.rows import AUC, TEST_ACCURACY, Row
from dptrain.evaluation.utility import UTILITIES, metric_of
from dptrain.fleet import settings
from dptrain.pipeline.statements import evaluated, measured
from dptrain.privacy.statement import Composition, PrivacyStatement, planned
from dptrain.report import statement
from dptrain.report.statement import sentences
from dptrain.report.tables import cell
from tests import fleets
from tests.helpers.small_sweep import small_sweep
from tests.helpers.statement import OS, setting


def refuting(monkeypatch):
    """Let the loss attack read who is a member, so that every claim is refuted."""
    monkeypatch.setitem(
        attacks.ATTACKS,
        "loss",
        lambda scores, target: scores.membership[target] + scores.loss[target] * 1e-9,
    )


def headers(folder):
    """What is claimed in each file of parameters."""
    texts = []
    for path in (folder / "store" / "model").glob("*/parameters.safetensors"):
        with safe_open(path, "numpy") as file:
            texts.append(file.metadata()["statement"])
    return texts


def test_the_headers_of_parameters_follow_the_claim(tmp_path, monkeypatch):
    """Models outlive the code that accounts for them: what is claimed now stands in each file."""
    first = small_sweep(tmp_path)
    before = headers(tmp_path)
    files = sorted((tmp_path / "store" / "model").glob("*/parameters.safetensors"))
    weights = {path: load_file(path) for path in files}
    monkeypatch.setattr(statement, "_guarantee", lambda told: f"({told.epsilon}, more)")
    (tmp_path / "metrics.json").unlink()
    again = small_sweep(tmp_path)
    assert (first.trained > 0, again.trained) == (True, 0)
    after = headers(tmp_path)
    assert len(after) == len(before)
    assert sum("more)" in text for text in after) == sum("-differential" in text for text in before)
    assert not any("-differential" in text for text in after)
    for path, values in weights.items():
        for name, value in load_file(path).items():
            np.testing.assert_array_equal(value, values[name])


@pytest.mark.whole
def test_a_refuted_claim_is_shown_as_refuted_everywhere(tmp_path, monkeypatch, capsys):
    refuting(monkeypatch)
    result = small_sweep(tmp_path)
    assert any(row.contradicted for row in result.rows)
    assert sentences(result.statements["dpsgd-8"])["guarantee"].startswith(
        "REFUTED, so none: loss auc of 1.000"
    )
    assert sentences(result.statements["dpsgd-8"])["evidence"].startswith("refuted")
    assert "dpsgd-8 (REFUTED)" in (tmp_path / "table.md").read_text()
    assert "REFUTED, so none" in (tmp_path / "report.html").read_text()
    assert "dpsgd-8 (REFUTED)</h3>" in (tmp_path / "report.html").read_text()
    for picture in ("frontier.svg", "roc.svg"):
        assert "(REFUTED)" in (tmp_path / picture).read_text()
    for header in headers(tmp_path):
        assert header.startswith(("guarantee: REFUTED", "guarantee: none"))
    assert any(header.startswith("guarantee: REFUTED") for header in headers(tmp_path))
    advice = api.advise(tmp_path, max_epsilon=9)
    assert not advice.meeting
    assert [one.name for one in advice.refuted] == ["dpsgd-8"]
    assert "REFUTED, not to be used: dpsgd-8" in advice.text()
    assert cli.main(["advise", f"run={tmp_path}", "max_epsilon=9"]) == 1


@pytest.mark.long
def test_a_run_with_other_attacks_takes_no_refutation_back(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        refuting(patch)
        small_sweep(tmp_path)
    again = small_sweep(tmp_path, "attacks=[confidence]")
    assert again.trained == 0
    assert [row.attack for row in again.rows if row.contradicted and row.metric == AUC] == ["loss"]
    assert any(header.startswith("guarantee: REFUTED") for header in headers(tmp_path))
    assert [each.name for each in api.advise(tmp_path, max_epsilon=9).refuted] == ["dpsgd-8"]
    # Nor does a run of the same attack on fewer of the models.
    fewer = small_sweep(tmp_path, "models_per_setting=2")
    assert fewer.trained == 0
    assert any(row.contradicted and "of an earlier run" in row.note for row in fewer.rows)
    # Other models are another matter.
    other = small_sweep(tmp_path, "attacks=[confidence]", "seed=1")
    assert not any(row.contradicted for row in other.rows)


def test_where_the_split_leaks_nothing_is_recommended(tmp_path, monkeypatch):
    result = small_sweep(tmp_path)
    record = json.loads((tmp_path / "metrics.json").read_text())
    for row in record["rows"]:
        row["contradicted"] = row["attack"] == "blind"
    del record["checksum"]
    (tmp_path / "metrics.json").write_bytes(store.seal(record))
    advice = api.advise(tmp_path, max_epsilon=9)
    assert not advice.meeting
    assert advice.text().count("INVALID") == 1
    [setting] = settings.settings(compose.load("sweep", ["epsilons=[8]"]))
    rows = [Row.of(row) for row in record["rows"]]
    composed = Composition(models=2, epsilon=8.0)
    after = evaluated(result.statements["dpsgd-8"], setting, rows, composed)
    assert sentences(after)["measured"].startswith("INVALID")


def test_the_measured_bound_is_of_the_attack_named_beforehand():
    """Not the highest of many, which holds with no stated confidence; and of the canaries, where
    there are any.
    """

    def row(attack, value, examples="all"):
        return fleets.row(
            "s",
            "dpsgd",
            2.0,
            attack,
            "epsilon_one_run",
            value,
            value,
            None,
            1,
            10,
            10,
            2.0,
            "its counts",
            examples=examples,
        )

    rows = [row("loss", 0.9), row("lira", 0.25678), row("rmia", 1.5)]
    composed = Composition(models=1, epsilon=2.0)

    def said(rows):
        return sentences(evaluated(planned(setting(2.0), OS), setting(2.0), rows, composed))

    bound = said(rows)["measured"]
    assert "epsilon at least 0.256 by lira, which was named beforehand: its counts" in bound
    assert "on the canaries" in said([*rows, row("lira", 1.1, "canaries")])["measured"]
    assert "by entropy" in said([row("entropy", 0.1)])["measured"]
    assert "no lower bound" in said([])["measured"]
    assert measured([]) is None


@pytest.mark.long
def test_the_utility_in_words_is_that_of_the_rows(tmp_path):
    """Every measured utility of a setting stands in its statement, to the digit of the table; the
    header of a file of parameters, which is given away, has none.
    """
    result = small_sweep(tmp_path)
    for name, claimed in result.statements.items():
        text = sentences(claimed)["utility"]
        rows = {
            row.metric: row for row in result.rows if row.setting == name and row.attack is None
        }
        accuracy = rows[TEST_ACCURACY]
        assert f"accuracy {cell(accuracy)}" in text
        assert len(claimed.evaluated.utilities) == 8
        for utility, limits in claimed.evaluated.utilities.items():
            assert limits == rows[metric_of(utility)].interval
            assert f"{UTILITIES[utility].title} {cell(rows[metric_of(utility)])}" in text
        examples = claimed.evaluated.test_examples
        assert text.startswith(
            f"on {examples:,} test examples, mean over {accuracy.targets} models"
        )
        assert examples * accuracy.targets == accuracy.n_out
        assert PrivacyStatement.of(json.loads(json.dumps(claimed.to_json()))) == claimed
    assert not any("test examples" in text for text in headers(tmp_path))
