"""An installed dptrain works from any folder, with the configuration inside the wheel."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from tests.common import TINY

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            str(folder),
            str(ROOT),
        ],
        check=True,
    )
    return next(folder.glob("dptrain-*.whl"))


def test_wheel_holds_every_configuration(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"dptrain/conf/{path.relative_to(ROOT / 'conf')}" in names
    assert not any(name.startswith(("tests/", "scripts/", "results/")) for name in names)


@pytest.mark.long
def test_fresh_environment_runs_a_tiny_sweep_from_another_folder(wheel, tmp_path):
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", str(wheel)], check=True)
    # The dependencies are this environment's own: a path file adds them without the checkout's
    # editable install.
    site = next((environment / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    where = subprocess.run(
        [python, "-c", "import dptrain; print(dptrain.__file__)"],
        cwd=elsewhere,
        env=clean,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert str(environment) in where
    ran = subprocess.run(
        [environment / "bin" / "dptrain", "sweep", *TINY],
        cwd=elsewhere,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert (elsewhere / "results" / "tiny" / "metrics.json").exists()
