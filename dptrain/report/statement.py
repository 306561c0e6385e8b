"""The sentences of a privacy statement: the only place where its numbers become words.

The 15 items that Ponomareva et al. 2023, section 5.3, NIST SP 800-226 and TensorFlow Privacy ask
for, heading to text, in reading order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from dptrain.core.types import ClassWeights, NoiseSource, Rows, Unit
from dptrain.evaluation.utility import UTILITIES
from dptrain.privacy.statement import (
    Evaluated,
    MeasuredBound,
    PrivacyStatement,
    Released,
)
from dptrain.report.tables import between

Sentences = dict[str, str]
"""Heading -> text."""
KEYS = {
    NoiseSource.OS: "keys from the operating system, one a model, deleted when the model is "
    "finished",
    NoiseSource.SEEDED: "keys derived from the seed: whoever knows the seed can subtract the "
    "noise, and no epsilon holds against them",
}
ROWS = {
    Rows.POOL: "all rows of the pool",
    Rows.POOL_AND_TEST: "all rows of pool and test set",
    Rows.ALL: "all rows of pool, test set and population",
}
RECORDED = ("dptrain", "torch", "numpy", "dp-accounting")


def sentences(statement: PrivacyStatement) -> Sentences:
    """All sentences of a statement."""
    text = _private(statement) if statement.private else _without_privacy(statement)
    if statement.evaluated is not None:
        text |= _after_the_run(statement, statement.evaluated)
    return text


def lines(statement: PrivacyStatement) -> list[str]:
    """A line for each heading."""
    return [f"{heading}: {text}" for heading, text in sentences(statement).items()]


def header(statement: PrivacyStatement) -> str:
    """What stands in the header of a file of parameters: nothing that was measured, since no
    epsilon covers that, but whether a measurement refuted the claim.
    """
    text = sentences(replace(statement, evaluated=None))
    after = statement.evaluated
    if after is not None and after.refuted is not None:
        text |= {name: sentences(statement)[name] for name in ("guarantee", "evidence")}
    return "\n".join(f"{heading}: {sentence}" for heading, sentence in text.items())


def claim(statement: PrivacyStatement) -> str:
    """The claim in a few words: `(8.00, 1e-05)-DP`, with what takes it back."""
    after = statement.evaluated
    if after is not None and after.refuted is not None:
        return "REFUTED"
    if not statement.private:
        return "no differential privacy"
    spent = f"({rounded_up(statement.epsilon, 2)}, {statement.delta:g})-DP"
    if statement.drawn == Unit.USER or statement.group_size > 1:
        spent = f"{spent} for all rows of a user"
    if statement.selection is not None:
        spent = f"{spent}, training and choice together"
    if statement.noise == NoiseSource.SEEDED:
        return f"{spent}, but none against whoever knows the seed"
    if statement.supplied_weights:
        return f"{spent}, if the supplied initial weights do not depend on the pool"
    return spent


def shared(statements: Mapping[str, PrivacyStatement]) -> tuple[Sentences, dict[str, Sentences]]:
    """What all private statements have in common, and the rest of each."""
    every = {name: sentences(statement) for name, statement in statements.items()}
    private = [every[name] for name, statement in statements.items() if statement.private]
    first = private[0] if len(private) > 1 else {}
    common = {
        heading: text
        for heading, text in first.items()
        if all(other.get(heading) == text for other in private)
    }
    rest = {
        name: {heading: text for heading, text in text_of.items() if common.get(heading) != text}
        for name, text_of in every.items()
    }
    return common, rest


def rounded_up(value: float | None, digits: int) -> str:
    """An upper bound, rounded upwards: rounded to the nearest it would not be one."""
    if value is None or not math.isfinite(value):
        return "infinity"
    return f"{math.ceil(value * 10**digits) / 10**digits:.{digits}f}"


def _without_privacy(statement: PrivacyStatement) -> Sentences:
    added = _added(statement)
    only = "measured against these attacks only, and nothing is proved"
    return {
        "guarantee": "none: this model was trained without differential privacy",
        "training": f"{statement.optimiser.upper()}, Poisson batches, q = "
        f"{statement.sample_rate}, T = {statement.steps} steps, no clipping, no noise",
        **({"defence": f"{added}: {only}"} if added else {}),
        "preprocessing": statement.preprocessing,
    }


def _added(statement: PrivacyStatement) -> str:
    """What plain training adds against memorising."""
    plan, release = statement.regularisation, statement.release
    views = statement.views.augmentations
    parts = [
        (statement.weight_decay, f"weight decay {statement.weight_decay:g}"),
        (plan.dropout, f"dropout {plan.dropout:g}"),
        (plan.label_smoothing, f"label smoothing {plan.label_smoothing:g}"),
        (plan.mixup, f"mixup {plan.mixup:g}"),
        (plan.relax, f"RelaxLoss {plan.relax:g}"),
        (plan.adversary, f"adversarial regularisation {plan.adversary:g}"),
        (release.early_stopping, "early stopping on the population split"),
        (
            release.top,
            f"of its confidences the top {release.top} given with {release.digits} decimals",
        ),
        (views, f"augmentations {', '.join(views)}"),
        (
            statement.class_weights == ClassWeights.BALANCED,
            "losses weighted by the classes of the population",
        ),
    ]
    options = ", ".join(f"{key} {value}" for key, value in statement.model_options.items())
    parts.append((options, f"model with {options}"))
    return ", ".join(text for value, text in parts if value)


def _private(statement: PrivacyStatement) -> Sentences:
    supplied = statement.supplied_weights
    weights = (
        "the same for every seed, so supplied by the builder of the model "
        f"({_some(supplied)}): they must not depend on the pool, which nothing here can check"
    )
    return {
        "guarantee": _guarantee(statement),
        "neighbours": _neighbours(statement),
        "unit": _unit(statement),
        "mechanism": _mechanism(statement),
        "accountant": _accountants(statement),
        "ceiling": _ceilings(statement),
        **_release(statement),
        **({"initial weights": weights} if supplied else {}),
        "preprocessing": statement.preprocessing,
        "randomness": _randomness(statement),
        **_checks(statement),
        "record": _record(statement),
        "evidence": "claimed: the plan, written before the run",
    }


def _guarantee(statement: PrivacyStatement) -> str:
    spent = f"({rounded_up(statement.epsilon, 3)}, {statement.delta:g})-differential privacy"
    each = "an upper bound, for each model by itself"
    if statement.selection is not None:
        each = "an upper bound, of training and choosing this model together"
    elif statement.released == Released.FINAL_MODEL:
        each = "an upper bound, for this model by itself"
    text = (
        f"{spent}, {each} (target epsilon {statement.target_epsilon:g}; delta x n = "
        f"{statement.delta * statement.public_n:.3g})"
    )
    if statement.noise == NoiseSource.SEEDED:
        text = f"none against whoever knows the seed of the noise; against all others {text}"
    if statement.supplied_weights:
        text += (
            "; only if the initial weights, which the model's builder supplied, do not depend on "
            "the pool"
        )
    return text


def _neighbours(statement: PrivacyStatement) -> str:
    if statement.released == Released.SINGLE_FIT:
        return (
            f"{statement.neighbouring}; the number of rows, {statement.public_n}, is public, and "
            "the same in both"
        )
    size = f"{statement.neighbouring}; n = {statement.public_n} ({_trained_on(statement)})"
    if statement.counted:
        return f"{size} was counted from the rows: the guarantee holds where that number is public"
    return f"{size} is public and never counted from the data"


def _trained_on(statement: PrivacyStatement) -> str:
    """What n counts."""
    if statement.rows is None:
        return "half the users of the pool" if statement.drawn == Unit.USER else "half the pool"
    canaries = (
        f", and {statement.canaries} canaries, each in by a coin" if statement.canaries else ""
    )
    of = "all users of the pool" if statement.drawn == Unit.USER else ROWS[statement.rows]
    return of + canaries


def _unit(statement: PrivacyStatement) -> str:
    if statement.grouped:
        return statement.unit
    if not statement.group:
        return f"{statement.unit}; a person with more is not protected at this epsilon"
    groups = ", ".join(
        f"{size} examples {rounded_up(epsilon, 3)}" for size, epsilon in statement.group.items()
    )
    return (
        f"{statement.unit}; a person with more is not protected at this epsilon: with {groups}, "
        "at the same delta"
    )


def _mechanism(statement: PrivacyStatement) -> str:
    count = statement.views.multiplicity
    views = f", the mean over {count} views of an example clipped as one" if count > 1 else ""
    if statement.drawn == Unit.USER:
        views = (
            f", the mean over at most {statement.examples_per_user} random examples of a user "
            "clipped as one, users drawn by coins"
        )
    if statement.class_weights == ClassWeights.BALANCED:
        views += ", losses weighted by the classes of the population before the clip"
    return (
        f"DP-SGD: noise multiplier {statement.noise_multiplier:.4f}, clip {statement.clip:g} "
        f"({statement.clipping}){views}, q = {statement.sample_rate}, T = {statement.steps}, "
        f"divisor {statement.divisor}, {statement.sampling} sampling as run"
    )


def _accountants(statement: PrivacyStatement) -> str:
    epsilons = statement.accountants
    assert epsilons is not None
    second = "gave no number" if epsilons.prv is None else f"{epsilons.prv:.3f}"
    chosen = ""
    if (how := statement.selection) is not None:
        chosen = (
            f"training and choice: by privacy profiles {rounded_up(how.profile, 3)} (Koskela et "
            f"al. 2024), by Renyi divergences {rounded_up(how.renyi, 3)} (Papernot and Steinke "
            f"2022), of which the less holds; this model alone: {rounded_up(epsilons.pld, 3)}, "
        )
    if statement.group_size > 1:
        chosen = (
            f"{rounded_up(statement.epsilon, 3)} for {statement.group_size} examples at once, by "
            f"the PLD of their mixture (Ganesh 2024); for one: {rounded_up(epsilons.pld, 3)}, "
        )
    return (
        f"{chosen}{epsilons.method}, dp-accounting "
        f"{statement.versions.get('dp-accounting', '')}, rounded upwards; second opinions: Opacus "
        f"PRV {second}, RDP {epsilons.rdp:.3f} (as papers up to "
        f"2020 print it: {epsilons.rdp_classic:.3f}); without amplification by sampling: "
        f"{rounded_up(epsilons.unamplified, 3)}"
    )


def _ceilings(statement: PrivacyStatement) -> str:
    ceilings = statement.ceilings
    assert ceilings is not None
    rates = ceilings.tpr_at_fpr
    whole = statement.drawn == Unit.USER or statement.group_size > 1
    return (
        f"any attack on one {'user' if whole else 'example'}: TPR at most "
        f"{rounded_up(rates['0.001'], 4)} at FPR .1 %, "
        f"{rounded_up(rates['0.01'], 4)} at 1 %; advantage at most "
        f"{rounded_up(ceilings.advantage, 3)}; AUC at most {rounded_up(ceilings.auc, 3)}"
        + (
            f"; {rounded_up(statement.mu, 3)}-GDP at every delta from {statement.delta:g} up"
            if statement.mu is not None
            else ""
        )
    )


def _release(statement: PrivacyStatement) -> Sentences:
    if statement.released == Released.SINGLE_FIT:
        return {
            "released": "the fitted classifier; predictions of it are post-processing",
            "composition": "this model alone; publishing k models together composes",
            "tuning": "one fit; k fits on these rows, as GridSearchCV makes, compose: their "
            "epsilon is larger, and choosing the best of them is not covered",
        }
    average = ", the moving average of its iterates" if statement.release.average else ""
    if statement.released == Released.FINAL_MODEL:
        return {
            "released": f"this model{average}; predictions of it are post-processing. What was "
            "measured of it on rows that it did not learn from is not covered for those rows",
            "composition": "this model alone; with the models of a sweep on the same rows it "
            "composes where they are given away too",
            "tuning": _tuning(statement),
        }
    return {
        "released": f"one model{average}, its parameters after any step included. The other "
        "models of the fleet, losses, curves, scores and metrics are the evaluator's and are not "
        "covered",
        "composition": "this model alone; publishing k models, or a sweep, together composes",
        "tuning": "hyperparameters given by the configuration; what their choice cost, and a "
        "choice among the settings by their accuracy, is not in this epsilon",
    }


def _tuning(statement: PrivacyStatement) -> str:
    """Of a final model: what its choice cost."""
    if (how := statement.selection) is not None:
        return (
            f"the best, by {how.utility} on the population, of a random number of trials "
            f"({how.law} law of mean {how.trials:g}), each of one of {how.candidates} candidates "
            "drawn at random: this epsilon covers that choice. Not chosen it would be "
            f"{rounded_up(how.alone, 3)}. How many trials there were, and what the others gave, is "
            "not given away"
        )
    if not statement.chosen_among:
        return (
            "hyperparameters given by the configuration; what their choice cost is not in this "
            "epsilon"
        )
    return (
        f"chosen by hand among {statement.chosen_among} settings of a sweep on these rows: that "
        "choice is not priced, and this epsilon does not cover it; dptrain tune prices a choice"
    )


def _randomness(statement: PrivacyStatement) -> str:
    hardening = statement.hardening
    assert hardening is not None
    return (
        f"AES-256-CTR keystream, {KEYS[statement.noise]}; noisy sums are rounded to multiples of "
        f"{hardening.spacing:.3g}, 2^{hardening.grid} of the noise or less, against attacks on its "
        "last digits (Mironov 2012; docs/noise.md); not hardened against timing attacks"
    )


def _checks(statement: PrivacyStatement) -> Sentences:
    if statement.released == Released.SINGLE_FIT:
        return {
            "checks": "layers that mix rows refused, batches tested to be Poisson before the fit; "
            "no ledger and no audit of a single fit",
            "measured": "nothing; dptrain sweep attacks models of the same kind",
        }
    return {
        "checks": "layers that mix examples refused by name and by probe, gradients of the engine "
        "equal to plain autograd, batches tested to be Poisson; the ledger is compared with the "
        "plan after the run",
        "measured": "what an evaluator measured after the training stands in the report alone; a "
        "weak attack proves nothing",
    }


def _record(statement: PrivacyStatement) -> str:
    return ", ".join(
        f"{name} {version}" for name, version in statement.versions.items() if name in RECORDED
    )


def _after_the_run(statement: PrivacyStatement, after: Evaluated) -> Sentences:
    """The entries that only the run decides."""
    text = {"measured": _measured(after.measured)}
    if after.utilities:
        text["utility"] = _useful(after, statement.private)
    if statement.private:
        text |= _checked(statement, after)
    if after.refuted is not None:
        worst = after.refuted
        text["guarantee"] = (
            f"REFUTED, so none: {worst.attack} {worst.metric} of {worst.estimate:.3f} [from "
            f"{worst.low:.3f}] was measured, above the {worst.ceiling:.3f} that this claim allows: "
            f"{_guarantee(statement)}"
        )
        text["evidence"] = (
            f"refuted by {worst.count} measurements: the training, the accounting or the data are "
            "not what the claim speaks of"
        )
    if after.leaking_split:
        invalid = "INVALID, since members differ from non-members before any training"
        text["measured"] = f"{invalid}; {text['measured']}"
    return text


def _checked(statement: PrivacyStatement, after: Evaluated) -> Sentences:
    composed = after.composed
    assert composed is not None
    together = "no epsilon is known, since they protect different units"
    if composed.epsilon is not None:
        together = f"({rounded_up(composed.epsilon, 3)}, {statement.delta:g})"
        together += " for all rows of a user" * (statement.drawn == Unit.USER)
    audited = "and audited" if after.audited else "not audited"
    evidence = f"checked against the ledger{' ' if after.audited else ', '}{audited}"
    ledgers = (
        "the ledgers of this model and of the sweep that it was taken from, if of any, hold"
        if statement.released == Released.FINAL_MODEL
        else "the ledger of this folder holds"
    )
    return {
        "composition": f"this model alone; all {composed.models} private models that {ledgers} "
        f"together, finished or not: {together}, models without privacy left out",
        "checks": "every step of every model stands in the ledger, before its noise, under the "
        f"plan; layers, engine and batches tested before the run; {after.contradictions} "
        f"measurements above the proof; {after.refused_metrics} metrics refused for want of "
        "examples or models",
        "record": f"{_record(statement)}; configuration {after.configuration}, ledger "
        f"{after.ledger}",
        "evidence": f"{evidence}: the proof is the claim, an audit can only refute it",
    }


def _useful(after: Evaluated, private: bool) -> str:
    each = [
        f"{UTILITIES[name].title} {between(limits)}" for name, limits in after.utilities.items()
    ]
    over = f"mean over {after.models} models" if after.models > 1 else "one model"
    uncovered = ", and this epsilon does not cover them" * private
    return (
        f"on {after.test_examples:,} test examples, {over} [95 % interval]: {', '.join(each)}; "
        f"these numbers come from the test set and from every such model{uncovered}"
    )


def _measured(bound: MeasuredBound | None) -> str:
    if bound is None:
        return (
            "no lower bound of epsilon; attack results stand beside their ceilings, and a weak "
            "attack proves nothing"
        )
    where = " on the canaries" if bound.examples == "canaries" else ""
    value = math.floor(bound.epsilon * 1000) / 1000
    return (
        f"epsilon at least {value:.3f} by {bound.attack}{where}, which was named beforehand: "
        f"{bound.note}. A low value is no guarantee"
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
