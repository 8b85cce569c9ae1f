"""Rows judged by a guard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fedrai.api.places import Place, Row, judging
from fedrai.errors import DataError

if TYPE_CHECKING:
    from fedrai.filter.rows import Finding
    from fedrai.guards.rows import GuardRow, Rows


@dataclass(frozen=True, slots=True)
class Scan:
    """A guard's verdicts on rows, without their texts.

    Attributes:
        guard: `name@revision`.
        threshold: lowest probability of an unsafe row.
        rows: one row for each that could be read: source, origin (file and line), category (the
            dataset's), unsafe (None: not scored), probability, categories (the guard's, by commas),
            problem (why it is not scored).
        unsafe: share of unsafe rows among the scored rows; None: no row was scored.
        figures: all figures, as `fedrai scan --json` prints them.
        unreadable: rows that could not be read, with the reason.
        not_judged: columns with text that no guard read, and in how many rows.
    """

    guard: str
    threshold: float
    rows: list[Row] = field(repr=False)
    unsafe: float | None
    figures: Mapping[str, Any] = field(repr=False)
    unreadable: tuple[str, ...] = ()
    not_judged: Mapping[str, int] = field(default_factory=dict)


def scan(
    data: Place | Sequence[Place] | Iterable[Mapping[str, Any]],
    guard: str = "embedded",
    *,
    threshold: str | float = "strict",
    judge: Literal["prompt", "response", "pair"] = "pair",
    columns: Mapping[str, str] | None = None,
    calibration: Place | None = None,
    cache: bool = True,
    progress: bool = False,
) -> Scan:
    """Judge rows with a guard, as `fedrai scan` does.

    Args:
        data: a file, hub dataset or `fedrai:NAME`, or several; or rows in memory, as dicts (for
            a pandas DataFrame: `frame.to_dict("records")`).
        guard: see `fedrai guard list`.
        threshold: `strict`, `loose`, or a probability.
        judge: what the guard reads: the request, the answer, or both.
        columns: names of columns by role (messages, prompt, response, text, category).
        calibration: a file of `fedrai guard calibrate`.
        cache: cache verdicts (salted hashes, no text), so that a stopped scan resumes.
        progress: show the progress on stderr.

    Raises:
        DataError: the rows cannot be read.
        GuardError: there is no such guard or threshold, or the guard does not work.
    """
    from fedrai.filter.guard_evaluation import open_cache, open_guard, threshold_of
    from fedrai.filter.scan import scan as scan_rows

    loaded = _rows(data, columns or {})
    opened = open_guard(
        guard, Path(calibration) if calibration is not None else None, judge, progress=progress
    )
    number = threshold_of(opened, str(threshold))
    with judging(opened.name, progress) as on_progress:
        result = scan_rows(
            loaded.rows, opened, threshold=number, part=judge, cache=open_cache(cache),
            on_progress=on_progress,
        )  # fmt: skip
    return Scan(
        guard=result.guard,
        threshold=number,
        rows=[
            _finding_row(row, one) for row, one in zip(loaded.rows, result.findings, strict=True)
        ],
        unsafe=result.unsafe.value,
        figures=result.to_json(),
        unreadable=tuple(f"{bad.origin}: {bad.problem}" for bad in loaded.bad_rows),
        not_judged=loaded.not_judged(),
    )


def _rows(data: Any, columns: Mapping[str, str]) -> Rows:
    from fedrai.filter.guard_evaluation import DataSpec, read_rows
    from fedrai.guards.rows import ColumnNames, from_memory

    if unknown := set(columns) - set(ColumnNames.__dataclass_fields__):
        roles = ", ".join(ColumnNames.__dataclass_fields__)
        raise DataError(f"columns: there is no role {min(unknown)!r}", hint=f"roles are {roles}")
    listed = [data] if isinstance(data, str | Path) else list(data)
    if listed and all(isinstance(one, str | Path) for one in listed):
        specs = tuple(map(str, listed))
        return read_rows(DataSpec(specs, columns=ColumnNames(**columns), pairs=True))
    return from_memory(_dicts(listed), columns=ColumnNames(**columns), pairs=True)


def _dicts(rows: Sequence[Any]) -> list[Mapping[str, Any]]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping):
            raise DataError(
                f"row {number}: expected a dict of columns, got {type(row).__name__}",
                hint='for a DataFrame, pass frame.to_dict("records")',
            )
    return list(rows)


def _finding_row(row: GuardRow, finding: Finding) -> Row:
    worst = finding.worst
    return {
        "source": row.source,
        "origin": row.origin,
        "category": row.category,
        "unsafe": finding.is_unsafe,
        "probability": worst.probability,
        "categories": ",".join(worst.categories),
        "problem": worst.problem or "",
    }
