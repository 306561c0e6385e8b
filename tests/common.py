"""What tests of all packages share."""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent
TINY = [
    "name=tiny",
    "dataset.pool=60",
    "dataset.population=20",
    "dataset.test=20",
    "training.batch_size=8",
    "training.epochs=2",
    "training.width=2",
    "training.workers=1",
    "model.hidden=[8]",
    "models_per_setting=6",
    "epsilons=[inf,8]",
    "privacy.noise=seeded",
]


def committed(path):
    """A file of the checkout as it was committed: the README's first command writes over the
    results, and must not break the second.
    """
    shown = subprocess.run(
        ["git", "show", f"HEAD:{path}"], cwd=ROOT, capture_output=True, text=True
    )
    return shown.stdout if shown.returncode == 0 else (ROOT / path).read_text()


def strict_json(text):
    """json.loads that refuses NaN and Infinity."""

    def refuse(constant):
        raise AssertionError(f"{constant} in JSON")

    return json.loads(text, parse_constant=refuse)
