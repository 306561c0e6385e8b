"""Array arguments are held to their shapes while tests run, and only those."""

import jaxtyping
import numpy as np
import pytest
import torch

from dptrain.evaluation import intervals, metrics
from dptrain.privacy import gaussian
from dptrain.training.optimisers import OPTIMISERS
from dptrain.training.trainer import add_noise


def test_an_array_of_a_wrong_shape_or_type_is_refused():
    with pytest.raises(jaxtyping.TypeCheckError, match="normals"):
        add_noise({"w": torch.zeros(2, 3)}, torch.zeros(6), 1.0)
    with pytest.raises(jaxtyping.TypeCheckError, match="member"):
        metrics.auc(np.zeros(4), np.zeros(4))
    with pytest.raises(jaxtyping.TypeCheckError, match="fpr"):
        gaussian.mu_of_errors(0.1, np.zeros(1))


def test_other_arguments_are_left_to_the_package():
    assert intervals.clopper_pearson(np.int64(3), 5)[0] < 0.6
    assert OPTIMISERS
