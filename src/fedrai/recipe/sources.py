"""The section of one dataset, as clients' data and evaluations name it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from fedrai.recipe.base import Section

LATER = ("encoding", "separator", "system_turns", "max_row_mb", "max_unpacked_mb")
"""Keys of a source that came after the first runs."""
_NOTHING = object()


def known_encoding(name: str) -> str:
    """The name of an encoding, if Python knows it.

    Raises:
        ValueError: it does not, or it is none of text.
    """
    try:
        "".encode(name or "utf-8")
    except (LookupError, UnicodeError, ValueError):
        raise ValueError(
            f"{name!r} is no encoding; such as utf-8, cp1252, latin-1, utf-16, shift-jis"
        ) from None
    return name


def one_separator(name: str) -> str:
    """The character that separates fields; a tab may be called so.

    Raises:
        ValueError: it is none that a CSV can have.
    """
    separator = {"tab": "\t", "\\t": "\t"}.get(name, name)
    if len(separator) > 1 or separator in ('"', "\n", "\r", "\0"):
        raise ValueError(f"{name!r} is no separator; one character is, such as ; or |, or tab")
    return separator


class Columns(Section):
    """Names of the columns, where a file does not use the usual ones."""

    messages: str = "messages"
    """Column with a list of `{role, content}` turns."""
    prompt: str = "prompt"
    """Column with the request."""
    response: str = "response"
    """Column with the answer."""
    label: str = "category"
    """Column that a Dirichlet partition goes by; a file without it has one label."""


class Source(Section):
    """One dataset."""

    path: str
    """JSONL, JSON, CSV or Parquet file, a dataset on the hub, or a set that comes with FedRAI (`fedrai:ordinary`)."""
    share: float | None = Field(None, gt=0)
    """Part of this source among those of its kind (benign or harmful); unset: all its rows count alike."""
    harmful: bool = False
    """Whether the rows are known to be harmful (experiments only: decides where they are put)."""
    split: str = "train"
    """Split of a hub dataset."""
    where: dict[str, str | bool | int | float] = {}
    """Only rows whose columns have these values, such as `{ is_safe = false }`."""
    columns: Columns = Columns()
    """Names of the columns. Without them, those that others use are read too (`instruction` with `input`, `question`, `completion`, `output`, `conversations` ...), where only one can be meant."""
    encoding: str = ""
    """Encoding of a text file, as Python calls it (`cp1252`, `utf-16-le`). Empty: UTF-8, or UTF-16 or UTF-32 where its first bytes say so; another one is an error."""
    separator: str = ""
    """What separates the fields of a CSV: one character, or `tab`. Empty: comma, semicolon, tab or `|`, as the header tells; an error where it does not."""
    system_turns: Literal["keep", "prepend", "drop"] = "keep"
    """What becomes of a system turn: `prepend` puts it before the first request and `drop` leaves it out, for chat templates that take none."""
    max_row_mb: float = Field(16, gt=0, allow_inf_nan=False)
    """Most megabytes of a row; a longer one is a bad row."""
    max_unpacked_mb: float = Field(1000, gt=0, allow_inf_nan=False)
    """Most megabytes that a packed file (gzip, Parquet) may unpack to; more is an error."""

    @property
    def read_as(self) -> dict[str, Any]:
        """How its rows are read, without what they are and how many are taken."""
        return self.model_dump(exclude={"path", "share", "harmful"})

    _encoding = field_validator("encoding")(known_encoding)
    _separator = field_validator("separator")(one_separator)


def as_before(body: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved recipe without the keys of sources that came later and have their default.

    So the hash of a recipe is what it was when there were no such keys.
    """
    defaults = {name: Source.model_fields[name].default for name in LATER}
    source = defaults.keys() <= body.keys()
    kept = {k: v for k, v in body.items() if not (source and defaults.get(k, _NOTHING) == v)}
    return {key: _as_before(value) for key, value in kept.items()}


def _as_before(value: Any) -> Any:
    if isinstance(value, Mapping):
        return as_before(value)
    return [_as_before(v) for v in value] if isinstance(value, list | tuple) else value
