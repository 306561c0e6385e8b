"""What stands beside every epsilon. One function makes it; console, JSON, TensorBoard, HTML and parameter files show it."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Mapping, Sequence

from dptrain import accounting, rdp
from dptrain.defences import described
from dptrain.judge import Row
from dptrain.schema import PrivacyConfig
from dptrain.store import versions
from dptrain.types import GRID, Setting

UNIT = "one example of the pool"


def statement(
    setting: Setting,
    privacy: PrivacyConfig,
    preprocessing: str,
    prv: float | None,
    unit: str = UNIT,
    supplied: Sequence[str] = (),
    grouped: bool = False,
) -> dict[str, str]:
    """The privacy statement of one released model, heading to text, in reading order, as far as it is known before the run: the 15 items
    that Ponomareva et al. 2023, section 5.3, NIST SP 800-226 and TensorFlow Privacy ask for. prv: Opacus's epsilon, None where it gave none; supplied: weights that the model's
    builder brings along; grouped: whether the unit is all that belongs to one person."""
    ran = setting.mechanism
    if not ran.private:
        smaller = [f"model with {', '.join(f'{key} {value}' for key, value in setting.model)}"] if setting.model else []
        added = ", ".join(part for part in (described(setting.recipe), *smaller) if part)
        return {
            "guarantee": "none: this model was trained without differential privacy",
            "training": f"{setting.recipe.optimiser.upper()}, Poisson batches, q = {ran.sample_rate}, T = {ran.steps} steps, no clipping, no noise",
            **({"defence": f"{added}: measured against these attacks only, and nothing is proved"} if added else {}),
            "preprocessing": preprocessing,
        }
    delta, recipe = setting.delta, setting.recipe
    views = f", the mean over {recipe.multiplicity} views of an example clipped as one" if recipe.multiplicity > 1 else ""
    released = "one model, the moving average of its iterates" if recipe.average else "one model"
    spent, curve, mu = accounting.epsilon(ran, delta), accounting.trade_off(ran), accounting.gaussian_mu(ran, delta)
    own = (float(ran.sample_rate), ran.noise_multiplier, ran.steps, delta)
    second = "Opacus PRV gave no number" if prv is None else f"Opacus PRV {prv:.3f}"
    groups = ", ".join(f"{k} examples {rounded_up(accounting.group_epsilon(ran, delta, k), 3)}" for k in (2, 8))
    source = {
        "os": "keys from the operating system, one a model, deleted when the model is finished",
        "seeded": "keys derived from the seed: whoever knows the seed can subtract the noise, and no epsilon holds against them",
    }[privacy.noise]
    rounded = f"noisy sums are rounded to multiples of {ran.spacing:.3g}, 2^{GRID} of the noise or less, against attacks on its last digits (Mironov 2012; docs/noise.md)"
    guarantee = f"({rounded_up(spent, 3)}, {delta:g})-differential privacy, an upper bound, for each model by itself (target epsilon {setting.epsilon:g}; delta x n = {delta * ran.public_n:.3g})"
    if privacy.noise == "seeded":
        guarantee = f"none against whoever knows the seed of the noise; against all others {guarantee}"
    if supplied:
        guarantee += "; only if the initial weights, which the model's builder supplied, do not depend on the pool"
    weights = f"the same for every seed, so supplied by the builder of the model ({_some(supplied)}): they must not depend on the pool, which nothing here can check"
    return {
        "guarantee": guarantee,
        "neighbours": f"{ran.neighbouring}; n = {ran.public_n} is public (half the pool) and never counted from the data",
        "unit": f"{unit}; a person with more is not protected at this epsilon: with {groups}, at the same delta" if not grouped else unit,
        "mechanism": f"DP-SGD: noise multiplier {ran.noise_multiplier:.4f}, clip {ran.clip:g} ({recipe.clipping}){views}, q = {ran.sample_rate}, T = {ran.steps}, divisor {ran.divisor}, {ran.sampling} sampling as run",
        "accountant": f"{accounting.method(ran)}, dp-accounting {importlib.metadata.version('dp-accounting')}, rounded upwards; second opinions: {second}, RDP {rdp.improved(*own):.3f} (as papers up to 2020 print it: {rdp.classic(*own):.3f}); without amplification by sampling: {rounded_up(accounting.unamplified_epsilon(ran, delta), 3)}",
        "ceiling": f"any attack on one example: TPR at most {rounded_up(curve.max_tpr(0.001), 4)} at FPR .1 %, {rounded_up(curve.max_tpr(0.01), 4)} at 1 %; advantage at most {rounded_up(curve.max_advantage, 3)}; AUC at most {rounded_up(curve.max_auc, 3)}; {rounded_up(mu, 3)}-GDP at every delta from {delta:g} up",
        "released": f"{released}, any checkpoint of it included. The other models of the fleet, losses, curves, scores and metrics are the evaluator's and are not covered",
        "composition": "this model alone; publishing k models, or a sweep, together composes",
        "tuning": "hyperparameters given by the configuration; what their choice cost, and a choice among the settings by their accuracy, is not in this epsilon",
        **({"initial weights": weights} if supplied else {}),
        "preprocessing": preprocessing,
        "randomness": f"AES-256-CTR keystream, {source}; {rounded}; not hardened against timing attacks",
        "checks": "layers that mix examples refused by name and by probe, gradients of the engine equal to plain autograd, batches tested to be Poisson; the ledger is compared with the plan after the run",
        "measured": "a lower bound of epsilon, by the evaluator after the training, stands in the report; a weak attack proves nothing",
        "record": _versions(),
        "evidence": "claimed: the plan, written before the run",
    }


def checked(rows: Sequence[Row], setting: Setting, together: float | None, models: int, record: str) -> dict[str, str]:
    """The entries of a private setting's statement that the run decides. together: epsilon of all `models` charged models at once."""
    parts = measured(setting.name, rows)
    own = [row for row in rows if row.setting == setting.name]
    refused, failed = sum(row.estimate is None for row in own), sum(row.contradicted for row in own)
    audited = any(row.metric == "epsilon_one_run" and row.estimate is not None for row in own)
    composed = "no epsilon" if together is None else f"({rounded_up(together, 3)}, {setting.delta:g})"
    return {
        **parts,
        "composition": f"this model alone; all {models} private models that the ledger of this folder holds together, finished or not: {composed}, models without privacy left out",
        "checks": f"every step of every model stands in the ledger, before its noise, under the plan; layers, engine and batches tested before the run; {failed} measurements above the proof; {refused} metrics refused for want of examples or models",
        "record": f"{_versions()}; {record}",
        "evidence": f"checked against the ledger{' and audited' if audited else ', not audited'}: the proof is the claim, an audit can only refute it",
    }


def refuted(parts: Mapping[str, str], name: str, rows: Sequence[Row]) -> dict[str, str]:
    """A finished statement of a setting, in which a claim that a measurement contradicts, or a split that leaks, is shown as such."""
    said = dict(parts)
    if broken := [row for row in rows if row.setting == name and row.contradicted]:
        worst = broken[0]
        which = (
            f"{worst.attack} {worst.metric} of {worst.estimate:.3f} [from {worst.low:.3f}]"
            if worst.estimate is not None and worst.low is not None
            else worst.metric
        )
        said["guarantee"] = (
            f"REFUTED, so none: {which} was measured, above the {worst.ceiling:.3f} that this claim allows: {parts['guarantee']}"
        )
        said["evidence"] = (
            f"refuted by {len(broken)} measurements: the training, the accounting or the data are not what the claim speaks of"
        )
    if any(row.attack == "blind" and row.contradicted for row in rows):
        said["measured"] = f"INVALID, since members differ from non-members before any training; {said.get('measured', 'no attack holds')}"
    return said


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


NAMED = ("lira", "rmia", "loss")
"""Whose lower bound the statement gives: the first of these that ran, or else the first attack. Named beforehand, since the highest of
many bounds does not hold with the confidence of each."""


def measured(name: str, rows: Sequence[Row]) -> dict[str, str]:
    """The entry of the statement on the lower bound of epsilon, once it is measured: on the canaries, if there are any."""
    own = [row for row in rows if row.setting == name and row.metric == "epsilon_one_run" and row.estimate is not None]
    if not own:
        return {"measured": "no lower bound of epsilon; attack results stand beside their ceilings, and a weak attack proves nothing"}
    worst = [row for row in own if row.examples == "canaries"] or own
    by_name = {row.attack: row for row in worst}
    row = next((by_name[attack] for attack in NAMED if attack in by_name), worst[0])
    where = " on the canaries" if row.examples == "canaries" else ""
    value = math.floor((row.estimate or 0.0) * 1000) / 1000
    return {"measured": f"epsilon at least {value:.3f} by {row.attack}{where}: {row.note}. A low value is no guarantee"}


def _versions() -> str:
    return ", ".join(f"{name} {version}" for name, version in versions().items() if name in ("dptrain", "torch", "numpy", "dp-accounting"))


def rounded_up(value: float, digits: int) -> str:
    """An upper bound, rounded upwards: rounded to the nearest it would not be one."""
    return f"{math.ceil(value * 10**digits) / 10**digits:.{digits}f}" if math.isfinite(value) else "infinity"


def as_lines(parts: Mapping[str, str]) -> list[str]:
    return [f"{heading}: {text}" for heading, text in parts.items()]
