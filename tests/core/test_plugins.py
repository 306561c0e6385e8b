"""Tests of core.plugins."""

import functools
import os
import subprocess
import sys

import pytest

from dptrain import attacks, cli
from dptrain.config import compose
from dptrain.core import plugins
from dptrain.core.errors import ConfigError
from dptrain.pipeline import run
from tests.common import ROOT
from tests.helpers.tables import DIGITS

CODE = """
from torch import nn
import functools
WIDTHS = [8]
class Mine(nn.Module):
    def __init__(self, shape, classes, act=nn.functional.relu, *, scale=2.0):
        super().__init__()
        self.act, self.scale = act, scale
        width = WIDTHS[0]
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Linear(width, classes))
    def forward(self, x):  # a comment
        return self.layers(self.act(x) * self.scale)
made = functools.partial(Mine, scale=2.0)
"""


def code_of(folder, code, name="Mine", hash_seed="0", before=""):
    (folder / "theirs.py").write_text(code)
    program = (
        f"{before}\nimport theirs; from dptrain.core import plugins; "
        f"print(plugins.code_of(theirs.{name}))"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
        "PYTHONHASHSEED": hash_seed,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.long
def test_the_key_of_a_models_code_is_the_same_in_every_process_and_follows_what_it_uses(
    tmp_path,
):
    first = code_of(tmp_path, CODE)
    assert code_of(tmp_path, CODE, hash_seed="1") == first
    assert code_of(tmp_path, CODE.replace("# a comment", "# another")) == first
    for old, new in (
        ("scale=2.0):", "scale=3.0):"),
        ("WIDTHS = [8]", "WIDTHS = [9]"),
        ("nn.functional.relu", "nn.functional.gelu"),
        ("* self", "+ self"),
    ):
        assert code_of(tmp_path, CODE.replace(old, new)) != first
    partial = code_of(tmp_path, CODE, "made")
    assert (
        code_of(tmp_path, CODE.replace("(Mine, scale=2.0)", "(Mine, scale=3.0)"), "made") != partial
    )


def test_the_key_follows_modules_beside_it_and_what_is_no_code(tmp_path):
    (tmp_path / "consts.py").write_text("ALPHA = 1\n")
    code = (
        "import re, consts\nfrom fractions import Fraction\nSHARE = Fraction(1, 2)\n"
        "WORD = re.compile('a')\ndef attack(scores, target):\n"
        "    return scores.loss[target] * consts.ALPHA * float(SHARE) + bool(WORD.match('a'))\n"
    )
    first = code_of(tmp_path, code, "attack")
    assert code_of(tmp_path, code.replace("1, 2", "1, 3"), "attack") != first
    assert code_of(tmp_path, code.replace("compile('a')", "compile('b')"), "attack") != first
    (tmp_path / "consts.py").write_text("ALPHA = 2\n")
    assert code_of(tmp_path, code, "attack") != first
    (tmp_path / "consts.py").write_text("ALPHA = 1  # a comment\n")
    assert code_of(tmp_path, code, "attack") == first


def test_the_key_does_not_depend_on_what_else_is_loaded(tmp_path):
    (tmp_path / "extra.py").write_text("ALPHA = 1\n")
    code = "def attack(scores, target):\n    import extra, networkx\n    return extra.ALPHA\n"
    first = code_of(tmp_path, code, "attack")
    assert code_of(tmp_path, code, "attack", before="import extra, networkx") == first
    (tmp_path / "extra.py").write_text("ALPHA = 2\n")
    assert code_of(tmp_path, code, "attack") != first


def test_the_key_survives_files_that_are_no_python_and_packages_without_a_root(tmp_path):
    package = tmp_path / "theirs" / "inner"
    package.mkdir(parents=True)
    (package / "attack.py").write_text("from . import beside\ndef attack():\n    return 1\n")
    (package / "beside.py").write_text("ALPHA = 1\n")
    (package / "template.py").write_text("class {{name}}: pass\n")
    program = (
        "import theirs.inner.attack as a; from dptrain.core import plugins; "
        "print(plugins.code_of(a.attack))"
    )

    def key():
        environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-c", program]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        ).stdout

    first = key()
    assert key() == first
    for name, text in (("beside", "ALPHA = 2\n"), ("template", "class {{names}}: pass\n")):
        (package / f"{name}.py").write_text(text)
        assert key() != first
        first = key()


def test_a_partial_of_ours_is_known_by_its_arguments():
    ours = attacks.ATTACKS["lira"].func
    keys = [plugins.code_of(functools.partial(ours, online=online)) for online in (True, False)]
    assert len({*keys, plugins.code_of(ours)}) == 3
    assert plugins.code_of(ours) == ""


def test_a_plug_in_that_fails_at_import_stops_nobody_else(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_plugin.py").write_text("raise RuntimeError('no such library')\n")
    info = tmp_path / "broken_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-plugin\nVersion: 1.0\n")
    groups = "".join(
        f"[dptrain.{kind}]\nbroken = broken_plugin:thing\n"
        for kind in ("models", "datasets", "attacks")
    )
    (info / "entry_points.txt").write_text(groups)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert cli.main(["list"]) == 0
    assert "broken             of the package broken-plugin" in capsys.readouterr().out
    assert compose.load("sweep", ["model=logistic", "attacks=[loss]"]).attacks
    run.plan(compose.load("sweep", DIGITS))
    for override in ("model=broken", "dataset=broken", "attacks=[broken]"):
        with pytest.raises(
            ConfigError, match=r"broken-plugin, which adds 'broken' .* fails at import"
        ):
            run.plan(
                compose.load(
                    "sweep",
                    [part for part in DIGITS if part.split("=")[0] != override.split("=")[0]]
                    + [override],
                )
            )
