"""SVG elements. HTML is written by the templates; both escape with markupsafe."""

from __future__ import annotations

import re
from collections.abc import Iterable

from markupsafe import Markup, escape

# Not allowed in a document, or able to reorder the text around them: controls except tab and line
# feed, halves of a surrogate pair, bidirectional overrides and isolates, noncharacters.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufffe\uffff]"
)

Child = str | None | Iterable["Child"]
Value = str | int | float | None


def printable(document: str) -> str:
    """A finished document with U+FFFD for each unsafe character, so that it can be encoded."""
    return _UNSAFE.sub("\ufffd", document)


def shorten(text: str, limit: int) -> str:
    """The first characters of a text, with "…" where more follow."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def join(parts: Child) -> Markup:
    """Parts one after the other; text that is not markup is escaped, None is left out."""
    if parts is None or isinstance(parts, str):
        return escape(parts or "")
    return Markup("").join(join(part) for part in parts)


def tag(name: str, *children: Child, **attributes: Value) -> Markup:
    """An element.

    Args:
        name: name of the element.
        children: text, markup, or series of them.
        attributes: `class_` stands for `class`, and `_` for `-`; those that are None are left out.
    """
    pairs = [
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value is not None
    ]
    return Markup("<{0}{1}>{2}</{0}>").format(name, join(pairs), join(children))
