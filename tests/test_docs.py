"""The documentation: it builds without a warning, its commands print what stands below them, every
public name has a page, and what it says of tests, attacks and keys is so.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import dptrain
from dptrain import api, attacks, cli, data, models
from dptrain.config import compose, files
from dptrain.config.fields import described
from tests.helpers.sessions import blocks, commands_of, environment, require_shown

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(
    page
    for page in DOCS.rglob("*.md")
    if not {"generated", "site", "example_plugin"} & set(page.relative_to(DOCS).parts)
)
NAMES = [page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES]
TESTED_ELSEWHERE = {"index": "tests/test_readme.py", "reference": "tests/test_readme.py"}
WITH_COMMANDS = [
    name
    for name, page in zip(NAMES, PAGES, strict=True)
    if name not in TESTED_ELSEWHERE
    and any(block.kind in ("console", "python") for block in blocks(page.read_text()))
]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory):
    """The folder of the README's first run, smaller: pages show it, and do not train it."""
    folder = tmp_path_factory.mktemp("quickstart") / "results" / "quickstart"
    fewer = ["models_per_setting=4", "training.epochs=4", "attacks=[loss,lira]"]
    assert cli.main(["sweep", "experiment=quickstart", *fewer, f"output={folder}"]) == 0
    return folder


def run(command, where, path):
    """Do a command of a page in a folder; its lines. It may refuse a claim, and nothing else."""
    arguments = shlex.split(command)
    if arguments[:2] == ["pip", "install"]:  # beside this environment, from what is installed
        arguments = [sys.executable, "-m", *arguments, *OFFLINE, "--target", str(path)]
    inherited = environment()
    before = inherited.get("PYTHONPATH", "")
    ran = subprocess.run(
        arguments,
        cwd=where,
        env={**inherited, "PYTHONPATH": os.pathsep.join([str(path), str(ROOT), before])},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == (1 if "claim=" in command else 0), f"{command}\n{ran.stderr[-2000:]}"
    return [*ran.stdout.splitlines(), *ran.stderr.splitlines()]


OFFLINE = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index"]


@pytest.mark.long
@pytest.mark.parametrize("name", WITH_COMMANDS)
def test_commands_print_what_stands_below_them(name, quickstart, tmp_path):
    """Programs, files and commands of a page, in its order, in one folder."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "quickstart").symlink_to(quickstart)
    for part in ("scripts", "tests"):
        (tmp_path / part).symlink_to(ROOT / part)
    shutil.copytree(DOCS / "example_plugin", tmp_path / "docs" / "example_plugin")
    path = tmp_path / "installed"
    for kind, text in blocks((DOCS / f"{name}.md").read_text()):
        if kind == "python":
            subprocess.run(
                [sys.executable, "-c", text], cwd=tmp_path, env=environment(), check=True
            )
        elif kind == "yaml":
            file = tmp_path / text.partition("\n")[0].removeprefix("# ")
            file.parent.mkdir(parents=True)
            file.write_text(text.partition("\n")[2])
        elif kind == "console":
            for command, shown in commands_of(text):
                require_shown(shown, run(command, tmp_path, path), command)


PLACEHOLDERS = {"key", "group", "defences", "frame", "hydra.launcher.n_jobs"}
"""Words before `=` in prose that are no key: of a list, or arguments of Python."""


def every_key(command):
    """The keys of a command, as its help has them."""
    least = cli.COMMANDS[command].least or ()
    return described(compose.load(command, least))


def test_commands_are_known_and_take_these_keys():
    """Also those in the text of a page, which nothing runs."""
    keys = {each.key for name in compose.SCHEMAS for each in every_key(name)}
    for page in PAGES:
        text = page.read_text()
        for command in re.findall(r"`dptrain (\w+)", text):
            assert command in cli.COMMANDS, page
        for key in re.findall(r"`([a-z_]+(?:\.[a-z_]+)*)=", text):
            known = keys | set(files.groups()) | PLACEHOLDERS
            short = any(each.endswith(f".{key}") for each in known)
            assert short or key in known or key.startswith("model"), f"{page.name}: {key}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as scripts/docs builds it, with warnings as errors."""
    folder = tmp_path_factory.mktemp("docs")
    source = folder / "docs"
    shutil.copytree(DOCS, source, ignore=shutil.ignore_patterns("generated", "site"))
    for part in ("results", "conf", "tests", "scripts", "dptrain"):
        (folder / part).symlink_to(ROOT / part)
    for part in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md"):
        (folder / part).write_bytes((ROOT / part).read_bytes())
    options = ["--builder", "html", "--fail-on-warning", "--keep-going", "--quiet"]
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, str(source), str(folder / "site")],
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr[-4000:]
    return folder / "site"


@pytest.mark.long
def test_it_builds_and_every_link_within_it_leads_somewhere(site):
    anchors = {}
    pages = [page for page in site.rglob("*.html") if "_static" not in page.parts]
    for page in pages:
        text = page.read_text()
        anchors[page] = set(re.findall(r'\bid="([^"]+)"', text))
    broken = []
    for page in pages:
        for link in re.findall(r'(?:href|src)="([^"]+)"', page.read_text()):
            if re.match(r"[a-z]+:|//|#$|\?", link):
                continue
            target, _, anchor = link.partition("#")
            there = (page.parent / target.partition("?")[0]).resolve() if target else page
            known = anchors.get(there)  # None of what is no page
            if not there.exists() or (anchor and known is not None and anchor not in known):
                broken.append(f"{page.name}: {link}")
    assert broken == []


def described_names(site):
    """Names that the site's inventory holds."""
    inventory = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(inventory).decode().splitlines()
    return {line.split()[0] for line in lines if " py:" in line}


@pytest.mark.long
def test_every_public_name_has_a_page(site):
    names = described_names(site)
    for package in (dptrain, models, data, attacks):
        for name in package.__all__:
            assert f"{package.__name__}.{name}" in names
    for name in dptrain.__all__:
        assert (site / "generated" / "api" / f"{name}.html").exists()


@pytest.mark.long
def test_what_the_functions_return_has_a_page(site):
    names = described_names(site)
    for name in dptrain.__all__:
        written = getattr(api, name, None)
        if written is None:  # an estimator
            continue
        returned = written.__annotations__["return"].rpartition(".")[2]
        if returned != "Path":
            assert any(each.endswith(f".{returned}") for each in names), returned


@pytest.mark.long
def test_every_key_and_command_has_its_place(site):
    keys = (site / "generated" / "configuration.html").read_text()
    for each in described(compose.load("sweep", [])):
        assert f">{each.key}<" in re.sub(r"</?span[^>]*>", "", keys), each.key
    for group, names in files.groups().items():
        if group in ("dataset", "model", "defence", "attacks", "executor", "experiment"):
            for name in names:
                assert name in keys
    for command in cli.COMMANDS:
        page = (site / "generated" / "commands" / f"{command}.html").read_text()
        assert f"dptrain {command}" in page


def test_every_attack_and_audit_names_its_paper():
    page = (DOCS / "papers.md").read_text()
    for name in (*attacks.ATTACKS, *("one_run", "one_run_fdp", "clopper_pearson", "gdp")):
        assert f"`{name}`" in page, name


NODE = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def test_tests_that_pages_name_exist():
    named = 0
    for page in PAGES:
        for file, test in NODE.findall(page.read_text()):
            text = (ROOT / file).read_text()
            assert not test or re.search(rf"^ *def {test}\(", text, re.MULTILINE), f"{file}::{test}"
            named += 1
    assert named > 50


def test_pictures_and_links_of_pages_exist():
    for page in [*PAGES, ROOT / "README.md"]:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and "generated/" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_pages_lie_in_the_contents():
    contents = (DOCS / "index.md").read_text()
    for name in set(NAMES) - {"index"}:
        assert re.search(rf"^{name}$", contents, re.MULTILINE), name


@pytest.mark.parametrize("name", NAMES)
def test_pages_end_in_no_line_that_is_too_long(name):
    """100 columns of prose; tables and output as they are."""
    text = re.sub(r"```.*?```", "", (DOCS / f"{name}.md").read_text(), flags=re.DOTALL)
    for line in text.splitlines():
        assert len(line) <= 100 or line.startswith(("|", "![", "`tests/"))
