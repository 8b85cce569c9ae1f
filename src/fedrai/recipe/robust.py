"""The number of updates that a robust rule needs, compared with those that arrived.

With fewer updates than its paper requires, a rule still computes a result, but a trimmed mean that
cuts nothing, a median of two, or Multi-Krum that selects all is a plain mean, which one client can
move anywhere. Sources: trimmed mean and median, Yin et al. (arXiv 1803.01498); Krum and Multi-Krum,
Blanchard et al. (NeurIPS 2017), n >= 2f + 3; Bulyan, El Mhamdi et al. (arXiv 1802.07927),
n >= 4f + 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def update_count_problem(algorithm: str, settings: Mapping[str, Any], count: int) -> str:
    """Why this number of updates does not suffice; empty: it does, or the rule is not robust.

    Args:
        algorithm: name of the rule in the recipe.
        settings: `malicious`, `trim` and `selected` of the recipe.
        count: number of updates to aggregate.
    """
    f, check = settings.get("malicious", 0), _CHECKS.get(algorithm)
    return check(settings, f, count) if check else ""


def _median(settings: Mapping[str, Any], f: int, count: int) -> str:
    needed = max(3, 2 * f + 1)
    return _too_few("median", f or 1, needed, count)


def _trimmed_mean(settings: Mapping[str, Any], f: int, count: int) -> str:
    trim = settings["trim"]
    cut = int(trim * count)
    if cut < 1:
        return f"aggregation.trim = {trim} cuts nothing from {count} updates"
    if cut < f:
        return (
            f"aggregation.trim = {trim} cuts {cut} of {count} updates at each end, fewer than"
            f" aggregation.malicious = {f}"
        )
    return ""


def _krum(settings: Mapping[str, Any], f: int, count: int) -> str:
    return _too_few("krum", f, 2 * f + 3, count)


def _multi_krum(settings: Mapping[str, Any], f: int, count: int) -> str:
    selected, most = settings["selected"], count - max(f, 1)
    if few := _too_few("multi-krum", f, 2 * f + 3, count):
        return few
    if selected > most:
        return (
            f"aggregation.selected = {selected} of {count} updates leaves out fewer than the"
            f" malicious ones; expected {most} at most"
        )
    return ""


def _bulyan(settings: Mapping[str, Any], f: int, count: int) -> str:
    if f < 1:
        return "bulyan with aggregation.malicious = 0 is a plain mean; it needs 1 or more"
    return _too_few("bulyan", f, 4 * f + 3, count)


def _too_few(rule: str, f: int, needed: int, count: int) -> str:
    if count >= needed:
        return ""
    return f"{rule} against {f} malicious updates needs {needed} updates a round"


_CHECKS = {
    "median": _median,
    "trimmed-mean": _trimmed_mean,
    "krum": _krum,
    "multi-krum": _multi_krum,
    "bulyan": _bulyan,
}
