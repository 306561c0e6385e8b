"""Model cards and registry entries: as their readers want them, with the numbers of the run."""

from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml

from dptrain.core.errors import RunError
from dptrain.core.types import NoiseSource
from dptrain.report.compliance.cards import TO_ANSWER, model_card, registry
from dptrain.report.compliance.write import compliance
from dptrain.report.record import Record

SCHEMA = yaml.safe_load(
    (Path(__file__).parents[2] / "golden" / "deployments_schema.yaml").read_text()
)


def with_fresh_noise(record):
    statements = {
        name: replace(statement, noise=NoiseSource.OS)
        for name, statement in record.statements.items()
    }
    return replace(record, statements=statements)


def test_an_entry_fits_the_schema_and_never_states_less_than_is_spent(done):
    record = with_fresh_noise(done.record)
    entry = yaml.safe_load(registry(record, "dpsgd-8"))
    checker = jsonschema.FormatChecker()
    jsonschema.validate(entry, SCHEMA, format_checker=checker)
    stated = entry["deployment"]["privacy_loss"]["privacy_parameters"]
    spent = record.statements["dpsgd-8"]
    assert spent.epsilon <= stated["epsilon"] < spent.epsilon + 0.002
    assert stated["delta"] == spent.delta
    assert entry["deployment"]["basic"]["data_curators"] == [TO_ANSWER]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**entry, "surprise": 1}, SCHEMA)


def test_what_is_not_claimed_has_no_entry(done):
    assert registry(done.record, "dpsgd-8") is None  # whose noise comes from a seed
    record = with_fresh_noise(done.record)
    assert registry(record, "none") is None
    rows = [replace(row, contradicted=row.ceiling is not None) for row in record.rows]
    assert registry(replace(record, rows=rows), "dpsgd-8") is None


def test_a_card_has_metadata_and_the_whole_statement(done):
    record = with_fresh_noise(done.record)
    _, front, text = model_card(record, "dpsgd-8").split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert "differential-privacy" in metadata["tags"]
    [model] = metadata["model-index"]
    [result] = model["results"]
    values = {each["type"]: each["value"] for each in result["metrics"]}
    [accuracy] = [
        row.estimate
        for row in record.rows
        if (row.setting, row.metric.name) == ("dpsgd-8", "test_accuracy")
    ]
    assert values["accuracy"] == accuracy
    for heading in ("## Privacy", "**guarantee**", "**composition**", "## Intended use"):
        assert heading in text
    none = yaml.safe_load(model_card(record, "none").split("---\n", 2)[1])
    assert none["tags"] == ["no-differential-privacy"]
    rows = [replace(row, contradicted=row.ceiling is not None) for row in record.rows]
    card = model_card(replace(record, rows=rows), "dpsgd-8")
    assert yaml.safe_load(card.split("---\n", 2)[1])["tags"] == ["no-differential-privacy"]


def test_the_folder(done, tmp_path):
    where = compliance(tmp_path, with_fresh_noise(done.record))
    files = {path.relative_to(where).as_posix() for path in where.rglob("*") if path.is_file()}
    assert files == {
        ".dptrain",
        "hazards.md",
        "hazards.html",
        "none/model_card.md",
        "dpsgd-8/model_card.md",
        "dpsgd-8/deployment.yaml",
    }
    page = (where / "hazards.html").read_text()
    assert page.count('class="hazard"') == 20
    assert page.count(f'<p class="field">{TO_ANSWER}') == 12
    compliance(tmp_path, done.record)  # whose noise comes from a seed
    assert not (where / "dpsgd-8" / "deployment.yaml").exists()
    with pytest.raises(RunError, match="no privacy statements"):
        compliance(tmp_path, Record(name="n", rows=[]))
