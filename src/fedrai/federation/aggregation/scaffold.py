"""SCAFFOLD: control variates against client drift (Karimireddy et al., arXiv 1910.06378).

Clients with different data take their local steps in different directions, and the mean of where
they arrive is not where the mean of their directions leads. SCAFFOLD gives each client k a variate
c_k, its own direction in its last round, and the server their mean c. A local step subtracts the
one and adds the other, so that it goes where all clients together would go.

On the client, with AdamW
    The paper's step is y - lr (g - c_k + c) with the gradient g. AdamW divides a gradient by its
    own size, so a correction of the gradient would be rescaled, and clipped, with it. The
    correction is therefore that of the step, as OpenFedLLM (arXiv 2402.06954) does it:
        y := AdamW(y, g) - lr (c - c_k).
    Afterwards, by option II of the paper with the learning rates of the round summed, since they
    follow a schedule:
        c_k := c_k - c + (x - y) / sum(lr),
    where x is the adapter that the round began with and y the one that is sent. For a step d_j of
    AdamW in units of the learning rate this is the mean of d_j weighted by lr_j: the client's own
    direction, about 1 or less in each weight. c and c_k are 0 at first, so that the first round is
    that of FedAvg to the bit.

On the server
    The adapter is the weighted mean of FedAvg. The paper adds the mean change of the variates, over
    all N clients, to c, and so leads to the optimum of the unweighted mean of the clients'
    objectives, whatever weights the adapters have. Here c is the mean with the same weights:
        c = sum over k of w_k c_k / (N mean w),
    with w_k as when client k was first aggregated, the mean over the clients that were, and c_k = 0
    for the others. With equal weights this is the paper's formula.

    Clients do not send their variates: c_k's change is (x - y) / sum(lr) - c, which the server
    computes itself. So a message up is as large as FedAvg's, one down is twice as large, and a
    client's only influence on c is the adapter that it sends, which the limit on norms bounds.

Bounds
    A client states its number of rows, which with `local_epochs` decides its number of steps, and
    so sum(lr). One that understates them enlarges its part of c, by the number of its steps at
    most: its part is at most |x - y| / (N lr_1) times its weight relative to the mean.

Limits
    A client that the server counted and that lost its variate cannot take part again: its old part
    of c would stay. Robust rules are rules of their own, so they do not combine with this one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedrai.federation.metrics import ROWS, WEIGHT
from fedrai.federation.protocol import Update
from fedrai.model.adapters import AdapterState

RateSum = Callable[[int, int], float]
"""The learning rates of all steps of a client in a round (number) with so many rows, summed."""
SUM, CLIENT = "sum", "client"


def correction(common: AdapterState, own: AdapterState) -> AdapterState | None:
    """What each local step follows too, c - c_k; None where that is 0 everywhere."""
    difference = {name: common[name] - own[name] for name in sorted(common)}
    return difference if any(bool(part.any()) for part in difference.values()) else None


def change(
    common: AdapterState, start: AdapterState, sent: AdapterState, rate_sum: float
) -> AdapterState:
    """By how much a round changes a client's variate: (x - y) / sum(lr) - c."""
    return {name: (start[name] - sent[name]) / rate_sum - common[name] for name in sorted(start)}


class Variates:
    """The server's control variate.

    Args:
        clients: number of all clients of the run.
        rate_sum: the summed learning rates of a client's round.
    """

    def __init__(self, clients: int, rate_sum: RateSum) -> None:
        self._clients, self._rate_sum = clients, rate_sum
        self._sum: AdapterState = {}  # of all clients' variates, each times its weight
        self._weights: dict[str, float] = {}
        self._counted: dict[str, int] = {}

    def common(self, like: AdapterState) -> AdapterState:
        """c, with the shapes of `like`."""
        if not self._sum:
            return {name: torch.zeros_like(tensor) for name, tensor in like.items()}
        scale = self._clients * sum(self._weights.values()) / len(self._weights)
        return {name: part / scale for name, part in self._sum.items()}

    def counted(self, client: str) -> int:
        """The last round in which an update of a client was aggregated; 0: none."""
        return self._counted.get(client, 0)

    def advance(self, round_: int, start: AdapterState, updates: Mapping[str, Update]) -> None:
        """Take up the changes of the clients' variates in a round.

        Args:
            round_: its number, from 1.
            start: the adapter that the clients started from.
            updates: those that were aggregated, by client; `ROWS` is what a client states, where
                its weight is another number.
        """
        common = self.common(start)
        total = self._sum or {name: torch.zeros_like(tensor) for name, tensor in start.items()}
        for name in sorted(updates):
            metrics, sent = updates[name].metrics, updates[name].adapter
            weight = self._weights.setdefault(name, float(metrics[WEIGHT]))
            rows = int(metrics.get(ROWS, metrics[WEIGHT]))
            moved = change(common, start, sent, self._rate_sum(round_, rows))
            total = {key: total[key] + weight * moved[key] for key in total}
            self._counted[name] = round_
        self._sum = total

    def state(self) -> dict[str, Tensor]:
        """All that `restore` needs, by name."""
        clients = {
            f"{CLIENT}/{name}": torch.tensor([weight, self._counted[name]], dtype=torch.float64)
            for name, weight in self._weights.items()
        }
        return clients | {f"{SUM}/{name}": part.clone() for name, part in self._sum.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Return to a state of `state`; other entries are left alone."""
        parts = [(*key.partition("/")[::2], part) for key, part in state.items()]
        self._sum = {name: part.clone() for kind, name, part in parts if kind == SUM}
        clients = {name: part.tolist() for kind, name, part in parts if kind == CLIENT}
        self._weights = {name: pair[0] for name, pair in clients.items()}
        self._counted = {name: int(pair[1]) for name, pair in clients.items()}
