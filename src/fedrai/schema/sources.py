"""The section of one dataset, as clients' data and evaluations name it."""

from __future__ import annotations

from pydantic import Field

from fedrai.schema.base import Section


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
    """Names of the columns."""
