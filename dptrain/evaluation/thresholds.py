"""An attack's membership scores, and the guesses that thresholds make of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from dptrain.attacks import find
from dptrain.attacks.lira import choose_variance
from dptrain.attacks.scores import Scores
from dptrain.core import arrays
from dptrain.core.errors import Refusal
from dptrain.evaluation import metrics
from dptrain.evaluation.rankings import Rankings
from dptrain.evaluation.rows import Threshold

POPULATION_FPR = 0.1
"""False positive rate of a threshold that is chosen on the population."""
ON_POPULATION = ("loss", "confidence", "entropy", "modified_entropy")
"""Attacks that score an example of the population as they score any other; those that compare with
shadows have other shadows there.
"""


@dataclass(frozen=True)
class AttackScores:
    """An attack's membership scores: matrix [M, N] with each model in turn as the target; known:
    those of separate shadow models on their own examples, [K, n], and population: those of the
    targets on the population, [T, P], where there are such.
    """

    matrix: np.ndarray
    known: np.ndarray | None = None
    population: np.ndarray | None = None


def run(scores: Scores, attack: str, options: Mapping[str, Any]) -> AttackScores:
    """An attack on every model, on all that a threshold can be chosen on. Raises Refusal."""

    def matrix(table: Scores, models: Int[np.ndarray, " K"]) -> np.ndarray:
        run = find(attack)
        result = arrays.empty((len(models), len(table.labels)))
        for row, model in enumerate(models.tolist()):
            scored = run(table, model, **options)
            if np.shape(scored) != result.shape[1:]:
                shapes = f"{list(np.shape(scored))} in the place of {list(result.shape[1:])}"
                raise ValueError(f"attack {attack} gives scores of shape {shapes}")
            result[row] = scored
        return result

    known = population = None
    everyone = np.arange(scores.models)
    scores_of_all = matrix(scores, everyone)
    if any(np.isnan(row).any() for row in scores_of_all):
        raise Refusal("this attack gives scores that are no numbers")
    if scores.separate is not None:
        try:
            known = matrix(scores.separate, np.arange(scores.separate.models))
        except Refusal:  # the attack needs shadows of the shadows
            known = None
    if scores.population is not None and attack in ON_POPULATION:
        population = matrix(scores.population, scores.attacked)
    return AttackScores(scores_of_all, known, population)


def variant(scores: Scores, attack: str, options: Mapping[str, Any]) -> str:
    """What the attack's options came to, for the reader."""
    shadows = int(scores.shadows(int(scores.attacked[0])).sum())
    parts = [f"{key} {value}" for key, value in options.items() if key != "variance"]
    if "variance" in options:
        parts = [
            f"{choose_variance(options['variance'], attack == 'lira')} variance",
            f"{shadows} shadows",
        ]
    if attack.startswith(("rmia", "info_rmia")):
        parts.append(
            f"{shadows} shadows, z from the {'pool' if scores.population is None else 'population'}"
        )
    if scores.saturated:
        parts.append(
            f"{scores.saturated:.1%} of the true class's probabilities were rounded to 0 or 1"
        )
    return ", ".join(parts)


class ScoredExamples:
    """An attack's scores on some of the examples, and the guesses that thresholds of each kind make
    of them.
    """

    def __init__(
        self, scores: Scores, attacked: AttackScores, columns: Bool[np.ndarray, " N"] | None
    ):
        targets = scores.attacked
        self.labels = scores.labels
        matrix, membership = attacked.matrix, scores.membership
        if columns is not None:
            matrix, membership = matrix[:, columns], membership[:, columns]
            self.labels = self.labels[columns]
        everyone = np.array_equal(targets, np.arange(len(matrix)))
        self.scores, self.member = (
            table if everyone else table[targets] for table in (matrix, membership)
        )
        self._from_shadows: dict[bool, np.ndarray] = {}
        self._by_class: dict[tuple[int, int], Rankings] = {}
        self._population, self._population_labels = (
            attacked.population,
            None if scores.population is None else scores.population.labels,
        )
        self._known: Rankings | None
        if scores.separate is None:
            self._known, self._known_labels = Rankings(matrix, membership), self.labels
            self._chosen = np.stack([scores.shadows(target) for target in targets.tolist()])
            self.ranked = self._known if everyone else self._known.of(targets)
            return
        known, self._known_labels = attacked.known, scores.separate.labels
        self._known = None if known is None else Rankings(known, scores.separate.membership)
        self._chosen = np.ones((len(targets), scores.separate.models), dtype=bool)
        self.ranked = Rankings(self.scores, self.member)

    def guesses(self) -> Iterator[tuple[Threshold, bool, Callable[[], np.ndarray]]]:
        """What a threshold is chosen on, whether for each class, and the guesses it makes, bool [T,
        N].
        """
        classes = [False, True] if len(np.unique(self.labels)) > 1 else [False]
        sources = {Threshold.SHADOWS: self.from_shadows, Threshold.ORACLE: self._oracle}
        if self._population is not None:
            sources[Threshold.POPULATION] = self._from_population
        for source, make in sources.items():
            for per_class in classes:
                yield source, per_class, functools.partial(make, per_class)

    def from_shadows(self, per_class: bool) -> np.ndarray:
        if per_class not in self._from_shadows:
            self._from_shadows[per_class] = self._guess_by_shadows(per_class)
        return self._from_shadows[per_class]

    def _guess_by_shadows(self, per_class: bool) -> np.ndarray:
        if self._known is None or not self._chosen.any(axis=1).all():
            raise Refusal(
                "a threshold from shadows needs shadow models that this attack can "
                "score: models_per_setting of at least 4"
            )
        known = self._known
        return self._apply(
            lambda label: metrics.best_thresholds(
                self._of_class(known, self._known_labels, label), self._chosen
            ),
            self._known_labels,
            per_class,
        )

    def _oracle(self, per_class: bool) -> np.ndarray:
        return self._apply(
            lambda label: metrics.oracle_thresholds(
                self._of_class(self.ranked, self.labels, label)
            ),
            self.labels,
            per_class,
        )

    def _of_class(
        self, ranked: Rankings, labels: Int[np.ndarray, " n"], label: int | None
    ) -> Rankings:
        """Rankings of the examples of a class; None: of all."""
        if label is None:
            return ranked
        place = id(ranked), label
        if place in self._by_class:
            return self._by_class[place]
        of_class = ranked.among(labels == label)
        if ranked.small:
            self._by_class[place] = of_class
        return of_class

    def _from_population(self, per_class: bool) -> np.ndarray:
        assert self._population is not None
        assert self._population_labels is not None
        known, labels = self._population, self._population_labels

        def choose(label: int | None) -> np.ndarray:
            rows = slice(None) if label is None else labels == label
            return metrics.quantile_thresholds(known[:, rows], POPULATION_FPR)

        return self._apply(choose, labels, per_class)

    def _apply(
        self,
        choose: Callable[[int | None], np.ndarray],
        labels: Int[np.ndarray, " n"],
        per_class: bool,
    ) -> np.ndarray:
        """Guesses at the thresholds that `choose` finds on all examples of its own, whose `labels`
        are given, or on those of each class in turn, where there are any.
        """
        guess = self.scores >= choose(None)[:, None]
        for label in np.unique(self.labels).tolist() if per_class else ():
            if (labels == label).any():
                rows = self.labels == label
                guess[:, rows] = self.scores[:, rows] >= choose(label)[:, None]
        result: np.ndarray = guess
        return result
