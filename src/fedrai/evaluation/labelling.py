"""Exports an evaluation's answers for people to label; `labelled_answers.py` reads them back.

One row an answer: `suite`, `number`, `asks`, `prompt`, `answer`, and an empty `label`. Judges'
verdicts are left out, so that they do not influence people's labels.
"""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedrai import data
from fedrai.assets import checksums
from fedrai.errors import DataError, EvaluationError, RunError
from fedrai.evaluation.labelled_answers import request_kind
from fedrai.runs import RunFolder
from fedrai.runs.files import json_line
from fedrai.runs.record import EvaluationRecord
from fedrai.runs.record.values import json_of

COLUMNS = ("suite", "number", "asks", "prompt", "answer", "label")
SUFFIXES = (".csv", ".jsonl")

Row = Mapping[str, Any]


def export(place: Path, out: Path, suites: Sequence[str], count: int, seed: int) -> dict[str, int]:
    """Write answers for people to label.

    Args:
        place: a run (its last evaluation), an evaluation's folder, or a suite's file in one.
        out: the file.
        suites: only these; empty: all.
        count: rows of each suite; 0: all.
        seed: for drawing the sample.

    Returns:
        The number of answers of each suite.

    Raises:
        EvaluationError: there are no answers, or the file cannot be written.
        RunError: the run cannot be read.
    """
    if (place / "run.json").is_file():
        run = RunFolder.open(place)
        numbers = run.evaluations()
        if not numbers:
            raise EvaluationError(f"{place} has no evaluation yet")
        place = run.evaluation_folder(numbers[-1])
    elif not place.exists():
        raise EvaluationError(f"{place} does not exist")
    rows = rows_to_label(place, suites, count, seed)
    write(out, rows)
    return dict(Counter(str(row["suite"]) for row in rows))


def rows_to_label(
    place: Path, suites: Sequence[str] = (), count: int = 0, seed: int = 0
) -> list[Row]:
    """Rows for people to label.

    Args:
        place: the folder of an evaluation, or one suite's file in it.
        suites: only these; empty: all that have answers.
        count: rows of each suite (a seeded sample, in the suite's order); 0: all.
        seed: for drawing the samples.

    Raises:
        EvaluationError: there are no answers, or none of a named suite.
    """
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    declared = _declarations(place if place.is_dir() else place.parent)
    answers = {file.stem: _answers(file, declared.get(file.stem, {})) for file in files}
    answers = {name: rows for name, rows in answers.items() if rows}
    missing = [name for name in suites if name not in answers]
    if missing or not answers:
        raise EvaluationError(
            f"{place} has no answers" + (f" of {', '.join(missing)}" if missing else ""),
            hint=f"it has: {', '.join(answers)}" if answers else "name a folder of evaluations/",
        )
    return [row for name in suites or answers for row in _sample(answers[name], count, seed)]


def write(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV or JSONL, by the name of the file.

    Raises:
        EvaluationError: the format is another, or the file exists or cannot be written.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise EvaluationError(f"{path}: the file name must end in {' or '.join(SUFFIXES)}")
    try:
        with path.open("x", encoding="utf-8", errors="backslashreplace", newline="") as file:
            if path.suffix.lower() == ".csv":
                writer = csv.DictWriter(file, COLUMNS)
                writer.writeheader()
                writer.writerows(rows)
            else:
                file.writelines(map(json_line, rows))
    except FileExistsError:
        raise EvaluationError(f"{path} already exists, and may hold labels") from None
    except OSError as error:
        raise EvaluationError(f"cannot write {path}: {error.strerror}") from error


def _declarations(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """The evaluation's own records of its suites."""
    try:
        return EvaluationRecord.from_json(0, json_of(RunFolder(folder), "metrics.json")).suites
    except RunError:
        return {}


def _answers(file: Path, declared: Mapping[str, Any]) -> list[Row]:
    """Rows of one suite; none where it compares pairs."""
    checksums.check_file(file)
    asks = request_kind(file.stem, declared.get("judge", ""), declared.get("direction", ""))
    try:
        rows = [row for _, row in data.read_file(file) if isinstance(row, Mapping)]
    except DataError as error:
        raise EvaluationError(error.message, hint=error.hint) from None
    return [
        {"suite": file.stem, "number": row.get("number"), "asks": asks, "prompt": row["prompt"],
         "answer": row["answer"], "label": ""}
        for row in rows if "prompt" in row and "answer" in row
    ]  # fmt: skip


def _sample(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    if not 0 < count < len(rows):
        return list(rows)
    return [rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), count))]
