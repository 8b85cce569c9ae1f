"""The norm of an update, and the limit on it.

An update is what a client's adapter differs by from the one that the client started from. Its norm
is Euclidean, over all adapter weights together, and is measured by the server from the two adapters
that it holds. Where clients may lie, a norm of more than `norm_cap` times the median of the *other*
clients' norms in the round is scaled down to that, so that no update raises its own limit. This is
norm clipping (arXiv 1911.07963, as we read it) with a threshold that the round itself gives.

How far one client moves the mean
    The mean of n updates u_i with weights w_i (rows, limited by `weights`, that sum to 1) is
    start + sum w_i u_i. Let A be the mean without client k, W the most that its weight can be (see
    `weights`: at most one half of three or more), and C = `norm_cap` times the median of the
    others' norms. Whatever k sends, |u_k| <= C and w_k <= W. Where its reply changes no limit of
    another client, the mean with k is (1 - w_k) A + w_k u_k, and so
        |mean with k - A| = w_k |u_k - A| <= W (C + |A|).
    An honest client at both limits that learns the opposite of the others reaches exactly this: no
    client moves the mean further than an honest one could. A reply does change a limit of others
    where it moves their medians by one place in the order; that only matters to a client which is
    at its limit itself.

What the bound does not hold off
    With one update there is no limit: it is the mean. With two, each limits the other: a liar moves
    the mean by its weight times `norm_cap` honest norms at most, but one that sends its start
    unchanged scales the other's update to nothing, since nobody can say which of the two is right.
    Several liars: while they are fewer than half of the *others* of each client, medians stay
    between norms of honest clients, and each liar has the same bound, so that two of ten can move
    the mean twice as far. From half on (two of three) they raise each other's limit as they please.
    A bounded update may still be harmful: what it teaches is the business of the vetting.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

import torch

from fedrai.model.adapters import AdapterState


def update_norm(before: AdapterState, after: AdapterState) -> float:
    """Euclidean norm of the change of all adapter weights together."""
    squares = [((after[name] - before[name]).double() ** 2).sum() for name in sorted(before)]
    return float(torch.stack(squares).sum().sqrt())


def scaled(before: AdapterState, after: AdapterState, factor: float) -> AdapterState:
    """The adapter whose change from `before` is `factor` times that of `after`."""
    return {name: before[name] + factor * (after[name] - before[name]) for name in sorted(before)}


def limited(norms: Mapping[str, float], times: float) -> dict[str, float]:
    """The norms of a round's updates, each at most `times` the median of the others.

    Args:
        norms: measured, by client.
        times: 0: no limit.
    """
    if not times or len(norms) < 2:
        return dict(norms)
    return {
        name: min(norm, times * median(n for other, n in sorted(norms.items()) if other != name))
        for name, norm in norms.items()
    }
