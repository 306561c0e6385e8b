"""Slow, obvious twins of the fast routines."""

import math

import numpy as np
import torch
from torch import nn


def flat(norm, clip):
    return min(1.0, clip / norm) if norm else 1.0


def clipped_sum(model: nn.Module, inputs, labels, weights, clip, factor_of=flat):
    """Micro-batches of one: the clipped gradient sum of one model as a dict, by plain autograd; inputs [B, V, *shape], V views each."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for x, y, weight in zip(inputs, labels, weights, strict=True):
        if not weight:
            continue
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y.expand(len(x))).backward()
        gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()}
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
    return max((scores >= t)[member].mean() - (scores >= t)[~member].mean() for t in [*scores, math.inf])


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
    shadows = [m for m in range(models) if m != target and not all(membership[m] != membership[target])]
    values = [[phi(list(logits[m, i]), labels[i]) for i in range(examples)] for m in range(models)]

    def moments(inside):
        groups = [[values[m][i] for m in shadows if membership[m, i] == inside] for i in range(examples)]
        means = [sum(g) / len(g) for g in groups]
        squares = [sum((v - mean) ** 2 for v in g) for g, mean in zip(groups, means, strict=True)]
        if variance == "global":
            shared = sum(squares) / sum(len(g) - 1 for g in groups)
            return means, [shared] * examples
        return means, [s / (len(g) - 1) for s, g in zip(squares, groups, strict=True)]

    def log_density(x, mean, var):
        return -0.5 * math.log(2 * math.pi * var) - (x - mean) ** 2 / (2 * var)

    out_mean, out_var = moments(False)
    scores = []
    for i in range(examples):
        x = values[target][i]
        if online:
            in_mean, in_var = moments(True)
            scores.append(log_density(x, in_mean[i], in_var[i]) - log_density(x, out_mean[i], out_var[i]))
        else:
            scores.append((x - out_mean[i]) / math.sqrt(out_var[i]))
    return np.array(scores)
