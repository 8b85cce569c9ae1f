"""Markdown of a model card: sections, tables, and texts that cannot break them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def section(title: str, text: str) -> str:
    """A section with its heading."""
    return f"## {title}\n\n{text}\n"


def cell(text: object) -> str:
    """A text that cannot break a table or start markup."""
    return " ".join(re.sub(r"[|`<>\[\]]", "/", str(text)).split())


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; texts of others must have passed `cell`."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
