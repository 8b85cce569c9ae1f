"""Vetting in the report: which clients were suspicious in which round, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fedrai.report.heat_map import LEVELS, HeatCell, HeatMap
from fedrai.report.tables import MISSING, Cell, Content, Table, count_cell, number_cell, row
from fedrai.runs.record import RunRecord, VettingRecord

ACTIONS = {"record": "only recorded", "weigh": "weighs less", "set-aside": "set aside"}


def vettings(runs: Sequence[RunRecord]) -> list[Content]:
    """Vetting of each run that has it; nothing where none has."""
    return [_vetting(run, place) for place, run in enumerate(runs) if _by_round(run)]


def _by_round(run: RunRecord) -> dict[int, VettingRecord]:
    return {one.number: one.vetting for one in run.rounds if one.vetting is not None}


def _vetting(run: RunRecord, place: int) -> Content:
    rounds = _by_round(run)
    return {
        "label": run.label,
        "place": place,
        "summary": _summary(rounds),
        "chart": _map(run.label, place, rounds),
        "suspicious": _suspicious(run.label, rounds),
        "scores": _scores(run.label, rounds),
    }


def _summary(rounds: Mapping[int, VettingRecord]) -> str:
    """The action, the number of suspicious updates, and the cost."""
    last = list(rounds.values())[-1]
    found = sum(len(one.suspicious) for one in rounds.values())
    seen = sum(len(one.suspicion) for one in rounds.values())
    costs = [one.share for one in rounds.values() if one.share is not None]
    rate = MISSING if last.false_alarms is None else f"{100 * last.false_alarms:g} %"
    cost = f"{100 * max(costs):.1f} %" if costs else MISSING
    return (
        f"{found} of {seen} updates were suspicious ({ACTIONS.get(last.action, last.action)});"
        f" the false alarm rate is set to {rate}. Vetting took at most {cost} of the operations of"
        " a round's training."
    )


def _map(label: str, place: int, rounds: Mapping[int, VettingRecord]) -> HeatMap:
    clients = sorted({name for one in rounds.values() for name in one.suspicion})
    rows = [(name, [_cell(rounds[number], name) for number in rounds]) for name in clients]
    return HeatMap(
        f"chart-vetting-{place}",
        f"Suspicion of clients: {label}",
        "One cell per client and round, darker the fewer honest clients look as bad; a cross marks"
        " a suspicious update. The tables below have the numbers and the reasons.",
        rows,
        list(rounds),
    )


def _cell(one: VettingRecord, client: str) -> HeatCell | None:
    """Darker by the power of ten of the suspicion: 4 from one honest client in ten thousand."""
    if client not in one.suspicion:
        return None
    value = one.suspicion[client]
    level = 0 if value is None else int(min(LEVELS - 1, max(0.0, -math.log10(max(value, 1e-9)))))
    return HeatCell(level, client in one.suspicious)


def _suspicious(label: str, rounds: Mapping[int, VettingRecord]) -> Table:
    rows = [
        row(count_cell(number), name, ACTIONS.get(one.action, one.action), reason)
        for number, one in rounds.items()
        for name, reason in one.suspicious.items()
    ]
    return Table(f"Suspicious updates: {label}", ["round", "client", "action", "reason"], rows)


def _scores(label: str, rounds: Mapping[int, VettingRecord]) -> Table:
    """All numbers: one row a round and client."""
    names = list(
        dict.fromkeys(n for one in rounds.values() for s in one.scores.values() for n in s)
    )
    rows = [
        row(
            count_cell(number),
            client,
            _share_cell(value, client in one.suspicious),
            "yes" if client in one.watched else "",
            *(_number(one.scores.get(client, {}).get(name)) for name in names),
        )
        for number, one in rounds.items()
        for client, value in one.suspicion.items()
    ]
    columns = ["round", "client", "honest clients that look as bad", "watched", *names]
    return Table(f"Scores of updates: {label}", columns, rows)


def _number(value: float | None) -> Cell:
    return Cell("not known") if value is None else number_cell(value, ".3g")


def _share_cell(value: float | None, is_suspicious: bool) -> Cell:
    if value is None:
        return Cell("not known")
    return Cell(f"{100 * value:.2g} %", value, "stands-out" if is_suspicious else "")
