"""A run folder -> what a comparison needs of it: figures, and outcomes prompt by prompt.

Of answers only verdicts are read; prompts become digests, so that runs can be paired without their
texts. Outcomes that do not add up to the figure that the run recorded are not used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import isclose
from pathlib import Path
from statistics import fmean
from typing import Any

from fedrai.assets import checksums
from fedrai.rates import Rate, split_name
from fedrai.report.comparing.layout import PlannedRun
from fedrai.report.measures import OUTSIDE, rate_source, scored_on
from fedrai.runs import RunFolder, record
from fedrai.runs.record import EvaluationRecord, OutsideRecord, RunRecord, Score
from fedrai.runs.record.values import as_number

Outcomes = Mapping[str, float | None]
"""By prompt: 0 or 1 for no or yes, or a score; the mean where a prompt has several answers; None
where nothing was scored."""


@dataclass(frozen=True, slots=True)
class EvaluationOutcomes:
    """One evaluation of a run.

    Attributes:
        evaluation: its recorded figures.
        outcomes: outcomes that add up to the recorded figure, by rate or score.
        repeated: whether prompts were answered several times (local mode: once per client).
        binary: outcomes that are yes or no by definition, such as refusals.
        outside: outcomes of the outside sets, by measure and set; a measure of which a set does not
            add up is left out.
    """

    evaluation: EvaluationRecord
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)
    repeated: bool = False
    binary: frozenset[str] = frozenset()
    outside: Mapping[str, Mapping[str, Outcomes]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run of a comparison.

    Attributes:
        arm: its name.
        seed: seed of its recipe.
        value: value on the axis; empty without one.
        path: its folder.
        run: its record.
        before: the evaluation of what it started from.
        after: its last evaluation after a round.
    """

    arm: str
    seed: int
    value: str
    path: Path
    run: RunRecord
    before: EvaluationOutcomes | None
    after: EvaluationOutcomes | None


def read(plan: Sequence[PlannedRun]) -> list[ComparedRun]:
    """The planned runs that exist.

    Raises:
        RunError: a file of one is damaged.
    """
    return [_read_run(planned) for planned in plan if (planned.path / "run.json").is_file()]


def _read_run(planned: PlannedRun) -> ComparedRun:
    path = planned.path
    run = record.read(RunFolder(path), planned.arm)
    before, after = (_read_outcomes(path, e) if e else None for e in (run.before, run.after))
    return ComparedRun(planned.arm, planned.seed, planned.value, path, run, before, after)


def by_arm(runs: Sequence[ComparedRun]) -> Iterator[tuple[tuple[str, str], list[ComparedRun]]]:
    """Runs by (value of the axis, arm) in their order, each with its seeds in order."""
    groups: dict[tuple[str, str], list[ComparedRun]] = {}
    for run in runs:
        groups.setdefault((run.value, run.arm), []).append(run)
    for key, seeds in groups.items():
        yield key, sorted(seeds, key=lambda run: run.seed)


# --- outcomes -------------------------------------------------------------------------------------


def _read_outcomes(path: Path, evaluation: EvaluationRecord) -> EvaluationOutcomes:
    folder = RunFolder(path).evaluation_folder(evaluation.number)
    sources = {n: source for n in evaluation.rates if (source := rate_source(n)) is not None}
    suites = {s.suite for s in sources.values()} | {scored_on(name) for name in evaluation.scores}
    rows = {suite: _rows(folder / f"{suite}.jsonl") for suite in suites}
    answers: dict[str, AnswerOutcomes | None] = {
        name: _rate_outcomes(rows[source.suite], source.judge, evaluation.rates[name])
        for name, source in sources.items()
    }
    for name, score in evaluation.scores.items():
        answers[name] = _score_outcomes(rows[scored_on(name)], name, score)
    usable = {name: by_prompt for name, by_prompt in answers.items() if by_prompt}
    repeated = any(len(each) > 1 for by_prompt in usable.values() for each in by_prompt.values())
    outcomes = {name: _shares(by_prompt) for name, by_prompt in usable.items()}
    pairs = {name for name in evaluation.scores if _are_pairs(rows[scored_on(name)])}
    return EvaluationOutcomes(
        evaluation,
        outcomes,
        repeated,
        frozenset(evaluation.rates) | pairs,
        _outside_outcomes(folder, evaluation.outside) if evaluation.outside else {},
    )


def _outside_outcomes(folder: Path, outside: OutsideRecord) -> dict[str, Mapping[str, Outcomes]]:
    """By measure and set: the share of each prompt's answers."""
    rows = {name: _rows(folder / f"{name}.jsonl") for name in outside.sets}
    return {
        f"{OUTSIDE}{mean}": {name: _shares(by) for name, by in sets.items()}
        for mean in outside.means
        if (sets := _sets_of(mean, outside, rows))
    }


def _sets_of(
    mean: str, outside: OutsideRecord, rows: Mapping[str, Sequence[AnswerRow]]
) -> dict[str, AnswerOutcomes]:
    """The answers of each set that a macro mean is over; none unless all sets add up."""
    found = {
        name: _rate_outcomes(rows[name], split_name(mean)[1], one.rates[mean])
        for name, one in outside.sets.items()
        if mean in one.rates
    }
    usable = {name: by_prompt for name, by_prompt in found.items() if by_prompt is not None}
    return usable if len(usable) == len(found) else {}


def _shares(by_prompt: AnswerOutcomes) -> Outcomes:
    return {prompt: _mean(each) for prompt, each in by_prompt.items()}


AnswerRow = Mapping[str, Any]
"""Verdicts on an answer, or the likelihoods of a pair of answers; `prompt` is a digest."""
AnswerOutcomes = Mapping[str, Sequence[float | None]]
"""By prompt, the outcome of each of its answers."""
FIELDS = ("reply", "legacy", "guard", "labels", "score", "chosen", "rejected", "chosen_tokens",
          "rejected_tokens")  # fmt: skip


def _rows(file: Path) -> list[AnswerRow]:
    """Rows of a suite; none if one of them cannot be read, so that none is left out silently.

    Raises:
        ChecksumError: the file is not as the run wrote it.
    """
    checksums.check_file(file)
    try:
        bodies = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return [{**{key: b.get(key) for key in FIELDS}, "prompt": _digest(b)} for b in bodies]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _digest(body: Mapping[str, Any]) -> str:
    """Identifies a prompt; pairs have none and go by their number."""
    text = str(body.get("prompt", ""))
    return f"{int(body['number'])}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"


def _by_prompt(
    rows: Sequence[AnswerRow], outcomes: Sequence[float | None]
) -> AnswerOutcomes | None:
    by_prompt: dict[str, list[float | None]] = {}
    for row, outcome in zip(rows, outcomes, strict=True):
        by_prompt.setdefault(row["prompt"], []).append(outcome)
    return by_prompt or None


def _mean(outcomes: Sequence[float | None]) -> float | None:
    scored = [outcome for outcome in outcomes if outcome is not None]
    return fmean(scored) if scored else None


# --- rates ----------------------------------------------------------------------------------------


def _rate_outcomes(rows: Sequence[AnswerRow], judge: str, recorded: Rate) -> AnswerOutcomes | None:
    """A judge's verdicts by prompt; None if they do not add up to the recorded rate."""
    outcomes = (
        _JUDGES[judge](rows, recorded) if judge in _JUDGES else _installed_refusals(rows, judge)
    )
    scored = [outcome for outcome in outcomes if outcome is not None]
    same = (sum(scored), len(scored)) == (recorded.successes, recorded.scored)
    return _by_prompt(rows, outcomes) if same else None


def _rule(rows: Sequence[AnswerRow], _recorded: Rate) -> list[bool | None]:
    replies = [row["reply"] for row in rows]
    return [reply == "refusal" if reply in ("refusal", "compliance") else None for reply in replies]


def _legacy(rows: Sequence[AnswerRow], _recorded: Rate) -> list[bool | None]:
    return [row["legacy"] if isinstance(row["legacy"], bool) else None for row in rows]


def _guard(rows: Sequence[AnswerRow], recorded: Rate) -> list[bool | None]:
    """By the guard: the least harmful answers are safe, as many as the run recorded."""
    scores = [as_number(row["guard"]) for row in rows]
    ordered = sorted(score for score in scores if score is not None)
    highest = ordered[recorded.successes - 1] if 0 < recorded.successes <= len(ordered) else -1.0
    return [None if score is None else score <= highest for score in scores]


def _installed_refusals(rows: Sequence[AnswerRow], judge: str) -> list[bool | None]:
    """By a judge of an installed package: whether an answer is a refusal, full or partial."""
    labels = [(row["labels"] or {}).get(judge) for row in rows]
    return [None if label is None else label != "compliance" for label in labels]


_JUDGES: Mapping[str, Callable[[Sequence[AnswerRow], Rate], list[bool | None]]] = {
    "rule": _rule,
    "legacy": _legacy,
    "guard": _guard,
}


# --- scores ---------------------------------------------------------------------------------------


def _score_outcomes(rows: Sequence[AnswerRow], name: str, recorded: Score) -> AnswerOutcomes | None:
    """A score by prompt, or by pair; None if it does not add up to the recorded one."""
    pairs = _are_pairs(rows)
    by_token = name.endswith("-normalised")
    outcomes = [
        _prefers_chosen(row, by_token) if pairs else as_number(row["score"]) for row in rows
    ]
    scored = [value for value in outcomes if value is not None]
    same = bool(scored) and len(scored) == recorded.count and isclose(fmean(scored), recorded.value)
    return _by_prompt(rows, outcomes) if same else None


def _are_pairs(rows: Sequence[AnswerRow]) -> bool:
    return any(row["chosen_tokens"] is not None for row in rows)


def _prefers_chosen(row: AnswerRow, by_token: bool) -> float | None:
    """Whether the better of two answers is likelier, as a whole or by token."""
    chosen, rejected = (as_number(row[key]) for key in ("chosen", "rejected"))
    if chosen is None or rejected is None:
        return None
    if by_token:
        chosen, rejected = chosen / row["chosen_tokens"], rejected / row["rejected_tokens"]
    return float(chosen > rejected)
