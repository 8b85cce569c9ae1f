"""How many updates a robust rule needs to be more than a mean; held against those that came.

A rule that gets fewer than its paper asks for still computes something: a trimmed mean that cuts
nothing, a median of two, Multi-Krum that selects all are plain means, which one client can move
anywhere. Sources: trimmed mean and median, Yin et al. (arXiv 1803.01498); Krum and Multi-Krum,
Blanchard et al. (NeurIPS 2017), n >= 2f + 3; Bulyan, El Mhamdi et al. (arXiv 1802.07927),
n >= 4f + 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def objection(algorithm: str, settings: Mapping[str, Any], came: int) -> str:
    """Why a rule cannot withstand anything with so many updates; empty if it can, or never claims to.

    Args:
        algorithm: its name in the recipe.
        settings: `malicious`, `trim` and `selected`, as the recipe has them.
        came: updates that are aggregated.
    """
    f, check = settings.get("malicious", 0), _CHECKS.get(algorithm)
    return check(settings, f, came) if check else ""


def _median(settings: Mapping[str, Any], f: int, came: int) -> str:
    needed = max(3, 2 * f + 1)
    return _too_few("median", f or 1, needed, came)


def _trimmed(settings: Mapping[str, Any], f: int, came: int) -> str:
    trim = settings["trim"]
    cut = int(trim * came)
    if cut < 1:
        return f"aggregation.trim = {trim} cuts nothing from {came} updates"
    if cut < f:
        return (
            f"aggregation.trim = {trim} cuts {cut} of {came} updates at each end, and"
            f" aggregation.malicious = {f} may be there"
        )
    return ""


def _krum(settings: Mapping[str, Any], f: int, came: int) -> str:
    return _too_few("krum", f, 2 * f + 3, came)


def _multi_krum(settings: Mapping[str, Any], f: int, came: int) -> str:
    selected, most = settings["selected"], came - max(f, 1)
    if few := _too_few("multi-krum", f, 2 * f + 3, came):
        return few
    if selected > most:
        return (
            f"aggregation.selected = {selected} of {came} updates leaves out fewer than the"
            f" malicious ones; {most} at most"
        )
    return ""


def _bulyan(settings: Mapping[str, Any], f: int, came: int) -> str:
    if f < 1:
        return "bulyan with aggregation.malicious = 0 is a plain mean; it needs 1 or more"
    return _too_few("bulyan", f, 4 * f + 3, came)


def _too_few(rule: str, f: int, needed: int, came: int) -> str:
    if came >= needed:
        return ""
    return f"{rule} against {f} malicious updates needs {needed} updates a round"


_CHECKS = {
    "median": _median,
    "trimmed-mean": _trimmed,
    "krum": _krum,
    "multi-krum": _multi_krum,
    "bulyan": _bulyan,
}
