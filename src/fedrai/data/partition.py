"""Divide examples over clients: sizes, labels, and the places of harmful rows.

Sizes are equal, by a power law, or from a Dirichlet draw per label (arXiv 1909.06335). Harmful rows
then replace benign ones: a share on every client (arXiv 2502.16691), or all on a few malicious
clients (arXiv 2406.10630). Everything follows from the seed.

`by_source` divides what is drawn at random otherwise so that each client holds every source in the
same share of its rows, as far as whole rows allow.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from fedrai.errors import DataError
from fedrai.records import Example

Shards = dict[str, list[Example]]


def client_names(count: int) -> list[str]:
    """`client-01`, `client-02` ...: with the digits that the last one needs, at least two."""
    width = max(2, len(str(count)))
    return [f"client-{number:0{width}d}" for number in range(1, count + 1)]


def mix(
    sources: Sequence[tuple[Sequence[Example], float | None]], total: int, seed: int
) -> list[Example]:
    """Draw a mixture from several datasets, without repeating a row.

    Args:
        sources: (rows, share) of each dataset; shares are all set or all `None` (by size).
        total: rows to draw; 0 takes as many as the shares allow.
        seed: decides which rows and their order.

    Returns:
        The rows, shuffled.

    Raises:
        DataError: a dataset has no rows, or fewer than its share of the total.
    """
    if not sources:
        return []
    if not all(rows for rows, _ in sources):
        raise DataError("a dataset has no usable row to draw")
    rng = np.random.default_rng(seed)
    weights = np.array([len(rows) if share is None else share for rows, share in sources], float)
    parts = weights / weights.sum()
    largest = min(len(rows) / part for (rows, _), part in zip(sources, parts, strict=True))
    total = total or int(largest + 1e-9)
    counts = _round_to_sum(parts * total, total)
    drawn: list[Example] = []
    for (rows, _), count in zip(sources, counts, strict=True):
        if count > len(rows):
            origin = rows[0].origin.split(",")[0] if rows else "a source"
            raise DataError(
                f"{total} rows need {count} from the dataset of {origin}, which has {len(rows)}",
                hint="lower data.rows_per_client, data.harm.share or that source's share",
            )
        drawn += [rows[i] for i in rng.permutation(len(rows))[:count]]
    return [drawn[i] for i in rng.permutation(len(drawn))]


def _round_to_sum(values: np.ndarray, total: int) -> list[int]:
    """Round down, then raise those with the largest remainders (Hamilton's method)."""
    whole = np.floor(values + 1e-9).astype(int)
    order = np.argsort(-(values - whole), kind="stable")
    whole[order[: total - int(whole.sum())]] += 1
    return [int(v) for v in whole]


def equal(rows: Sequence[Example], clients: Sequence[str], *, by_source: bool = False) -> Shards:
    """Cut shuffled rows into parts of equal size (the first ones get the remainder)."""
    return _cut(rows, clients, np.ones(len(clients)), by_source)


def power_law(
    rows: Sequence[Example],
    clients: Sequence[str],
    exponent: float,
    seed: int,
    *,
    by_source: bool = False,
) -> Shards:
    """Cut shuffled rows into parts of sizes like rank^-exponent; the seed ranks the clients."""
    ranks = np.random.default_rng(seed).permutation(len(clients)) + 1
    return _cut(rows, clients, ranks.astype(float) ** -exponent, by_source)


def _cut(
    rows: Sequence[Example], clients: Sequence[str], weights: np.ndarray, by_source: bool
) -> Shards:
    spare = len(rows) - len(clients)
    if spare < 0:
        raise DataError(f"{len(rows)} rows cannot be divided over {len(clients)} clients")
    sizes = [1 + n for n in _round_to_sum(weights / weights.sum() * spare, spare)]
    return _take(rows, dict(zip(clients, sizes, strict=True)), by_source)


def _take(rows: Sequence[Example], sizes: Mapping[str, int], by_source: bool) -> Shards:
    """So many rows for each client: the first ones, part after part, or dealt by source."""
    if by_source:
        return _deal(_part(rows, sum(sizes.values())), sizes)
    rest = iter(rows)
    return {client: list(itertools.islice(rest, size)) for client, size in sizes.items()}


def _part(rows: Sequence[Example], count: int) -> list[Example]:
    """So many of the rows, of each source in proportion."""
    return _deal(rows, {"others": len(rows) - count, "part": count})["part"]


def _deal(rows: Sequence[Example], sizes: Mapping[str, int]) -> Shards:
    """Deal rows, source after source, so that each client gets its part of every source.

    The turns of a client that gets n rows stand evenly at (k + 1/2) / n. With equal sizes they are
    those of dealing cards, and each client gets a source's mean, rounded down or up.
    """
    turns = sorted(((2 * k + 1) / (2 * n), name) for name, n in sizes.items() for k in range(n))
    shards: Shards = {name: [] for name in sizes}
    for (_, name), row in zip(turns, sorted(rows, key=lambda row: row.source), strict=True):
        shards[name].append(row)
    return shards


def dirichlet(rows: Sequence[Example], clients: Sequence[str], alpha: float, seed: int) -> Shards:
    """Divide each label's rows in proportions drawn from Dirichlet(alpha).

    A client may get no rows; the run names it, and it does not take part.

    Raises:
        DataError: all rows have the same label.
    """
    by_label: dict[str, list[Example]] = {}
    for row in rows:
        by_label.setdefault(row.label, []).append(row)
    if len(by_label) < 2:
        raise DataError(
            "a Dirichlet partition needs rows with at least two labels",
            hint="set data.sources.columns.label to the column that holds them",
        )
    rng = np.random.default_rng(seed)
    shards: Shards = {client: [] for client in clients}
    for label in sorted(by_label):
        counts = _round_to_sum(
            rng.dirichlet(np.full(len(clients), alpha)) * len(by_label[label]), len(by_label[label])
        )
        ends = np.cumsum(counts)
        for client, count, end in zip(clients, counts, ends, strict=True):
            shards[client] += by_label[label][end - count : end]
    return shards


def place_harm(
    shards: Mapping[str, Sequence[Example]],
    harmful: Sequence[Example],
    *,
    share: float,
    malicious: int | None,
    seed: int,
    by_source: bool = False,
) -> Shards:
    """Replace benign rows by harmful ones.

    Args:
        shards: benign rows by client.
        harmful: shuffled harmful rows to draw from.
        share: part of an affected client's rows that becomes harmful.
        malicious: how many clients are affected (chosen by the seed); `None`: all.
        seed: chooses the malicious clients and the benign rows to replace.
        by_source: replace benign rows of each source in proportion, and deal harmful ones so.

    Raises:
        DataError: there are too few harmful rows.
    """
    rng = np.random.default_rng(seed)
    names = sorted(shards)
    chosen = set(names if malicious is None else rng.permutation(names)[:malicious])
    counts = {n: round(share * len(shards[n])) if n in chosen else 0 for n in names}
    if sum(counts.values()) > len(harmful):
        raise DataError(
            f"the harmful share needs {sum(counts.values())} rows, the sources have {len(harmful)}",
            hint="lower data.harm.share or data.rows_per_client",
        )
    mixed: Shards = {}
    bad = _take(harmful, counts, by_source)
    for name in names:
        benign = [shards[name][i] for i in rng.permutation(len(shards[name]))]
        kept = _part(benign, len(benign) - counts[name]) if by_source else benign[counts[name] :]
        rows = kept + bad[name]
        mixed[name] = [rows[i] for i in rng.permutation(len(rows))]
    return mixed
