"""The account of one round's alignment: counts and costs as plain values, no text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fedrai.constitution.diversity import diversity
from fedrai.constitution.material import Material, Spending
from fedrai.constitution.mixture import Mixture
from fedrai.constitution.plan import PhaseTools, Plan
from fedrai.constitution.records import TRAINED, Outcome
from fedrai.constitution.training import TrainingOutcome
from fedrai.runs.costs import Cost, peak_bytes


def account(found: Material, reused: bool) -> dict[str, Any]:
    """What the revisions and harmless answers of a round are like.

    Args:
        found: the material.
        reused: whether an earlier round made it.
    """
    records = found.records
    kept = [r.revision for r in records if r.outcome in TRAINED and r.revision]
    tries = Counter(str(r.tries) for r in records if r.outcome is Outcome.KEPT)
    return {
        "reused": reused,
        "requests": len(records),
        "kept": len(kept),
        "yield": len(kept) / len(records) if records else None,
        "outcomes": {o.value: sum(r.outcome is o for r in records) for o in Outcome},
        "failed_tries": {o.value: sum(r.failed.count(o) for r in records) for o in Outcome},
        "tries": dict(sorted(tries.items())),
        "diversity": diversity(kept).to_json() if kept else None,
        "harmless": {
            "requests": len(found.harmless),
            "answered": sum(a.answer is not None for a in found.harmless),
            "needless_refusals": sum(a.refused is not None for a in found.harmless),
        },
    }


def without_time(probed: dict[str, Any] | None) -> dict[str, Any] | None:
    """A probe's figures but those that differ from run to run."""
    return None if probed is None else {k: v for k, v in probed.items() if k != "seconds"}


def composed(mixed: Mixture, missing: Sequence[str]) -> dict[str, Any]:
    """What was trained on.

    Args:
        mixed: rows and pairs.
        missing: kinds of pairs that were wanted and of which there was none.
    """
    body = mixed.to_json()
    return {"kinds": body.pop("parts"), **body, "pairs_left_out": list(missing)}


def counted(cost: Cost) -> dict[str, float]:
    """What every repetition gives, to nine digits: sums in another order differ by less."""
    return {"tokens": cost.tokens, "operations": float(f"{cost.operations:.9g}")}


def full_operations(
    plan: Plan, tools: PhaseTools, found: Material, mixed: Mixture, trained: TrainingOutcome
) -> float | None:
    """Estimate the operations of one epoch with fresh generation for all requests.

    Each request, answer and step is taken to cost what those at hand did when they were made.

    Returns:
        None where no step was taken, which then tells nothing.
    """
    if not trained.steps:
        return None
    made = {name: found.spent.get(name, Cost()).operations for name in ("revisions", "harmless")}
    asked, answered = max(1, len(found.records)), max(1, len(found.harmless))
    training = trained.operations / trained.steps * _epoch(plan, tools, found, mixed)
    revisions = made["revisions"] / asked * len(tools.pool)
    answers = made["harmless"] / answered * len(tools.gathered.harmless)
    return float(f"{revisions + answers + training:.9g}")


def _epoch(plan: Plan, tools: PhaseTools, found: Material, mixed: Mixture) -> int:
    """Steps that go through the revisions of all requests, or their pairs where those are all."""
    times = len(tools.pool) / max(1, len(found.records))
    kept = sum(record.outcome in TRAINED for record in found.records)
    if each := plan.rows * plan.refusals:
        return math.ceil((kept * times + len(tools.examples)) / each - 1e-9)
    pairs = mixed.parts["harmful-pairs"].items * times if mixed.pairs else 0
    share = plan.pairs * (1 - plan.harmless_pairs)
    return math.ceil(pairs / share - 1e-9) if pairs and share and not plan.rows else plan.steps


def total(spending: Spending, names: set[str] | None = None) -> Cost:
    """The cost of some parts, or all, with the peak memory of the process."""
    parts = [cost for name, cost in spending.parts.items() if names is None or name in names]
    whole = sum(parts, Cost())
    return Cost(whole.seconds, whole.tokens, whole.operations, peak_bytes())
