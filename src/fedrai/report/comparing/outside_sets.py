"""Each outside set in each arm: the share of its requests that are declined, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from fedrai.report.comparing.reading import ComparedRun, by_arm
from fedrai.report.comparing.tables import TextTable
from fedrai.runs.record import OutsideSet


def outside_table(runs: Sequence[ComparedRun], axis: str = "") -> TextTable:
    """One row per set, harmful ones first; one column per arm, with the mean over its seeds in %.

    Args:
        runs: the runs of the comparison.
        axis: its key; empty: none.
    """
    arms = {
        f"{arm}, {axis.rpartition('.')[2]} {value}" if axis and value else arm: _sets(seeds)
        for (value, arm), seeds in by_arm(runs)
    }
    known = {name: sets[name][0] for sets in arms.values() for name in sets}
    rows = [
        (name, one.manner, "harmful" if one.harmful else "harmless",
         *(_cell(sets.get(name, [])) for sets in arms.values()))
        for name, one in sorted(known.items(), key=lambda pair: not pair[1].harmful)
    ]  # fmt: skip
    columns = ("outside set", "manner", "side", *(f"{arm}: declined %" for arm in arms))
    return TextTable(columns, tuple(rows), 3)


def _sets(seeds: Sequence[ComparedRun]) -> dict[str, list[OutsideSet]]:
    """Each set as an arm's seeds measured it."""
    sets: dict[str, list[OutsideSet]] = {}
    for run in seeds:
        outside = run.after.evaluation.outside if run.after else None
        for name, one in (outside.sets if outside else {}).items():
            sets.setdefault(name, []).append(one)
    return sets


def _cell(seeds: Sequence[OutsideSet]) -> str:
    values = [one.rate.value for one in seeds if one.rate and one.rate.value is not None]
    return f"{100 * fmean(values):.1f}" if values else "not measured"
