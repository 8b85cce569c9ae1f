"""The section of one dataset, for clients' data and for evaluations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from fedrai.recipe.base import Section

ADDED_KEYS = ("encoding", "separator", "system_turns", "max_row_mb", "max_unpacked_mb", "name")
"""Keys of a source that were added after the first runs; a recipe's hash leaves out their defaults."""
_MISSING = object()


def known_encoding(name: str) -> str:
    """The name of a text encoding, unchanged.

    Raises:
        ValueError: Python does not have it.
    """
    try:
        "".encode(name or "utf-8")
    except (LookupError, UnicodeError, ValueError):
        raise ValueError(
            f"{name!r} is not a text encoding; expected one such as utf-8, cp1252, latin-1, utf-16"
        ) from None
    return name


def one_separator(name: str) -> str:
    """The character that separates fields; `tab` stands for a tab.

    Raises:
        ValueError: a CSV cannot have it.
    """
    separator = {"tab": "\t", "\\t": "\t"}.get(name, name)
    if len(separator) > 1 or separator in ('"', "\n", "\r", "\0"):
        raise ValueError(
            f"{name!r} is not a separator; expected one character, such as ; or |, or tab"
        )
    return separator


class Columns(Section):
    """Column names, for files that do not use the usual ones."""

    messages: str = "messages"
    """Column with a list of `{role, content}` turns."""
    prompt: str = "prompt"
    """Column with the request."""
    response: str = "response"
    """Column with the answer."""
    label: str = "category"
    """Column whose values a Dirichlet partition divides by; a file without it counts as one label."""


class Source(Section):
    """One dataset."""

    path: str
    """JSONL, JSON, CSV or Parquet file, a dataset on the hub, or a set that FedRAI ships (`fedrai:ordinary`)."""
    name: str = Field("", max_length=40)
    """What its rows are called where rows are counted by source, such as `everyday` or `sensitive`. Empty: the file's name."""
    share: float | None = Field(None, gt=0)
    """Share of this source among the sources of its kind (benign or harmful), relative to theirs. Unset: each row has the same weight."""
    harmful: bool = False
    """Whether the rows are known to be harmful. For experiments: `data.harm` decides which clients get them."""
    split: str = "train"
    """Split of a hub dataset; ignored for files."""
    where: dict[str, str | bool | int | float] = {}
    """Use only rows whose columns have these values: `{ is_safe = false }`."""
    columns: Columns = Columns()
    """Column names. Unset: other common names are recognised too (`instruction` with `input`, `question`, `completion`, `output`, `conversations` ...), if only one of them fits."""
    encoding: str = ""
    """Encoding of a text file, by its Python name (`cp1252`, `utf-16-le`). Empty: UTF-8, or UTF-16 or UTF-32 if the file starts with their byte order mark; anything else is an error."""
    separator: str = ""
    """Field separator of a CSV: one character, or `tab`. Empty: comma, semicolon, tab or vertical bar, found from the header; an error if the header is ambiguous."""
    system_turns: Literal["keep", "prepend", "drop"] = "keep"
    """What happens to a system turn. `prepend` puts it before the first request and `drop` leaves it out, for chat templates without system turns."""
    max_row_mb: float = Field(16, gt=0)
    """Largest row in megabytes; a larger one is a bad row. Far above any real row, so that a broken file cannot exhaust memory."""
    max_unpacked_mb: float = Field(1000, gt=0)
    """Largest size in megabytes that a compressed file (gzip, Parquet) may unpack to; more is an error. Protects against decompression bombs."""

    @property
    def read_as(self) -> dict[str, Any]:
        """The keys that say how rows are read."""
        return self.model_dump(exclude={"path", "name", "share", "harmful"})

    @property
    def label(self) -> str:
        """Its name; without one that of its file, without folders."""
        file = re.split(r"[/\\]", self.path)[-1]
        return self.name or (f"{file} (harmful)" if self.harmful else file)

    _encoding = field_validator("encoding")(known_encoding)
    _separator = field_validator("separator")(one_separator)


def as_before(body: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe without the sources' added keys where they have their defaults.

    So a recipe's hash is the same as before these keys existed.
    """
    defaults = {name: Source.model_fields[name].default for name in ADDED_KEYS}
    source = defaults.keys() <= body.keys()
    rest = {k: v for k, v in body.items() if not (source and defaults.get(k, _MISSING) == v)}
    return {key: _as_before(value) for key, value in rest.items()}


def _as_before(value: Any) -> Any:
    if isinstance(value, Mapping):
        return as_before(value)
    return [_as_before(v) for v in value] if isinstance(value, list | tuple) else value
