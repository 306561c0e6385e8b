"""Presets of papers: each is complete, runs, and its committed result is of this very preset."""

import json
import math
import re

import pytest

from dptrain.config.files import PAPERS, conf_folder
from dptrain.core.errors import PaperError
from dptrain.core.store import unseal
from dptrain.papers import presets, reproduce, verdicts
from dptrain.papers.presets import Source
from dptrain.papers.reproduce import PROCEDURES
from tests.common import ROOT, committed

NAMES = presets.names()
MARKS = {"trained": pytest.mark.slow, "compositions": pytest.mark.long}
COMMITTED = [name for name in NAMES if (ROOT / "results" / PAPERS / name).is_dir()]


@pytest.mark.parametrize("name", NAMES)
def test_its_header_says_what_it_repeats_with_which_command_and_how_long(name):
    preset = presets.load(name)
    text = (conf_folder() / PAPERS / f"{name}.yaml").read_text()
    header = text[: text.index("\ntitle:")]
    assert re.search(r"\b(19|20)\d\d\b", header.splitlines()[0])
    assert f"dptrain reproduce {name}" in header
    assert re.search(r"On 2 CPU\s+#?\s*cores: |GPU", header)
    assert preset.procedure in PROCEDURES
    assert preset.minutes > 0
    assert preset.lesson.endswith(".")
    assert preset.shows.endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_every_number_says_where_it_is_known_from_and_some_are_conditions(name):
    expected = presets.load(name).expected
    for quantity, each in expected.items():
        compares = each.within is not None or each.digits is not None
        assert not compares or each.paper is not None, quantity
        assert not (compares and each.source == Source.MEMORY), quantity
        assert set(each.above) <= set(expected), quantity
    assert any(
        each.above or {each.least, each.most, each.within, each.digits} != {None}
        for each in expected.values()
    )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=MARKS.get(presets.load(name).procedure, ())) for name in NAMES],
)
def test_its_shrunk_form_measures_every_quantity(name, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    outcome = reproduce.reproduce(name, tmp_path / name, shrunk=True)
    for line, _ in outcome.lines:
        assert math.isfinite(line.measured.value)
        assert line.measured.low <= line.measured.value <= line.measured.high
    assert not (tmp_path / name / reproduce.RESULT).exists()
    assert all(quantity in outcome.text() for quantity in outcome.preset.expected)


@pytest.mark.parametrize("name", COMMITTED)
def test_the_committed_result_is_of_the_committed_preset(name):
    record = unseal(committed(f"results/{PAPERS}/{name}/{reproduce.RESULT}").encode())
    preset = presets.load(name)
    assert record["fingerprint"] == preset.fingerprint
    assert set(preset.expected) <= set(record["measured"])
    measured = {key: verdicts.Measured(**each) for key, each in record["measured"].items()}
    outcome = reproduce.Outcome(preset, measured, record["minutes"], record["date"])
    assert committed(f"results/{PAPERS}/{name}/table.md") == outcome.text() + "\n"


def test_the_index_is_that_of_the_committed_results():
    text = committed(f"results/{PAPERS}/README.md")
    assert text == f"{reproduce.HEAD}\n\n{reproduce.index(ROOT / 'results' / PAPERS)}\n"


def test_another_preset_is_another_result(tmp_path, monkeypatch):
    """A number that is expected anew, or a parameter, makes what was stored old."""
    folder = tmp_path / "conf" / PAPERS
    folder.mkdir(parents=True)
    text = (conf_folder() / PAPERS / "kulynych2024.yaml").read_text()
    seen = set()
    for change in ("", "0.3, 0.5]", "least: 3,"):
        changed = text.replace(change, change.replace("3", "2"), 1) if change else text
        (folder / "kulynych2024.yaml").write_text(changed)
        monkeypatch.setattr(presets, "conf_folder", lambda: tmp_path / "conf")
        seen.add(presets.load("kulynych2024").fingerprint)
    assert len(seen) == 3
    (folder / "kulynych2024.yaml").write_text(f"# another comment\n{text}")
    assert presets.load("kulynych2024").fingerprint in seen


def test_an_unknown_paper_is_named():
    with pytest.raises(PaperError, match="choose from"):
        presets.load("nobody2030")


def test_a_finished_result_is_read_and_an_altered_one_is_not(tmp_path, monkeypatch):
    calls = []

    def compute(parameters):
        calls.append(parameters)
        return {q: verdicts.Measured.exactly(3.5) for q in presets.load("kulynych2024").expected}

    monkeypatch.setitem(PROCEDURES, "attack_risk", reproduce._alone(compute))
    first = reproduce.reproduce("kulynych2024", tmp_path)
    again = reproduce.reproduce("kulynych2024", tmp_path)
    assert again.measured == first.measured
    assert len(calls) == 1
    path = tmp_path / reproduce.RESULT
    path.write_bytes(path.read_bytes().replace(b"3.5", b"3.6"))
    reproduce.reproduce("kulynych2024", tmp_path)
    assert len(calls) == 2
    assert json.loads(path.read_text())["paper"] == "kulynych2024"
