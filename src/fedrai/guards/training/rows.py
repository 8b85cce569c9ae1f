"""Labelled rows for `fedrai guard train`: read, checked, and divided into training and held-out.

A row may have a label for its request, for its answer, or both; labels are 0 to 1, so that a noisy
source can say how far it is to be trusted. Errors name a row by file and line, never by its text.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedrai import data
from fedrai.errors import DataError, GuardError
from fedrai.guards.base import Conversation
from fedrai.guards.columns import answers_of, printable
from fedrai.guards.kinds.framing import ANSWER, REQUEST
from fedrai.recipe.sections import GuardTraining, seed_for
from fedrai.records import Message

SURE = 0.25  # a label nearer to 0.5 than this says too little to measure by


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A conversation with its label.

    Attributes:
        conversation: a request, or a request and its answer.
        unsafe: 0 (safe) to 1 (unsafe).
        category: hazard category; empty if none.
        source: where it comes from, for caps and weights.
        development: whether it only calibrates and measures.
    """

    conversation: Conversation
    unsafe: float
    category: str
    source: str
    development: bool = False

    @property
    def row(self) -> int:
        """The row of the head that judges it."""
        return REQUEST if self.conversation[-1].role == "user" else ANSWER

    @property
    def bad(self) -> bool:
        """Whether it counts as unsafe where that is a yes or no."""
        return self.unsafe > 0.5


def read(settings: GuardTraining) -> list[TrainingRow]:
    """The labelled rows of a recipe, those for development last.

    Raises:
        DataError: a file cannot be read, or holds no labelled row.
    """
    if not settings.rows:
        raise DataError(
            "rows is empty: name at least one file of labelled rows", hint='rows = ["rows.jsonl"]'
        )
    labelled = _labelled(settings.rows, settings)
    aside = _labelled(settings.development, settings)
    return [*labelled, *(replace(row, development=True) for row in aside)]


def _labelled(specs: Sequence[str], settings: GuardTraining) -> list[TrainingRow]:
    labelled: list[TrainingRow] = []
    for spec in specs:
        before = len(labelled)
        for origin, row in data.rows(spec):
            if isinstance(row, str):
                raise DataError(f"{origin}: {row}")
            labelled += _training_rows(row, origin, settings)
        if len(labelled) == before:
            raise DataError(
                f"{spec} holds no labelled row",
                hint=f"expected prompt and {settings.prompt_label} (or response and"
                f" {settings.pair_label}); prompt_label and pair_label name other columns",
            )
    return labelled


def _training_rows(
    row: Mapping[str, Any], origin: str, settings: GuardTraining
) -> Iterator[TrainingRow]:
    prompt, answer = row.get("prompt"), row.get("response")
    if not isinstance(prompt, str) or not prompt.strip():
        raise DataError(
            f"{origin}: prompt is missing or empty",
            hint="expected prompt, perhaps response, and a label",
        )
    request = Message("user", prompt)
    _check_answer(row, origin, settings)
    category, source = str(row.get("category") or ""), str(row.get("source") or "")
    about_prompt = _label(row, origin, settings.prompt_label)
    about_pair = _label(row, origin, settings.pair_label)
    if isinstance(answer, str) and answer.strip():
        if about_pair is not None:
            turns = (request, Message("assistant", answer))
            yield TrainingRow(turns, about_pair, category, source)
    elif about_prompt is None:
        about_prompt = about_pair
    if about_prompt is not None:
        yield TrainingRow((request,), about_prompt, category, source)


def _check_answer(row: Mapping[str, Any], origin: str, settings: GuardTraining) -> None:
    """Raise if an answer is not in `response`: its label would count as the request's."""
    answer = row.get("response")
    if answer is not None and not isinstance(answer, str):
        raise DataError(
            f"{origin}: response is not text but {type(answer).__name__}",
            hint="expected prompt, perhaps response, and a label",
        )
    other = (settings.prompt_label, settings.pair_label, "category", "source")
    answers = [] if answer and answer.strip() else answers_of(row, other)
    if answers:
        raise DataError(
            f"{origin}: {printable(answers, row)[0]} holds an answer, and response is missing or"
            " empty",
            hint="rename the column to response, or leave it out of rows that label requests",
        )


def _label(row: Mapping[str, Any], origin: str, column: str) -> float | None:
    """A row's label; None where there is none (an empty cell of a CSV)."""
    value = row.get(column)
    if value is None or value == "":
        return None
    try:
        label = float(value)
    except (TypeError, ValueError):
        label = math.nan
    if not 0 <= label <= 1:
        raise DataError(
            f"{origin}: {column} is not a number from 0 to 1", hint="0 is safe, 1 unsafe"
        )
    return label


def divide(
    rows: Sequence[TrainingRow], settings: GuardTraining
) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Rows to train on and rows held out, capped by source; a request is in one part only.

    Rows of weight 0 are not trained on, but may be held out; rows whose label says little are not.
    Where there are rows for development, they are held out and no others.
    """
    aside = [row for row in rows if row.development]
    if aside:
        asked = {_request(row) for row in aside}
        kept = [row for row in rows if not row.development and _request(row) not in asked]
        return _part(kept, settings, 0.0)[0], [row for row in aside if _is_telling(row)]
    return _part(rows, settings, settings.held_out)


def _part(
    rows: Sequence[TrainingRow], settings: GuardTraining, share: float
) -> tuple[list[TrainingRow], list[TrainingRow]]:
    """Rows to train on, capped, and the share that the hash of the request holds out."""
    shuffled = list(rows)
    random.Random(seed_for(settings.seed, "guard-rows")).shuffle(shuffled)
    trained_on: list[TrainingRow] = []
    held_out: list[TrainingRow] = []
    counts: Counter[str] = Counter()
    for row in shuffled:
        counts[row.source] += 1
        if counts[row.source] > settings.caps.get(row.source, len(shuffled)):
            continue
        if _is_held_out(row, share):
            if _is_telling(row):
                held_out.append(row)
        elif settings.weights.get(row.source, 1.0):
            trained_on.append(row)
    return trained_on, held_out


def _is_telling(row: TrainingRow) -> bool:
    """Whether a row's label is clear enough to measure by."""
    return abs(row.unsafe - 0.5) >= SURE


def _request(row: TrainingRow) -> str:
    return " ".join(row.conversation[0].content.lower().split())


def _is_held_out(row: TrainingRow, share: float) -> bool:
    digest = hashlib.sha256(f"held out {_request(row)}".encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def sets_thresholds(settings: GuardTraining, row: TrainingRow) -> bool:
    """Whether a held-out row sets thresholds: every unsafe one, and the safe ones of the sources
    that the recipe names, or all if it names none.
    """
    return row.bad or not settings.threshold_sources or row.source in settings.threshold_sources


def check(settings: GuardTraining, rows: Sequence[TrainingRow]) -> None:
    """Check that a guard can be trained and calibrated on these rows, before anything is loaded.

    Raises:
        GuardError: a source is named that no row has, the wished rates do not fit each other or the
            number of held-out rows, or a part has one kind of rows only.
    """
    sources = {row.source for row in rows}
    named: Mapping[str, Iterable[str]] = {
        "caps": settings.caps,
        "weights": settings.weights,
        "threshold_sources": settings.threshold_sources,
    }
    for table, names in named.items():
        if unknown := sorted(set(names) - sources):
            raise GuardError(
                f"{table} names the source {unknown[0]!r}, which no row has",
                hint="the rows' column source names their sources",
            )
    if settings.strict_fpr < settings.loose_fpr:
        raise GuardError(
            f"strict_fpr {settings.strict_fpr:g} is less than loose_fpr {settings.loose_fpr:g}",
            hint="strict finds more, and so has more false alarms",
        )
    trained_on, held_out = divide(rows, settings)
    _check_kinds(trained_on, "to train on")
    _check_kinds(held_out, "held out")
    safe = sum(not row.bad and sets_thresholds(settings, row) for row in held_out)
    if safe * settings.loose_fpr < 1 - 1e-9:
        raise GuardError(
            f"{safe} safe rows are held out, too few to set a threshold for false alarms of"
            f" {settings.loose_fpr:g}: that needs {math.ceil(1 / settings.loose_fpr - 1e-9)}",
            hint=f"give more rows, or raise held_out (now {settings.held_out:g}) or loose_fpr",
        )


def _check_kinds(rows: Sequence[TrainingRow], where: str) -> None:
    unsafe = sum(row.bad for row in rows)
    if not 0 < unsafe < len(rows):
        many = "1 row is" if len(rows) == 1 else f"{len(rows):,} rows are"
        raise GuardError(
            f"{many} {where}, {unsafe:,} of them unsafe; a guard needs unsafe and safe ones",
            hint="give more rows of both kinds; held_out says which part is not trained on",
        )
