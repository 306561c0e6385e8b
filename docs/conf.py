"""Configuration of Sphinx, which `scripts/docs` runs: Markdown pages, and pages that pages.py makes
from the program itself.
"""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from sphinx.application import Sphinx

import dptrain
from docs import pages

project = "dptrain"
version = release = dptrain.__version__
copyright = "the dptrain authors"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["example_plugin", "site", "README.md"]
nitpicky = False
default_role = "code"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "none"
autodoc_member_order = "bysource"
suppress_warnings = ["misc.highlighting_failure"]

html_theme = "sphinx_book_theme"
html_title = "dptrain"
html_theme_options = {
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search stands in the side bar
}


def written(app: Sphinx) -> None:
    """Make the generated pages before Sphinx looks for pages."""
    pages.write(Path(app.srcdir) / "generated")


def linked(_app: Sphinx, page: str, content: list[str]) -> None:
    """Turn links to files of the repository into links that the site can follow."""
    if not page.startswith("generated/"):
        content[0] = pages.relinked(content[0], f"docs/{page}.md", page)


def plain(*event: Any) -> None:
    """Docstrings are prose: their stars and trailing underscores are no markup."""
    lines = event[-1]
    lines[:] = [re.sub(r"(?<!`)(\*|_\b(?!\w)|_(?=\W|$))", r"\\\1", line) for line in lines]


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", written)
    app.connect("source-read", linked)
    app.connect("autodoc-process-docstring", plain)
