"""The report as one HTML file without scripts or outside links."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape

from dptrain.evaluation.rows import BLIND, Row
from dptrain.evaluation.utility import UTILITIES
from dptrain.evaluation.vulnerability import SHOWN, finds_most, standing_out
from dptrain.report.choices import said_alike
from dptrain.report.reading import in_words, reading
from dptrain.report.record import Record
from dptrain.report.statement import shared
from dptrain.report.tables import (
    REFUTED,
    Table,
    attacks,
    attributes,
    by_class,
    cell,
    differences,
    groups,
    legend,
    number,
    refuted,
    said_of_attributes,
    said_of_constant,
    said_of_smallest,
    summary,
    utilities,
    warnings,
)

ENVIRONMENT = Environment(
    loader=PackageLoader("dptrain.report"),
    autoescape=select_autoescape(default=True),
    trim_blocks=True,
    lstrip_blocks=True,
)
EVERY = (
    "setting",
    "attack",
    "metric",
    "examples",
    "estimate [95 % interval] <= ceiling",
    "targets",
    "members",
    "non-members",
    "note",
)
FOUND = ("attack", "members found", "by no other attack", "stability", "ids it alone finds most")
EXPOSED = (
    "id",
    "label",
    "found / held by",
    "95 % interval, all at once",
    "false alarms",
    "AUC over targets",
    "stands out",
)
STEADY = (
    "stability: rank correlation of the examples' exposure between two halves of the models, each "
    "attacked without the other"
)


def page(record: Record, figures: Mapping[str, bytes]) -> str:
    """The report of a run. figures: title to PNG, for a reader without JavaScript."""
    from dptrain.report.charts import interactive  # Altair takes a second to load

    rows, utility = record.rows, record.utility
    common, rest = shared(record.statements)
    attacked = dict.fromkeys(row.setting for row in rows if row.attack and row.attack != BLIND)
    images = {title: base64.b64encode(data).decode() for title, data in figures.items()}
    return ENVIRONMENT.get_template("page.html").render(
        name=record.name,
        legend=[
            *legend(rows, claimed=not record.statements),
            *record.remarks,
            *said_of_constant(record.differences, utility),
            *said_alike(record.differences.get(utility, {}), utility),
        ],
        warnings=warnings(rows),
        about=_about(record.config),
        reading=reading(record),
        in_words=in_words(record),
        summary=summary(rows, utility),
        utilities=utilities(rows),
        title=UTILITIES[utility].title,
        differences=differences(record.differences, utility),
        figures=images,
        charts=interactive.charts(record.marked),
        library=interactive.library(),
        settings=interactive.colours(record.marked),
        roc_attacks=list(dict.fromkeys(attack for roc in record.rocs for attack in roc.curves)),
        roc_attack=interactive.first_attack(record.marked),
        groups={
            setting: groups(record.groups, setting)
            for setting in dict.fromkeys(row.setting for row in record.groups)
        },
        smallest=said_of_smallest(record.groups),
        classes=by_class(record.classes),
        attributes=attributes(rows),
        inferred=said_of_attributes(rows),
        sections=[_section(record, setting) for setting in attacked],
        common=common,
        statements=rest,
        every=(EVERY, [_line(row) for row in rows]),
        command=record.command,
        config=json.dumps(record.config, indent=1),
        versions=", ".join(f"{key} {value}" for key, value in record.versions.items()),
    )


def _about(config: Mapping[str, Any]) -> str:
    """What data a run is about, and how much of them."""
    data = config.get("dataset", {})
    if "name" not in data:
        return ""
    what = f"values of {data['unit']}" if data.get("unit") else "examples"
    sizes = [f"{part} {data[part]:,}" for part in ("pool", "test") if data.get(part) is not None]
    counted = f" ({what}: {', '.join(sizes)})" if sizes else ""
    target = f"; predicted is {data['target']}" if data.get("target") else ""
    return f"Data: {data['name']}{counted}{target}."


def _section(record: Record, setting: str) -> dict[str, Any]:
    """The tables of one setting."""
    rows = record.rows
    canaries = any(row.examples == "canaries" for row in rows)
    return {
        "setting": setting + (REFUTED if setting in refuted(rows) else ""),
        "attacks": attacks(rows, setting),
        "canaries": attacks(rows, setting, "canaries") if canaries else None,
        "exposed": _exposed(record.exposed.get(setting, {})),
        "drawn": _drawn(record, setting),
    }


def _line(row: Row) -> list[str]:
    return [
        row.setting,
        row.attack or "",
        row.metric.name,
        row.examples,
        cell(row),
        str(row.targets),
        f"{row.n_in:,}",
        f"{row.n_out:,}",
        row.note,
    ]


def _exposed(record: Mapping[str, Any]) -> list[tuple[str, Table, str]]:
    """What each attack finds alone, and the examples that stand out from chance under the attack
    that finds most: titles, tables and remarks.
    """
    alone = record.get("agreement", {}).get("alone", {})
    if not alone:
        return []
    lines = [
        [
            name,
            f"{members['found']:,}",
            f"{members['only']:,}",
            number(record["stability"].get(name)),
            ", ".join(str(each) for each in members["ids"]),
        ]
        for name, members in alone.items()
    ]
    fpr = record["agreement"]["fpr"]
    title = f"which members each attack finds at {fpr:.0%} FPR"
    tables: list[tuple[str, Table, str]] = [(title, (list(FOUND), lines), STEADY)]
    examples = standing_out(record)
    if examples:
        body = [_vulnerable(example) for example in examples]
        said = (
            f"most exposed examples ({finds_most(record)}): {len(examples)}, at most {SHOWN} shown"
        )
        tables.append((said, (list(EXPOSED), body), ""))
    return tables


def _drawn(record: Record, setting: str) -> dict[str, Any]:
    """The most exposed examples of a setting as a person looks at them: images with what is said of
    each, or rows of a table; and a sentence where there are none.
    """
    of_setting = record.exposed.get(setting, {})
    examples = [
        (each, record.examples[str(each["place"])])
        for each in standing_out(of_setting)
        if str(each.get("place")) in record.examples
    ]
    images = [
        (f"id {each['id']}, label {drawn['label']}: {_said(each)}", drawn["image"])
        for each, drawn in examples
        if "image" in drawn
    ]
    rows = [(each, drawn) for each, drawn in examples if "row" in drawn]
    columns = list(dict.fromkeys(name for _, drawn in rows for name in drawn["row"]))
    body = [
        [str(each["id"]), _said(each), drawn["label"], *(drawn["row"][name] for name in columns)]
        for each, drawn in rows
    ]
    return {
        "images": images,
        "rows": (["id", "told apart", "label", *columns], body),
        "none": "No example stands out from what chance would show among so many."
        if of_setting.get("agreement", {}).get("alone") and not standing_out(of_setting)
        else "",
        "hidden": bool(standing_out(of_setting)) and record.config.get("show_examples") is False,
    }


def _said(example: Mapping[str, Any]) -> str:
    return (
        f"found in {example['found']} of {example['of']} models that learnt from it, "
        f"AUC {number(example['auc'])}"
    )


def _vulnerable(example: Mapping[str, Any]) -> list[str]:
    return [
        str(example["id"]),
        str(example["label"]),
        f"{example['found']} / {example['of']}",
        f"[{number(example['low'])}, {number(example['high'])}]",
        str(example["false_alarms"]),
        number(example["auc"]),
        f"yes, p {example['p']:.2g}" if example["stands_out"] else "no",
    ]
