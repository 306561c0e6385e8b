"""Views of images, against slow loops, and the claim that views of one example count as one
example.
"""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from dptrain.core import streams
from dptrain.training.augmentation import AUGMENTATIONS, CROP, SHIFT, augment, draw

KEYS = [streams.seeded_key(k, "augment") for k in range(3)]


def slow(name, image, numbers):
    _, height, width = image.shape
    across, down, mirrored = (int(number) for number in (numbers[1], numbers[0], numbers[2]))
    out = torch.empty_like(image)
    for y in range(height):
        for x in range(width):
            if name == "flip":
                row, column = y, width - 1 - x if mirrored % 2 else x
            elif name == "crop":
                padded = (
                    np.pad(np.arange(height), CROP, mode="reflect"),
                    np.pad(np.arange(width), CROP, mode="reflect"),
                )
                row, column = (
                    padded[0][y + down % (2 * CROP + 1)],
                    padded[1][x + across % (2 * CROP + 1)],
                )
            else:
                row = min(max(y + down % (2 * SHIFT + 1) - SHIFT, 0), height - 1)
                column = min(max(x + across % (2 * SHIFT + 1) - SHIFT, 0), width - 1)
            out[:, y, x] = image[:, row, column]
    return out


@pytest.mark.parametrize(
    "names", [["flip"], ["crop"], ["shift"], ["flip", "crop"], ["crop", "shift", "flip"]]
)
def test_views_equal_a_loop_over_pixels(names):
    inputs = torch.randn(3, 4, 2, 7, 6)
    draws = draw(KEYS, 5, [4, 4, 4], 3)
    views = augment(names, inputs, draws)
    assert views.shape == (3, 4, 3, 2, 7, 6)
    for k, b, v in np.ndindex(3, 4, 3):
        expected = inputs[k, b]
        for name in names:
            expected = slow(name, expected, draws[k, b, v])
        assert torch.equal(views[k, b, v], expected)


def test_draws_depend_on_key_and_step_alone():
    together = draw(KEYS, 7, [5, 2, 0], 2)
    assert together.shape == (3, 5, 2, 3)
    assert torch.equal(together[1, :2], draw(KEYS[1:2], 7, [2], 2)[0])
    assert not torch.equal(together[1, :2], draw(KEYS[1:2], 8, [2], 2)[0])
    assert draw(KEYS[:1], 0, [0], 2).shape == (1, 1, 2, 3)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_draws_are_uniform(name):
    """Every view of a 9 x 9 image with its own numbers in each pixel is equally likely: chi squared
    over the views, false alarms 1e-6.
    """
    numbers = {"flip": 2, "crop": (2 * CROP + 1) ** 2, "shift": (2 * SHIFT + 1) ** 2}[name]
    image = torch.arange(81.0).view(1, 1, 1, 9, 9)
    views = augment([name], image, draw(KEYS[:1], 0, [1], 20_000))[0, 0].flatten(1).numpy()
    _, counts = np.unique(views, axis=0, return_counts=True)
    assert len(counts) == numbers
    assert chisquare(counts).pvalue > 1e-6
