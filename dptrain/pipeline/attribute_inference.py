"""Attribute inference: what a model tells of one column of a person whose other columns and label
the attacker knows.

The attacker asks a model about a row with each value in turn that may stand there, and guesses one.
Much can be guessed without any model, from what columns have to do with each other, so each attack
stands beside `imputation`, which learns that from the population and never asks a model (Jayaraman
and Evans 2022). What training on a row gives away is the advantage: how much oftener the guess is
right of members than of non-members (Yeom et al. 2018, definition 5). Whether it is right is one
event about a model, so its probability with the row differs from that without it by at most the
proved advantage of a membership attack.

V values, n rows, M models.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.special import log_softmax
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

from dptrain.core.errors import Refusal
from dptrain.core.types import Setting
from dptrain.data.splits import Attribute, Examples
from dptrain.evaluation import metrics
from dptrain.evaluation.attack_rows import Limits, measured_row
from dptrain.evaluation.rows import IMPUTATION, Kind, Metric, Row, Subject
from dptrain.fleet import models as trained
from dptrain.fleet.fleet import Fleet
from dptrain.pipeline import regression

MOST_ROWS = 5000
"""Rows of the pool that are attacked, the first of them, and of the population that an imputation
learns from.
"""
LEAST = -50.0
"""Log-likelihood below which one is as good as another: a service that masks posteriors gives 0."""
FOLDS = 5
ATTACKS = ("yeom", "csmia", "calibrated")
"""Beside imputation."""
ATTRIBUTE_KINDS = (
    Kind.ATTRIBUTE_ACCURACY,
    Kind.ATTRIBUTE_BALANCED_ACCURACY,
    Kind.ATTRIBUTE_GAIN,
    Kind.ATTRIBUTE_ADVANTAGE,
)


@dataclass(frozen=True)
class Answers:
    """What one model says of n rows with each of V values in the column. likelihood: log of that
    of the row's label; right: whether that label is the predicted one, and confidence: posterior of
    the predicted one, both None in a regression. All [V, n].
    """

    likelihood: np.ndarray
    right: np.ndarray | None = None
    confidence: np.ndarray | None = None


def likeliest(answers: Answers, prior: Float[np.ndarray, "V n"]) -> Int[np.ndarray, " n"]:
    """The value whose prior times likelihood of the model's error is greatest (Yeom et al. 2018,
    section 4). prior: logarithms.
    """
    guess: np.ndarray = (prior + answers.likelihood).argmax(axis=0)
    return guess


def confidence_score(answers: Answers) -> Int[np.ndarray, " n"]:
    """Of the values with which the model predicts the label, the one with which it is most sure;
    where there is none, the one with which it is least sure (Mehnaz et al. 2022, CSMIA). Raises
    Refusal where there are no classes.
    """
    if answers.right is None or answers.confidence is None:
        raise Refusal("it needs a model of classes")
    with_right = np.where(answers.right, answers.confidence, -1).argmax(axis=0)
    guess: np.ndarray = np.where(
        answers.right.any(axis=0), with_right, answers.confidence.argmin(axis=0)
    )
    return guess


def calibrated(
    of_models: Float[np.ndarray, "M V n"],
    membership: Bool[np.ndarray, "M n"],
    target: int,
    prior: Float[np.ndarray, "V n"],
) -> Int[np.ndarray, " n"]:
    """The value whose likelihood under the target rises most above that under shadows without the
    row, weighed by what imputation says: `likeliest` with the difficulty taken out, as Watson et
    al. (2022) do for membership. Neither the target nor its complement is a shadow, so a row's
    shadows are the same whether the target holds it or not: the one of each other pair that does
    not. Raises Refusal where there is no other pair.
    """
    shadows = membership.shape[0] // 2 - 1
    if shadows < 1:
        raise Refusal("it needs 4 models or more")
    without = ~membership
    without[[target, target ^ 1]] = False
    mean = (of_models * without[:, None]).sum(axis=0) / shadows
    guess: np.ndarray = (prior + of_models[target] - mean).argmax(axis=0)
    return guess


def impute(
    population: Examples, known: Attribute, rows: Examples, classes: int
) -> Float[np.ndarray, "V n"]:
    """Log-probability of each value of a column from the other inputs and the label, learnt from
    the population: by logistic regression or a forest, whichever guesses better across its folds. A
    value that fewer than FOLDS of those rows have is never guessed.
    """
    there = np.flatnonzero(known.codes >= 0)[:MOST_ROWS]
    often = np.flatnonzero(np.bincount(known.codes[there]) >= FOLDS)
    there = there[np.isin(known.codes[there], often)]
    codes = known.codes[there]
    logs = np.full((len(known.values), rows.labels.size), LEAST)
    if often.size < 2:
        logs[often] = 0.0
        return logs
    inputs, asked = (_others(part, known, classes) for part in (population.take(there), rows))
    models = [
        LogisticRegression(max_iter=1000),
        RandomForestClassifier(200, min_samples_leaf=3, random_state=0),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores = [float(cross_val_score(model, inputs, codes, cv=FOLDS).mean()) for model in models]
        best = models[int(np.argmax(scores))].fit(inputs, codes)
    logs[best.classes_] = np.log(np.maximum(best.predict_proba(asked).T, np.exp(LEAST)))
    return logs


def _others(part: Examples, attribute: Attribute, classes: int) -> Float[np.ndarray, "n F"]:
    """What an attacker knows of rows: their inputs but for the column, and the label."""
    rest = np.delete(part.inputs, attribute.places, axis=1)
    if not attribute.places.size:
        return rest
    numbers = part.labels.dtype.kind == "f"
    label = part.labels[:, None] if numbers else np.eye(classes)[part.labels]
    return np.column_stack([rest, label])


@dataclass(frozen=True)
class Attacked:
    """A column of some rows of the pool. rows: the rows; attribute: what stands there; membership:
    of which models they are; prior and imputed: log-probabilities of its values [V, n], the same
    for all rows, and from all else that is known of each. learnt: rows of the population that both
    come from; left_out: rows whose value is missing, or too rare there to be guessed.
    """

    rows: Examples
    attribute: Attribute
    membership: np.ndarray
    prior: np.ndarray
    imputed: np.ndarray
    learnt: int = 0
    left_out: int = 0


def attacked(fleet: Fleet) -> dict[str, Attacked]:
    """The columns that are attacked, on rows that are no canaries: where users are members, on one
    row of each, since others of theirs are alike.
    """
    result = {}
    pool, users = fleet.dataset.pool, fleet.users
    for name, (of_pool, known) in fleet.dataset.attributes.items():
        candidates = np.arange(pool.labels.size) if users is None else users.rows[users.starts[:-1]]
        candidates = candidates[candidates >= fleet.dataset.canaries][:MOST_ROWS]
        some = candidates[of_pool.codes[candidates] >= 0]
        if not some.size:
            continue
        rows, attribute = pool.take(some), of_pool.of(some)
        counts = np.bincount(known.codes[known.codes >= 0], minlength=len(known.values))
        shares = np.maximum(counts / counts.sum(), np.exp(LEAST))
        prior = np.broadcast_to(np.log(shares)[:, None], (shares.size, some.size))
        imputed = impute(fleet.dataset.population, known, rows, fleet.dataset.classes)
        learnt, left_out = min(MOST_ROWS, int(counts.sum())), candidates.size - some.size
        membership = fleet.membership[:, some]
        result[name] = Attacked(rows, attribute, membership, prior, imputed, learnt, left_out)
    return result


def rows_of(
    fleet: Fleet, setting: Setting, subject: Subject, columns: Mapping[str, Attacked]
) -> list[Row]:
    """Every attack on every column of one setting, imputation first."""
    rows = []
    for name, column in columns.items():
        imputed = column.imputed.argmax(axis=0) == column.attribute.codes
        guesses = _guesses(list(_ask(fleet, setting, column)), column)
        # An attack has a gain and an advantage, of which one is looked for that is above 0.
        signed = Limits(low=-1.0, many=2 * len(ATTACKS) * len(columns))
        for attack, guess in guesses.items():
            rows += _rows(subject, Guessed(name, attack, column, guess), imputed, signed)
    return rows


def _guesses(
    answers: Sequence[Answers], column: Attacked
) -> dict[str, Callable[[int], np.ndarray]]:
    """Attack -> from a target to its guesses, [n]."""
    of_models = np.stack([of_model.likelihood for of_model in answers])
    member, imputed = column.membership, column.imputed
    attacks: dict[str, Callable[[int], np.ndarray]] = {
        IMPUTATION: lambda target: imputed.argmax(axis=0),
        "yeom": lambda target: likeliest(answers[target], column.prior),
        "csmia": lambda target: confidence_score(answers[target]),
        "calibrated": lambda target: calibrated(of_models, member, target, imputed),
    }
    if not column.attribute.places.size:
        # Of the target the likelihood is a posterior, which has the prior in it: csmia takes it.
        del attacks["yeom"]
    return attacks


@dataclass(frozen=True)
class Guessed:
    """An attack on a column. guess: from a target to its guesses, [n]."""

    name: str
    attack: str
    column: Attacked
    guess: Callable[[int], np.ndarray]


def _rows(
    subject: Subject, guessed: Guessed, imputed: Bool[np.ndarray, " n"], signed: Limits
) -> list[Row]:
    """The numbers of one attack on one column. imputed: whether imputation is right of each row;
    signed: how differences are reported, which hold at once.
    """
    member, codes = guessed.column.membership, guessed.column.attribute.codes
    ceiling = subject.curve.max_advantage if subject.curve else None
    ceilings = {Kind.ATTRIBUTE_ADVANTAGE: ceiling}
    try:
        right = np.stack([guessed.guess(target) == codes for target in range(len(member))])
    except Refusal as refusal:
        counts = len(member), int(member.sum()), int((~member).sum())
        return [
            subject.refused(
                guessed.attack,
                Metric(kind, column=guessed.name),
                str(refusal),
                counts,
                ceilings.get(kind),
            )
            for kind in ATTRIBUTE_KINDS
        ]
    alone = np.broadcast_to(imputed, member.shape)
    values: dict[Kind, tuple[metrics.PerTarget, Limits]] = {
        Kind.ATTRIBUTE_ACCURACY: (metrics.recalls(right, member), Limits(rate=True)),
        Kind.ATTRIBUTE_BALANCED_ACCURACY: (
            metrics.balanced_recalls(right, member, codes),
            Limits(),
        ),
        Kind.ATTRIBUTE_GAIN: (metrics.recall_gains(right, alone, member), signed),
        Kind.ATTRIBUTE_ADVANTAGE: (metrics.advantages(right, member), signed),
    }
    if guessed.attack == IMPUTATION:
        del values[Kind.ATTRIBUTE_GAIN]
    column = guessed.column
    note = (
        f"{len(column.attribute.values)} values, {codes.size:,} rows, {column.left_out:,} more "
        f"left out, whose value is missing or rare; {column.learnt:,} rows of the population"
    )
    at_once = f"; one of {signed.many} intervals that hold at once"
    return [
        measured_row(
            subject,
            guessed.attack,
            Metric(kind, column=guessed.name),
            measured,
            member,
            replace(limits, ceiling=ceilings.get(kind)),
            note + at_once * (limits is signed),
        )
        for kind, (measured, limits) in values.items()
    ]


def _ask(fleet: Fleet, setting: Setting, column: Attacked) -> Iterator[Answers]:
    """What each model of a setting says of the rows with each value in the column."""
    module = fleet.module(setting).to(fleet.device)
    attribute, rows = column.attribute, column.rows
    numbers = regression.of(fleet.config)
    # Where the column is the target, no input says it.
    blocks = attribute.blocks if attribute.places.size else attribute.blocks[:1]

    def asked(block: Float[np.ndarray, " P"]) -> torch.Tensor:
        inputs = rows.inputs.copy()
        inputs[:, attribute.places] = block
        return fleet.seen(torch.from_numpy(inputs)).to(fleet.device)

    for index in range(len(column.membership)):
        values = trained.parameters(fleet, setting, index, module)
        said = np.stack(
            [trained.released_logits(module, values, asked(block), setting)[0] for block in blocks]
        )
        if numbers is not None:
            population = trained.part_logits(fleet, setting, index, "population")
            known = fleet.dataset.population.labels
            losses = numbers.losses(
                (said[:, :, None], rows.labels), (population[None, :, None], known)
            )
            yield Answers(np.maximum(-losses[0][..., 0], LEAST))
        else:
            yield of_classes(said.astype(np.float64), rows.labels, attribute)


def of_classes(
    logits: Float[np.ndarray, "V n C"], labels: Int[np.ndarray, " n"], attribute: Attribute
) -> Answers:
    """From a model's logits of rows with each value; of the target as the column, those of the rows
    alone, [1, n, C], where each value is a label.
    """
    logs = np.maximum(log_softmax(logits, axis=-1), LEAST)
    predicted, confidence = logs.argmax(axis=-1), np.exp(logs.max(axis=-1))
    if attribute.places.size:
        return Answers(logs[..., np.arange(labels.size), labels], predicted == labels, confidence)
    values = np.arange(len(attribute.values))[:, None]
    every = np.broadcast_to(confidence, (len(values), labels.size))
    return Answers(logs[0].T, predicted == values, every)
