"""The section of data: the clients' rows, how they are divided, and who gets the harmful ones."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedrai.recipe import keys
from fedrai.recipe.base import Section
from fedrai.recipe.sources import Source


class Partition(Section):
    """How rows are divided among the clients."""

    added_keys = ("by_source",)

    scheme: Literal["equal", "dirichlet", "power-law", "files"] = "equal"
    """`equal`: random, equal sizes. `dirichlet`: skewed by label. `power-law`: random, unequal sizes. `files`: one file for each client."""
    alpha: float = Field(0.5, gt=0)
    """`dirichlet`: concentration. Small is skewed, large is even; 0.5 is clearly skewed."""
    exponent: float = Field(1.2, gt=0)
    """`power-law`: client k gets a size in proportion to k^-exponent."""
    by_source: bool = False
    """`equal`, `power-law`: every client gets each of the sources, the harmful ones too, in about the same share of its rows, to within a row or two. Off: rows are drawn without regard to their source, and the shares of small clients differ by chance."""
    files: str = ""
    """`files`: a pattern such as `sites/*.jsonl`; the stem of a file's name is the client's name."""


class Harm(Section):
    """Which clients get the harmful rows (experiments)."""

    placement: Literal["spread", "concentrated"] = "spread"
    """`spread`: every client holds `share` harmful rows. `concentrated`: only the malicious clients do."""
    share: keys.Share = 0.0
    """Share of an affected client's rows that is harmful; they replace benign rows, so sizes stay the same."""
    malicious_clients: int = Field(0, ge=0)
    """`concentrated`: number of malicious clients, chosen by the seed."""


class Data(Section):
    """The clients' rows."""

    sources: list[Source] = []
    """The datasets. With `partition.scheme = "files"` the rows come from its files, and a single source only says how to read all of them (`columns`, `where`, `encoding` ...)."""
    rows_per_client: int = Field(0, ge=0)
    """Mean number of rows of a client; 0: all available rows are divided."""
    max_length: keys.MaxLength = 512
    """Longest conversation in tokens; longer ones are truncated at the end. Memory and time grow with it."""
    on_bad_rows: Literal["stop", "skip"] = "stop"
    """`stop`: an unusable row stops the run before it starts. `skip`: such rows are counted and left out."""
    partition: Partition = Partition()
    """How rows are divided among the clients."""
    harm: Harm = Harm()
    """Which clients get the harmful rows."""
