"""What is claimed of a released model, in numbers. `report.statement` turns it into sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from dptrain.core.types import (
    GRID,
    ClassWeights,
    Clipping,
    Mechanism,
    Neighbouring,
    NoiseSource,
    OptimiserKind,
    Recipe,
    Regularisation,
    Release,
    Rows,
    Sampling,
    Setting,
    Unit,
    Views,
)
from dptrain.privacy import pld, rdp
from dptrain.privacy.pld import TradeOff

UNIT = "one example of the pool"
GROUPS = (2, 8)
"""Sizes of groups whose epsilon is stated."""
CEILING_FPRS = (0.001, 0.01)


class Released(StrEnum):
    """What a statement is about."""

    FLEET_MODEL = "fleet_model"
    """A model of a sweep, whose training is in a ledger and which is attacked."""
    SINGLE_FIT = "single_fit"
    """A model of one fit of a classifier, without a ledger and without attacks."""
    FINAL_MODEL = "final_model"
    """The model of `dptrain train`, on all rows, with a ledger of its own."""


@dataclass(frozen=True, kw_only=True)
class Accountants:
    """Epsilon of the mechanism at delta by each accountant.

    pld: the claim, PLD or RDP where that is less; rdp and rdp_classic: Renyi DP in the conversions
    of Canonne et al. 2020 and Mironov 2017; prv: Opacus's, None where it gave no number;
    unamplified: if the attacker knew every batch.
    """

    pld: float
    rdp: float
    rdp_classic: float
    prv: float | None
    unamplified: float
    method: str


@dataclass(frozen=True, kw_only=True)
class Ceilings:
    """The most that any attack on one example can reach: TPR at false positive rates, TPR - FPR,
    and AUC.
    """

    tpr_at_fpr: Mapping[str, float]
    advantage: float
    auc: float


@dataclass(frozen=True, kw_only=True)
class Hardening:
    """Against attacks on the last digits of released numbers: clipped noisy sums are multiples of
    `spacing`, which is 2^grid of the noise's standard deviation or less.
    """

    spacing: float
    grid: int = GRID


@dataclass(frozen=True, kw_only=True)
class Selection:
    """How a model was chosen: the best of a random number of trials, by a utility on the
    population.

    trials and law: of their number; candidates: of which each trial drew one; alone: epsilon of the
    model by itself, had it not been chosen; profile and renyi: of training and choice, by the two
    bounds of privacy.selection.
    """

    trials: float
    law: str
    candidates: int
    utility: str
    alone: float
    profile: float
    renyi: float

    @property
    def epsilon(self) -> float:
        return min(self.profile, self.renyi)


@dataclass(frozen=True, kw_only=True)
class Composition:
    """All private models that the ledger of a folder holds, together; None: no epsilon."""

    models: int
    epsilon: float | None


@dataclass(frozen=True, kw_only=True)
class MeasuredBound:
    """A measured lower bound of epsilon, of the attack that was named beforehand. reach: what a
    perfect attack would have shown; None in records of earlier versions.
    """

    epsilon: float
    attack: str
    examples: str
    note: str
    reach: float | None = None


@dataclass(frozen=True, kw_only=True)
class Refutation:
    """The first of `count` measurements above what is claimed: its lower limit lies above the
    ceiling.
    """

    attack: str
    metric: str
    estimate: float
    low: float
    ceiling: float
    count: int


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """What is known after the run only. leaking_split: whether a blind classifier tells members
    from the rest; audited: whether a lower bound was measured; utilities: by name, estimate, low
    and high on `test_examples` of test data, mean over `models` models.
    """

    composed: Composition | None = None
    measured: MeasuredBound | None = None
    refuted: Refutation | None = None
    leaking_split: bool = False
    audited: bool = False
    refused_metrics: int = 0
    contradictions: int = 0
    configuration: str = ""
    ledger: str = ""
    utilities: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    test_examples: int = 0
    models: int = 0


@dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """What is claimed of one released model, as far as it is a number or a choice.

    Without privacy epsilon, target_epsilon, clip, accountants, group, mu, ceilings and hardening
    are None. sample_rate is the fraction batch_size / public_n, exactly. group: epsilon of people
    with so many examples, empty where the unit is a person (`grouped`). counted: whether n follows
    from the number of rows, and was not declared. drawn: what n counts and batches hold;
    examples_per_user: how many of a user's are in a step, at most; group_size: how many examples
    epsilon is of. class_weights: of each example's loss, by the population. rows: what a final
    model learnt from, and canaries: how many of its n are such; chosen_among: settings of the sweep
    that it was chosen from, 0 where there was none; selection: how it was chosen where epsilon
    covers the choice, of which then neither group nor mu is known. supplied_weights: names of
    initial weights that the model's builder brings along. evaluated: None before the run.
    """

    released: Released
    private: bool
    epsilon: float | None
    delta: float
    target_epsilon: float | None
    noise_multiplier: float
    clip: float | None
    clipping: Clipping
    sample_rate: str
    public_n: int
    steps: int
    divisor: int
    sampling: Sampling
    neighbouring: Neighbouring
    unit: str
    grouped: bool
    counted: bool
    noise: NoiseSource
    optimiser: OptimiserKind
    weight_decay: float
    views: Views
    regularisation: Regularisation
    release: Release
    model_options: Mapping[str, Any]
    preprocessing: str
    drawn: Unit = Unit.EXAMPLE
    examples_per_user: int = 1
    group_size: int = 1
    class_weights: ClassWeights = ClassWeights.NONE
    rows: Rows | None = None
    canaries: int = 0
    chosen_among: int = 0
    selection: Selection | None = None
    supplied_weights: tuple[str, ...] = ()
    accountants: Accountants | None = None
    group: Mapping[str, float] = field(default_factory=dict)
    mu: float | None = None
    ceilings: Ceilings | None = None
    hardening: Hardening | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    evaluated: Evaluated | None = None

    def to_json(self) -> dict[str, Any]:
        """Strict JSON: an infinite number is null."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    @staticmethod
    def of(record: Mapping[str, Any]) -> PrivacyStatement:
        """The inverse of to_json."""
        enums = {
            "released": Released,
            "clipping": Clipping,
            "sampling": Sampling,
            "neighbouring": Neighbouring,
            "noise": NoiseSource,
            "optimiser": OptimiserKind,
            "drawn": Unit,
            "class_weights": ClassWeights,
        }
        parts = {
            "regularisation": Regularisation,
            "release": Release,
            "accountants": Accountants,
            "ceilings": Ceilings,
            "hardening": Hardening,
            "selection": Selection,
        }
        values = {"counted": False, **record}  # Earlier versions had declared sizes only.
        values |= {name: kind(values[name]) for name, kind in enums.items() if name in values}
        values |= {name: kind(**values[name]) for name, kind in parts.items() if values.get(name)}
        views = values["views"]
        values["views"] = Views(tuple(views["augmentations"]), views["multiplicity"])
        values["rows"] = Rows(values["rows"]) if values.get("rows") else None
        values["supplied_weights"] = tuple(values["supplied_weights"])
        if values["evaluated"]:
            values["evaluated"] = _evaluated(values["evaluated"])
        return PrivacyStatement(**values)


def _evaluated(record: Mapping[str, Any]) -> Evaluated:
    kinds = {"composed": Composition, "measured": MeasuredBound, "refuted": Refutation}
    parts = {name: kind(**record[name]) for name, kind in kinds.items() if record[name]}
    utilities = {name: tuple(limits) for name, limits in record.get("utilities", {}).items()}
    return Evaluated(**{**record, **parts, "utilities": utilities})


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What a statement says beside its setting. supplied: weights that the model's builder brings
    along; user: what a user is called, where such are in a training set or not; grouped: whether
    the unit is all that belongs to one person; counted: whether n follows
    from the number of rows, and was not declared; rows, canaries and chosen_among: of a final
    model.
    """

    noise: NoiseSource
    preprocessing: str
    unit: str = UNIT
    user: str = ""
    grouped: bool = False
    counted: bool = False
    supplied: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    released: Released = Released.FLEET_MODEL
    rows: Rows | None = None
    canaries: int = 0
    chosen_among: int = 0


def planned(setting: Setting, around: Circumstances) -> PrivacyStatement:
    """The statement of one released model as far as it is known before the run, without the second
    opinion of another accountant (`with_prv`).
    """
    ran, recipe = setting.mechanism, setting.recipe
    around = _of_unit(setting, around)
    statement = PrivacyStatement(
        released=around.released,
        private=ran.private,
        epsilon=None,
        delta=setting.delta,
        target_epsilon=setting.epsilon,
        noise_multiplier=ran.noise_multiplier,
        clip=ran.clip if ran.private else None,
        clipping=recipe.clipping,
        sample_rate=str(ran.sample_rate),
        public_n=ran.public_n,
        steps=ran.steps,
        divisor=ran.divisor,
        sampling=ran.sampling,
        neighbouring=ran.neighbouring,
        drawn=ran.unit,
        examples_per_user=recipe.examples_per_user,
        group_size=setting.group,
        unit=around.unit,
        grouped=around.grouped,
        counted=around.counted,
        noise=around.noise,
        model_options=dict(setting.model),
        preprocessing=around.preprocessing,
        rows=around.rows,
        canaries=around.canaries,
        chosen_among=around.chosen_among,
        supplied_weights=tuple(around.supplied),
        versions=around.versions,
        **_of_recipe(recipe),
    )
    if setting.group > 1:
        return _proved_of_group(statement, ran, setting.group)
    return _proved(statement, ran, around) if ran.private else statement


def _of_unit(setting: Setting, around: Circumstances) -> Circumstances:
    """The circumstances with the unit of one setting: users or examples, of the same data."""
    whole = f"one {around.user}: all rows of it in the pool"
    if setting.mechanism.unit == Unit.USER:
        return replace(around, unit=whole, grouped=True)
    if setting.group > 1:
        bounded = f"{whole}, which are {setting.group} at most"
        return replace(around, unit=bounded, grouped=True)
    return around


def with_prv(statement: PrivacyStatement, prv: float | None) -> PrivacyStatement:
    """The statement of a private model with the epsilon of Opacus's PRV."""
    assert statement.accountants is not None
    return replace(statement, accountants=replace(statement.accountants, prv=prv))


def with_selection(statement: PrivacyStatement, selection: Selection) -> PrivacyStatement:
    """The statement of a private model that was chosen: of training and choice together nothing is
    known but epsilon at delta.
    """
    curve = pld.claimed_trade_off(selection.epsilon, statement.delta)
    return replace(
        statement,
        epsilon=selection.epsilon,
        selection=selection,
        group={},
        mu=None,
        ceilings=_ceilings(curve),
    )


def _ceilings(curve: TradeOff) -> Ceilings:
    return Ceilings(
        tpr_at_fpr={f"{fpr:g}": curve.max_tpr(fpr) for fpr in CEILING_FPRS},
        advantage=curve.max_advantage,
        auc=curve.max_auc,
    )


def _of_recipe(recipe: Recipe) -> dict[str, Any]:
    return {
        "optimiser": recipe.optimiser.kind,
        "weight_decay": recipe.optimiser.weight_decay,
        "class_weights": recipe.class_weights,
        "views": recipe.views,
        "regularisation": recipe.regularisation,
        "release": recipe.release,
    }


def _proved_of_group(statement: PrivacyStatement, ran: Mechanism, size: int) -> PrivacyStatement:
    """The same, of `size` examples that come and go together, of which no more is known than
    epsilon at delta.
    """
    of_one = _proved(statement, ran, Circumstances(noise=statement.noise, preprocessing=""))
    epsilon = pld.group_epsilon(ran, statement.delta, size)
    curve = pld.claimed_trade_off(epsilon, statement.delta)
    return replace(of_one, epsilon=epsilon, group={}, mu=None, ceilings=_ceilings(curve))


def _proved(statement: PrivacyStatement, ran: Mechanism, around: Circumstances) -> PrivacyStatement:
    """The same with everything that the accountant proves of a private mechanism."""
    delta = statement.delta
    epsilon, curve = pld.epsilon(ran, delta), pld.trade_off(ran)
    step = (float(ran.sample_rate), ran.noise_multiplier, ran.steps, delta)
    groups = () if around.grouped else GROUPS
    return replace(
        statement,
        epsilon=epsilon,
        accountants=Accountants(
            pld=epsilon,
            rdp=rdp.improved(*step),
            rdp_classic=rdp.classic(*step),
            prv=None,
            unamplified=pld.unamplified_epsilon(ran, delta),
            method=pld.method(ran),
        ),
        group={str(size): pld.group_epsilon(ran, delta, size) for size in groups},
        mu=pld.gaussian_mu(ran, delta),
        ceilings=_ceilings(curve),
        hardening=Hardening(spacing=ran.spacing),
    )
