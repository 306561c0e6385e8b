"""An attack's membership scores, and the guesses that thresholds make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dptrain import metrics
from dptrain.attacks import find
from dptrain.attacks.lira import choose_variance
from dptrain.scores import Scores
from dptrain.types import Refusal

POPULATION_FPR = 0.1
"""False positive rate of a threshold that is chosen on the population."""
ON_POPULATION = ("loss", "confidence", "entropy", "modified_entropy")
"""Attacks that score an example of the population as they score any other; those that compare with shadows have other shadows there."""


@dataclass(frozen=True)
class Judged:
    """An attack's membership scores: matrix [M, N] with each model in turn as the target; known: those of separate shadow models on their own
    examples, [K, n], and population: those of the targets on the population, [T, P], where there are such."""

    matrix: np.ndarray
    known: np.ndarray | None = None
    population: np.ndarray | None = None


def run(scores: Scores, attack: str, options: Mapping[str, Any]) -> Judged:
    """An attack on every model, on all that a threshold can be chosen on. Raises Refusal."""

    def matrix(table: Scores, models: np.ndarray) -> np.ndarray:
        run = find(attack)
        return np.stack([run(table, model, **options) for model in models])

    known = population = None
    everyone = np.arange(scores.models)
    found = matrix(scores, everyone)
    if scores.separate is not None:
        try:
            known = matrix(scores.separate, np.arange(scores.separate.models))
        except Refusal:  # the attack needs shadows of the shadows
            known = None
    if scores.population is not None and attack in ON_POPULATION:
        population = matrix(scores.population, scores.attacked)
    return Judged(found, known, population)


def variant(scores: Scores, attack: str, options: Mapping[str, Any]) -> str:
    """What the attack's options came to, for the reader."""
    shadows = int(scores.shadows(int(scores.attacked[0])).sum())
    told = [f"{key} {value}" for key, value in options.items() if key != "variance"]
    if "variance" in options:
        told = [f"{choose_variance(options['variance'], attack == 'lira')} variance", f"{shadows} shadows"]
    if attack.startswith(("rmia", "info_rmia")):
        told.append(f"{shadows} shadows, z from the {'pool' if scores.population is None else 'population'}")
    if scores.saturated:
        told.append(f"{scores.saturated:.1%} of the true class's probabilities were rounded to 0 or 1")
    return ", ".join(told)


class View:
    """An attack's scores on some of the examples, and the guesses that thresholds of each kind make of them."""

    def __init__(self, scores: Scores, judged: Judged, columns: np.ndarray | None):
        columns = np.ones(len(scores.labels), dtype=bool) if columns is None else columns
        targets = scores.attacked
        self._from_shadows: dict[bool, np.ndarray] = {}
        self.own = judged.matrix[np.ix_(targets, columns)]
        self.member = scores.membership[np.ix_(targets, columns)]
        self.labels = scores.labels[columns]
        self._known: np.ndarray | None
        self._population, self._population_labels = judged.population, None if scores.population is None else scores.population.labels
        if scores.separate is None:
            self._known, self._known_member, self._known_labels = judged.matrix[:, columns], scores.membership[:, columns], self.labels
            self._chosen = np.stack([scores.shadows(target) for target in targets])
        else:
            self._known, self._known_member, self._known_labels = judged.known, scores.separate.membership, scores.separate.labels
            self._chosen = np.ones((len(targets), scores.separate.models), dtype=bool)

    def guesses(self) -> Iterator[tuple[str, Callable[[], np.ndarray]]]:
        """Kind of threshold, and the guesses it makes, bool [T, N]."""
        classes = [False, True] if len(np.unique(self.labels)) > 1 else [False]
        sources = {"": self.from_shadows, "oracle": self._oracle}
        if self._population is not None:
            sources["population"] = self._from_population
        for source, make in sources.items():
            for each in classes:
                yield "_".join(filter(None, [source, "per_class" if each else ""])), lambda make=make, each=each: make(each)  # type: ignore[misc]

    def from_shadows(self, per_class: bool) -> np.ndarray:
        if per_class not in self._from_shadows:
            self._from_shadows[per_class] = self._guess_by_shadows(per_class)
        return self._from_shadows[per_class]

    def _guess_by_shadows(self, per_class: bool) -> np.ndarray:
        if self._known is None or not self._chosen.any(axis=1).all():
            raise Refusal("a threshold from shadows needs shadow models that this attack can score: models_per_setting of at least 4")
        known, member = self._known, self._known_member
        return self._apply(
            lambda rows: metrics.best_thresholds(known[:, rows], member[:, rows], self._chosen), self._known_labels, per_class
        )

    def _oracle(self, per_class: bool) -> np.ndarray:
        own = np.eye(len(self.own), dtype=bool)
        return self._apply(lambda rows: metrics.best_thresholds(self.own[:, rows], self.member[:, rows], own), self.labels, per_class)

    def _from_population(self, per_class: bool) -> np.ndarray:
        assert self._population is not None
        assert self._population_labels is not None
        known = self._population
        return self._apply(lambda rows: metrics.quantile_thresholds(known[:, rows], POPULATION_FPR), self._population_labels, per_class)

    def _apply(self, choose: Callable[[np.ndarray], np.ndarray], labels: np.ndarray, per_class: bool) -> np.ndarray:
        """Guesses at the thresholds that `choose` finds on the examples it is given: all, or those of each class in turn, where there are any."""
        guess = self.own >= choose(np.ones(len(labels), dtype=bool))[:, None]
        for label in np.unique(self.labels) if per_class else ():
            rows, known = self.labels == label, labels == label
            if known.any():
                guess[:, rows] = self.own[:, rows] >= choose(known)[:, None]
        return guess
