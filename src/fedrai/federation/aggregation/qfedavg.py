"""q-FedAvg: clients with a higher loss count more (Li et al., arXiv 1905.10497, algorithm 2).

The arithmetic is Flower's. With the loss F_k of client k before its training (`loss-first`, of its
first batch), its adapter y_k and the adapter x that the round began with,
    D_k = F_k^q L (x - y_k)
    h_k = q F_k^(q - 1) |L (x - y_k)|^2 + L F_k^q
    x  := x - sum D_k / sum h_k.
With q = 0 this is the unweighted mean. Numbers of rows do not count; the paper draws clients in
proportion to them instead, which the sampling here does not do.

L bounds how fast a gradient changes. For plain gradient steps L = 1 / learning rate, as the paper
and Flower set it; relative to the mean the common step is then shorter by 1 + q L |x - y|^2 / F.
With AdamW |x - y| is about the learning rate times the number of steps times the root of the number
of weights: at 5e-5, ten steps and 5 million weights about 1, so that with q = 0.1 and a loss of 2
L = 20,000 would divide the step by a thousand. Here L is a setting, 1 by default.

Bounds
    A client states its loss. Where clients may lie (`federation.weight_cap`), F_k^q is limited as
    rows are, see `weights`, and F_k is at least the lower median of the others' losses divided by
    `weight_cap`: near 0 it would make h_k, and so the model's standstill, as large as one likes.
    One client then has at most half of the mean of three or more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median_low
from typing import Any

from flwr.app import Message, MetricRecord
from flwr.serverapp import strategy as flower

from fedrai.federation.aggregation.weights import capped
from fedrai.federation.metrics import FIRST_LOSS

SMALLEST = 1e-6  # nats; a loss may be 0, or by rounding less, and is then divided by


class QFedAvg(flower.QFedAvg):  # type: ignore[misc]
    """Flower's strategy with losses within bounds.

    Args:
        q: the exponent.
        lipschitz: the paper's L.
        cap: the recipe's `federation.weight_cap`; 0: losses are taken as they are stated.
    """

    numbers = (FIRST_LOSS,)
    """Numbers of an update that it uses besides the weight."""

    def __init__(self, q: float, lipschitz: float, cap: float = 0.0) -> None:
        super().__init__(1 / lipschitz, q, FIRST_LOSS)
        self._cap = cap

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[Any, Any]:
        """The next adapter; the losses in `replies` are replaced by bounded ones."""
        replies = list(replies)
        records = [next(iter(reply.content.metric_records.values())) for reply in replies]
        losses = bounded([float(record[FIRST_LOSS]) for record in records], self.q, self._cap)
        for record, loss in zip(records, losses, strict=True):
            record[FIRST_LOSS] = loss
        arrays, _ = super().aggregate_train(server_round, replies)
        return arrays, MetricRecord()


def bounded(losses: Sequence[float], q: float, times: float) -> list[float]:
    """Losses within the bounds above; those within them do not change.

    Args:
        losses: as clients state them, in nats.
        q: the exponent with which they count.
        times: the recipe's `federation.weight_cap`; 0: only losses of 0 and less change.
    """
    positive = [max(loss, SMALLEST) for loss in losses]
    if not times or len(positive) < 2:
        return positive
    others = [median_low([*positive[:n], *positive[n + 1 :]]) for n in range(len(positive))]
    raised = [max(loss, other / times) for loss, other in zip(positive, others, strict=True)]
    if q == 0:
        return raised
    powers = {f"{n:09d}": loss**q for n, loss in enumerate(raised)}
    limits = capped(powers, times)
    return [
        loss if limits[name] == powers[name] else limits[name] ** (1 / q)
        for loss, name in zip(raised, sorted(powers), strict=True)
    ]
