"""Outcomes of arms and seeds, prompt by prompt, and what they say about the arms. Pure: no model.

A difference of two arms is taken prompt by prompt and seed by seed; its interval is the bootstrap
of `fedrai.evaluation.bootstrap`, over seeds and prompts. With one seed it speaks of prompts only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from fedrai.errors import EvaluationError
from fedrai.evaluation.bootstrap import DEFAULT, Outcomes, Resampling, paired_difference
from fedrai.rates import Rate, rate, rate_json

MEASURES = {  # heading, and the suite whose prompts it is counted on
    "safe": ("AdvBench safe, rule", "advbench"),
    "safe-legacy": ("AdvBench safe, legacy", "advbench"),
    "safe-guard": ("AdvBench safe, guard", "advbench"),
    "xstest-refused": ("XSTest safe refused", "xstest-safe"),
    "xstest-unsafe-refused": ("XSTest unsafe refused", "xstest-unsafe"),
    "refused": ("ordinary refused", "ordinary"),
}


@dataclass(frozen=True, slots=True)
class Result:
    """One model, measured.

    Attributes:
        arm: what it is an example of.
        seed: of its run.
        outcomes: by measure, one for each prompt in the suite's order; None: not scored.
        kinds: kind of each of XSTest's safe prompts.
        prompts: SHA-256 of each suite's prompts; tells whether two models were asked the same.
        held_out_loss: in nats per label token.
        about: round, adapter, guard and settings.
    """

    arm: str
    seed: int
    outcomes: Mapping[str, Outcomes]
    kinds: Sequence[str]
    prompts: Mapping[str, str]
    held_out_loss: float
    about: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the rates and their Wilson intervals."""
        rates = {name: rate_json(rate(found)) for name, found in self.outcomes.items()}
        kinds = {kind: rate_json(found) for kind, found in by_kind(self).items()}
        return {**asdict(self), "rates": rates, "xstest-refused-by-kind": kinds}


def load_results(files: Sequence[Path]) -> list[Result]:
    """The results in files that `evaluate` wrote.

    Raises:
        EvaluationError: a file cannot be read, or an arm has a seed twice.
    """
    keys = list(Result.__dataclass_fields__)
    found = []
    for file in files:
        try:
            models = json.loads(file.read_text(encoding="utf-8"))["models"]
            found += [Result(**{key: model[key] for key in keys}) for model in models]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{file} holds no results of `evaluate` ({type(error).__name__})"
            ) from error
    seen: set[tuple[str, int]] = set()
    for result in found:
        if (result.arm, result.seed) in seen:
            raise EvaluationError(f"{result.arm} has seed {result.seed} twice")
        seen.add((result.arm, result.seed))
    return found


def by_kind(result: Result) -> dict[str, Rate]:
    """How often XSTest's safe prompts were refused, by kind, in the suite's order."""
    kinds: dict[str, list[bool | None]] = {}
    for kind, outcome in zip(result.kinds, result.outcomes["xstest-refused"], strict=True):
        kinds.setdefault(kind, []).append(outcome)
    return {kind: rate(outcomes) for kind, outcomes in kinds.items()}


# --- differences ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """Ours less theirs, in points, with a 95 % interval."""

    points: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        return f"{self.points:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def difference(
    ours: Sequence[Outcomes],
    theirs: Sequence[Outcomes],
    resamples: int = DEFAULT.resamples,
    seed: int = 0,
) -> Difference | None:
    """The mean difference of two arms over the prompts that are scored in both.

    Args:
        ours: outcomes by seed and prompt, (S, P).
        theirs: the same seeds and prompts, (S, P).
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The difference; None where no prompt was scored in both.
    """
    estimate = paired_difference(ours, theirs, Resampling(resamples=resamples, seed=seed))
    if estimate is None:
        return None
    points = [100 * value for value in (estimate.value, estimate.low, estimate.high)]
    return Difference(*points, estimate.seeds)


# --- tables ---------------------------------------------------------------------------------------


def rates_table(results: Sequence[Result]) -> str:
    """Every model by itself: rates in % with 95 % Wilson intervals."""
    rows = []
    for result in results:
        rates = [rate(result.outcomes[name]) for name in MEASURES]
        cells = [r.format() + (f", {r.unscored} unscored" if r.unscored else "") for r in rates]
        rows.append([result.arm, str(result.seed), *cells, f"{result.held_out_loss:.4f}"])
    return markdown(["arm", "seed", *_headings(), "held-out loss"], rows)


def kinds_table(results: Sequence[Result]) -> str:
    """XSTest's safe prompts refused, by kind: k/n of every model."""
    kinds = list(dict.fromkeys(kind for result in results for kind in by_kind(result)))
    rows = []
    for result in results:
        found = by_kind(result)
        cells = [f"{found[k].successes}/{found[k].scored}" if k in found else "" for k in kinds]
        rows.append([result.arm, str(result.seed), *cells])
    return markdown(["arm", "seed", *kinds], rows)


def arms_table(results: Sequence[Result]) -> str:
    """Arms: the mean over seeds in %, and each seed."""
    rows = []
    for arm, seeds in _arms(results).items():
        cells = [_cell([rate(r.outcomes[name]).value for r in seeds.values()]) for name in MEASURES]
        losses = [r.held_out_loss for r in seeds.values()]
        loss = f"{fmean(losses):.4f} ({', '.join(f'{x:.4f}' for x in losses)})"
        rows.append([arm, ", ".join(map(str, seeds)), *cells, loss])
    return markdown(["arm", "seeds", *_headings(), "held-out loss"], rows)


def _cell(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if len(known) < len(values) or not known:
        return "no data"
    return f"{fmean(known):.1f} ({', '.join(f'{value:.1f}' for value in known)})"


def differences_table(
    results: Sequence[Result], against: str, resamples: int = DEFAULT.resamples, seed: int = 0
) -> str:
    """Every arm less another, in points with 95 % bootstrap intervals; the loss in % of theirs.

    Raises:
        EvaluationError: there is no such arm, or two models were asked different things.
    """
    arms = _arms(results)
    if against not in arms:
        raise EvaluationError(f"no results of an arm {against}", hint=f"there are: {list(arms)}")
    rows = []
    for arm, found in arms.items():
        shared = [s for s in found if s in arms[against]]
        if arm != against and not shared:
            rows.append([arm, "none shared", *["" for _ in MEASURES], ""])
        elif arm != against:
            pairs = [(found[s], arms[against][s]) for s in shared]
            rows.append([arm, ", ".join(map(str, shared)), *_gaps(pairs, resamples, seed)])
    return markdown([f"less {against}", "seeds", *_headings(), "held-out loss"], rows)


def _gaps(pairs: Sequence[tuple[Result, Result]], resamples: int, seed: int) -> list[str]:
    cells = []
    for name, (_, suite) in MEASURES.items():
        if len({r.prompts[suite] for pair in pairs for r in pair}) > 1:
            raise EvaluationError(
                f"{pairs[0][0].arm} and {pairs[0][1].arm} were asked different {suite} prompts"
            )
        ours, theirs = ([pair[i].outcomes[name] for pair in pairs] for i in (0, 1))
        cells.append(str(difference(ours, theirs, resamples, seed) or "no data"))
    changes = [100 * (a.held_out_loss / b.held_out_loss - 1) for a, b in pairs]
    return [*cells, f"{fmean(changes):+.1f} % ({', '.join(f'{c:+.1f}' for c in changes)})"]


def _arms(results: Sequence[Result]) -> dict[str, dict[int, Result]]:
    """Results by arm, in their order, and by seed, sorted."""
    arms: dict[str, dict[int, Result]] = {}
    for result in results:
        arms.setdefault(result.arm, {})[result.seed] = result
    return {arm: dict(sorted(seeds.items())) for arm, seeds in arms.items()}


def _headings() -> list[str]:
    return [heading for heading, _ in MEASURES.values()]


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
