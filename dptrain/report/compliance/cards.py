"""A setting of a run as a model card of Hugging Face, and as an entry of OpenDP's registry of
deployments. What only the organisation knows says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from dptrain.core.types import NoiseSource, Unit
from dptrain.evaluation.utility import UTILITIES
from dptrain.privacy.statement import PrivacyStatement
from dptrain.report import tables
from dptrain.report.record import Record
from dptrain.report.statement import claim, rounded_up, sentences

TO_ANSWER = "For the organisation to answer."
SECTIONS = (
    "Intended use",
    "Out-of-scope use",
    "Bias, risks and limitations",
    "Environmental impact",
    "Citation",
    "Contact",
)
"""Of Hugging Face's template, which asks for them; it has no section on privacy."""


def model_card(record: Record, setting: str) -> str:
    """The card in Markdown, with its metadata as Hugging Face reads them."""
    statement = record.statements[setting]
    rows = [row for row in record.rows if row.setting == setting]
    attacks = tables.attacks(record.rows, setting)
    measured = tables.table(*tables.measures(rows))
    said = [f"- **{name}**: {_plain(text)}" for name, text in sentences(statement).items()]
    return "\n".join(
        [
            "---",
            yaml.safe_dump(_metadata(record, setting), sort_keys=False, allow_unicode=True).strip(),
            "---",
            "",
            f"# {_plain(record.name)}: {_plain(setting)}",
            "",
            f"Privacy: {claim(statement)}.",
            "",
            "## Training",
            "",
            f"Model {_of(record, 'model')}, data set {_of(record, 'dataset')}; "
            f"preprocessing: {_plain(statement.preprocessing)}.",
            "",
            "## Privacy",
            "",
            *said,
            "",
            "## Evaluation",
            "",
            measured,
            "",
            *(["Attacks that were run, against their proved ceilings:", ""] * bool(attacks[1])),
            *([tables.table(*attacks), ""] * bool(attacks[1])),
            *(line for title in SECTIONS for line in (f"## {title}", "", TO_ANSWER, "")),
        ]
    )


def _metadata(record: Record, setting: str) -> dict[str, Any]:
    useful = record.statements[setting].evaluated
    values = {} if useful is None else useful.utilities
    predicts = record.config.get("dataset", {}).get("task")
    task = "tabular-regression" if predicts == "regression" else "classification"
    results = {
        "task": {"type": task},
        "dataset": {"type": _of(record, "dataset"), "name": _of(record, "dataset")},
        "metrics": [
            {"type": name, "name": f"test {UTILITIES[name].title}", "value": float(limits[0])}
            for name, limits in values.items()
        ],
    }
    private = record.statements[setting].private and setting not in tables.refuted(record.rows)
    return {
        "library_name": "dptrain",
        "tags": ["differential-privacy", "dp-sgd"] if private else ["no-differential-privacy"],
        "model-index": [{"name": f"{record.name}: {setting}", "results": [results]}],
    }


def registry(record: Record, setting: str) -> str | None:
    """The entry as YAML, by the registry's schema of 2026-07; None where nothing is claimed, also
    against those who know the seed of the noise.
    """
    statement = record.statements[setting]
    seeded = statement.noise == NoiseSource.SEEDED
    if not statement.private or seeded or setting in tables.refuted(record.rows):
        return None
    said = sentences(statement)
    entry = {
        "url_slug": "".join(each if each.isalnum() else "_" for each in record.name).lower(),
        "status": "Draft",
        "tier": 3,
        "deployment": {
            "basic": {
                "name": f"{record.name}: {setting}",
                "data_curators": [TO_ANSWER],
                "intended_use": TO_ANSWER,
                "data_product_type": "Machine learning model",
                "data_product_region": TO_ANSWER,
                "description": f"A model ({_of(record, 'model')}) trained by DP-SGD on "
                f"{_of(record, 'dataset')}.",
                "publication_date": "1900-01-01",
            },
            "dp_variant": {
                "variant_name": "Approximate DP",
                "data_domain": f"Any number of rows of {_of(record, 'dataset')}; {said['unit']}.",
                "unprotected_quantities": _unprotected(statement, said),
            },
            "privacy_loss": _loss(statement, said),
            "deployment_model": {
                "model_name": "Central",
                "actors": TO_ANSWER,
                "release_type": "One release",
                "release_type_details": said["released"],
                "data_source_type": "Static",
                "access_type": "Non-interactive",
            },
            "accounting": {
                "post_processing": "Predictions of the model are post-processing.",
                "composition": f"{said['accountant']}. {said['composition']}",
            },
            "implementation": {
                "preprocessing_and_hyperparameter_tuning": "Preprocessing: "
                f"{said['preprocessing']}. Tuning: {said['tuning']}.",
                "mechanisms": f"{said['mechanism']}. {said['randomness']}. Versions: "
                f"{said['record']}. Security and access control: {TO_ANSWER}",
                "justification": TO_ANSWER,
            },
            "administrative": {
                "notes": "Written by dptrain. The date of publication is a placeholder. "
                f"Checks: {said['checks']}. Measured: {said['measured']}.",
                "registry_authors": [TO_ANSWER],
            },
        },
    }
    text: str = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=96)
    return text


def _unprotected(statement: PrivacyStatement, said: Mapping[str, str]) -> str:
    counted = "was counted from the rows" if statement.counted else "is public"
    return f"The number of {_units(statement)} {counted}. Preprocessing: {said['preprocessing']}."


def _units(statement: PrivacyStatement) -> str:
    return "users" if statement.drawn == Unit.USER else "rows"


def _loss(statement: PrivacyStatement, said: Mapping[str, str]) -> dict[str, Any]:
    return {
        "privacy_unit": statement.unit,
        "privacy_unit_details": f"{said['neighbours']}; {said['unit']}",
        "privacy_parameters": {
            "epsilon": float(rounded_up(statement.epsilon, 3)),
            "delta": statement.delta,
        },
        "privacy_parameters_details": f"{said['guarantee']}. {said['ceiling']}.",
    }


def _of(record: Record, part: str) -> str:
    return _plain(str(record.config.get(part, {}).get("name", "unknown")))


def _plain(text: str) -> str:
    """A text as Markdown that shows it as it is: no column's name becomes HTML."""
    return text.replace("<", "&lt;").replace(">", "&gt;")
