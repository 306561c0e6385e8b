"""Membership scores in order, highest first: each target's are sorted once, for every metric, every
resample and every class.

T targets, N examples. Equal scores fall on the same side of a threshold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num

FIRST_RANKS = 1 << 12
"""Ranks that are looked at first for a low false positive rate, which lies at the top."""

SMALL = 1 << 22
"""Scores up to which a table's rankings stay in memory, 25 bytes each."""


class Ranking:
    """Some examples by falling score. order: their places among the N that weights are given of;
    ranked: their scores in that order; hits: bool, which of them are members.
    """

    def __init__(
        self,
        order: Int[np.ndarray, " n"],
        ranked: Num[np.ndarray, " n"],
        hits: Bool[np.ndarray, " n"],
    ):
        self._order, self._hits = order, hits
        # Of each group of equal scores.
        self._last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
        self._untied = len(self._last) == len(ranked)
        self.values = ranked if self._untied else ranked[self._last]
        """The distinct scores, falling."""

    @staticmethod
    def of(scores: Num[np.ndarray, " N"], member: Bool[np.ndarray, " N"]) -> Ranking:
        order = np.argsort(-scores)
        return Ranking(order, scores[order], member[order])

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """False and true positives at every distinct threshold, falling from the highest, after a
        leading 0.
        """
        tp = np.cumsum(self._hits)[self._last]
        return np.append(0, self._last + 1 - tp), np.append(0, tp)

    def best(self) -> float:
        """The threshold with the largest TPR - FPR, the highest of equals; infinity where none is
        better than no guess.
        """
        fp, tp = self.counts()
        gain = tp * fp[-1] - fp * tp[-1]
        at = int(gain.argmax())
        return float(self.values[at - 1]) if gain[at] > 0 else math.inf

    def reach(self, thresholds: Num[np.ndarray, " G"]) -> tuple[np.ndarray, np.ndarray]:
        """How many non-members and how many members reach each threshold, int [G] each."""
        reaching = len(self.values) - np.searchsorted(self.values[::-1], thresholds)
        fp, tp = (side[reaching] for side in self.counts())
        return fp, tp

    def auc(self, weights: Float[np.ndarray, "R N"]) -> np.ndarray:
        """P(member's score > non-member's) + P(equal) / 2 (Mann and Whitney 1947), [R]: the area
        under straight lines between thresholds.
        """
        ranked = weights[:, self._order]
        inside = np.where(self._hits, ranked, 0)
        tp, fp = (np.cumsum(side, axis=1)[:, self._last] for side in (inside, ranked - inside))
        pairs = fp[:, -1] * tp[:, -1]  # 0 in a resample that lost all of one side
        doubled = 2 * tp - np.diff(tp, prepend=0)
        area = np.einsum("rn,rn->r", np.diff(fp, prepend=0), doubled) / 2
        return np.where(pairs > 0, area / np.where(pairs > 0, pairs, 1), np.nan)

    def auc_of(self, chosen: Bool[np.ndarray, "R N"]) -> np.ndarray:
        """The same, [R], of the examples that each row of `chosen`, bool [R, N], marks: of ranks
        alone where no scores are equal, in a tenth of the time.
        """
        if not self._untied:
            return self.auc(chosen.astype(float))
        result = np.full(len(chosen), np.nan)
        for r, row in enumerate(chosen):
            hits = self._hits[row[self._order]]
            places = np.flatnonzero(hits)
            n_in, n_out = len(places), len(hits) - len(places)
            if n_in and n_out:
                # Non-members above each member, added up.
                losses = int(places.sum()) - n_in * (n_in - 1) // 2
                result[r] = (n_in * n_out - losses) / (n_in * n_out)
        return result

    def average_precision(self, weights: Float[np.ndarray, "R N"]) -> np.ndarray:
        """Sum over thresholds of the precision times the recall that each adds, [R]; nan in a
        resample without members.
        """
        ranked = weights[:, self._order]
        inside = np.where(self._hits, ranked, 0)
        tp, called = (np.cumsum(side, axis=1)[:, self._last] for side in (inside, ranked))
        precision = np.where(called > 0, tp / np.where(called > 0, called, 1), 0)
        area = np.einsum("rn,rn->r", np.diff(tp, prepend=0), precision)
        total = tp[:, -1]
        return np.where(total > 0, area / np.where(total > 0, total, 1), np.nan)

    def top(self) -> float:
        """Share of the non-members that the highest score is given to: a lower false positive rate
        has no threshold but none at all.
        """
        first = int((~self._hits[: self._last[0] + 1]).sum())
        return float(first / max(int((~self._hits).sum()), 1))

    def tpr(
        self,
        fpr: float,
        weigh: Callable[[np.ndarray], np.ndarray],
        n_in: float,
        n_out: float,
    ) -> float:
        """The largest true positive rate of a threshold whose false positive rate is at most `fpr`;
        nothing is interpolated.

        weigh: places [n] -> their weights [n]; n_in, n_out: the weights of all members, and of all
        others.
        """
        allowed, length = fpr * n_out * (1 + 1e-12), FIRST_RANKS
        while True:
            ranked, hits = weigh(self._order[:length]), self._hits[:length]
            inside = np.where(hits, ranked, 0)
            fp = np.cumsum(ranked - inside)
            if length >= len(self._order) or fp[-1] > allowed:
                break
            length *= 4
        # A group of equal scores that the cut goes through has passed the rate already.
        last = self._last[: np.searchsorted(self._last, len(fp))]
        at = last[: np.searchsorted(fp[last], allowed, side="right")]
        if not n_in:
            return np.nan
        return float(inside[: at[-1] + 1].sum() / n_in) if len(at) else 0.0


class Rankings:
    """A ranking a target. Of large tables only the orders are in memory, and a ranking is made
    whenever it is asked for.
    """

    def __init__(
        self,
        scores: Num[np.ndarray, "T N"],
        member: Bool[np.ndarray, "T N"],
        orders: Sequence[np.ndarray] | None = None,
    ):
        self._scores, self._member = scores, member
        # Half the memory of 64 bits; no table has that many examples.
        self._orders = orders or [np.argsort(-row).astype(np.int32) for row in scores]
        self.small = sum(map(len, self._orders)) <= SMALL
        self._made: dict[int, Ranking] = {}

    def __len__(self) -> int:
        return len(self._orders)

    def __getitem__(self, target: int) -> Ranking:
        if target in self._made:
            return self._made[target]
        order = self._orders[target]
        ranking = Ranking(order, self._scores[target][order], self._member[target][order])
        if self.small:
            self._made[target] = ranking
        return ranking

    def __iter__(self) -> Iterator[Ranking]:
        return (self[target] for target in range(len(self)))

    def of(self, targets: Int[np.ndarray, " K"]) -> Rankings:
        """Those of some targets, int [K]."""
        orders = [self._orders[target] for target in targets.tolist()]
        return Rankings(self._scores[targets], self._member[targets], orders)

    def among(self, columns: Bool[np.ndarray, " N"]) -> Rankings:
        """The same of some examples, bool [N]; weights are still given of all."""
        orders = [order[columns[order]] for order in self._orders]
        return Rankings(self._scores, self._member, orders)
