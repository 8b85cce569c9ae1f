r"""Hooks of mkdocs for the site: links that lead out of docs/, and `\|` in tables.

A page that links to `../recipes/paper_table.toml` does so for readers of the repository. The site
brings the file along under `repository/`, as text; a link to a folder becomes its name.
"""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
CELL = re.compile(r"<td>.*?</td>", re.S)
LINK = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Bring the files along that pages link to outside of docs/."""
    text = "\n".join(file.content_string for file in files.documentation_pages())
    for place in sorted({link[2] for link in LINK.finditer(text)}):
        if (ROOT / place).is_file():
            body = (ROOT / place).read_text(encoding="utf-8")
            files.append(File.generated(config, _copy(place), content=body))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links out of docs/ at the copies."""
    return LINK.sub(_link, markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    r"""Write `\|` in a table's code as `|`, as the repository's readers see it."""
    return CELL.sub(lambda cell: cell[0].replace(r"\|", "|"), html)


def _link(found: re.Match[str]) -> str:
    name, place = found.groups()
    return f"[{name}]({_copy(place)})" if (ROOT / place).is_file() else name


def _copy(place: str) -> str:
    return f"repository/{place}.txt"
