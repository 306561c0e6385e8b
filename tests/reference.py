"""Slow, obvious twins of the fast routines."""

import functools
import itertools
import math
import statistics
import warnings

import numpy as np
import torch
from torch import nn


def flat(norm, clip):
    return min(1.0, clip / norm) if norm else 1.0


def clipped_sum(model: nn.Module, inputs, labels, weights, clip, factor_of=flat):
    """Micro-batches of one: the clipped gradient sum of one model as a dict, by plain autograd;
    inputs [B, V, *shape], V views each.
    """
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y, weight in zip(inputs, labels, weights, strict=True):
        if not weight:
            continue
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y.expand(len(x))).backward()
        gradients = {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in model.named_parameters()
        }
        norm = math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))
        if not math.isfinite(norm):
            continue
        factor = factor_of(norm, clip)
        for name, value in gradients.items():
            total[name] += factor * value
    return total


def auc(scores, member):
    wins = 0.0
    for inside in scores[member]:
        for outside in scores[~member]:
            wins += 1.0 if inside > outside else 0.5 if inside == outside else 0.0
    return wins / (member.sum() * (~member).sum())


def tpr_at_fpr(scores, member, fpr):
    best = 0.0
    for threshold in [*scores, math.inf]:
        guess = scores >= threshold
        if guess[~member].mean() <= fpr:
            best = max(best, guess[member].mean())
    return best


def best_advantage(scores, member):
    return max(
        (scores >= t)[member].mean() - (scores >= t)[~member].mean() for t in [*scores, math.inf]
    )


def best_threshold(scores, member):
    """The highest of the best, as the fast twin takes it."""
    ordered = sorted({*scores}, reverse=True)
    gains = [(scores >= t)[member].mean() - (scores >= t)[~member].mean() for t in ordered]
    return ordered[int(np.argmax(gains))]


def phi(logits, label):
    others = [math.exp(z - max(logits)) for j, z in enumerate(logits) if j != label]
    return logits[label] - max(logits) - math.log(sum(others))


def lira(logits, labels, membership, target, online, variance):
    """logits [M, N, C]; loops over everything."""
    models, examples = membership.shape
    shadows = [
        m for m in range(models) if m != target and not all(membership[m] != membership[target])
    ]
    values = [[phi(list(logits[m, i]), labels[i]) for i in range(examples)] for m in range(models)]

    def moments(inside):
        groups = [
            [values[m][i] for m in shadows if membership[m, i] == inside] for i in range(examples)
        ]
        means = [sum(g) / len(g) for g in groups]
        squares = [sum((v - mean) ** 2 for v in g) for g, mean in zip(groups, means, strict=True)]
        if variance == "global":
            shared = sum(squares) / sum(len(g) - 1 for g in groups)
            return means, [shared] * examples
        # 20 degrees of freedom of the shared variance beside an example's own.
        if variance == "shrunk":
            shared = sum(squares) / sum(len(g) - 1 for g in groups)
            return means, [
                (20 * shared + s) / (20 + len(g) - 1) for s, g in zip(squares, groups, strict=True)
            ]
        return means, [s / (len(g) - 1) for s, g in zip(squares, groups, strict=True)]

    def log_density(x, mean, var):
        return -0.5 * math.log(2 * math.pi * var) - (x - mean) ** 2 / (2 * var)

    out_mean, out_var = moments(False)
    scores = []
    for i in range(examples):
        x = values[target][i]
        if online:
            in_mean, in_var = moments(True)
            scores.append(
                log_density(x, in_mean[i], in_var[i]) - log_density(x, out_mean[i], out_var[i])
            )
        else:
            scores.append((x - out_mean[i]) / math.sqrt(out_var[i]))
    return np.array(scores)


# ---- attacks: plain Python numbers and loops, one example at a time
# --------------------------------------------------


def softmax(logits):
    top = max(logits)
    exp = [math.exp(z - top) for z in logits]
    return [e / sum(exp) for e in exp]


def loss_of(logits, label):
    top = max(logits)
    return top + math.log(sum(math.exp(z - top) for z in logits)) - logits[label]


class Twin:
    """The same scores as a dptrain.attacks.scores.Scores, one number at a time."""

    def __init__(self, scores):
        self.s = scores
        self.labels = [int(label) for label in scores.labels]
        self.n = range(len(self.labels))
        for name in ("loss", "p", "phis", "shadows"):  # asked for again and again
            setattr(self, name, functools.cache(getattr(self, name)))

    def queries(self, m, i):
        return [list(map(float, logits)) for logits in self.s.logits[m, i]]

    def loss(self, m, i):
        each = [loss_of(z, self.labels[i]) for z in self.queries(m, i)]
        return sum(each) / len(each)

    def p(self, m, i):
        each = [softmax(z) for z in self.queries(m, i)]
        return [sum(column) / len(each) for column in zip(*each, strict=True)]

    def p_true(self, m, i):
        return self.p(m, i)[self.labels[i]]

    def phis(self, m, i):
        return [phi(z, self.labels[i]) for z in self.queries(m, i)]

    def shadows(self, t):
        member = self.s.membership
        return [m for m in range(len(member)) if m != t and not all(member[m] != member[t])]

    def outside(self, t, i):
        return [m for m in self.shadows(t) if not self.s.membership[m, i]]

    def inside(self, t, i):
        return [m for m in self.shadows(t) if self.s.membership[m, i]]


def mean(values):
    return sum(values) / len(values)


def correctness(s, t):
    return [float(s.p(t, i).index(max(s.p(t, i))) == s.labels[i]) for i in s.n]


def loss(s, t):
    return [-s.loss(t, i) for i in s.n]


def confidence(s, t):
    return [s.p_true(t, i) for i in s.n]


def entropy(s, t):
    return [sum(p * math.log(p) for p in s.p(t, i)) for i in s.n]


def modified_entropy(s, t):
    found = []
    for i in s.n:
        p, y = s.p(t, i), s.labels[i]
        mentr = -(1 - p[y]) * math.log(p[y]) - sum(
            p[j] * math.log(1 - p[j]) for j in range(len(p)) if j != y
        )
        found.append(-mentr)
    return found


def difficulty(s, t, reference="out", signal="loss"):
    def badness(m, i):
        return s.loss(m, i) if signal == "loss" else -mean(s.phis(m, i))

    found = []
    for i in s.n:
        middle = mean([badness(m, i) for m in s.outside(t, i)])
        if reference == "both":
            middle = (middle + mean([badness(m, i) for m in s.inside(t, i)])) / 2
        found.append(middle - badness(t, i))
    return found


def attack_p(s, t):
    population = Twin(s.s.population)
    return [mean([float(population.loss(t, z) >= s.loss(t, i)) for z in population.n]) for i in s.n]


def attack_r(s, t):
    return [mean([float(s.loss(m, i) >= s.loss(t, i)) for m in s.outside(t, i)]) for i in s.n]


def lira_twin(s, t, online, variance="auto"):
    """Queries one after the other."""
    total = [0.0] * len(s.labels)
    for q in range(s.s.logits.shape[2]):
        kind = ("shrunk" if online else "global") if variance == "auto" else variance
        each = lira(s.s.logits[:, :, q], s.labels, s.s.membership, t, online, kind)
        total = [a + float(b) for a, b in zip(total, each, strict=True)]
    return total


def rmia_ratios(s, t, online, a):
    z_table = s if s.s.population is None else Twin(s.s.population)

    def ratio(table, i):
        if online:
            reference = mean([table.p_true(m, i) for m in s.shadows(t)])
        else:
            used = [m for m in s.shadows(t) if not table.s.membership[m, i]]
            reference = 0.5 * ((1 + a) * mean([table.p_true(m, i) for m in used]) + (1 - a))
        return table.p_true(t, i) / reference

    return [ratio(s, i) for i in s.n], [ratio(z_table, z) for z in z_table.n]


def rmia_twin(s, t, online, gamma=1.0, a=0.3):
    """Every pair (x, z); equal counts are ranked by the ratio."""
    ratios, others = rmia_ratios(s, t, online, a)
    return [
        (sum(float(x / z >= gamma) for z in others) + x / (1 + x)) / (len(others) + 1)
        for x in ratios
    ]


def info_rmia_twin(s, t, online, a=0.3):
    ratios, others = rmia_ratios(s, t, online, a)
    return [mean([math.log(x / z) for z in others]) for x in ratios]


def merlin(s, t):
    copies = s.s.extras["jittered_logits"]
    return [
        mean(
            [float(loss_of(list(map(float, z)), s.labels[i]) > s.loss(t, i)) for z in copies[t, i]]
        )
        for i in s.n
    ]


def morgan(s, t):
    known = [
        (s.loss(m, i), share, bool(s.s.membership[m, i]))
        for m in s.shadows(t)
        for i, share in zip(s.n, merlin(s, m), strict=True)
    ]
    losses, shares = np.array([k[0] for k in known]), np.array([k[1] for k in known])
    limits, cuts = (
        np.quantile(losses, np.linspace(0, 1, 17)),
        np.quantile(shares, np.linspace(0, 1, 17))[:-1],
    )
    n_in = sum(k[2] for k in known)
    best, window = -math.inf, None
    for a in range(16):
        for b in range(a + 1, 17):
            for cut in cuts:
                called = [k[2] for k in known if limits[a] <= k[0] <= limits[b] and k[1] >= cut]
                gain = sum(called) / n_in - (len(called) - sum(called)) / (len(known) - n_in)
                if gain > best + 1e-12:
                    best, window = gain, (limits[a], limits[b])
    return [
        share if window[0] <= s.loss(t, i) <= window[1] else -1.0
        for i, share in zip(s.n, merlin(s, t), strict=True)
    ]


def label_only(s, t, copies="noisy"):
    found = []
    for i in s.n:
        own = s.p(t, i)
        asked = [list(z) for z in s.s.extras[f"{copies}_logits"][t, i]] + [own]
        found.append(mean([float(z.index(max(z)) == s.labels[i]) for z in asked]))
    return found


def newton_logistic(x, y, own, c=1.0):
    """Logistic regression with an L2 penalty on the slopes, by Newton's method to convergence; log
    odds of `own`.
    """
    x, own = np.array(x, dtype=float), np.array(own, dtype=float)
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1
    design = np.column_stack([(x - centre) / scale, np.ones(len(x))])
    penalty = np.diag([1 / c] * x.shape[1] + [0.0])
    w = np.zeros(design.shape[1])
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ w))
        step = np.linalg.solve(
            design.T @ (design * (p * (1 - p))[:, None]) + penalty, design.T @ (p - y) + penalty @ w
        )
        w = w - step
        if np.abs(step).max() < 1e-14:
            break
    return list(np.column_stack([(own - centre) / scale, np.ones(len(own))]) @ w)


def shadow(s, t):
    """One classifier for all classes: the fixtures are too small for one each."""

    def features(m, i):
        p, y = s.p(m, i), s.labels[i]
        rest = sorted((math.log(p[j]) for j in range(len(p)) if j != y), reverse=True)[:3]
        base = [math.log(p[y]), mean(s.phis(m, i)), *rest]
        return base + [b * b for b in base]

    rows = [(m, i) for m in s.shadows(t) for i in s.n]
    return newton_logistic(
        [features(*row) for row in rows],
        [float(s.s.membership[row]) for row in rows],
        [features(t, i) for i in s.n],
    )


def trajectory(s, t):
    kept = s.s.extras["trajectory_loss"]
    rows = [(m, i) for m in s.shadows(t) for i in s.n]
    known = [[math.log(max(float(v), 1e-12)) for v in kept[row]] for row in rows]
    own = [[math.log(max(float(v), 1e-12)) for v in kept[t, i]] for i in s.n]
    return newton_logistic(known, [float(s.s.membership[row]) for row in rows], own)


def quantile(s, t, alpha=0.05):
    """The margin and the features by hand; the regression is scikit-learn's in both."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    def margin(table, i):
        log_p = [math.log(p) for p in table.p(t, i)]
        own = log_p.pop(table.labels[i])
        return own - max(log_p)

    def features(table):
        return [[*np.ravel(table.s.inputs[i]), table.labels[i]] for i in table.n]

    outside = Twin(s.s.population)
    fold = list(np.random.default_rng(0).permutation(len(outside.labels)) % 3)
    known, true, left_out, expected = (
        features(outside),
        [margin(outside, i) for i in outside.n],
        [],
        [[] for _ in s.n],
    )
    for part in range(3):
        model = HistGradientBoostingRegressor(
            loss="quantile", quantile=1 - alpha, max_iter=100, min_samples_leaf=20, random_state=0
        )
        rows = [i for i in outside.n if fold[i] != part]
        model.fit([known[i] for i in rows], [true[i] for i in rows])
        held = [i for i in outside.n if fold[i] == part]
        left_out += [
            true[i] - q for i, q in zip(held, model.predict([known[i] for i in held]), strict=True)
        ]
        for each, q in zip(expected, model.predict(features(s)), strict=True):
            each.append(q)
    ranked = sorted(left_out)
    moved = ranked[math.ceil((len(ranked) - 1) * (1 - alpha) - 1e-9)]
    return [margin(s, i) - mean(each) - moved for i, each in zip(s.n, expected, strict=True)]


def gradient_norm(s, t):
    return [-float(s.s.extras["gradient_norm"][t, i]) for i in s.n]


def gradient_canary(s, t):
    return [float(s.s.extras["gradient_canary"][t, i]) for i in s.n]


TWINS = {
    **{
        f.__name__: f
        for f in (
            correctness,
            loss,
            confidence,
            entropy,
            modified_entropy,
            shadow,
            difficulty,
            attack_p,
            attack_r,
            quantile,
        )
    },
    **{
        f.__name__: f
        for f in (merlin, morgan, label_only, gradient_norm, gradient_canary, trajectory)
    },
    "lira": lambda s, t, **options: lira_twin(s, t, True, **options),
    "lira_offline": lambda s, t, **options: lira_twin(s, t, False, **options),
    "rmia": lambda s, t, **options: rmia_twin(s, t, True, **options),
    "rmia_offline": lambda s, t, **options: rmia_twin(s, t, False, **options),
    "info_rmia": lambda s, t: info_rmia_twin(s, t, True),
    "info_rmia_offline": lambda s, t, **options: info_rmia_twin(s, t, False, **options),
}


# ---- lower bounds of epsilon: exact sums and searches
# ----------------------------------------------------------------


def binomial_tail(n, k, p):
    """P(Bin(n, p) >= k), summed in logarithms from math.lgamma."""
    if k <= 0:
        return 1.0
    log_terms = [
        math.lgamma(n + 1)
        - math.lgamma(j + 1)
        - math.lgamma(n - j + 1)
        + j * math.log(p)
        + (n - j) * math.log1p(-p)
        for j in range(k, n + 1)
    ]
    return math.fsum(math.exp(term) for term in log_terms)


def bisect(holds, low, high):
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def upper_limit(errors, n, alpha):
    """The rate at which `errors` or fewer of n have probability alpha."""
    if errors >= n:
        return 1.0
    return bisect(lambda p: 1 - binomial_tail(n, errors + 1, p) > alpha, 0.0, 1.0)


def clopper_pearson_epsilon(tp, fn, fp, tn, delta, confidence):
    tail = (1 - confidence) / 2
    fpr, fnr = upper_limit(fp, fp + tn, tail), upper_limit(fn, fn + tp, tail)
    one = math.log((1 - delta - fpr) / fnr) if fpr < 1 - delta else -math.inf
    other = math.log((1 - delta - fnr) / fpr) if fnr < 1 - delta else -math.inf
    return max(0.0, one, other)


def normal_cdf(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def normal_quantile(p):
    return statistics.NormalDist().inv_cdf(p) if 0 < p < 1 else math.copysign(math.inf, p - 0.5)


def gaussian_delta(mu, epsilon):
    return normal_cdf(-epsilon / mu + mu / 2) - math.exp(epsilon) * normal_cdf(
        -epsilon / mu - mu / 2
    )


def gaussian_epsilon(mu, delta):
    if mu <= 0 or gaussian_delta(mu, 0.0) <= delta:
        return 0.0
    return bisect(lambda epsilon: gaussian_delta(mu, epsilon) > delta, 0.0, 200.0)


def gdp_epsilon(tp, fn, fp, tn, delta, confidence):
    tail = (1 - confidence) / 2
    fpr, fnr = upper_limit(fp, fp + tn, tail), upper_limit(fn, fn + tp, tail)
    if fpr >= 1 or fnr >= 1:
        return 0.0
    return gaussian_epsilon(-normal_quantile(fpr) - normal_quantile(fnr), delta)


def one_run(m, guesses, right, delta, confidence):
    def p_value(epsilon):
        q = 1 / (1 + math.exp(-epsilon))
        beta = binomial_tail(guesses, right, q)
        alpha = (
            max((binomial_tail(guesses, right - i, q) - beta) / i for i in range(1, m + 1))
            if right
            else 0.0
        )
        return min(1.0, beta + 2 * m * delta * alpha)

    if p_value(0.0) >= 1 - confidence:
        return 0.0
    return bisect(lambda epsilon: p_value(epsilon) < 1 - confidence, 0.0, 60.0)


def one_run_fdp(m, guesses, right, delta, confidence):
    """Mahloujifar et al. 2024, algorithm 3, in mu; nothing cut short."""
    level = 1 - confidence

    def refuted(mu):
        h = level * (guesses - right) / m
        r = level * right / m
        for i in range(right - 1, -1, -1):
            new = max(h, normal_cdf(normal_quantile(r) - mu))
            r = min(1.0, r + i / (guesses - i) * (new - h))
            h = new
        return r + h > guesses / m

    if right < 1 or not refuted(0.0):
        return 0.0
    return gaussian_epsilon(bisect(refuted, 0.0, 40.0), delta)


def joint_beta_mass(tp, tn, fp, fn, delta, epsilon):
    """Posterior mass of the privacy region, by adaptive quadrature over FNR in
    its own quantiles.
    """
    from scipy import integrate, stats

    fnr, fpr = stats.beta(0.5 + fn, 0.5 + tp), stats.beta(0.5 + fp, 0.5 + tn)

    def inside(u):
        x = fnr.ppf(u)
        low = max(0.0, 1 - delta - math.exp(epsilon) * x, math.exp(-epsilon) * (1 - delta - x))
        high = min(1.0, 1 + math.exp(-epsilon) * (delta - x), delta + math.exp(epsilon) * (1 - x))
        return fpr.cdf(high) - fpr.cdf(low)

    bends = [
        (1 - delta) / (1 + math.exp(epsilon)),
        1 - delta,
        delta,
        1 - (1 - delta) / (1 + math.exp(epsilon)),
    ]
    levels = [fpr.ppf(p) for p in (1e-9, 1e-4, 0.05, 0.5, 0.95, 1 - 1e-4, 1 - 1e-9)]
    bends += [(1 - delta - y) * math.exp(-epsilon) for y in levels] + [
        1 - delta - y * math.exp(epsilon) for y in levels
    ]
    bends += [1 - (1 - delta - 1 + y) * math.exp(-epsilon) for y in levels] + [
        delta + (1 - y) * math.exp(epsilon) for y in levels
    ]
    points = sorted(
        {0.0, 1.0, *(float(fnr.cdf(x)) for x in bends if 0 < x < 1), 1e-6, 1e-3, 1 - 1e-3, 1 - 1e-6}
    )
    with warnings.catch_warnings():
        # Of rounding, where the integrand steps from 0 to 1.
        warnings.simplefilter("ignore", integrate.IntegrationWarning)
        pieces = [
            integrate.quad(inside, a, b, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
            for a, b in itertools.pairwise(points)
        ]
    return math.fsum(pieces)
