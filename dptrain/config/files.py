"""The YAML files that configurations are made of: ours, and those of folders that a user adds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from dptrain.core import plugins
from dptrain.core.errors import ConfigError

KINDS = {"dataset": "datasets", "model": "models", "attacks": "attacks"}
"""Config group -> kind of plug-in."""


COMMANDS, PAPERS = "commands", "papers"
"""Folders of the defaults of commands that choose no files of groups, and of presets of papers."""


def conf_folder() -> Path:
    """Our YAML files: inside an installed package, beside it in a checkout."""
    package = Path(__file__).parent.parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


def command_folder(command: str) -> Path:
    """Where the defaults of a command lie, beside the groups that it may choose from."""
    apart = conf_folder() / COMMANDS
    return apart if (apart / f"{command}.yaml").is_file() else conf_folder()


def groups(folders: Sequence[Path] = ()) -> dict[str, list[str]]:
    """Config groups and the names in each; of a user's folders those in our groups."""
    ours = sorted(
        folder.name
        for folder in conf_folder().iterdir()
        if folder.is_dir() and folder.name not in (COMMANDS, PAPERS)
    )
    return {
        group: sorted(
            {
                file.stem
                for root in (conf_folder(), *folders)
                for file in (root / group).glob("[!_]*.yaml")
            }
        )
        for group in ours
    }


def summary(group: str, name: str) -> str:
    """The first line of a YAML file's comment."""
    lines = (conf_folder() / group / f"{name}.yaml").read_text().splitlines()
    comments = (line for line in lines if line.startswith("#") and "@package" not in line)
    return next((line.lstrip("# ") for line in comments), "")


def added(group: str) -> list[tuple[str, str]]:
    """Names that other packages add to a group, each with its package."""
    if group not in KINDS:
        return []
    return [item for item in plugins.packages(KINDS[group]) if item[0] not in groups()[group]]


def require_folder(folder: Path) -> Path:
    """The folder of a user's YAML files, resolved. Raises ConfigError where there is none, and for
    a file in it that cannot be read, that reaches for files outside, or that sets Hydra itself.
    """
    if not folder.is_dir():
        raise ConfigError("--config-dir", f"there is no folder {folder}; give one that exists")
    for path in sorted(folder.rglob("*.yaml")):
        try:
            content = yaml.safe_load(path.read_text())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError("--config-dir", f"{path} cannot be read ({reason})") from None
        _refuse_reach(path, content)
    return folder.resolve()


def _refuse_reach(path: Path, content: Any) -> None:
    if not isinstance(content, dict):
        return
    texts = [str(entry) for entry in content.get("defaults") or ()]
    if any(".." in text or ":/" in text for text in texts):
        fix = "name files of the same folders, without .. and without file:// and pkg://"
        raise ConfigError("--config-dir", f"defaults in {path} name files elsewhere; {fix}")
    if "hydra" in content or any("hydra" in text for text in texts):
        raise ConfigError("--config-dir", f"{path} sets Hydra's own keys; remove them")
