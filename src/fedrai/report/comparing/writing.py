"""A comparison as a whole, and the files that it writes beside its runs.

    table.md  table.csv  table.tex    one row per arm
    differences.md  differences.csv   one row per arm and measure
    outside.md                        one row per outside set, if some were asked
    safety.svg                        safety against over-refusal, if both were measured
    comparison.json                   all of it, for `fedrai report` and other programs

Files are written atomically, and not touched if nothing changed.
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
from fedrai.report.comparing.outside_sets import outside_table
from fedrai.report.comparing.reading import ComparedRun, read
from fedrai.report.measures import OUTSIDE_SAFE
from fedrai.report.picture import picture
from fedrai.report.saved_comparison import FILE, SavedComparison
from fedrai.runs.costs import Cost
from fedrai.runs.files import json_text, write_text
from fedrai.runs.record import shared_rounds_text

PICTURE = "safety.svg"
INTERVALS = (
    "Brackets hold 95 % intervals: Wilson's for a rate of one seed, or of 0 or 100 % in all seeds;"
    " otherwise the bootstrap over seeds and prompts; of outside means, over seeds, sets and items."
    " Parentheses hold the lowest and the highest seed if they differ. Held-out loss is in nats per"
    " token."
)
OUTSIDE_MEANS = (
    "Outside means are over sets that neither trained nor chose anything, each counted once."
    " Development sets chose settings: their figures prove nothing."
)
UNPROVEN = "figures of development sets, which chose settings, prove nothing (evaluation.outside)."
DIFFERENCES = (
    "Ours less theirs on the same prompts and seeds, shares in points with the 95 % interval of the"
    " bootstrap over seeds and prompts; p is McNemar's exact p of each seed. With this many"
    " differences, some p below 0.05 are to be expected by chance."
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
        differences: differences of the others from it.
    """

    runs: tuple[ComparedRun, ...]
    axis: str
    start: ArmFigures | None
    arms: tuple[ArmFigures, ...]
    against: str
    differences: tuple[Difference, ...]

    @property
    def _rows(self) -> list[ArmFigures]:
        """The rows of its table."""
        return [*([self.start] if self.start else []), *self.arms]

    @property
    def table(self) -> tables.TextTable:
        """One row per arm, after what all start from."""
        return tables.arms_table(self._rows, self.axis)

    @property
    def differences_table(self) -> tables.TextTable:
        """One row per arm and measure."""
        return tables.differences_table(self.differences, self.axis)

    def text(self, file_format: str) -> str:
        """The table of arms as "md", "csv" or "latex"."""
        if file_format == "csv":
            return tables.arms_csv(self._rows, self.axis)
        return tables.FORMATS[file_format](self.table)

    def to_json(self) -> dict[str, Any]:
        """Plain values; paths are left out."""
        return {
            "axis": self.axis,
            "against": self.against,
            "start": self.start and self.start.to_json(),
            "arms": [arm.to_json() for arm in self.arms],
            "differences": [one.to_json() for one in self.differences],
            "notes": notes(self),
            "table": _table_json(self.table),
            "differences_table": _table_json(self.differences_table),
        }


def _table_json(table: tables.TextTable) -> dict[str, Any]:
    return {"columns": list(table.columns), "rows": [list(row) for row in table.rows]}


def compare_runs(
    plan: Sequence[PlannedRun], axis: Axis | None = None, against: str = ""
) -> ComparisonResult:
    """Compare the planned runs that exist.

    Args:
        plan: every run.
        axis: axis of the comparison, if any.
        against: the reference arm; empty: see `reference_arm`.

    Raises:
        EvaluationError: there is no such arm.
        RunError: there is no run yet, or a file of one is damaged.
    """
    runs = read(plan)
    if not runs:
        raise RunError("there is no run to compare")
    reference = reference_arm(list(dict.fromkeys(planned.arm for planned in plan)), against)
    return ComparisonResult(
        tuple(runs), axis.key if axis else "", start(runs), tuple(arms(runs)), reference,
        tuple(differences(runs, reference)),
    )  # fmt: skip


def notes(result: ComparisonResult) -> list[str]:
    """What a reader must know of a table of arms."""
    lines = [INTERVALS, _proof(result)]
    missing = {n: reason for arm in result.arms for n, reason in arm.unavailable.items()}
    lines += [f"{name}: not available ({reason})." for name, reason in sorted(missing.items())]
    if any(arm.clients > 1 for arm in result.arms):
        lines.append("Mean of clients: each client's own model answers every prompt.")
    unfiltered = sorted({run.arm for run in result.runs if run.run.screening.skipped})
    lines += [f"{arm} ran without a safety filter." for arm in unfiltered]
    cached = sorted({run.arm for run in result.runs if _has_free_filter(run)})
    if cached:
        lines.append(
            f"The Tflop of {', '.join(cached)} include nothing for the filter: its verdicts were"
            " cached by earlier runs, or its guard counts no operations."
        )
    lines += _sharing_notes(result.runs)
    unfinished = [run for run in result.runs if not run.run.finished]
    return lines + [f"{run.arm}, seed {run.seed}: not finished." for run in unfinished]


def _sharing_notes(runs: Sequence[ComparedRun]) -> list[str]:
    """Which rounds were trained once for several runs, and what all runs together really took."""
    distinct = {run.path: run for run in runs}.values()
    texts = {(run.arm, shared_rounds_text(run.run.shared_rounds)) for run in distinct}
    shared = "; ".join(sorted(f"{arm}: {text}" for arm, text in texts if text))
    if not shared:
        return []
    total = sum(sum(run.run.costs.values(), Cost()).seconds for run in distinct)
    saved = sum(run.run.shared_seconds for run in distinct)
    return [
        f"Rounds that arms train alike were trained once ({shared}) and count in the costs of each"
        f" of these arms: no arm is cheaper for it. All runs together took {total - saved:,.0f} s;"
        f" training these rounds again would have taken {saved:,.0f} s more."
    ]


def _proof(result: ComparisonResult) -> str:
    """What the table proves: outside sets do, development sets do not."""
    without = list(dict.fromkeys(a.arm for a in result.arms if OUTSIDE_SAFE not in a.figures))
    if not without:
        return OUTSIDE_MEANS
    some = len(without) < len({arm.arm for arm in result.arms})
    return f"No outside set was asked{' of ' + ', '.join(without) if some else ''}: {UNPROVEN}"


def _has_free_filter(run: ComparedRun) -> bool:
    """Whether a guard that reads text judged rows of a run at no cost."""
    screening, cost = run.run.screening, run.run.costs.get("filter")
    judged = screening.total is not None and screening.total.rows > 0
    by_labels = (screening.guard or "").startswith("labels")
    return bool(judged and not by_labels and cost is not None and not cost.tokens)


def write(result: ComparisonResult, out: Path) -> list[Path]:
    """Write the files of a comparison; see the head of this module.

    Returns:
        The files.

    Raises:
        RunError: a file cannot be written.
    """
    body = result.to_json()
    texts = {
        "table.md": result.text("md") + "".join(f"\n{note}\n" for note in notes(result)),
        "table.csv": result.text("csv"),
        "table.tex": result.text("latex"),
        "differences.md": tables.markdown(result.differences_table) + f"\n{DIFFERENCES}\n",
        "differences.csv": tables.differences_csv(result.differences, result.axis),
        "outside.md": _outside_text(result),
        PICTURE: picture(SavedComparison.from_json(body).points),
        FILE: json_text(body, indent=1),
    }
    files = {out / name: text for name, text in texts.items() if text}
    for file, text in files.items():
        write_if_changed(file, text)
    return list(files)


def _outside_text(result: ComparisonResult) -> str:
    table = outside_table(result.runs, result.axis)
    return f"{tables.markdown(table)}\n{OUTSIDE_MEANS}\n" if table.rows else ""


def write_if_changed(file: Path, text: str) -> None:
    """Write a file, unless it already holds the text.

    Raises:
        RunError: it cannot be written.
    """
    try:
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text(file, text)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"cannot write {file} ({type(error).__name__})") from error
