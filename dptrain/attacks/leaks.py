"""What gives membership away without any attack: with such scores no number is worth anything."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Shaped
from scipy import stats
from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesClassifier

from dptrain.attacks.scores import Scores
from dptrain.core.errors import ScoresError

ALARM = 1e-6
"""False-alarm rate at which the memberships of shadows are held to tell those of a target."""


def require_both(scores: Scores, name: str) -> None:
    for model in scores.attacked.tolist():
        inside = int(scores.membership[model].sum())
        if inside in (0, scores.membership.shape[1]):
            missing = "member" if inside == 0 else "non-member"
            raise ScoresError(f"{name}: model {model} has no {missing}; attacks need both")


def refuse_leaks(scores: Scores) -> None:
    """Raise ScoresError for scores that give membership away without any attack, since no number
    below them would be worth anything.
    """
    require_both(scores, "membership")
    for model in scores.attacked.tolist():
        _refuse_copies_of_membership(scores, model)
    if scores.models > 2:
        for target in scores.attacked.tolist():
            _refuse_telling_counts(scores, target)
    _refuse_equal_models(scores)
    _refuse_shared_records(scores)


def _refuse_copies_of_membership(scores: Scores, model: int) -> None:
    """A model's scores, or a column of the inputs, that are the membership itself."""
    member, loss = scores.membership[model], scores.loss[model]
    constant = len(loss) > 4 and np.ptp(loss[member]) == np.ptp(loss[~member]) == 0
    if constant and loss[member][0] != loss[~member][0]:
        which = f"the scores of model {model} are one value for members and another for the rest"
        raise ScoresError(f"{which}: a copy of the membership")
    if scores.inputs is None:
        return
    flat = scores.inputs.reshape(len(scores.labels), -1)
    inside, outside = flat[member], flat[~member]
    alike = (inside == inside[0]).all(axis=0) & (outside == outside[0]).all(axis=0)
    same = alike & (inside[0] != outside[0])
    if same.any():
        column = int(same.argmax())
        raise ScoresError(f"column {column} of inputs is a copy of the membership of model {model}")


def _refuse_telling_counts(scores: Scores, target: int) -> None:
    """A layout whose numbers of shadows that hold an example tell whether the target does."""
    member, count = scores.membership[target], scores.references(target)[0].sum(axis=0)
    if np.ptp(count) and stats.mannwhitneyu(count[member], count[~member]).pvalue < ALARM:
        which = "the number of shadow models that hold an example tells whether model"
        fix = "draw memberships by independent coins, or in complementary pairs"
        raise ScoresError(f"{which} {target} does; {fix}")


def _refuse_equal_models(scores: Scores) -> None:
    first: dict[bytes, int] = {}
    for model, loss in enumerate(scores.loss):
        twin = first.setdefault(loss.tobytes(), model)
        if twin != model and np.ptp(loss) > 0:
            raise ScoresError(
                f"models {twin} and {model} are the same model: a target must not be among its own "
                "shadows"
            )


def _refuse_shared_records(scores: Scores) -> None:
    """Records of separate shadow models that are records of the target."""
    if scores.separate is None or scores.logits is None or scores.separate.logits is None:
        return
    records = set(_rows(scores.logits))
    if any(row in records for row in _rows(scores.separate.logits)):
        raise ScoresError(
            "a record of the shadow models is a record of the target: shadows need models and "
            "examples of their own"
        )


def _rows(logits: Float[np.ndarray, "M N Q C"]) -> Iterator[bytes]:
    for table in logits:
        for row in table.astype(np.float64):
            yield row.tobytes()


MOST_ROWS = 10_000
"""Examples that the trees of one half grow on; more cost minutes and find no leak that these do
not.
"""


def blind(
    inputs: Shaped[np.ndarray, "N ..."],
    labels: Shaped[np.ndarray, " N"],
    member: Bool[np.ndarray, " N"],
    seed: int = 0,
    threads: int = -1,
) -> np.ndarray:
    """Membership scores from inputs and labels alone, float64 [N], higher = member (Das et al.
    2024).

    inputs [N, *shape], labels int [N], member bool [N]; threads: -1 for one a processor. Each half
    of the examples is scored by trees grown on the other half. If these scores beat chance, members
    and non-members differ before any training, and attack numbers say nothing.
    """
    # What trees read anyway: 32 bits, and half the memory.
    flat = inputs.reshape(len(inputs), -1)
    features = np.column_stack([part.astype(np.float32) for part in (flat, labels)])
    half = np.random.default_rng(seed).permutation(len(labels)) % 2 == 0
    result = np.empty(len(labels))
    for part in (half, ~half):
        rows = np.flatnonzero(~part)[:MOST_ROWS]
        if len(np.unique(member[rows])) < 2:  # one side only: nothing to learn
            result[part] = 0.5
            continue
        trees = ExtraTreesClassifier(50, min_samples_leaf=5, random_state=seed, n_jobs=threads).fit(
            features[rows], member[rows]
        )
        # Ranks within the half: raw scores shift with the share of members in the other half, which
        # biases a joint AUC below .5.
        result[part] = rankdata(trees.predict_proba(features[part])[:, 1]) / part.sum()
    return result
