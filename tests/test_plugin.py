"""The example package of the documentation, installed and run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.common import TINY

EXAMPLE = Path(__file__).parent.parent / "docs" / "example_plugin"


@pytest.mark.long
def test_the_example_package_adds_a_model_a_data_set_and_an_attack(tmp_path):
    place = tmp_path / "site"
    options = [
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--disable-pip-version-check",
        "--target",
        str(place),
    ]
    copy = tmp_path / "example_plugin"
    copy.mkdir()
    for file in EXAMPLE.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(copy)], check=True)
    path = os.pathsep.join(
        filter(None, [str(place), str(EXAMPLE.parent.parent), os.environ.get("PYTHONPATH")])
    )
    own = [part for part in TINY if not part.startswith("model.")]

    def sweep():
        command = [
            "sweep",
            *own,
            "dataset=moons",
            "model=deep_linear",
            "+model.width=8",
            "attacks=[loss,margin]",
            f"output={tmp_path / 'out'}",
        ]
        ran = subprocess.run(
            [sys.executable, "-m", "dptrain", *command],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 0, ran.stderr[-2000:]
        rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["rows"]
        return ran.stdout, {
            row["attack"]: row["estimate"]
            for row in rows
            if row["setting"] == "none" and row["metric"] == "auc"
        }

    told, first = sweep()
    assert "12 models trained now" in told
    assert 0 < first["margin"] < 1
    code = (place / "example_plugin.py").read_text()
    (place / "example_plugin.py").write_text(
        code.replace("return true - logits.max(axis=1)", "return logits.max(axis=1) - true")
    )
    told, second = sweep()
    assert "0 models trained now" in told
    assert abs(second["margin"] + first["margin"] - 1) < 1e-9
    assert second["loss"] == first["loss"]
