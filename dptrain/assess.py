"""All attacks on one setting: rows, ROCs, exposed examples. The sweep and `dptrain attack` both end here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dptrain import exposure, guesses, judge, metrics
from dptrain.attacks import ALONE, RERUN
from dptrain.guesses import Judged
from dptrain.judge import Row, Subject
from dptrain.scores import Scores
from dptrain.types import Refusal

Run = Callable[[Scores, str, Mapping[str, Any]], Judged]


@dataclass(frozen=True)
class Assessment:
    """rows: every number; curves: attack to (fpr, tpr) over all targets together; refused: attack to reason; exposed: the record of `exposure`."""

    rows: list[Row] = field(default_factory=list)
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    exposed: dict[str, Any] = field(default_factory=dict)


def assess(
    subject: Subject,
    scores: Scores,
    attacks: Mapping[str, Mapping[str, Any]],
    audits: Sequence[str],
    *,
    ids: np.ndarray | None = None,
    canaries: np.ndarray | None = None,
    run: Run = guesses.run,
    on_attack: Callable[[str], None] = lambda _name: None,
) -> Assessment:
    """Run attacks, options each, on a setting. ids [N] name the examples; canaries, bool [N], get rows of their own; `run` may read a cache."""
    result = Assessment()
    ids = np.arange(len(scores.labels)) if ids is None else ids
    member, matrices = scores.membership[scores.attacked], {}
    for name, options in attacks.items():
        on_attack(name)
        try:
            judged = run(scores, name, options)
        except Refusal as refusal:
            result.refused[name] = str(refusal)
            result.rows.extend(judge.refused_rows(subject, name, str(refusal), scores))
            continue
        note = guesses.variant(scores, name, options)
        result.rows.extend(judge.attack_rows(subject, name, judged, scores, tuple(audits), note))
        if canaries is not None and canaries.any():
            result.rows.extend(judge.attack_rows(subject, name, judged, scores, tuple(audits), note, canaries))
        matrices[name] = judged.matrix[scores.attacked]
        result.curves[name] = metrics.roc(matrices[name].ravel(), member.ravel())
    result.exposed.update(
        vulnerable={name: exposure.vulnerable(matrix, member, scores.labels, ids) for name, matrix in matrices.items()},
        stability={name: _stability(scores, name, attacks[name], run, matrix) for name, matrix in matrices.items()},
        agreement=exposure.agreement(matrices, member, ids),
    )
    return result


def _stability(scores: Scores, attack: str, options: Mapping[str, Any], run: Run, matrix: np.ndarray) -> float | None:
    """Of an attack between two halves of the models, each attacked with its own half as shadows; None for attacks that would have to train
    classifiers again for it."""
    if attack not in RERUN and attack not in ALONE:
        return None
    parts = exposure.halves(scores.models) if not scores.targets and scores.separate is None else None
    if parts is None:
        return None
    if attack in ALONE:
        first, second = ((matrix[half], scores.membership[half]) for half in parts)
        return exposure.stability(first, second)
    try:
        first, second = ((run(part := scores.only(half), attack, options).matrix, part.membership) for half in parts)
    except Refusal:  # a half has too few shadows
        return None
    return exposure.stability(first, second)
