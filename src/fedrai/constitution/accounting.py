"""The account of one round's alignment: counts and costs as plain values, no text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fedrai.constitution.diversity import diversity
from fedrai.constitution.material import Material
from fedrai.constitution.mixture import Mixture, epoch_steps
from fedrai.constitution.records import Outcome, Request
from fedrai.constitution.spending import Spending
from fedrai.constitution.tools import PhaseTools
from fedrai.constitution.training import TrainingOutcome
from fedrai.recipe.alignment import Alignment
from fedrai.runs.costs import Cost, peak_bytes


def material_counts(material: Material) -> dict[str, Any]:
    """Counts of the revisions and harmless answers of a round."""
    records = material.records
    revisions = [r.accepted for r in records if r.accepted]
    tries = Counter(str(r.tries) for r in records if r.outcome is Outcome.KEPT)
    mining = {"mining": {side: dict(counts) for side, counts in material.mining.items()}}
    return {
        **(mining if material.mining else {}),
        "requests": len(records),
        "kept": len(revisions),
        "yield": len(revisions) / len(records) if records else None,
        "outcomes": {o.value: sum(r.outcome is o for r in records) for o in Outcome},
        "failed_tries": {o.value: sum(r.failed.count(o) for r in records) for o in Outcome},
        "tries": dict(sorted(tries.items())),
        "diversity": diversity(revisions) if revisions else None,
        "harmless": {
            "requests": len(material.harmless),
            "answered": sum(a.answer is not None for a in material.harmless),
            "needless_refusals": sum(a.refused is not None for a in material.harmless),
        },
    }


def without_time(result: dict[str, Any] | None) -> dict[str, Any] | None:
    """The figures of a probe, except those that differ from run to run."""
    return None if result is None else {k: v for k, v in result.items() if k != "seconds"}


def mixture_counts(mixture: Mixture, missing: Sequence[str]) -> dict[str, Any]:
    """Counts of the training data.

    Args:
        mixture: rows and pairs.
        missing: kinds of pairs that have a share but no item.
    """
    body = mixture.to_json()
    return {"kinds": body.pop("parts"), **body, "pairs_left_out": list(missing)}


def cost_figures(cost: Cost) -> dict[str, float]:
    """The reproducible figures of a cost, to nine digits: sums in another order differ by less."""
    return {"tokens": cost.tokens, "operations": float(f"{cost.operations:.9g}")}


def full_operations(
    section: Alignment,
    tools: PhaseTools,
    material: Material,
    mixture: Mixture,
    outcome: TrainingOutcome,
) -> float | None:
    """Estimate the operations of one epoch with fresh generation for all requests.

    Each request, answer and step is assumed to cost the mean of those of the material. Mining costs
    the same once more, and an epoch takes no more requests than its pools hold.

    Returns:
        None if no step was taken.
    """
    if not outcome.steps:
        return None
    names = ("mining", "revisions", "harmless")
    spent = {name: material.spent.get(name, Cost()).operations for name in names}
    records, answers = max(1, len(material.records)), max(1, len(material.harmless))
    training = outcome.operations / outcome.steps * _epoch(section, tools, material, mixture)
    revisions = spent["revisions"] / records * _request_count(tools.pool, material, "harmful")
    others = _request_count(tools.requests.harmless, material, "harmless")
    harmless = spent["harmless"] / answers * others
    return float(f"{spent['mining'] + revisions + harmless + training:.9g}")


def _request_count(requests: Sequence[Request], material: Material, side: str) -> int:
    """Requests of a side that an epoch takes."""
    counts = material.mining.get(side)
    return min(len(requests), counts["pool"]) if counts else len(requests)


def _epoch(section: Alignment, tools: PhaseTools, material: Material, mixture: Mixture) -> int:
    """Steps that go through the revisions of all requests, or their pairs if there are no rows."""
    mix = section.mix
    times = _request_count(tools.pool, material, "harmful") / max(1, len(material.records))
    revisions = sum(bool(record.accepted) for record in material.records)
    if mix.rows * mix.refusals:
        return epoch_steps(mix, revisions * times, len(tools.examples))
    pairs = mixture.parts["harmful-pairs"].items * times if mixture.pairs else 0
    share = mix.pairs * (1 - section.harmless_pairs)
    return math.ceil(pairs / share - 1e-9) if pairs and share and not mix.rows else section.steps


def total(spending: Spending, names: set[str] | None = None) -> Cost:
    """The cost of some parts, or all, with the peak memory of the process."""
    parts = [cost for name, cost in spending.parts.items() if names is None or name in names]
    whole = sum(parts, Cost())
    return Cost(whole.seconds, whole.tokens, whole.operations, peak_bytes())
