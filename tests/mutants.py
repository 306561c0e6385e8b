"""63 one-line bugs of private training and auditing, most of them found live in the tools people use, and the tests that must catch each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """In `file` the text `old`, which stands there once, becomes `new`; at least one of `tests` (pytest node ids) must then fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


NOISY = "gradient.add_(own.view_as(gradient), alpha=noise_std / ran.spacing)"
DRAW = "normals = noise.draw(keys, step)"
COINS = "np.flatnonzero((bits <= np.uint64((batch_size << 64) // public_n - 1)) & membership)"
FLAT = '"flat": lambda norms, clip: torch.clamp(clip / (norms + 1e-12), max=1.0)'
STEP = "tests/test_train.py::test_every_step_is_the_clipped_sum_plus_its_own_noise_over_the_divisor"
SENSITIVITY = "tests/test_clipping.py::test_sensitivity_of_neighbouring_batches"
POISSON = (
    "tests/test_sampling.py::test_poisson_inclusion_rate_of_every_example tests/test_probe.py::test_the_sampler_is_found_to_be_poisson"
)

MUTANTS = [
    Mutant("no clip", "clipping", FLAT, '"flat": lambda norms, clip: torch.ones_like(norms)', SENSITIVITY),
    Mutant("clip at 2C", "clipping", FLAT, '"flat": lambda norms, clip: torch.clamp(2 * clip / (norms + 1e-12), max=1.0)', SENSITIVITY),
    Mutant(
        "clip per batch",
        "clipping",
        "            factors = torch.where(keep, factor(norms), 0.0)\n            scrub",
        "            factors = torch.where(keep, factor(norms.sum(1, keepdim=True)), 0.0)\n            scrub",
        "tests/test_clipping.py::test_engines_equal_micro_batches_of_one",
    ),
    Mutant(
        "clip after sum",
        "train",
        "weights[:, at], factor, target, regulariser)",
        "weights[:, at], lambda norms: torch.ones_like(norms) * factor(norms.sum(1, keepdim=True)), target, regulariser)",
        STEP,
    ),
    Mutant(
        "mean before noise", "train", NOISY, "gradient.div_(ran.divisor).add_(own.view_as(gradient), alpha=noise_std / ran.spacing)", STEP
    ),
    Mutant("noise / B", "train", NOISY, "gradient.add_(own.view_as(gradient), alpha=noise_std / ran.spacing / ran.divisor)", STEP),
    Mutant(
        "noise x .99",
        "train",
        NOISY,
        "gradient.add_(own.view_as(gradient), alpha=0.99 * noise_std / ran.spacing)",
        "tests/test_train.py::test_zero_gradients_leave_noise_of_the_stated_size",
    ),
    Mutant(
        "noise off in the last step",
        "train",
        NOISY,
        "gradient.add_(own.view_as(gradient), alpha=noise_std / ran.spacing * (step < ran.steps - 1))",
        STEP,
    ),
    Mutant("noise reused each step", "train", DRAW, "normals = noise.draw(keys, 0)", STEP),
    Mutant(
        "one noise for all layers",
        "train",
        NOISY,
        "gradient.add_((normals[0][:, :1] * torch.ones_like(own)).view_as(gradient), alpha=noise_std / ran.spacing)",
        STEP,
    ),
    Mutant(
        "seed shared across a sweep",
        "fleet",
        "return sampling.os_key()",
        'return sampling.seeded_key(self.config.seed, "noise")',
        "tests/test_sweep.py::test_no_two_models_of_a_sweep_share_a_key",
    ),
    Mutant(
        "re-seed at resume",
        "train",
        DRAW,
        'normals = noise.draw(keys, step - vars(state).setdefault("resumed", step))',
        "tests/test_train.py::test_resume_equals_uninterrupted_bit_for_bit",
    ),
    Mutant(
        "noise per microbatch",
        "train",
        "gradient.add_(parts[name])",
        "gradient.add_(parts[name]).add_(torch.randn_like(gradient), alpha=noise_std / ran.spacing)",
        "tests/test_train.py::test_a_batch_in_parts_is_the_same_step",
    ),
    Mutant(
        "partial batch carried into the next",
        "train",
        "            if start:\n                for name",
        "            if parts:\n                for name",
        "tests/test_train.py::test_a_batch_in_parts_is_the_same_step",
    ),
    Mutant("step uncharged", "train", "            if charge:", "            if charge and step:", "tests/test_ledger.py"),
    Mutant("ledger refunds on crash", "ledger", "os.truncate(self._path, whole)", "os.truncate(self._path, 0)", "tests/test_ledger.py"),
    Mutant(
        "q from the number of members",
        "sampling",
        COINS,
        COINS.replace("public_n", "int(membership.sum())"),
        "tests/test_sampling.py::test_membership_of_one_example_moves_no_other_coin",
    ),
    Mutant(
        "T off by one",
        "train",
        "for step in range(state.step, ran.steps):",
        "for step in range(state.step, ran.steps + 1):",
        "tests/test_train.py::test_engines_agree_over_a_whole_run",
    ),
    Mutant("drop last", "sampling", COINS, f"{COINS}[:batch_size]", POISSON),
    Mutant("shuffled as Poisson", "sampling", COINS, "np.roll(np.flatnonzero(membership), -step * batch_size)[:batch_size]", POISSON),
    Mutant(
        "skip empty batches",
        "train",
        "if noise is not None:",
        "if noise is not None and bool(weights.any()):",
        "tests/test_train.py::test_empty_batches_are_steps_of_noise_alone",
    ),
    Mutant(
        "redraw empty batches",
        "sampling",
        f"return {COINS}",
        f"return found if len(found := {COINS}) else poisson(key, step + (1 << 40), membership, batch_size, public_n)",
        "tests/test_sampling.py::test_batch_sizes_vary_and_may_be_empty",
    ),
    Mutant(
        "NaN passes",
        "clipping",
        "finite = torch.isfinite(norms)\n",
        "finite = torch.ones_like(norms, dtype=torch.bool)\n",
        "tests/test_clipping.py::test_non_finite_gradients_count_as_zero",
    ),
    Mutant(
        "constants of another model in the attacks",
        "fleet",
        "        model = self.module(setting)\n        with torch.no_grad():",
        "        model = models.trained(self._whole(seed, setting))\n        with torch.no_grad():",
        "tests/test_claims.py::test_07_constants_are_the_same_in_training_attacks_and_files",
    ),
    Mutant(
        "frozen batch norm",
        "probe",
        'if isinstance(module, nn.modules.batchnorm._BatchNorm) or "BatchNorm" in type(module).__name__:',
        "if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:",
        "tests/test_probe.py::test_poisoned_models_are_refused",
    ),
    Mutant(
        "batch-centring layer",
        "probe",
        "if not same(first[others], second[others]):",
        "if False:",
        "tests/test_probe.py::test_mixing_is_found_by_moving_examples",
    ),
    Mutant(
        "bias left out of the norm",
        "clipping",
        "                for term in own.values():",
        '                for term in (term for name, term in own.items() if name != "bias"):',
        "tests/test_clipping.py::test_engines_equal_micro_batches_of_one",
    ),
    Mutant(
        "max_grad_norm ignored",
        "train",
        "clipper(recipe.clipping, ran.clip, ran.spacing)",
        "clipper(recipe.clipping, 1.0, ran.spacing)",
        STEP,
    ),
    Mutant(
        "bfloat16 norm",
        "clipping",
        "norms = norms.hypot(term.norm())",
        "norms = norms.hypot(term.norm().bfloat16().float())",
        "tests/test_clipping.py::test_sensitivity_with_views_at_every_precision",
    ),
    Mutant(
        "parameter without a per-example gradient",
        "engines",
        'if not isinstance(sample, Tensor) or len(sample) != batch * views:\n            raise RuntimeError(f"parameter {name!r} has no gradient for each of the {batch} examples")',
        "if not isinstance(sample, Tensor) or len(sample) != batch * views:\n            return torch.zeros((batch, *parameter.shape))",
        "tests/test_clipping.py::test_a_parameter_without_a_gradient_for_each_example_is_refused",
    ),
    Mutant(
        "noise falls while the account stays",
        "train",
        NOISY,
        "gradient.add_(own.view_as(gradient), alpha=noise_std / ran.spacing * (1 - step / ran.steps))",
        STEP,
    ),
    Mutant(
        "RDP order 1 + 1e-8",
        "rdp",
        "np.array([*(1 +",
        "np.array([1 + 1e-8, *(1 +",
        "tests/test_accounting.py::test_orders_and_small_numbers",
    ),
    Mutant(
        "delta and epsilon swapped",
        "accounting",
        "lambda candidate: epsilon(candidate, delta), target, f",
        "lambda candidate: epsilon(candidate, target), delta, f",
        "tests/test_accounting.py::test_calibration_never_overshoots_and_wastes_little",
    ),
    Mutant(
        "negative epsilon",
        "rdp",
        "return max(0.0, float(np.min(found)))",
        "return float(np.min(found))",
        "tests/test_accounting.py::test_orders_and_small_numbers",
    ),
    Mutant(
        "infinity printed as a number",
        "opinions",
        "return value if math.isfinite(value) and value >= 0 else None",
        "return value",
        "tests/test_accounting.py::test_second_opinions_stand_close_or_stand_back",
    ),
    Mutant(
        "calibration returns the unsafe end",
        "accounting",
        "    return replace(mechanism, noise_multiplier=high)\n\n\n@dataclass",
        "    return replace(mechanism, noise_multiplier=low)\n\n\n@dataclass",
        "tests/test_accounting.py::test_calibration_never_overshoots_and_wastes_little",
    ),
    Mutant(
        "best threshold without a correction",
        "audit",
        "delta, method, confidence, len(thresholds)))",
        "delta, method, confidence, 1))",
        "tests/test_audit.py::test_thresholds_fixed_beforehand_are_paid_for",
    ),
    Mutant(
        "absolute value of mu",
        "audit",
        "return np.maximum(0.0, np.nan_to_num(-special.ndtri(fpr) - special.ndtri(fnr), nan=0.0))",
        "return np.abs(np.nan_to_num(-special.ndtri(fpr) - special.ndtri(fnr), nan=0.0))",
        "tests/test_audit.py::test_bounds_from_counts_equal_their_slow_twins",
    ),
    Mutant(
        "score sign flipped",
        "attacks/outputs",
        "return -scores.loss[target]",
        "return scores.loss[target]",
        "tests/test_attacks.py::test_planted_leak_is_found_the_right_way_up",
    ),
    Mutant(
        "members and non-members swapped",
        "metrics",
        "self._hits = member[self._order]",
        "self._hits = ~member[self._order]",
        "tests/test_metrics.py::test_circular_roc tests/test_metrics.py::test_against_slow_twins",
    ),
    Mutant(
        "target among its shadows",
        "scores",
        "return ~(same.all(axis=1) | ~same.any(axis=1))",
        "return np.ones(len(same), dtype=bool)",
        "tests/test_attacks.py::test_shadows_leave_out_the_target_and_its_complement",
    ),
    Mutant(
        "stale cache",
        "evaluate",
        "scores.digest, name, code_of(name), dict(options)",
        "len(scores.labels), name, code_of(name), dict(options)",
        "tests/test_sweep.py::test_attacks_follow_the_models_they_are_of",
    ),
    Mutant(
        "population reference keeps its larger half",
        "attacks/rmia",
        "chosen = np.broadcast_to(scores.shadows(target)[:, None], scores.population.membership.shape)",
        "chosen = scores.shadows(target)[:, None] & (scores.population.confidence >= np.median(scores.population.confidence, axis=0))",
        "tests/test_attacks.py::test_attack_equals_its_slow_twin",
    ),
    Mutant(
        "TPR interpolated below 1/N",
        "metrics",
        "if count < NON_MEMBERS_PER_FPR / fpr:",
        "if False:",
        "tests/test_metrics.py::test_tpr_is_refused_where_non_members_cannot_resolve_it",
    ),
    Mutant(
        "Clopper-Pearson one-sided at full alpha",
        "audit",
        "tail = (1 - confidence) / 2 / tests",
        "tail = (1 - confidence) / tests",
        "tests/test_audit.py::test_clopper_pearson_ceilings tests/test_audit.py::test_bounds_from_counts_equal_their_slow_twins",
    ),
    Mutant(
        "duplicated canaries",
        "canaries",
        "features = np.resize(rng.permutation(flat.shape[1]), len(flat))",
        "features = np.zeros(len(flat), dtype=int)",
        "tests/test_canaries.py::test_only_the_first_of_the_pool_are_replaced",
    ),
    Mutant(
        "canaries and memberships share their coins",
        "sampling",
        "generator(key, Purpose.MEMBERSHIP, pair).random(examples) < 0.5",
        "generator(key, Purpose.MEMBERSHIP, 0).random(examples) < 0.5",
        "tests/test_sampling.py::test_pairs_of_models_are_independent",
    ),
    Mutant(
        "neighbours divided by sizes of their own",
        "train",
        "gradient.mul_(ran.spacing / ran.divisor)",
        "gradient.mul_(ran.spacing / max(1, int(weights.sum()) / len(keys)))",
        STEP,
    ),
    Mutant(
        "jackknife of examples without its inflation",
        "metrics",
        "(groups - 1) / groups * np.sum",
        "1 / groups * np.sum",
        "tests/test_numbers.py::test_19_the_jackknife_of_examples_is_inflated",
    ),
    Mutant(
        "upper median of bounds",
        "judge",
        "return found[(len(found) - 1) // 2]",
        "return found[len(found) // 2]",
        "tests/test_numbers.py::test_19_of_several_bounds_the_lower_median_counts_each_at_half_the_error",
    ),
    Mutant(
        "each of several bounds at the full error",
        "judge",
        "each = confidence if len(view.own) == 1 else 1 - (1 - confidence) / 2",
        "each = confidence",
        "tests/test_numbers.py::test_19_of_several_bounds_the_lower_median_counts_each_at_half_the_error",
    ),
    Mutant(
        "epsilon of a group computed for one",
        "accounting",
        "return _Losses.of(mechanism, group).epsilon(delta)",
        "return _Losses.of(mechanism).epsilon(delta)",
        "tests/test_numbers.py::test_19_group_epsilons_are_of_groups",
    ),
    Mutant(
        "noise keeps its last digits",
        "train",
        f"{NOISY}.round_()",
        NOISY,
        "tests/test_claims.py::test_02_released_steps_are_multiples_of_a_grid",
    ),
    Mutant(
        "gaps in the tail of the noise",
        "noise",
        "while float(radius.amax()) > FAR:",
        "while float(radius.amax()) > 100:",
        "tests/test_claims.py::test_02_the_tail_has_no_gaps",
    ),
    Mutant(
        "unknown modules get whole batches",
        "row_wise",
        "if changed or type(model) not in KNOWN or not KNOWN[type(model)](model):",
        "if hooked:",
        "tests/test_claims.py::test_01_mixing_models_are_refused_or_one_example_moves_the_sum_by_the_clip_at_most",
    ),
    Mutant(
        "engines checked at initial weights only",
        "probe",
        "copy.deepcopy(weights).double(), shape, 1e-5)",
        "copy.deepcopy(model).double(), shape, 1e-5)",
        "tests/test_claims.py::test_06_engines_are_checked_at_other_weights",
    ),
    Mutant(
        "ties read as a rate of zero",
        "metrics",
        "if coarse > fpr * (1 + 1e-12):",
        "if False:",
        "tests/test_numbers.py::test_13_a_rate_below_the_resolution_of_an_attack_is_refused",
    ),
    Mutant(
        "ceiling of the symmetrised curve",
        "accounting",
        "        return one, other\n",
        "        return np.maximum(one, other), np.maximum(one, other)\n",
        "tests/test_numbers.py::test_14_the_ceiling_of_the_auc_is_that_of_members_against_non_members",
    ),
    Mutant(
        "guesses chosen on the coins they are tried on",
        "one_run",
        "looked, tried = mixed[: len(mixed) // QUARTER], mixed[len(mixed) // QUARTER :]",
        "looked = tried = mixed",
        "tests/test_audit.py::test_the_best_of_all_guesses_would_be_caught",
    ),
    Mutant(
        "a fixed floor under rounded probabilities",
        "saturation",
        "true, rest = split(probabilities, labels)\n    values",
        "given, (true, rest) = Ends(1e-12, 1e-12), split(probabilities, labels)\n    values",
        "tests/test_numbers.py::test_12_lira_on_rounded_probabilities",
    ),
    Mutant(
        "a refuted setting recommended",
        "advice",
        "[one for one in every if not one.refuted], [one for one in every if one.refuted]",
        "list(every), []",
        "tests/test_claims.py::test_09_a_refuted_claim_is_shown_as_refuted_everywhere",
    ),
    Mutant(
        "columns shaped by the pool",
        "tables",
        "_encoded(kept[name], population, schema",
        "_encoded(kept[name], np.arange(len(kept)), schema",
        "tests/test_files.py::test_03_a_cell_of_the_pool_does_not_shape_the_features",
    ),
    Mutant(
        "seeded noise shared by data sets",
        "estimator",
        'sampling.seeded_key(int(self.noise_seed), "estimator", rows.hexdigest(), plan)',
        'sampling.seeded_key(int(self.noise_seed), "estimator")',
        "tests/test_claims.py::test_05_a_noise_seed_repeats_a_fit_and_no_other",
    ),
]

FAST = ("no clip", "noise / B", "ledger refunds on crash")
"""Tried on every run of the tests; all of them under -m slow."""
