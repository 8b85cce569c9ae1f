"""Differential privacy in the report: what the rounds cost, and what membership checks found."""

from __future__ import annotations

from collections.abc import Sequence

from fedrai.report.tables import Cell, Content, Table, count_cell, number_cell, row
from fedrai.runs.record import PrivacyRecord, RunRecord

ATTACKS = {"loss": "loss", "ratio": "loss less that of the start"}
CHECKED = ["round", "attack", "AUROC", "found at 1 % false positives", "trained on", "others"]
COLUMNS = ["round", "epsilon", "delta", "rounds of one client", "deviation of a weight"]


def privacies(runs: Sequence[RunRecord]) -> list[Content]:
    """The privacy of each run that has noise or was attacked; nothing where none was."""
    return [
        {"label": run.label, "place": place, "summary": _summary(run.privacy),
         "table": _table(run) if run.privacy else None,
         "checks": _checks(run) if run.membership else None}
        for place, run in enumerate(runs)
        if run.privacy or run.membership
    ]  # fmt: skip


def _summary(last: PrivacyRecord | None) -> str:
    """The noise and its cost."""
    return f"{_noise(last)} {_sentence(last.text)}" if last else "Without noise."


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


def _checks(run: RunRecord) -> Table:
    rows = [
        row(
            count_cell(one.number),
            ATTACKS.get(name, name),
            _interval(one.auroc.get(name), ".3f"),
            _interval(one.found.get(name), ".1%"),
            count_cell(one.members),
            count_cell(one.others),
        )
        for one in run.membership
        for name in one.auroc
    ]
    return Table(f"Membership inference: {run.label}", CHECKED, rows)


def _interval(figure: tuple[float, float, float] | None, spec: str) -> Cell:
    if figure is None:
        return number_cell(None)
    value, low, high = figure
    return Cell(f"{value:{spec}}", value, detail=f"{low:{spec}} to {high:{spec}}")
