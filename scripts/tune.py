"""Learning rates and clip of the quickstart, tuned on MNIST images that are not among the 5,000 it
trains on.

    python scripts/tune.py PATH

PATH is the folder of MNIST's train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz.

Fleets of the quickstart's size and plan are trained on other images for every point of a small
grid, and their accuracy on 8,000 further images is printed. So no example that a privacy number of
the quickstart speaks of had a part in choosing its hyperparameters.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dptrain.config import compose
from dptrain.core import streams
from dptrain.data import datasets, images
from dptrain.data.splits import Examples
from dptrain.fleet.blueprint import build
from dptrain.pipeline.plan import plan
from dptrain.training import inference
from dptrain.training.state import State
from dptrain.training.trainer import Trainer, TrainingData, train

POOL, HELD_OUT, MODELS = 4000, 8000, 4


def other_images(folder: Path) -> Examples:
    """MNIST's training images that are not in mnist5k, shuffled, scaled as there."""
    training, _ = images.mnist_parts(folder)
    known = {
        image.tobytes()
        for image in datasets.source(compose.load("sweep", []).dataset, 0).read().inputs
    }
    new = np.array([image.tobytes() not in known for image in training.inputs])
    print(f"{new.sum():,} of {len(new):,} images are not in mnist5k")
    return training.take(
        np.random.default_rng(0).permutation(np.flatnonzero(new))[: POOL + HELD_OUT]
    )


def grid() -> Iterator[list[str]]:
    for rate, momentum in itertools.product((0.03, 0.1, 0.3), (0.0, 0.9)):
        yield [
            "epsilons=[inf]",
            f"defence.none.learning_rate={rate}",
            f"defence.none.momentum={momentum}",
        ]
    for rate, clip in itertools.product((1.25, 2.5, 5), (0.5, 1.0)):
        yield [
            "epsilons=[8,2,0.5]",
            f"defence.dpsgd.learning_rate={rate / clip}",
            f"defence.dpsgd.clip={clip}",
        ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    examples = other_images(parser.parse_args().path)
    inputs, labels = torch.from_numpy(examples.inputs), torch.from_numpy(examples.labels)
    membership = streams.memberships(MODELS, POOL, streams.os_key())
    for overrides in grid():
        chosen = compose.load("sweep", ["experiment=quickstart", *overrides])
        ready = plan(chosen)
        found = []
        for setting in ready.settings:
            models = [
                build(chosen, ready.source.shape, ready.source.classes, seed)
                for seed in range(MODELS)
            ]
            keys = [streams.os_key() for _ in models]
            data = TrainingData(inputs[:POOL], labels[:POOL], membership)
            trainer = Trainer.of(models[0], setting, ready.engine, keys, data)
            state, _ = train(trainer, State.start(models), lambda *_: None)
            guess = inference.logits(models[0], state.released, inputs[POOL:]).argmax(-1)
            found.append(f"{setting.name} {(guess == examples.labels[POOL:]).mean():.4f}")
        print(f"{' '.join(overrides[1:]):<70} {', '.join(found)}", flush=True)


if __name__ == "__main__":
    main()
