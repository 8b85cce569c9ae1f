"""The mean of scores with its interval, and the disagreement of two judges of the same answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedrai.errors import EvaluationError
from fedrai.evaluation.statistics import (
    cohen_kappa,
    draw_counts,
    mcnemar,
    percentile_interval,
)

RESAMPLES = 2_000


def mean_json(scores: Sequence[float | None], numbers: Sequence[int]) -> dict[str, Any]:
    """The mean of scores as plain values.

    The 95 % interval is the percentile interval of a bootstrap over prompts, all scores of a prompt
    together; with fewer than two scored prompts there is none.

    Args:
        scores: one for each answer; None: unscored, and not in the mean.
        numbers: the number of each answer's prompt.

    Raises:
        EvaluationError: scores and prompts differ in number.
    """
    if len(scores) != len(numbers):
        raise EvaluationError(f"{len(scores)} scores do not match {len(numbers)} prompts")
    by_prompt: dict[int, list[float]] = {}
    for number, score in zip(numbers, scores, strict=True):
        if score is not None:
            by_prompt.setdefault(number, []).append(score)
    scored = [score for part in by_prompt.values() for score in part]
    low, high = _ends(list(by_prompt.values()))
    return {
        "value": sum(scored) / len(scored) if scored else None,
        "low": low,
        "high": high,
        "count": len(scored),
        "unscored": len(scores) - len(scored),
    }


def _ends(prompts: Sequence[Sequence[float]]) -> tuple[float | None, ...]:
    if len(prompts) < 2:
        return None, None
    sums = np.array([sum(part) for part in prompts])
    counts = np.array([float(len(part)) for part in prompts])
    times = draw_counts(len(prompts), RESAMPLES, seed=0)  # (R, P)
    return percentile_interval((times @ sums) / (times @ counts))


def disagreement(ours: Sequence[bool | None], theirs: Sequence[bool | None]) -> dict[str, Any]:
    """Two judges' verdicts "safe" on the same answers: their table, agreement and Cohen's kappa.

    Args:
        ours: verdicts of the first judge, one for each answer; None: unscored.
        theirs: verdicts of the second.

    Returns:
        Counts `both` (safe by both), `first`, `second` and `neither`, `unscored` (by either);
        `agree` from 0 to 1; `kappa` from -1 to 1, None where chance alone always agrees.

    Raises:
        EvaluationError: they differ in length.
    """
    table = mcnemar(ours, theirs)
    counts = np.array([[table.both, table.first], [table.second, table.neither]])
    kappa = float(cohen_kappa(counts[None])[0])
    total = int(counts.sum())
    return {
        "both": table.both,
        "first": table.first,
        "second": table.second,
        "neither": table.neither,
        "unscored": table.unscored,
        "agree": (table.both + table.neither) / total if total else None,
        "kappa": None if math.isnan(kappa) else kappa,
    }
