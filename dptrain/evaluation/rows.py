"""Rows, the numbers of a result, and what each of them measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from typing import Any

from dptrain.core.types import Interval
from dptrain.privacy.pld import TradeOff

BLIND = "blind"
"""What stands for an attack in the row of the blind baseline."""
IMPUTATION = "imputation"
"""What stands for an attack in the rows of guesses of a column without any model."""


class Kind(StrEnum):
    """What a number measures."""

    AUC = "auc"
    ADVANTAGE = "advantage"
    BALANCED_ACCURACY = "balanced_accuracy"
    PPV = "ppv"
    TPR = "tpr"
    EPSILON = "epsilon"
    TEST_ACCURACY = "test_accuracy"
    TEST_BALANCED_ACCURACY = "test_balanced_accuracy"
    TEST_MACRO_F1 = "test_macro_f1"
    TEST_AUROC = "test_auroc"
    TEST_AUPRC = "test_auprc"
    TEST_LOG_LOSS = "test_log_loss"
    TEST_BRIER = "test_brier"
    TEST_CALIBRATION_ERROR = "test_calibration_error"
    TEST_RMSE = "test_rmse"
    TEST_MAE = "test_mae"
    TEST_R2 = "test_r2"
    TRAIN_ACCURACY = "train_accuracy"
    ATTRIBUTE_ACCURACY = "attribute_accuracy"
    """Of guesses of a column, on members."""
    ATTRIBUTE_BALANCED_ACCURACY = "attribute_balanced_accuracy"
    ATTRIBUTE_ADVANTAGE = "attribute_advantage"
    """Accuracy of guesses of a column on members less that on non-members."""
    ATTRIBUTE_GAIN = "attribute_gain"
    """Accuracy on members less that of guesses without the model."""


class Threshold(StrEnum):
    """What a threshold on membership scores is chosen on."""

    SHADOWS = "shadows"
    POPULATION = "population"
    ORACLE = "oracle"
    """The target's own labels, which no attacker knows."""


@dataclass(frozen=True)
class Metric:
    """What a number measures, and how.

    threshold: what the threshold was chosen on, of an advantage and a balanced accuracy; per_class:
    a threshold for each class. fpr: the false positive rate of a TPR. ratio: of a PPV, non-members
    for each member. method: of a lower bound of epsilon. column: that is guessed.
    """

    kind: Kind
    threshold: Threshold | None = None
    per_class: bool = False
    fpr: float | None = None
    ratio: int | None = None
    method: str | None = None
    column: str | None = None

    @property
    def name(self) -> str:
        """As files and tables write it: `tpr_at_fpr_0.01`, `advantage_oracle_per_class`."""
        if self.fpr is not None:
            return f"tpr_at_fpr_{self.fpr:g}"
        if self.ratio is not None:
            return f"ppv_1_to_{self.ratio}"
        if self.method is not None:
            return f"epsilon_{self.method}"
        if self.column is not None:
            return f"{self.kind}_{self.column}"
        source = "" if self.threshold in (None, Threshold.SHADOWS) else f"_{self.threshold}"
        return f"{self.kind}{source}{'_per_class' if self.per_class else ''}"

    @staticmethod
    def parse(name: str) -> Metric:
        """The inverse of `name`. Raises ValueError for what is no metric."""
        for start, make in _PARAMETERS.items():
            if name.startswith(start):
                return make(name.removeprefix(start))
        for kind in (Kind.ADVANTAGE, Kind.BALANCED_ACCURACY):
            if name.startswith(kind):
                per_class = name.endswith("_per_class")
                source = name.removesuffix("_per_class")[len(kind) :].lstrip("_")
                return Metric(kind, Threshold(source or "shadows"), per_class)
        if name in (Kind.TPR, Kind.PPV, Kind.EPSILON):
            raise ValueError(f"{name!r} lacks its rate, ratio or method")
        return Metric(Kind(name))


def _of_column(kind: Kind, column: str) -> Metric:
    return Metric(kind, column=column)


_PARAMETERS: dict[str, Callable[[str], Metric]] = {
    "tpr_at_fpr_": lambda text: Metric(Kind.TPR, fpr=float(text)),
    "ppv_1_to_": lambda text: Metric(Kind.PPV, ratio=int(text)),
    "epsilon_": lambda text: Metric(Kind.EPSILON, method=text),
    **{f"{kind}_": partial(_of_column, kind) for kind in Kind if kind.startswith("attribute_")},
}
AUC, ADVANTAGE = Metric(Kind.AUC), Metric(Kind.ADVANTAGE, Threshold.SHADOWS)
TEST_ACCURACY, TRAIN_ACCURACY = Metric(Kind.TEST_ACCURACY), Metric(Kind.TRAIN_ACCURACY)
ONE_RUN = Metric(Kind.EPSILON, method="one_run")


def tpr_at(fpr: float) -> Metric:
    return Metric(Kind.TPR, fpr=fpr)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of the result.

    attack is None for what is no attack's. `estimate` is None where the number was refused, and
    `note` says why. A lower bound has no `high`. targets: attacked models; n_in and n_out: members
    and non-members summed over them. contradicted: whether the measurement lies above the proved
    `ceiling`, beyond chance. examples: all, or canaries only; where users are in a training set or
    not, all of both are users, and rows are their single examples. reach: of a lower bound, what a
    perfect attack would have shown with as many trials.
    """

    setting: str
    defence: str
    epsilon: float | None
    attack: str | None
    metric: Metric
    estimate: float | None
    low: float | None
    high: float | None
    targets: int
    n_in: int
    n_out: int
    ceiling: float | None = None
    note: str = ""
    contradicted: bool = False
    examples: str = "all"
    reach: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "metric": self.metric.name}

    @staticmethod
    def of(record: Mapping[str, Any]) -> Row:
        """The inverse of to_json."""
        return Row(**{**record, "metric": Metric.parse(record["metric"])})

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """Estimate and limits, where there are all three."""
        if self.estimate is None or self.low is None or self.high is None:
            return None
        return self.estimate, self.low, self.high


@dataclass(frozen=True)
class Subject:
    """What is attacked: a setting's name, its defence, its target epsilon at delta, and what is
    proved of it: epsilon and the whole curve.
    """

    name: str
    defence: str
    epsilon: float | None
    delta: float
    proved: float | None = None
    curve: TradeOff | None = None

    def row(
        self,
        attack: str | None,
        metric: Metric,
        interval: Interval,
        ceiling: float | None = None,
        note: str = "",
        contradicted: bool = False,
    ) -> Row:
        """The row of a measurement of this subject."""
        return Row(
            setting=self.name,
            defence=self.defence,
            epsilon=self.epsilon,
            attack=attack,
            metric=metric,
            **asdict(interval),
            ceiling=ceiling,
            note=note,
            contradicted=contradicted,
        )

    def refused(
        self,
        attack: str | None,
        metric: Metric,
        reason: str,
        counts: tuple[int, int, int],
        ceiling: float | None = None,
    ) -> Row:
        """The row of a number that the data cannot support; counts: targets, members and
        non-members.
        """
        targets, n_in, n_out = counts
        return Row(
            setting=self.name,
            defence=self.defence,
            epsilon=self.epsilon,
            attack=attack,
            metric=metric,
            estimate=None,
            low=None,
            high=None,
            targets=targets,
            n_in=n_in,
            n_out=n_out,
            ceiling=ceiling,
            note=f"refused: {reason}",
        )
