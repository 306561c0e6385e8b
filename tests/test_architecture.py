"""The house stands as drawn: imports run one way, four packages load no torch, and registries match
their files.
"""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dptrain.attacks import ATTACKS
from dptrain.config import defences, files, schema
from dptrain.config.defences import AUGMENTATIONS
from dptrain.config.keys import GROUPS
from dptrain.core.errors import LayerError
from dptrain.core.types import Clipping, EngineKind, OptimiserKind, Schedule
from dptrain.data.canaries import CANARIES
from dptrain.data.datasets import DATASETS, HELD
from dptrain.evaluation import epsilon_bounds, one_run
from dptrain.evaluation.utility import UTILITIES
from dptrain.fleet.settings import DEFENCES
from dptrain.models.registry import MODELS
from dptrain.training import augmentation, optimisers
from dptrain.training.gradients import base, engines

ROOT = Path(__file__).parent.parent
ORDER = (
    "core < config, models, attacks < data, privacy, training < fleet, evaluation < report"
    " < pipeline < release < papers < api, estimator < cli < __main__"
)
"""The import order of docs/design.md: a package imports only from packages further left."""
RANK = {
    package: rank
    for rank, packages in enumerate(ORDER.split(" < "))
    for package in packages.split(", ")
}
PRIVACY_PATH = ("training", "privacy", "fleet", "pipeline", "release")
TORCHLESS = ("attacks", "evaluation", "privacy", "report")
"""Packages that load no torch."""


def imports(path):
    """dptrain packages that a file imports, at the top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "dptrain":
            names |= {alias.name for alias in node.names if alias.name in RANK}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dptrain."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("dptrain.")}
    return names


MODULES = [
    path
    for path in sorted((ROOT / "dptrain").rglob("*.py"))
    if path != ROOT / "dptrain" / "__init__.py"
]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "dptrain")))
def test_imports_run_one_way(path):
    package = path.relative_to(ROOT / "dptrain").with_suffix("").parts[0]
    for other in imports(path) - {package}:
        assert RANK[other] < RANK[package], f"{package} must not import {other}"


def test_packages_are_small_and_have_no_cycle_of_modules():
    graph = {}
    for path in MODULES:
        name = ".".join(path.with_suffix("").parts[len(ROOT.parts) :]).removesuffix(".__init__")
        graph[name] = path
    for package in RANK:
        folder = ROOT / "dptrain" / package
        if folder.is_dir():
            modules = [path for path in folder.glob("*.py") if path.stem != "__init__"]
            assert 2 <= len(modules) <= 12, package
    needed = {name: module_imports(path, graph) - {name} for name, path in graph.items()}
    while needed:  # a module that needs no module that is left
        free = [name for name, others in needed.items() if not others & set(needed)]
        assert free, f"a cycle among {sorted(needed)}"
        needed = {name: others for name, others in needed.items() if name not in free}


def module_imports(path, graph):
    """dptrain modules that a file imports at its top."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dptrain"):
            for alias in node.names:
                names.add(f"{node.module}.{alias.name}")
                names.add(node.module)
    return names & set(graph)


@pytest.mark.parametrize("package", TORCHLESS)
def test_judges_load_no_torch(package):
    modules = [path for path in MODULES if path.parts[len(ROOT.parts) + 1] == package]
    names = [".".join(path.with_suffix("").parts[len(ROOT.parts) :]) for path in modules]
    code = f"import sys, {', '.join(names)}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_config_alone_knows_hydra():
    for path in MODULES:
        if path.stem not in ("compose", "multirun"):
            assert not re.search(r"(from|import) (hydra|omegaconf)\b", path.read_text()), path


@pytest.mark.parametrize(
    "path", [*MODULES, *(ROOT / "scripts").glob("*.py")], ids=lambda path: path.stem
)
def test_no_code_that_runs_files(path):
    text = path.read_text()
    for banned in (
        "torch.load(",
        "import pickle",
        "import joblib",
        "joblib.load(",
        "allow_pickle=True",
        "hydra.utils",
        "yaml.load(",
        "eval(",
        "exec(",
    ):
        assert banned not in text.replace("model.eval()", ""), f"{banned} in {path}"


@pytest.mark.parametrize(
    ("group", "registry"),
    [
        ("dataset", DATASETS),
        ("model", MODELS),
        ("defence", DEFENCES),
        ("attacks", ATTACKS),
        ("executor", schema.EXECUTORS),
    ],
)
def test_registries_and_files_agree(group, registry):
    ours = sorted(set(registry) - set(HELD))  # frames of other tests of this process
    assert ours == files.groups()[group]
    for name in ours:
        assert len(files.summary(group, name)) > 10


def test_privacy_path_never_counts_private_data():
    """q, steps and divisor come from public constants (reliability: opacus issues 571 and 819)."""
    private = [path for path in MODULES if path.parts[len(ROOT.parts) + 1] in PRIVACY_PATH]
    for path in private:
        text = path.read_text()
        assert not re.search(r"len\((dataset|pool|members|membership|inputs|labels)\)", text)
        assert not re.search(r"len\([\w.]*\bpool\b[\w.]*\)", text), path


def test_every_choice_of_the_schema_has_its_code():
    """Choices stand in config, because a configuration is checked before torch is loaded."""
    assert set(engines.ENGINES) == set(EngineKind)
    assert set(base.CLIPPINGS) == set(Clipping)
    assert set(optimisers.OPTIMISERS) == set(OptimiserKind)
    assert set(optimisers.SCHEDULES) == set(Schedule)
    assert set(augmentation.AUGMENTATIONS) == set(AUGMENTATIONS)
    assert set(CANARIES) == set(schema.CANARIES)
    assert tuple(UTILITIES) == schema.UTILITIES
    assert (*one_run.METHODS, *epsilon_bounds.METHODS, "joint_beta") == schema.AUDITS
    assert set(DEFENCES) == set(defences.OPTIONS)


def test_only_config_and_the_command_line_name_keys():
    """Every error of a layer has its group of keys, and no layer raises a ConfigError itself."""
    assert set(GROUPS) == set(LayerError.__subclasses__())
    for path in MODULES:
        package = path.relative_to(ROOT / "dptrain").parts[0]
        if package not in ("config", "cli.py") and path.name != "errors.py":
            assert "ConfigError(" not in path.read_text(), path


TRACKED = (
    subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if shutil.which("git")
    else []
)
MACHINE_PATH = re.compile(r"(?<![\w.$}/-])/(?:work|tmp|root|home|Users)/")


@pytest.mark.parametrize(
    "text", ['"/work/x"', "&#34;/tmp/x", "(/home/u)", "at `/root/x`", "/tmp/x"]
)
def test_the_path_of_a_machine_is_recognised(text):
    assert MACHINE_PATH.search(text)
    assert not MACHINE_PATH.search(text.replace("/", "/mine/", 1).replace("/mine/", "mine/"))


@pytest.mark.skipif(not TRACKED, reason="no git checkout")
def test_no_committed_file_names_a_path_of_a_machine():
    texts = (".md", ".py", ".json", ".html", ".yaml", ".toml", ".txt")
    looked_at = [name for name in TRACKED if name.endswith(texts) and not name.startswith("tests/")]
    assert any(name.startswith("results/reference/") for name in looked_at)
    for name in looked_at:
        assert not MACHINE_PATH.findall((ROOT / name).read_text()), name


@pytest.mark.skipif(not TRACKED, reason="no git checkout")
def test_no_line_of_other_program_text_is_longer_than_100_columns():
    """Ruff looks at Python alone."""
    rooms = ("dptrain/", "conf/", "scripts/", ".ci/", "docs/example_plugin/")
    looked_at = [name for name in TRACKED if name.startswith(rooms) and not name.endswith(".py")]
    assert {".ci/run", "scripts/test", "dptrain/report/templates/page.html"} <= set(looked_at)
    for name in looked_at:
        for line in (ROOT / name).read_text().splitlines():
            assert len(line) <= 100, (name, line)
