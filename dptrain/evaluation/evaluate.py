"""All attacks on one setting: rows, ROCs, exposed examples. The sweep and `dptrain attack` both end
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Shaped

from dptrain.attacks import ALONE, RERUN
from dptrain.attacks.scores import Scores
from dptrain.core.errors import Refusal
from dptrain.core.streams import Users
from dptrain.evaluation import metrics, thresholds, vulnerability
from dptrain.evaluation.attack_rows import attack_rows, refused_rows
from dptrain.evaluation.rows import Row, Subject
from dptrain.evaluation.thresholds import AttackScores

Options = Mapping[str, Any]
Run = Callable[[Scores, str, Options], AttackScores]
"""(scores, attack, its options) -> membership scores; may read a cache."""


@dataclass(frozen=True)
class Evaluation:
    """rows: every number; curves: attack to (fpr, tpr) over all targets together; exposed: the
    record of `vulnerability`.
    """

    rows: list[Row] = field(default_factory=list)
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    exposed: dict[str, Any] = field(default_factory=dict)


def evaluate(  # noqa: PLR0913  # four of them have defaults, by keyword only
    subject: Subject,
    scores: Scores,
    attacks: Mapping[str, Options],
    audits: Sequence[str],
    *,
    ids: Shaped[np.ndarray, " N"] | None = None,
    canaries: Bool[np.ndarray, " N"] | None = None,
    run: Run = thresholds.run,
    on_attack: Callable[[str], None] = lambda _name: None,
    users: Users | None = None,
) -> Evaluation:
    """Run attacks, options each, on a setting.

    Args:
        subject: what is attacked, and what is proved of it.
        scores: what its models say.
        attacks: attack to its options.
        audits: methods of lower bounds of epsilon.
        ids: names of the examples, [N].
        canaries: bool [N]; examples that get rows of their own.
        run: runs an attack, perhaps from a cache.
        on_attack: called with the name of each attack before it runs.
        users: whose each example is, where users are in a training set or not: attacks and audits
            are then on users, and rows of single examples, whose coins are not their own, stand
            beside them without a proof.
    """
    result = Evaluation()
    ids = np.arange(len(scores.labels)) if ids is None else ids
    units = scores
    if users is not None:
        units, ids = by_user(scores, users), ids[users.rows[users.starts[:-1]]]
        canaries = None if canaries is None else canaries[users.rows[users.starts[:-1]]]
    member = units.membership[units.attacked]
    vulnerable: dict[str, list[vulnerability.Record]] = {}
    stability: dict[str, float | None] = {}
    hits: dict[str, np.ndarray] = {}
    for name, options in attacks.items():
        on_attack(name)
        try:
            attacked = run(scores, name, options)
        except Refusal as refusal:
            result.rows.extend(refused_rows(subject, name, str(refusal), scores))
            continue
        note = thresholds.variant(scores, name, options)
        whole = attacked
        if users is not None:
            plain = replace(subject, proved=None, curve=None)
            single = attack_rows(plain, name, attacked, scores, (), note)
            result.rows.extend(replace(row, examples="rows") for row in single)
            whole = AttackScores(mean_by_user(attacked.matrix, users))
        result.rows.extend(attack_rows(subject, name, whole, units, audits, note))
        if canaries is not None and canaries.any():
            result.rows.extend(attack_rows(subject, name, whole, units, audits, note, canaries))
        matrix = whole.matrix if not units.targets else whole.matrix[units.attacked]
        result.curves[name] = metrics.roc(matrix, member)
        called = vulnerability.called_members(matrix, member)
        vulnerable[name] = vulnerability.vulnerable(matrix, member, called, units.labels, ids)
        of_rows = attacked.matrix if not scores.targets else attacked.matrix[scores.attacked]
        stability[name] = _stability(scores, name, options, run, of_rows)
        hits[name] = called & member
    result.exposed.update(
        vulnerable=vulnerable,
        stability=stability,
        agreement=vulnerability.agreement(hits, ids),
    )
    return result


def by_user(scores: Scores, users: Users) -> Scores:
    """Who is a member, [M, U], and nothing else of what the models say."""
    first = users.rows[users.starts[:-1]]
    membership = scores.membership[:, first]
    nothing = np.zeros((*membership.shape, 1))
    labels = np.zeros(len(first), dtype=np.int64)
    return Scores(None, labels, membership, given_loss=nothing, targets=scores.targets)


def mean_by_user(matrix: Float[np.ndarray, "M N"], users: Users) -> Float[np.ndarray, "M U"]:
    """The mean of an attack's scores over the examples of each user."""
    sums = np.add.reduceat(matrix[:, users.rows], users.starts[:-1], axis=1)
    means: np.ndarray = sums / np.diff(users.starts)
    return means


def _stability(
    scores: Scores, attack: str, options: Options, run: Run, matrix: Float[np.ndarray, "T N"]
) -> float | None:
    """Of an attack between two halves of the models, each attacked with its own half as shadows;
    None for attacks that would have to train classifiers again for it.
    """
    if attack not in RERUN and attack not in ALONE:
        return None
    if scores.targets or scores.separate is not None:
        return None
    halves = vulnerability.halves(scores.models)
    if halves is None:
        return None
    if attack in ALONE:
        first, second = ((matrix[half], scores.membership[half]) for half in halves)
        return vulnerability.stability(first, second)
    try:
        first, second = (
            (run(part := scores.only(half), attack, options).matrix, part.membership)
            for half in halves
        )
    except Refusal:  # a half has too few shadows
        return None
    return vulnerability.stability(first, second)
