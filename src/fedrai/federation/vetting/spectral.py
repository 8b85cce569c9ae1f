"""The singular values of each module's change, held against those of the round.

Five statistics of the change of a module's product BA (arXiv 2602.15195, which trains a logistic
regression on those of the query, key, value and output projections of labelled adapters): the
largest singular value, the Frobenius norm, the share of the largest in the energy, the entropy of
the energies, and the kurtosis of the singular values. Here there are no labels: every statistic of
every module is held against the round's median in units of its spread (MAD), and a client's score
is the mean over modules of the root mean square of the five. The first two enter as logarithms.

The change B' A' - B A of two products of rank r has rank 2r at most. It is [B' B] [A'; -A], and
with QR factors of the two blocks its singular values are those of a 2r x 2r matrix, so no dense
change is formed.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from fedrai.federation.vetting.scores import Score, Values, others
from fedrai.federation.vetting.updates import Arithmetic, RoundUpdates
from fedrai.model import AdapterState

STATISTICS = ("largest", "frobenius", "concentration", "entropy", "kurtosis")
FLOORS = torch.tensor([0.05, 0.05, 0.02, 0.05, 0.2], dtype=torch.float64)
"""Spreads below which the spread of a statistic counts as this much."""
LARGEST = 20.0
"""Deviation, in spreads, above which a deviation counts as this."""
TINY = 1e-12


def spectral() -> Score:
    """The score; see the module."""
    return Score("spectral", _measure, _reason)


def _measure(updates: RoundUpdates) -> Values:
    parts = [
        updates.once(("spectral", name), partial(_of_client, updates, name))
        for name in updates.names
    ]
    return dict(zip(updates.names, deviations(torch.stack(parts)).tolist(), strict=True))


def _of_client(updates: RoundUpdates, client: str) -> Tensor:
    """Statistics of a client's change, (modules, 5)."""
    rows = []
    for down, up in modules(updates.start):
        before = (updates.start[up].double(), updates.start[down].double())
        after = (updates.adapters[client][up].double(), updates.adapters[client][down].double())
        rows.append(statistics(change_values(before, after)))
        size = sum(before[0].shape) + sum(before[1].shape)
        updates.meter.add(Arithmetic(8.0 * size * before[1].shape[0] ** 2))
    return torch.stack(rows)


def modules(adapter: AdapterState) -> list[tuple[str, str]]:
    """Names of the two factors (A, B) of every module."""
    pairs = (
        (name, name.replace("lora_A", "lora_B")) for name in sorted(adapter) if "lora_A" in name
    )
    return [(down, up) for down, up in pairs if up in adapter]


def change_values(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> Tensor:
    """Singular values of B' A' - B A, largest first, at most 2r.

    Args:
        before: B (outputs, r) and A (r, inputs).
        after: B' and A'.
    """
    left = torch.linalg.qr(torch.cat([after[0], before[0]], dim=1)).R
    right = torch.linalg.qr(torch.cat([after[1], -before[1]], dim=0).T).R
    values: Tensor = torch.linalg.svdvals(left @ right.T)
    return values


def statistics(values: Tensor) -> Tensor:
    """The five statistics of singular values, in the order of `STATISTICS`."""
    energy = (values**2).sum()
    if energy <= TINY:
        return torch.tensor([_log(energy.sqrt()), _log(energy.sqrt()), 0.0, 0.0, 0.0]).double()
    shares = values**2 / energy
    entropy = -(shares * shares.clamp(min=TINY).log()).sum()
    centred = values - values.mean()
    kurtosis = (centred**4).mean() / (centred**2).mean().clamp(min=TINY) ** 2
    parts = [values[0].clamp(min=TINY).log(), energy.sqrt().log(), shares[0], entropy, kurtosis]
    return torch.stack(parts)


def _log(value: Tensor) -> float:
    return float(value.clamp(min=TINY**0.5).log())


def deviations(all_statistics: Tensor) -> Tensor:
    """A score of each client from the statistics of all, (clients, modules, 5)."""
    middle = all_statistics.quantile(0.5, dim=0)
    apart = (all_statistics - middle).abs()
    spread = torch.maximum(1.4826 * apart.quantile(0.5, dim=0), FLOORS)
    return (apart / spread).clamp(max=LARGEST).square().mean(dim=2).sqrt().mean(dim=1)


def _reason(_updates: RoundUpdates, values: Values, client: str) -> str:
    return (
        f"the singular values of its modules lie {values[client]:.1f} spreads from the round's"
        f" median, others {others(values, client):.1f}"
    )
