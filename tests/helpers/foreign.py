"""Files of scores, and `dptrain attack` on them."""

import numpy as np

from dptrain import cli


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def arrays_of(scores):
    return {"logits": scores.logits, "labels": scores.labels, "membership": scores.membership}


def run(*arguments):
    return cli.main(["attack", *arguments])
