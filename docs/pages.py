"""Pages of the reference that are made from the program: commands from their help, configuration
from the schema, and the Python interface from its docstrings.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dptrain
from dptrain import cli
from dptrain.config import compose, files
from dptrain.config.fields import Described, described

ROOT = Path(__file__).parent.parent
TITLES = {
    "dataset": "Data sets",
    "model": "Models",
    "training": "Training",
    "privacy": "Privacy",
    "defence": "Defences",
    "attacks": "Attacks",
    "executor": "Executors",
    "queries": "Queries of the attacks",
    "experiment": "Experiments",
}
VALUES = {
    "Result": "dptrain.pipeline.outputs.Result",
    "Final": "dptrain.release.final.Final",
    "Tuned": "dptrain.release.tune.Tuned",
    "Model": "dptrain.release.predict.Model",
    "Estimate": "dptrain.pipeline.estimate.Estimate",
    "Attacked": "dptrain.pipeline.foreign_scores.Result",
    "Answer": "dptrain.privacy.calibration.Answer",
    "Advice": "dptrain.report.advice.Advice",
    "Inspection": "dptrain.data.inspection.Inspection",
    "Row": "dptrain.evaluation.rows.Row",
    "PrivacyStatement": "dptrain.privacy.statement.PrivacyStatement",
    "Mechanism": "dptrain.core.types.Mechanism",
    "Scores": "dptrain.attacks.scores.Scores",
    "Examples": "dptrain.data.splits.Examples",
    "Source": "dptrain.data.splits.Source",
}
"""What the functions return, and what plug-ins take or give."""
EXTENDED = ("dptrain.models", "dptrain.data", "dptrain.attacks")
"""Packages whose public face another package extends."""


def write(folder: Path) -> None:
    """Write every generated page into `folder`, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, text in {**_commands(), **_configuration(), **_interface(), **_copies()}.items():
        path = folder / f"{name}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", *parts]) + "\n"


def _contents(names: list[str]) -> str:
    listed = "\n".join(names)
    return f"```{{toctree}}\n:maxdepth: 1\n\n{listed}\n```"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _commands() -> dict[str, str]:
    """A page for every command, whose text is that of its --help, and one that lists them."""
    pages = {}
    rows = []
    for name, command in cli.COMMANDS.items():
        text = command.help.rstrip() + "\n" + "\n".join(cli.keys_of(name, command))
        pages[f"commands/{name}"] = _page(f"dptrain {name}", f"```text\n{text.rstrip()}\n```")
        rows.append((f"[dptrain {name}]({name}.md)", command.summary))
    codes = (
        "Exit codes: 0 done, 1 a contradiction or failure, 2 a wrong configuration, 3 a fault of "
        "the machine, 130 interrupted."
    )
    listed = _table(("command", "what it does"), rows)
    pages["commands/index"] = _page("Commands", codes, listed, _contents(list(cli.COMMANDS)))
    return pages


def _configuration() -> dict[str, str]:
    """The keys of a sweep by group, each with what its schema allows, and the files of a group."""
    groups: dict[str, dict[str, Described]] = {}
    for overrides in _choices():
        for each in described(compose.load("sweep", overrides)):
            group = each.key.partition(".")[0]
            group = group if group in TITLES else ""
            groups.setdefault(group, {}).setdefault(each.key, each)
    parts = [
        "Every key of `dptrain sweep`, from the schema that checks it. `dptrain train` and "
        "`dptrain tune` take the same keys and a few of their own, and so do the other commands: "
        "the pages of the [commands](commands/index.md) list them. `null` leaves a key open. "
        "`group=FILE` chooses a file of a group, such as `dataset=adult`.",
        "## The run",
        _keys(groups.pop("").values()),
    ]
    for group, title in TITLES.items():
        parts.append(f"## {title}")
        named = files.groups().get(group, [])
        if named:
            chosen = [(f"`{name}`", files.summary(group, name)) for name in named]
            parts.append(_table((f"`{group}=`", "what it is"), chosen))
        if group in groups:
            parts.append(_keys(groups[group].values()))
    return {"configuration": _page("Configuration", *parts)}


USERS = ["dataset=csv", "dataset.path=FILE", "dataset.target=COLUMN", "dataset.unit=WHO"]
NEEDED = {
    "dpsgd_user": USERS,
    "dpsgd_group": [*USERS, "dataset.unit_rows=2"],
    "trajectory": ["training.trajectory=10"],
}
"""What some choices do not go without."""


def _choices() -> Iterator[list[str]]:
    """The defaults, then each model, defence and attack, so that the keys of all are shown."""
    yield []
    for group in ("model", "defence", "attacks"):
        for name in files.groups()[group]:
            chosen = {
                "model": name,
                "defence": f"[{','.join(dict.fromkeys(['none', 'dpsgd', name]))}]",
            }.get(group, f"[{name}]")
            yield [f"{group}={chosen}", *NEEDED.get(name, [])]


def _keys(keys: Iterable[Described]) -> str:
    return _table(
        ("key", "default", "must", "meaning"),
        [
            (f"`{k.key}`", f"`{_yaml(k.default)}`", _must(k), k.help.replace("<", "&lt;"))
            for k in keys
        ],
    )


def _yaml(value: Any) -> str:
    """A default as one would type it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_yaml, value))}]"
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{_yaml(item)}' for key, item in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _must(key: Described) -> str:
    """What a key may be, in words."""
    bounds = key.bounds
    if bounds.choices:
        each = "each be" if isinstance(key.default, list) else "be"
        return f"{each} one of {', '.join(f'`{choice}`' for choice in bounds.choices)}"
    return bounds.text()


def _interface() -> dict[str, str]:
    """A page for each public name, one for each kind of value, and one for each package that
    others extend.
    """
    functions = {name: f"dptrain.{name}" for name in dptrain.__all__}
    pages = {
        f"api/{name}": _described(name, path)
        for name, path in [*functions.items(), *VALUES.items()]
    }
    pages |= {f"api/{name}": _package(name) for name in EXTENDED}
    pages["api/index"] = _page(
        "Python interface",
        'Each function takes what its command takes, as text (`"epsilons=[inf,8]"`) or as '
        "keywords, and returns a plain object. `import dptrain` loads no torch.",
        "## Functions and estimators",
        _contents(list(functions)),
        "## Values",
        _contents(list(VALUES)),
        "## Packages to extend",
        "[A plug-in](../../tutorials/plugin.md) shows how.",
        _contents(list(EXTENDED)),
    )
    return pages


def _object(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _described(title: str, path: str) -> str:
    if not isinstance(_object(path), type):
        return _page(title, _directive("autofunction", path))
    # What scikit-learn's base classes and named tuples add is described by their own pages.
    options = (
        f":members:\n:inherited-members: {', '.join(FOREIGN)}\n"
        ":exclude-members: set_fit_request, set_score_request, set_predict_request"
    )
    return _page(title, _directive("autoclass", path, options))


FOREIGN = (
    "BaseEstimator",
    "_MetadataRequester",
    "ClassifierMixin",
    "RegressorMixin",
    "tuple",
    "object",
)


def _package(name: str) -> str:
    package = importlib.import_module(name)
    return _page(name, package.__doc__ or "", *_members(name, package.__all__))


def _members(package: str, names: list[str]) -> Iterator[str]:
    """A description of every name of a package; of a constant, what it holds."""
    for name in names:
        path, value = f"{package}.{name}", _object(f"{package}.{name}")
        if isinstance(value, type):
            yield _directive("autoclass", path, ":members:")
        elif callable(value):
            yield _directive("autofunction", path)
        else:
            held = f"Its keys: {', '.join(value)}." if isinstance(value, Mapping) else repr(value)
            yield _directive("py:data", path, f"\n{held}")


def _directive(kind: str, path: str, inner: str = "") -> str:
    lines = "\n".join(f"   {line}".rstrip() for line in inner.splitlines())
    return f"```{{eval-rst}}\n.. {kind}:: {path}\n{lines}\n```"


OUTSIDE = {
    "results/LOG.md": "generated/log",
    "results/reference/self_audit/table.md": "generated/self_audit",
    "CHANGELOG.md": "generated/changelog",
    "CONTRIBUTING.md": "generated/contributing",
}
"""Pages of the repository beside docs/, and where they lie in the site."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")


def _copies() -> dict[str, str]:
    """Pages of the repository that lie outside of docs/."""
    copies = {}
    for source, page in OUTSIDE.items():
        text = relinked((ROOT / source).read_text(), source, page)
        title = "" if text.startswith("# ") else "# The trainer, as it is and broken on purpose\n\n"
        copies[page.removeprefix("generated/")] = title + text
    return copies


def relinked(text: str, source: str, page: str) -> str:
    """The text of a file of the repository (`source`, from its top) with links that hold on `page`
    of the site: what has a page is linked to, a file beside it can be had, and of a folder, which a
    site cannot show, the name remains.
    """

    def moved(link: re.Match[str]) -> str:
        words, target, anchor = link[1], link[2], link[3] or ""
        if "://" in target:
            return link[0]
        path = os.path.normpath(Path(source).parent / target)
        here = (ROOT / "docs" / page).parent
        if path in OUTSIDE:
            path = f"docs/{OUTSIDE[path]}.md"
        elif (ROOT / path).is_dir() or path.endswith("README.md"):
            return f"{words} (`{path}`)"
        return f"[{words}]({os.path.relpath(ROOT / path, here)}{anchor})"

    return LINK.sub(moved, text)
