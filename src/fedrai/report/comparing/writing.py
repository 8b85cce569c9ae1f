"""A comparison as a whole, and the files that it leaves beside its runs.

    table.md  table.csv  table.tex    one row an arm
    differences.md  differences.csv   one row an arm and measure
    safety.svg                        safety against over-refusal, where both were measured
    comparison.json                   all of it, for `fedrai report` and other programs

Files are written whole, and left alone where nothing changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrai.errors import RunError
from fedrai.report.comparing import tables
from fedrai.report.comparing.differences import Difference, differences, reference_arm
from fedrai.report.comparing.figures import ArmFigures, arms, start
from fedrai.report.comparing.layout import Axis, PlannedRun
from fedrai.report.comparing.reading import ComparedRun, read
from fedrai.report.picture import picture
from fedrai.report.saved_comparison import FILE, SavedComparison
from fedrai.runs.files import json_text, write_text

PICTURE = "safety.svg"
INTERVALS = (
    "In brackets 95 % intervals: Wilson's for a rate of one seed, or of 0 or 100 % in all seeds;"
    " else the bootstrap over seeds and prompts. In parentheses the lowest and the highest seed"
    " where they differ. Held-out loss in nats per token."
)
DIFFERENCES = (
    "Ours less theirs on the same prompts and seeds, shares in points with the 95 % interval of the"
    " bootstrap over seeds and prompts; p is McNemar's, exact, of each seed by itself. Many"
    " differences are looked at, so that some p below 0.05 are to be expected by chance."
)


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """Arms, and each against the reference.

    Attributes:
        runs: that it is made of.
        axis: its key; empty: none.
        start: what runs start from.
        arms: their figures.
        against: the reference arm.
        differences: of the others from it.
    """

    runs: tuple[ComparedRun, ...]
    axis: str
    start: ArmFigures | None
    arms: tuple[ArmFigures, ...]
    against: str
    differences: tuple[Difference, ...]

    def text(self, form: str) -> str:
        """The table of arms as "md", "csv" or "latex"."""
        if form == "csv":
            return tables.arms_csv(self.start, self.arms, self.axis)
        return tables.FORMATS[form](self.table)

    @property
    def table(self) -> tables.Table:
        """One row an arm."""
        return tables.arms_table(self.start, self.arms, self.axis)

    def to_json(self) -> dict[str, Any]:
        """Plain values; paths are left out."""
        return {
            "axis": self.axis,
            "against": self.against,
            "start": self.start and self.start.to_json(),
            "arms": [arm.to_json() for arm in self.arms],
            "differences": [one.to_json() for one in self.differences],
            "notes": notes(self),
            "table": _cells(self.table),
            "differences_table": _cells(tables.differences_table(self.differences, self.axis)),
        }


def _cells(table: tables.Table) -> dict[str, Any]:
    return {"columns": list(table.columns), "rows": [list(row) for row in table.rows]}


def compare_runs(
    plan: Sequence[PlannedRun], axis: Axis | None = None, against: str = ""
) -> ComparisonResult:
    """What the runs of a plan that exist say about its arms.

    Args:
        plan: every run.
        axis: that it goes along.
        against: the reference arm; empty: see `reference_arm`.

    Raises:
        EvaluationError: there is no such arm.
        RunError: there is no run yet, or a file of one is damaged.
    """
    runs = read(plan)
    if not runs:
        raise RunError("there is no run to compare")
    chosen = reference_arm(list(dict.fromkeys(entry.arm for entry in plan)), against)
    return ComparisonResult(
        tuple(runs), axis.key if axis else "", start(runs), tuple(arms(runs)), chosen,
        tuple(differences(runs, chosen)),
    )  # fmt: skip


def notes(found: ComparisonResult) -> list[str]:
    """What a reader must know of a table of arms."""
    said = [INTERVALS]
    missing = {n: w for arm in found.arms for n, w in arm.unavailable.items()}
    said += [f"{name}: not available ({why})." for name, why in sorted(missing.items())]
    if any(arm.clients > 1 for arm in found.arms):
        said.append(
            "Mean of clients: each client has a model of its own, which answers every prompt."
        )
    skipped = sorted({m.arm for m in found.runs if m.run.screening.skipped})
    said += [f"{arm} ran without a safety filter." for arm in skipped]
    kept = sorted({made.arm for made in found.runs if _verdicts_kept(made)})
    if kept:
        said.append(
            f"Tflop of {', '.join(kept)} hold nothing for the filter: its verdicts were kept from"
            " earlier runs, or its guard counts no operations."
        )
    unfinished = [m for m in found.runs if not m.run.finished]
    said += [f"{m.arm}, seed {m.seed}: not finished." for m in unfinished]
    return said


def _verdicts_kept(made: ComparedRun) -> bool:
    """Whether a guard that reads text judged rows of a run at no cost."""
    screening, cost = made.run.screening, made.run.costs.get("filter")
    judged = screening.total is not None and screening.total.rows > 0
    by_labels = (screening.guard or "").startswith("labels")
    return bool(judged and not by_labels and cost is not None and not cost.tokens)


def write(found: ComparisonResult, out: Path) -> list[Path]:
    """Write the files of a comparison; see the head of this file.

    Returns:
        The files.

    Raises:
        RunError: one cannot be written.
    """
    said = "".join(f"\n{note}\n" for note in notes(found))
    gaps = tables.differences_table(found.differences, found.axis)
    bodies = {
        "table.md": found.text("md") + said,
        "table.csv": found.text("csv"),
        "table.tex": found.text("latex"),
        "differences.md": tables.markdown(gaps) + f"\n{DIFFERENCES}\n",
        "differences.csv": tables.differences_csv(found.differences, found.axis),
        PICTURE: picture(SavedComparison.from_json(found.to_json()).points),
        FILE: json_text(found.to_json(), indent=1),
    }
    bodies = {name: body for name, body in bodies.items() if body}
    for name, body in bodies.items():
        write_if_changed(out / name, body)
    return [out / name for name in bodies]


def write_if_changed(file: Path, body: str) -> None:
    """Write a file, unless it holds just that.

    Raises:
        RunError: it cannot be written.
    """
    try:
        if not file.is_file() or file.read_text(encoding="utf-8") != body:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, body)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot write {file} ({type(error).__name__})") from error
