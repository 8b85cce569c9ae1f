"""The section of one dataset, for clients' data and for evaluations."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from fedrai.recipe.base import Section

RowKind = Literal["answers", "pairs"]


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

    added_keys = ("chosen", "rejected")

    messages: str = "messages"
    """Column with a list of `{role, content}` turns."""
    prompt: str = "prompt"
    """Column with the request."""
    response: str = "response"
    """Column with the answer."""
    chosen: str = "chosen"
    """`rows = "pairs"`: column with the preferred answer, or with the whole conversation that ends with it."""
    rejected: str = "rejected"
    """`rows = "pairs"`: column with the other answer, or with its whole conversation."""
    label: str = "category"
    """Column whose values a Dirichlet partition divides by; a file without it counts as one label."""


class Source(Section):
    """One dataset."""

    added_keys = ("encoding", "separator", "system_turns", "max_row_mb", "max_unpacked_mb", "name",
                  "rows")  # fmt: skip

    path: str
    """JSONL, JSON, CSV or Parquet file, a dataset on the hub, or a set that FedRAI ships (`fedrai:ordinary`)."""
    name: str = Field("", max_length=40)
    """What its rows are called where rows are counted by source, such as `everyday` or `sensitive`. Empty: the file's name."""
    share: float | None = Field(None, gt=0)
    """Share of this source among the sources of its kind (benign or harmful), relative to theirs. Unset: each row has the same weight."""
    harmful: bool = False
    """Whether the rows are known to be harmful. For experiments: `data.harm` decides which clients get them."""
    rows: RowKind = "answers"
    """`answers`: conversations to learn from. `pairs`: two answers to one request, `chosen` and `rejected`, for `training.method = "dpo"`: TRL's columns `prompt`, `chosen` and `rejected` as texts or turns, or whole conversations without `prompt`, as turns or as Anthropic's marked text."""
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
