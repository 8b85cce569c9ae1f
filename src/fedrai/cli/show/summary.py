"""Key figures of a run, derived from its folder, and the table that compares runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrai.data.columns import unread_line
from fedrai.runs.costs import Cost
from fedrai.runs.record import Summary
from fedrai.runs.record.evaluations import COLUMNS, evaluation_cells
from fedrai.runs.record.summary import AlignmentSummary

NO_FILTER = "NO SAFETY FILTER"
ALIGNED_COLUMNS = (
    "constitution", "aligned", "steps", "tokens", "Tflop", "time", "operations", "saving",
)  # fmt: skip
ALIGNED_NOTE = (
    "operations: more than clients' work and aggregation take\n"
    "saving: of what the full schedule would have taken (estimate)"
)


def ends(summary: Summary) -> list[tuple[str, Mapping[str, Any]]]:
    """The evaluations of a run before its first round and after its last one, with labels."""
    found = summary.evaluations
    return [
        (f"after round {n}" if n else summary.start or "base model", found[n])
        for n in sorted({min(found), max(found)} if found else ())
    ]


def comparison(runs: Sequence[tuple[str, Summary]]) -> list[list[str]]:
    """Rows of the table: what the first run started from, then the last evaluation of each run.

    Args:
        runs: (label, summary) pairs.
    """
    rows = []
    for number, (label, summary) in enumerate(runs):
        evaluations = summary.evaluations
        if number == 0 and 0 in evaluations:
            rows.append([summary.start or "base model", *evaluation_cells(evaluations[0])])
        last = max(evaluations, default=0)
        if last:
            rows.append([label, *evaluation_cells(evaluations[last])])
    return rows


def filter_line(found: Mapping[str, Any]) -> str:
    """The ledger of all clients in one line.

    Args:
        found: `FilterLedger.to_json()` of the total.
    """
    parts = [f"{found['unsafe']} of {found['rows']} rows unsafe"]
    parts += [f"{found[k]} {k}" for k in ("dropped", "replaced") if found[k]]
    unscored = sum(found["unscored"].values())
    if unscored:
        parts.append(f"{unscored} not scored")
    truth = found["confusion"]
    if truth:
        parts.append(
            f"{truth['harmful_kept']} of {truth['harmful_in']} harmful rows left,"
            f" {truth['benign_removed']} of {truth['benign_in']} harmless ones lost"
        )
    return ", ".join(parts)


def skipped_line(count: int, problems: Mapping[str, int]) -> str:
    """How many rows were left out because they cannot be used, and why; empty if none.

    Args:
        count: bad rows.
        problems: the commonest kinds, with their rows; a run from before they were kept has none.
    """
    if not count:
        return ""
    named = [f"{problem} ({rows:,})" for problem, rows in list(problems.items())[:3]]
    more = ["and others"] if len(problems) > 3 else []
    why = f": {', '.join([*named, *more])}" if named else ""
    return f"{count:,} {'row' if count == 1 else 'rows'} skipped, which cannot be used{why}"


def rows_notes(summary: Summary) -> list[str]:
    """What became of a run's rows that were not trained on, a line each."""
    held_out = summary.held_out_bad_rows
    lines = (
        skipped_line(summary.bad_rows, summary.bad_row_problems),
        f"held-out loss without {held_out:,} rows, which cannot be used" if held_out else "",
        unread_line(summary.unread_columns),
    )
    return [line for line in lines if line]


def filter_note(summary: Summary) -> str:
    """What the safety filter did in a run, in one line."""
    found = summary.filter
    if found is None:
        return "no filter"
    if found.skipped:
        return f"{NO_FILTER}: {found.skipped}"
    counts = filter_line(found.total) if found.total else "the nodes do not tell what it did"
    return f"filter ({found.mode}): {counts}"


def alignment_line(found: Mapping[str, Any]) -> str:
    """One alignment in a line.

    Args:
        found: `constitution.outcome.brief` of its report.
    """
    parts = [f"{found['steps']} steps"]
    if found["yield"] is not None:
        parts.append(f"{100 * found['yield']:.0f} % of the requests gave a revision")
    for key in ("safe", "useful"):
        before, after = (_share(value) for value in found[key])
        parts.append(f"{key} {before} -> {after}")
    return f"{', '.join(parts)} (probe)"


def _share(value: float | None) -> str:
    return "?" if value is None else f"{100 * value:.0f} %"


def alignments(runs: Sequence[tuple[str, Summary]]) -> list[list[str]]:
    """Rows of the table of what constitutions did; none where no run has one.

    Args:
        runs: (label, summary) pairs.
    """
    return [
        [label, *_alignment_cells(run.constitution, run.rounds)]
        for label, run in runs
        if run.constitution
    ]


def _alignment_cells(found: AlignmentSummary, rounds: int) -> list[str]:
    return [
        found.schedule,
        f"{found.alignments} of {rounds}",
        str(found.steps),
        f"{found.tokens:,}",
        f"{found.operations / 1e12:,.1f}",
        f"{found.seconds:.0f} s",
        "not known" if found.extra is None else f"+{100 * found.extra:.1f} %",
        "not known" if found.saving is None else f"{100 * found.saving:.1f} %",
    ]


LIST_COLUMNS = ["run", "status", "filter", "rounds", "clients", "harmful rows", "skipped rows",
                *COLUMNS]  # fmt: skip
LIST_WORDS = 3  # columns of these that are words


def list_row(summary: Summary) -> list[str]:
    """A run as the cells of `LIST_COLUMNS` after its name: state, sizes, its last evaluation."""
    last = max(summary.evaluations, default=None)
    cells = (
        ["not measured"] * len(COLUMNS)
        if last is None
        else evaluation_cells(summary.evaluations[last])
    )
    harm = f"{summary.harmful_rows} of {summary.rows}"
    found = summary.filter
    mode = "off" if found is None else NO_FILTER if found.skipped else found.mode
    sizes = [str(summary.rounds), str(summary.clients), harm, str(summary.bad_rows)]
    return [summary.status, mode, *sizes, *cells]


def cost_line(summary: Summary) -> str:
    """Seconds by phase, tokens, operations, peak memory and bytes in one line."""
    seconds = ", ".join(f"{name} {cost.seconds:.0f} s" for name, cost in summary.costs.items())
    total = sum(summary.costs.values(), Cost())
    wire = (total.bytes_down + total.bytes_up) / 1e6
    kept = ", ".join(summary.unreported_costs)
    less = f" (without the {kept} that clients keep to themselves)" if kept else ""
    return (
        f"{seconds}; {total.tokens:,} tokens, {total.operations / 1e12:.1f} Tflop,"
        f" peak {total.peak_bytes / 1e9:.1f} GB, {wire:,.0f} MB to and from clients{less}"
    )
