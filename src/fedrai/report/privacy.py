"""Differential privacy in the report: what the rounds cost, and what the noise was."""

from __future__ import annotations

from collections.abc import Sequence

from fedrai.report.tables import Content, Table, count_cell, number_cell, row
from fedrai.runs.record import PrivacyRecord, RunRecord

COLUMNS = ["round", "epsilon", "delta", "rounds of one client", "deviation of a weight"]


def privacies(runs: Sequence[RunRecord]) -> list[Content]:
    """The privacy of each run that has noise; nothing where none has."""
    return [
        {"label": run.label, "place": place, "summary": f"{_noise(last)} {_sentence(last.text)}",
         "table": _table(run)}
        for place, run in enumerate(runs)
        if (last := run.privacy) is not None
    ]  # fmt: skip


def _noise(last: PrivacyRecord) -> str:
    """Who adds the noise, and how much."""
    who = {"server": "The server adds noise to the mean", "client": "Each client adds noise"}
    return (
        f"{who.get(last.noise, last.noise)}: updates of norm {last.clip:g} at most, noise of"
        f" {last.multiplier:.3g} times that."
        if last.clip is not None and last.multiplier is not None
        else ""
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _table(run: RunRecord) -> Table:
    rows = [
        row(
            count_cell(one.number),
            number_cell(one.privacy.epsilon, ".3g"),
            number_cell(one.privacy.delta, "g"),
            count_cell(one.privacy.releases),
            number_cell(one.privacy.deviation, ".3g"),
        )
        for one in run.rounds
        if one.privacy is not None
    ]
    return Table(f"Privacy by round: {run.label}", COLUMNS, rows)
