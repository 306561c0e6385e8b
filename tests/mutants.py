"""92 one-line bugs of private training and auditing, most of them found live in the tools people
use, and the tests that must catch each.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """In `file` the text `old`, which stands there once, becomes `new`; at least one of `tests`
    (pytest node ids) must then fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


NOISY = "total.add_(drawn.view_as(total), alpha=std)"
DRAW = "normals = noise.draw(trainer.keys, step)"
COINS = "np.flatnonzero((bits <= np.uint64((batch_size << 64) // public_n - 1)) & membership)"
FLAT = "Clipping.FLAT: lambda norms, clip: torch.clamp(clip / (norms + 1e-12), max=1.0)"
CLIPPER = "Clipper.of(trainer.recipe.clipping, ran.clip, ran.spacing)"
STD = "trainer.noise_std / ran.spacing"
STEP = (
    "tests/training/test_trainer.py"
    "::test_every_step_is_the_clipped_sum_plus_its_own_noise_over_the_divisor"
)
SENSITIVITY = "tests/training/gradients/test_base.py::test_sensitivity_of_neighbouring_batches"
POISSON = (
    "tests/core/test_streams.py::test_poisson_inclusion_rate_of_every_example "
    "tests/training/test_checks.py::test_the_sampler_is_found_to_be_poisson"
)

MUTANTS = [
    Mutant(
        "no clip",
        "training/gradients/base",
        FLAT,
        "Clipping.FLAT: lambda norms, clip: torch.ones_like(norms)",
        SENSITIVITY,
    ),
    Mutant(
        "clip at 2C",
        "training/gradients/base",
        FLAT,
        "Clipping.FLAT: lambda norms, clip: torch.clamp(2 * clip / (norms + 1e-12), max=1.0)",
        SENSITIVITY,
    ),
    Mutant(
        "clip per batch",
        "training/gradients/stacked",
        "factors = torch.where(keep, factor(norms), 0.0)\n            scrub",
        "factors = torch.where(keep, factor(norms.sum(1, keepdim=True)), 0.0)\n            scrub",
        "tests/training/gradients/test_engines.py::test_engines_equal_micro_batches_of_one",
    ),
    Mutant(
        "clip after sum",
        "training/trainer",
        "parameters, seen, of_units, weights, factor, out, of_part",
        "parameters, seen, of_units, weights, factor and (lambda norms: torch.ones_like(norms) "
        "* factor(norms.sum(1, keepdim=True))), out, of_part",
        STEP,
    ),
    Mutant(
        "mean before noise",
        "training/trainer",
        "add_noise(gradients, normals, trainer.noise_std / ran.spacing)",
        "add_noise({name: value.div_(ran.divisor) for name, value in gradients.items()}, normals, "
        "trainer.noise_std / ran.spacing)",
        STEP,
    ),
    Mutant("noise / B", "training/trainer", STD, f"{STD} / ran.divisor", STEP),
    Mutant(
        "noise x .99",
        "training/trainer",
        STD,
        f"0.99 * {STD}",
        "tests/training/test_trainer.py::test_zero_gradients_leave_noise_of_the_stated_size",
    ),
    Mutant(
        "noise off in the last step",
        "training/trainer",
        STD,
        f"{STD} * (state.step < ran.steps - 1)",
        STEP,
    ),
    Mutant(
        "noise reused each step",
        "training/trainer",
        DRAW,
        "normals = noise.draw(trainer.keys, 0)",
        STEP,
    ),
    Mutant(
        "one noise for all layers",
        "training/trainer",
        NOISY,
        "total.add_((normals[:, :1].to(device) * torch.ones_like(drawn)).view_as(total), "
        "alpha=std)",
        STEP,
    ),
    Mutant(
        "seed shared across a sweep",
        "fleet/stacks",
        "return streams.os_key()",
        'return streams.seeded_key(fleet.config.seed, "noise")',
        "tests/fleet/test_stacks.py::test_no_two_models_of_a_sweep_share_a_key",
    ),
    Mutant(
        "re-seed at resume",
        "training/trainer",
        DRAW,
        'normals = noise.draw(trainer.keys, step - vars(noise).setdefault("first", step))',
        "tests/training/test_trainer.py::test_resume_equals_uninterrupted_bit_for_bit",
    ),
    Mutant(
        "noise per microbatch",
        "training/trainer",
        "gradient.add_(out[name])",
        f"gradient.add_(out[name]).add_(torch.randn_like(gradient), alpha={STD})",
        "tests/training/test_trainer.py::test_a_batch_in_parts_is_the_same_step",
    ),
    Mutant(
        "partial batch carried into the next",
        "training/trainer",
        "if start:\n                for name, gradient in gradients.items():\n"
        "                    gradient.add_(out[name])",
        'if "part" in trainer.buffers._sums:\n                for name, gradient in '
        'gradients.items():\n                    gradient.add_(trainer.buffers.sums("part", '
        "parameters)[name])",
        "tests/training/test_trainer.py::test_a_batch_in_parts_is_the_same_step",
    ),
    Mutant(
        "step uncharged",
        "training/trainer",
        "if charge:",
        "if charge and step:",
        "tests/privacy/test_ledger.py",
    ),
    Mutant(
        "ledger refunds on crash",
        "privacy/ledger",
        "os.truncate(self._path, whole)",
        "os.truncate(self._path, 0)",
        "tests/privacy/test_ledger.py",
    ),
    Mutant(
        "q from the number of members",
        "core/streams",
        COINS,
        COINS.replace("public_n", "int(membership.sum())"),
        "tests/core/test_streams.py::test_membership_of_one_example_moves_no_other_coin",
    ),
    Mutant(
        "T off by one",
        "training/trainer",
        "for step in range(state.step, last):",
        "for step in range(state.step, last + 1):",
        "tests/training/test_trainer.py::test_engines_agree_over_a_whole_run",
    ),
    Mutant("drop last", "core/streams", COINS, f"{COINS}[:batch_size]", POISSON),
    Mutant(
        "shuffled as Poisson",
        "core/streams",
        COINS,
        "np.roll(np.flatnonzero(membership), -step * batch_size)[:batch_size]",
        POISSON,
    ),
    Mutant(
        "skip empty batches",
        "training/trainer",
        DRAW,
        f"{DRAW} * bool(batch.weights.any())",
        "tests/training/test_trainer.py::test_empty_batches_are_steps_of_noise_alone",
    ),
    Mutant(
        "redraw empty batches",
        "core/streams",
        f"return {COINS}",
        f"return found if len(found := {COINS}) else poisson(key, step + (1 << 40), "
        "membership, batch_size, public_n)",
        "tests/core/test_streams.py::test_batch_sizes_vary_and_may_be_empty",
    ),
    Mutant(
        "NaN passes",
        "training/gradients/stacked",
        "finite = torch.isfinite(norms)\n",
        "finite = torch.ones_like(norms, dtype=torch.bool)\n",
        "tests/training/gradients/test_stacked.py::test_non_finite_gradients_count_as_zero",
    ),
    Mutant(
        "constants of another model in the attacks",
        "fleet/fleet",
        "model = self.module(setting)",
        "model = models.trained(self._whole(seed, setting))",
        "tests/fleet/test_fleet.py::test_constants_are_the_same_in_training_attacks_and_files",
    ),
    Mutant(
        "frozen batch norm",
        "models/validation",
        'if isinstance(module, nn.modules.batchnorm._BatchNorm) or "BatchNorm" in kind:',
        "if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:",
        "tests/models/test_validation.py::test_poisoned_models_are_refused",
    ),
    Mutant(
        "batch-centring layer",
        "models/validation",
        "if not _same(first[others], second[others], relative):",
        "if False:",
        "tests/models/test_validation.py::test_mixing_is_found_by_moving_examples",
    ),
    Mutant(
        "bias left out of the norm",
        "training/gradients/stacked",
        "for term in of_layer.values():",
        'for term in (term for name, term in of_layer.items() if name != "bias"):',
        "tests/training/gradients/test_engines.py::test_engines_equal_micro_batches_of_one",
    ),
    Mutant(
        "max_grad_norm ignored",
        "training/trainer",
        CLIPPER,
        CLIPPER.replace("ran.clip", "1.0"),
        STEP,
    ),
    Mutant(
        "bfloat16 norm",
        "training/gradients/stacked",
        "norms = norms.hypot(term.norm())",
        "norms = norms.hypot(term.norm().bfloat16().float())",
        "tests/training/gradients/test_base.py::test_sensitivity_with_views_at_every_precision",
    ),
    Mutant(
        "parameter without a per-example gradient",
        "training/gradients/engines",
        "if not isinstance(sample, Tensor) or len(sample) != batch * views:\n"
        '            raise RuntimeError(f"parameter {name!r} has no gradient for each of '
        'the {batch} examples")',
        "if not isinstance(sample, Tensor) or len(sample) != batch * views:\n"
        "            return torch.zeros((batch, *parameter.shape))",
        "tests/training/gradients/test_engines.py::"
        "test_a_parameter_without_a_gradient_for_each_example_is_refused",
    ),
    Mutant(
        "noise falls while the account stays",
        "training/trainer",
        STD,
        f"{STD} * (1 - state.step / ran.steps)",
        STEP,
    ),
    Mutant(
        "RDP order 1 + 1e-8",
        "privacy/rdp",
        "np.array([*(1 +",
        "np.array([1 + 1e-8, *(1 +",
        "tests/privacy/test_rdp.py::test_orders_and_small_numbers",
    ),
    Mutant(
        "delta and epsilon swapped",
        "privacy/pld",
        "least_noise(mechanism, lambda ran: epsilon(ran, delta), target, described)",
        "least_noise(mechanism, lambda ran: epsilon(ran, target), delta, described)",
        "tests/privacy/test_pld.py::test_calibration_never_overshoots_and_wastes_little",
    ),
    Mutant(
        "negative epsilon",
        "privacy/rdp",
        "return max(0.0, float(np.min(epsilons)))",
        "return float(np.min(epsilons))",
        "tests/privacy/test_rdp.py::test_orders_and_small_numbers",
    ),
    Mutant(
        "infinity printed as a number",
        "privacy/prv",
        "return value if math.isfinite(value) and value >= 0 else None",
        "return value",
        "tests/privacy/test_prv.py::test_second_opinions_stand_close_or_stand_back",
    ),
    Mutant(
        "calibration returns the unsafe end",
        "privacy/pld",
        "min(noise for noise, value in tried.items() if value <= target)",
        "max(noise for noise, value in tried.items() if value > target)",
        "tests/privacy/test_pld.py::test_calibration_never_overshoots_and_wastes_little",
    ),
    Mutant(
        "best threshold without a correction",
        "evaluation/epsilon_bounds",
        "delta, method, confidence, len(thresholds),",
        "delta, method, confidence, 1,",
        "tests/evaluation/test_epsilon_bounds.py::test_thresholds_fixed_beforehand_are_paid_for",
    ),
    Mutant(
        "absolute value of mu",
        "privacy/gaussian",
        "result: np.ndarray = np.maximum(0.0, np.nan_to_num(-ndtri(fpr) - ndtri(fnr), nan=0.0))",
        "result: np.ndarray = np.abs(np.nan_to_num(-ndtri(fpr) - ndtri(fnr), nan=0.0))",
        "tests/evaluation/test_epsilon_bounds.py::test_bounds_from_counts_equal_their_slow_twins",
    ),
    Mutant(
        "score sign flipped",
        "attacks/outputs",
        "result: np.ndarray = -scores.loss[target]",
        "result: np.ndarray = scores.loss[target]",
        "tests/attacks/test_registry.py::test_planted_leak_is_found_the_right_way_up",
    ),
    Mutant(
        "members and non-members swapped",
        "evaluation/rankings",
        "self._order, self._hits = order, hits",
        "self._order, self._hits = order, ~hits",
        "tests/evaluation/test_metrics.py::test_circular_roc "
        "tests/evaluation/test_metrics.py::test_against_slow_twins",
    ),
    Mutant(
        "target among its shadows",
        "attacks/scores",
        "result: np.ndarray = ~(same.all(axis=1) | ~same.any(axis=1))",
        "result: np.ndarray = np.ones(len(same), dtype=bool)",
        "tests/attacks/test_scores.py::test_shadows_leave_out_the_target_and_its_complement",
    ),
    Mutant(
        "stale cache",
        "pipeline/evaluation",
        "code, scores.digest, name, dict(options)",
        "code, len(scores.labels), name, dict(options)",
        "tests/pipeline/test_evaluation.py::test_attacks_follow_the_models_they_are_of",
    ),
    Mutant(
        "population reference keeps its larger half",
        "attacks/rmia",
        "chosen = np.broadcast_to(scores.shadows(target)[:, None], "
        "scores.population.membership.shape)",
        "chosen = scores.shadows(target)[:, None] & (scores.population.confidence >= "
        "np.median(scores.population.confidence, axis=0))",
        "tests/attacks/test_registry.py::test_attack_equals_its_slow_twin",
    ),
    Mutant(
        "TPR interpolated below 1/N",
        "evaluation/metrics",
        "if count < NON_MEMBERS_PER_FPR / fpr:",
        "if False:",
        "tests/evaluation/test_metrics.py::test_tpr_is_refused_where_non_members_cannot_resolve_it",
    ),
    Mutant(
        "Clopper-Pearson one-sided at full alpha",
        "evaluation/epsilon_bounds",
        "tail = (1 - confidence) / 2 / tests",
        "tail = (1 - confidence) / tests",
        "tests/evaluation/test_epsilon_bounds.py::test_clopper_pearson_ceilings "
        "tests/evaluation/test_epsilon_bounds.py::test_bounds_from_counts_equal_their_slow_twins",
    ),
    Mutant(
        "duplicated canaries",
        "data/canaries",
        "features = np.resize(rng.permutation(flat.shape[1]), len(flat))",
        "features = np.zeros(len(flat), dtype=int)",
        "tests/data/test_canaries.py::test_only_the_first_of_the_pool_are_replaced",
    ),
    Mutant(
        "canaries and memberships share their coins",
        "core/streams",
        "generator(key, Purpose.MEMBERSHIP, pair).random(examples) < 0.5",
        "generator(key, Purpose.MEMBERSHIP, 0).random(examples) < 0.5",
        "tests/core/test_streams.py::test_pairs_of_models_are_independent",
    ),
    Mutant(
        "neighbours divided by sizes of their own",
        "training/trainer",
        "gradient.mul_(ran.spacing / ran.divisor)",
        "gradient.mul_(ran.spacing / max(1, int(batch.weights.sum()) / len(trainer.keys)))",
        STEP,
    ),
    Mutant(
        "jackknife of examples without its inflation",
        "evaluation/intervals",
        "(groups - 1) / groups * np.sum",
        "1 / groups * np.sum",
        "tests/evaluation/test_intervals.py::test_the_jackknife_of_examples_is_inflated",
    ),
    Mutant(
        "upper median of bounds",
        "evaluation/attack_rows",
        "bound = bounds[(targets - 1) // 2]",
        "bound = bounds[targets // 2]",
        "tests/evaluation/test_attack_rows.py::"
        "test_of_several_bounds_the_lower_median_counts_each_at_half_the_error",
    ),
    Mutant(
        "each of several bounds at the full error",
        "evaluation/attack_rows",
        "intervals.CONFIDENCE if targets == 1 else 1 - (1 - intervals.CONFIDENCE) / 2",
        "intervals.CONFIDENCE",
        "tests/evaluation/test_attack_rows.py::"
        "test_of_several_bounds_the_lower_median_counts_each_at_half_the_error",
    ),
    Mutant(
        "epsilon of a group computed for one",
        "privacy/pld",
        "return _Losses.of(mechanism, group).epsilon(delta)",
        "return _Losses.of(mechanism).epsilon(delta)",
        "tests/privacy/test_pld.py::test_group_epsilons_are_of_groups",
    ),
    Mutant(
        "noise keeps its last digits",
        "training/trainer",
        f"{NOISY}.round_()",
        NOISY,
        "tests/training/test_trainer.py::test_released_steps_are_multiples_of_a_grid",
    ),
    Mutant(
        "gaps in the tail of the noise",
        "training/noise",
        "while float(radius.amax()) > FAR:",
        "while float(radius.amax()) > 100:",
        "tests/training/test_noise.py::test_the_tail_has_no_gaps",
    ),
    Mutant(
        "unknown modules get whole batches",
        "models/row_wise",
        "if changed or type(model) not in KNOWN or not KNOWN[type(model)](model):",
        "if hooked:",
        "tests/models/test_row_wise.py::"
        "test_mixing_models_are_refused_or_one_example_moves_the_sum_by_the_clip_at_most",
    ),
    Mutant(
        "engines checked at initial weights only",
        "training/checks",
        "copy.deepcopy(weights).double(), shape, 1e-5",
        "copy.deepcopy(model).double(), shape, 1e-5",
        "tests/training/test_checks.py::test_engines_are_checked_at_other_weights",
    ),
    Mutant(
        "ties read as a rate of zero",
        "evaluation/metrics",
        "if coarse > fpr * (1 + 1e-12):",
        "if False:",
        "tests/evaluation/test_attack_rows.py::"
        "test_a_rate_below_the_resolution_of_an_attack_is_refused",
    ),
    Mutant(
        "ceiling of the symmetrised curve",
        "privacy/pld",
        "return forward, backward\n",
        "return np.maximum(forward, backward), np.maximum(forward, backward)\n",
        "tests/privacy/test_pld.py::"
        "test_the_ceiling_of_the_auc_is_that_of_members_against_non_members",
    ),
    Mutant(
        "guesses chosen on the coins they are tried on",
        "evaluation/one_run",
        "looked, tried = mixed[: len(mixed) // QUARTER], mixed[len(mixed) // QUARTER :]",
        "looked = tried = mixed",
        "tests/evaluation/test_one_run.py::test_the_best_of_all_guesses_would_be_caught",
    ),
    Mutant(
        "a claim judged by its best target",
        "evaluation/one_run",
        "middle = sorted(p_values)[len(p_values) // 2]",
        "middle = min(p_values)",
        "tests/evaluation/test_attack_rows.py::test_a_claim_is_judged_by_the_median_of_its_targets",
    ),
    Mutant(
        "a claim tried by the guesses of a bound",
        "evaluation/one_run",
        "p = one_run_p_value(TIMES * few.count, guesses, right, epsilon, delta)\n",
        "p = -float(right == guesses)\n",
        "tests/evaluation/test_attack_rows.py::test_a_claim_is_refuted_by_a_moderate_leak",
    ),
    Mutant(
        "products that round to bfloat16",
        "training/products",
        'device == "cpu" and accurate()',
        'device == "cpu"',
        "tests/training/test_products.py::test_it_stays_off_where_it_rounds",
    ),
    Mutant(
        "a fixed floor under rounded probabilities",
        "attacks/saturation",
        "true, rest = split(probabilities, labels)\n    values",
        "given, (true, rest) = Ends(1e-12, 1e-12), split(probabilities, labels)\n    values",
        "tests/attacks/test_saturation.py::test_lira_on_rounded_probabilities",
    ),
    Mutant(
        "a refuted setting recommended",
        "report/advice",
        "[candidate for candidate in every if not candidate.refuted], "
        "[candidate for candidate in every if candidate.refuted],",
        "list(every), [],",
        "tests/pipeline/test_statements.py::test_a_refuted_claim_is_shown_as_refuted_everywhere",
    ),
    Mutant(
        "columns shaped by the pool",
        "data/tables",
        "columns.encode(rows[list(table.inputs)], table.split[1],",
        "columns.encode(rows[list(table.inputs)], np.arange(len(rows)),",
        "tests/data/test_splits.py::test_a_cell_of_the_pool_does_not_shape_the_features",
    ),
    Mutant(
        "seeded noise shared by data sets",
        "estimator",
        'streams.seeded_key(int(self.noise_seed), "estimator", rows.hexdigest(), plan)',
        'streams.seeded_key(int(self.noise_seed), "estimator")',
        "tests/test_estimator.py::test_a_noise_seed_repeats_a_fit_and_no_other",
    ),
    Mutant(
        "last step of a chunk uncharged",
        "fleet/executors/remote",
        "for step in range(self.charged, until):",
        "for step in range(self.charged, until - 1):",
        "tests/fleet/executors/test_remote.py::test_every_step_is_charged_before_it_is_sent",
    ),
    Mutant(
        "progress under other keys believed",
        "fleet/executors/remote",
        'for part in ("models", "artefacts", "keys"))',
        'for part in ("models", "artefacts"))',
        "tests/fleet/executors/test_remote.py::"
        "test_a_worker_that_gives_back_another_stack_is_not_believed",
    ),
    Mutant(
        "node with other code believed",
        "fleet/executors/remote",
        "if chunk.code != code():",
        "if not chunk.code:",
        "tests/fleet/executors/test_remote.py::test_a_node_with_other_code_is_refused",
    ),
    Mutant(
        "selection uncounted",
        "privacy/selection",
        "(1 + trials.shape) * beside.min()",
        "0.0 * beside.min()",
        "tests/privacy/test_selection.py::test_epsilon_equals_that_of_dp_accounting",
    ),
    Mutant(
        "best candidate counted instead of the worst",
        "privacy/selection",
        "np.max(spent, axis=0)",
        "np.min(spent, axis=0)",
        "tests/privacy/test_selection.py::test_the_worst_candidate_counts_at_every_order",
    ),
    Mutant(
        "unpaired difference",
        "evaluation/utility",
        "values = first[name] - second[name]",
        "values = first[name] - np.roll(second[name], 1, axis=1)",
        "tests/evaluation/test_utility.py::"
        "test_differences_of_equals_hold_zero_and_of_unequals_do_not",
    ),
    Mutant(
        "interval over models alone",
        "evaluation/intervals",
        "np.sqrt(by_model + _jackknife(without.mean(axis=1)))",
        "np.sqrt(by_model)",
        "tests/evaluation/test_utility.py::test_intervals_cover",
    ),
    Mutant(
        "balanced accuracy by examples",
        "evaluation/utility",
        "_over_classes(_ratio(weights @ right, weights @ of_class))",
        "_ratio((weights @ right).sum(axis=1), (weights @ of_class).sum(axis=1))",
        "tests/evaluation/test_utility.py::test_every_measure_equals_that_of_scikit_learn",
    ),
    Mutant(
        "threshold fitted on the test set",
        "pipeline/evaluation",
        "seen = _log_posterior(of_population)",
        "seen, data.population.labels = _log_posterior(of_test), data.test.labels",
        "tests/pipeline/test_evaluation.py::test_a_threshold_is_fitted_on_the_population",
    ),
    Mutant(
        "cut in time by all rows",
        "data/tables",
        "np.quantile(times[: wanted.population], 1 - later",
        "np.quantile(times, 1 - later",
        "tests/data/test_columns.py::test_the_cut_in_time_comes_from_the_population_alone",
    ),
    Mutant(
        "names of rows by the deal's order",
        "data/columns",
        "numbers[np.argsort(values.index)]",
        "numbers",
        "tests/data/test_columns.py::test_the_order_of_the_file_counts_and_not_that_of_the_deal",
    ),
    Mutant(
        "user clipped per row",
        "training/gradients/base",
        "return by_view.mean(-1) if shares is None else (by_view * shares).sum(-1)",
        "return by_view.mean(-1) if shares is None else by_view.sum(-1)",
        "tests/training/test_users.py::test_a_run_equals_the_loop_over_users",
    ),
    Mutant(
        "a coin for each row of a user",
        "pipeline/run",
        "members = members[:, dataset.users]",
        "members = streams.memberships(config.models_per_setting, len(dataset.users), key)",
        "tests/pipeline/test_users.py::test_all_rows_of_a_user_share_one_coin",
    ),
    Mutant(
        "rows of a user drawn with repeats",
        "core/streams",
        "most, replace=False",
        "most, replace=True",
        "tests/training/test_users.py::"
        "test_a_user_s_rows_are_drawn_without_repeats_and_share_alike",
    ),
    Mutant(
        "noise for rows stated for users",
        "fleet/settings",
        "return pld.group_epsilon(ran, config.privacy.delta, size)",
        "return pld.epsilon(ran, config.privacy.delta)",
        "tests/pipeline/test_users.py::test_each_setting_says_whom_it_protects",
    ),
    Mutant(
        "a proof for rows beside attacks on users",
        "pipeline/evaluation",
        "if not ran.private or (users and ran.unit == Unit.EXAMPLE):",
        "if not ran.private:",
        "tests/pipeline/test_users.py::test_a_setting_for_rows_proves_nothing_of_users",
    ),
    Mutant(
        "subgroup interval uncorrected",
        "evaluation/intervals",
        "return 1 - (1 - CONFIDENCE) / max(1, many)",
        "return CONFIDENCE",
        "tests/evaluation/test_subgroups.py::test_all_intervals_hold_at_once",
    ),
    Mutant(
        "imputation that sees the column",
        "pipeline/attribute_inference",
        "rest = np.delete(part.inputs, attribute.places, axis=1)",
        "rest = part.inputs",
        "tests/pipeline/test_attribute_inference.py"
        "::test_imputation_never_sees_the_column_or_the_pool",
    ),
    Mutant(
        "shadows that tell the membership",
        "pipeline/attribute_inference",
        "without[[target, target ^ 1]] = False",
        "without[target] = False",
        "tests/pipeline/test_attribute_inference.py"
        "::test_models_that_know_nothing_give_no_advantage",
    ),
    Mutant(
        "a leak of a column without its proof",
        "evaluation/attack_rows",
        "contradicted = low > ceiling",
        "contradicted = low > ceiling and metric.column is None",
        "tests/pipeline/test_attribute_inference.py"
        "::test_a_leak_above_the_proved_advantage_contradicts_it",
    ),
    Mutant(
        "a proof for an oracle's threshold",
        "report/demands",
        "None if oracle else row.ceiling",
        "row.ceiling",
        "tests/report/test_demands.py::test_demands_are_met_at_the_safe_end",
    ),
    Mutant(
        "one of many differences at 95 %",
        "pipeline/attribute_inference",
        "many=2 * len(ATTACKS) * len(columns)",
        "many=1",
        "tests/pipeline/test_attribute_inference.py::test_a_planted_secret_is_learnt_of_members",
    ),
    Mutant(
        "a second draw of the trials",
        "release/tune",
        "if stored is None:\n        seeded",
        "if True:\n        seeded",
        "tests/release/test_tune.py"
        "::test_the_number_of_trials_is_drawn_once_before_anything_is_trained",
    ),
    Mutant(
        "trials that stand for halves of a pool",
        "release/tune",
        "replace(candidate.ready.config, seed=seed)",
        "candidate.ready.config",
        "tests/release/test_tune.py::test_every_trial_is_charged_and_they_add_up",
    ),
    Mutant(
        "selection accounted as free",
        "privacy/statement",
        "        epsilon=selection.epsilon,\n        selection",
        "        epsilon=selection.alone,\n        selection",
        "tests/release/test_tune.py::test_the_claim_covers_training_and_choice",
    ),
    Mutant(
        "profile without the ratio of the laws",
        "privacy/selection",
        "return single + float(_log_ratio(at, np.clip(moved, 0, 1), trials).min())",
        "return single",
        "tests/privacy/test_selection.py::test_the_best_of_gaussians_stays_below_the_bound",
    ),
    Mutant(
        "canaries made of members",
        "release/final",
        "spare = parts.population.take(",
        "spare = parts.pool.take(",
        "tests/release/test_release.py::test_every_row_is_in_and_canaries_by_a_coin",
    ),
    Mutant(
        "measured numbers given away",
        "release/export",
        "return replace(self.statement, evaluated=None)",
        "return self.statement",
        "tests/release/test_release.py::test_nothing_that_was_measured_is_given_away",
    ),
    Mutant(
        "gaps of new rows as the value 0",
        "release/predict",
        "if number is None:\n            values.append(0.0)",
        'if number is None:\n            values.append(-part["mean"] / part["deviation"])',
        "tests/release/test_release.py::test_preprocessing_equals_the_sweep_s_bit_for_bit",
    ),
    Mutant(
        "half the pool's n for a model of all of it",
        "config/commands",
        "return self.dataset.unit_count or self.pool\n",
        "return (self.dataset.unit_count or self.pool) // 2\n",
        "tests/release/test_release.py::test_a_final_model_learns_from_all_rows_that_are_asked_for",
    ),
    Mutant(
        "class weights after the clip",
        "training/trainer",
        "if trainer.data.class_weights is None:\n        return shares",
        "if trainer.data.class_weights is None or trainer.mechanism.clip < 1e9:\n"
        "        return shares",
        "tests/training/test_class_weights.py::test_a_step_equals_micro_batches_of_weighted_losses",
    ),
]

FAST = ("no clip", "noise / B", "ledger refunds on crash")
"""Tried with the long tests; all of them under -m slow."""
