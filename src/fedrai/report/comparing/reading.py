"""A run folder -> what a comparison takes from it: figures, and outcomes prompt by prompt.

Of answers only the judges' words are kept; prompts become digests, so that runs can be paired
without their texts. Outcomes that do not add up to the figure that the run recorded are not used.
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
from fedrai.rates import Rate
from fedrai.report.comparing.layout import PlannedRun
from fedrai.report.measures import counted, scored_on
from fedrai.runs import RunFolder, record
from fedrai.runs.record import EvaluationRecord, RunRecord, Score
from fedrai.runs.record.values import as_number

Outcomes = Mapping[str, float | None]
"""By prompt: whether it happened, 0 or 1, or its score; the mean of its answers where there are
several; None: not scored."""


@dataclass(frozen=True, slots=True)
class EvaluationOutcomes:
    """One evaluation of a run.

    Attributes:
        figures: what it recorded.
        outcomes: by rate or score, those that add up to it.
        repeated: whether prompts were answered several times (local mode: once a client).
        counted: those of the outcomes that are yes or no by what they are, such as refusals.
    """

    figures: EvaluationRecord
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)
    repeated: bool = False
    counted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ComparedRun:
    """A run of a comparison and what came of it.

    Attributes:
        arm: its name.
        seed: of its recipe.
        value: of the axis; empty without one.
        path: its folder.
        run: as a report reads it.
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
    """The runs of a comparison that exist.

    Raises:
        RunError: a file of one is damaged.
    """
    there = [entry for entry in plan if (entry.path / "run.json").is_file()]
    return [_made(entry.arm, entry.seed, entry.value, entry.path) for entry in there]


def _made(arm: str, seed: int, value: str, path: Path) -> ComparedRun:
    run = record.read(RunFolder(path), arm)
    before, after = (_taken(path, found) for found in (run.before, run.after))
    return ComparedRun(arm, seed, value, path, run, before, after)


def _taken(path: Path, figures: EvaluationRecord | None) -> EvaluationOutcomes | None:
    if figures is None:
        return None
    folder = RunFolder(path).evaluation_folder(figures.number)
    sources = {name: source for name in figures.rates if (source := counted(name)) is not None}
    suites = {c.suite for c in sources.values()} | {scored_on(name) for name in figures.scores}
    rows = {suite: _rows(folder / f"{suite}.jsonl") for suite in suites}
    found: dict[str, Judged | None] = {
        name: _judged(rows[source.suite], source.judge, figures.rates[name])
        for name, source in sources.items()
    }
    for name, score in figures.scores.items():
        found[name] = _valued(rows[scored_on(name)], name, score)
    known = {name: judged for name, judged in found.items() if judged}
    repeated = any(len(seen) > 1 for judged in known.values() for seen in judged.values())
    outcomes = {n: {p: _mean(seen) for p, seen in judged.items()} for n, judged in known.items()}
    pairs = {name for name in figures.scores if _are_pairs(rows[scored_on(name)])}
    return EvaluationOutcomes(figures, outcomes, repeated, frozenset(figures.rates) | pairs)


Row = Mapping[str, Any]
"""What judges said of an answer, or how likely a pair of answers is; `prompt` is a digest."""
Judged = Mapping[str, Sequence[float | None]]
"""By prompt, what became of each of its answers."""
KEPT = ("reply", "legacy", "guard", "labels", "score", "chosen", "rejected", "chosen_tokens",
        "rejected_tokens")  # fmt: skip


def _rows(file: Path) -> list[Row]:
    """Rows of a suite; none where one cannot be read, so that none is left out in silence.

    Raises:
        ChecksumError: the file is not what the run wrote.
    """
    checksums.check_file(file)
    try:
        bodies = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return [{**{k: b.get(k) for k in KEPT}, "prompt": _digest(b)} for b in bodies]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _digest(body: Mapping[str, Any]) -> str:
    """Which prompt it is; pairs have none and go by their number."""
    text = str(body.get("prompt", ""))
    return f"{int(body['number'])}-{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"


def _by_prompt(rows: Sequence[Row], says: Sequence[float | None]) -> Judged | None:
    found: dict[str, list[float | None]] = {}
    for row, outcome in zip(rows, says, strict=True):
        found.setdefault(row["prompt"], []).append(outcome)
    return found or None


def _judged(rows: Sequence[Row], judge: str, recorded: Rate) -> Judged | None:
    """What a judge made of each prompt's answers; None where that is not what was recorded."""
    says = _VERDICTS[judge](rows, recorded) if judge in _VERDICTS else _installed(rows, judge)
    known = [outcome for outcome in says if outcome is not None]
    same = (sum(known), len(known)) == (recorded.successes, recorded.scored)
    return _by_prompt(rows, says) if same else None


def _rule(rows: Sequence[Row], _recorded: Rate) -> list[bool | None]:
    replies = [row["reply"] for row in rows]
    return [reply == "refusal" if reply in ("refusal", "compliance") else None for reply in replies]


def _legacy(rows: Sequence[Row], _recorded: Rate) -> list[bool | None]:
    return [row["legacy"] if isinstance(row["legacy"], bool) else None for row in rows]


def _guard(rows: Sequence[Row], recorded: Rate) -> list[bool | None]:
    """Safe are the least harmful answers, as many as were recorded: a threshold parts them."""
    found = [as_number(row["guard"]) for row in rows]
    known = sorted(p for p in found if p is not None)
    most = known[recorded.successes - 1] if 0 < recorded.successes <= len(known) else -1.0
    return [None if p is None else p <= most for p in found]


def _installed(rows: Sequence[Row], judge: str) -> list[bool | None]:
    """By a judge of an installed package: whether an answer is a refusal, full or partial."""
    labels = [(row["labels"] or {}).get(judge) for row in rows]
    return [None if label is None else label != "compliance" for label in labels]


_VERDICTS: Mapping[str, Callable[[Sequence[Row], Rate], list[bool | None]]] = {
    "rule": _rule,
    "legacy": _legacy,
    "guard": _guard,
}


def _valued(rows: Sequence[Row], name: str, recorded: Score) -> Judged | None:
    """A score answer by answer, or pair by pair; None where that is not what was recorded."""
    pairs = _are_pairs(rows)
    by_token = name.endswith("-normalised")
    says = [_right(row, by_token) if pairs else as_number(row["score"]) for row in rows]
    known = [value for value in says if value is not None]
    same = len(known) == recorded.count and bool(known)
    return _by_prompt(rows, says) if same and isclose(fmean(known), recorded.value) else None


def _are_pairs(rows: Sequence[Row]) -> bool:
    return any(row["chosen_tokens"] is not None for row in rows)


def _right(row: Row, by_token: bool) -> float | None:
    """Whether the better of two answers is the likelier one, as a whole or by token."""
    better, worse = (as_number(row[key]) for key in ("chosen", "rejected"))
    if better is None or worse is None:
        return None
    if by_token:
        better, worse = better / row["chosen_tokens"], worse / row["rejected_tokens"]
    return float(better > worse)


def _mean(seen: Sequence[float | None]) -> float | None:
    known = [outcome for outcome in seen if outcome is not None]
    return fmean(known) if known else None


def by_arm(runs: Sequence[ComparedRun]) -> Iterator[tuple[tuple[str, str], list[ComparedRun]]]:
    """Runs by (value of the axis, arm) in their order, each with its seeds in order."""
    found: dict[tuple[str, str], list[ComparedRun]] = {}
    for made in runs:
        found.setdefault((made.value, made.arm), []).append(made)
    for key, seeds in found.items():
        yield key, sorted(seeds, key=lambda made: made.seed)
