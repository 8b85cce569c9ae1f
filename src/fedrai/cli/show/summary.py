"""Key figures of a run, derived from its folder, and the table that compares runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedrai.data.columns import unread_line
from fedrai.runs.costs import Cost
from fedrai.runs.record import Summary, skipped_rows_text
from fedrai.runs.record.evaluations import COLUMNS, evaluation_cells
from fedrai.runs.record.preference import PreferenceRecord
from fedrai.runs.record.summary import AlignmentSummary

NO_FILTER = "NO SAFETY FILTER"
VISIBLE_ERROR = 5e-4
"""An aggregation error below this is shown as nothing: it is rounding."""
ALIGNED_COLUMNS = (
    "constitution", "aligned", "steps", "tokens", "Tflop", "time", "operations", "saving",
)  # fmt: skip
ALIGNED_NOTE = (
    "operations: in addition to clients' training, aggregation and defences\n"
    "saving: share of the full schedule's operations (estimate)"
)


def ends(summary: Summary) -> list[tuple[str, Mapping[str, Any]]]:
    """The evaluations of a run before its first round and after its last one, with labels."""
    figures = summary.evaluations
    return [
        (f"after round {n}" if n else summary.start or "base model", figures[n])
        for n in sorted({min(figures), max(figures)} if figures else ())
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


def filter_line(ledger: Mapping[str, Any]) -> str:
    """The ledger of all clients in one line.

    Args:
        ledger: `FilterLedger.to_json()` of the total.
    """
    parts = [f"{ledger['unsafe']} of {ledger['rows']} rows unsafe"]
    parts += [f"{ledger[k]} {k}" for k in ("dropped", "replaced") if ledger[k]]
    if (pairs := ledger.get("pairs")) and pairs["swapped"]:
        parts.append(f"{pairs['swapped']} pairs swapped")
    unscored = sum(ledger["unscored"].values())
    if unscored:
        parts.append(f"{unscored} not scored")
    truth = ledger["confusion"]
    if truth:
        parts.append(
            f"{truth['harmful_kept']} of {truth['harmful_in']} harmful rows left,"
            f" {truth['benign_removed']} of {truth['benign_in']} harmless ones lost"
        )
    return ", ".join(parts)


def tuning_text(numbers: Mapping[str, float]) -> str:
    """A client's preference tuning in a few words; empty without it.

    Args:
        numbers: the client's, under the names of events.
    """
    return PreferenceRecord.of_client(numbers).format()


def skipped_line(count: int | None, problems: Mapping[str, int], unreported: int) -> str:
    """How many rows were left out because they cannot be used, and why; empty if none.

    Args:
        count: bad rows; None: not reported.
        problems: the commonest kinds, with their rows; runs of earlier versions have none.
        unreported: number of clients of a deployment that do not report theirs.
    """
    if unreported:
        return f"rows skipped, which cannot be used: {skipped_rows_text(count, unreported)}"
    if not count:
        return ""
    kinds = [f"{problem} ({rows:,})" for problem, rows in list(problems.items())[:3]]
    kinds += ["and others"] if len(problems) > 3 else []
    why = f": {', '.join(kinds)}" if kinds else ""
    return f"{count:,} {'row' if count == 1 else 'rows'} skipped, which cannot be used{why}"


def held_line(summary: Summary) -> str:
    """What clients hold by source, and what a filter leaves of it; empty with a single source."""
    if len(summary.sources) < 2:
        return ""
    parts = []
    for name, rows in summary.sources.items():
        each = f"{rows.fewest:,}" + (f" to {rows.most:,}" if rows.most > rows.fewest else "")
        left = "" if rows.trained == rows.held else f", {rows.trained:,} left"
        parts.append(f"{each} {name} ({rows.held:,} in all{left})")
    return f"rows of a client: {', '.join(parts)}"


def rows_notes(summary: Summary) -> list[str]:
    """Malicious clients, the rows of a run by source, and those not trained on, a line each."""
    held_out = summary.held_out_bad_rows
    lines = (
        f"malicious clients: {summary.attack}" if summary.attack else "",
        f"privacy: {summary.privacy}" if summary.privacy else "",
        held_line(summary),
        skipped_line(summary.bad_rows, summary.bad_row_problems, summary.bad_rows_unreported),
        f"held-out loss without {held_out:,} rows, which cannot be used" if held_out else "",
        unread_line(summary.unread_columns),
    )
    return [line for line in lines if line]


def filter_note(summary: Summary) -> str:
    """What the safety filter did in a run, in one line."""
    outcome = summary.filter
    if outcome is None:
        return "no filter"
    if outcome.skipped:
        return f"{NO_FILTER}: {outcome.skipped}"
    counts = filter_line(outcome.total) if outcome.total else "the nodes report no counts"
    return f"filter ({outcome.mode}): {counts}"


def alignment_line(figures: Mapping[str, Any]) -> str:
    """One alignment in a line.

    Args:
        figures: `constitution.outcome.brief` of its report.
    """
    parts = [f"{figures['steps']} steps"]
    if figures["yield"] is not None:
        parts.append(f"{100 * figures['yield']:.0f} % of the requests gave a revision")
    for side, (failed, asked) in figures.get("failed", {}).items():
        parts.append(f"failed {failed} of {asked} {side} requests before")
    for key in ("safe", "useful"):
        before, after = (_share(value) for value in figures[key])
        parts.append(f"{key} {before} -> {after}")
    return f"{', '.join(parts)} (probe)"


def defence_line(step: Mapping[str, Any]) -> str:
    """What one defence did to an aggregated adapter, in a line.

    Args:
        step: an entry of `defence` in `round.json`.
    """
    moved, change = step.get("moved"), step.get("change")
    far = (
        f"by {step['norm']:.3f}"
        if not (moved and change)
        else (f"by {moved / change:.2f} times what the round had changed")
    )
    parts = [f"{step['method']} moved the model {far}"]
    if "layers" in step:
        parts.append(f"{step['layers']} of {step['of']} layers")
    if step.get("truncation"):
        parts.append(f"{100 * step['truncation']:.1f} % lost to the rank")
    return ", ".join(parts)


def error_text(of_change: float) -> str:
    """How far a round's aggregate is from the mean of the clients' models, in words.

    Args:
        of_change: the error as a part of the mean change.
    """
    return f"{100 * of_change:.1f} % of the mean change is lost or added by the rule for A and B"


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


def _alignment_cells(total: AlignmentSummary, rounds: int) -> list[str]:
    return [
        total.schedule,
        f"{total.alignments} of {rounds}",
        str(total.steps),
        f"{total.tokens:,}",
        f"{total.operations / 1e12:,.1f}",
        f"{total.seconds:.0f} s",
        "not known" if total.extra is None else f"+{100 * total.extra:.1f} %",
        "not known" if total.saving is None else f"{100 * total.saving:.1f} %",
    ]


LIST_COLUMNS = ["run", "status", "filter", "rounds", "clients", "harmful rows", "skipped rows",
                *COLUMNS]  # fmt: skip
LIST_WORDS = 3  # how many of these columns are words


def list_row(summary: Summary) -> list[str]:
    """A run as the cells of `LIST_COLUMNS` after its name: state, sizes, its last evaluation."""
    last = max(summary.evaluations, default=None)
    cells = (
        ["not measured"] * len(COLUMNS)
        if last is None
        else evaluation_cells(summary.evaluations[last])
    )
    known = summary.harmful_rows is not None
    harm = f"{summary.harmful_rows if known else 'not known'} of {summary.rows}"
    outcome = summary.filter
    mode = "off" if outcome is None else NO_FILTER if outcome.skipped else outcome.mode
    sizes = [str(summary.rounds), str(summary.clients), harm,
             skipped_rows_text(summary.bad_rows, summary.bad_rows_unreported)]  # fmt: skip
    return [summary.status, mode, *sizes, *cells]


def cost_line(summary: Summary) -> str:
    """Seconds by phase, tokens, operations, peak memory and bytes in one line."""
    seconds = ", ".join(f"{name} {cost.seconds:.0f} s" for name, cost in summary.costs.items())
    total = sum(summary.costs.values(), Cost())
    wire = (total.bytes_down + total.bytes_up) / 1e6
    unreported = ", ".join(summary.unreported_costs)
    less = f" (without the {unreported} that clients do not report)" if unreported else ""
    return (
        f"{seconds}; {total.tokens:,} tokens, {total.operations / 1e12:.1f} Tflop,"
        f" peak {total.peak_bytes / 1e9:.1f} GB, {wire:,.0f} MB to and from clients{less}"
    )
