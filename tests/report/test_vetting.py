"""Vetting in the report: the map, the reasons, and nothing where a run has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedrai.report import build
from fedrai.report.heat_map import HeatCell, HeatMap
from fedrai.report.page import page
from fedrai.runs import RunFolder, record
from reading_html import Node, parse, table
from run_folders import write_run

REASON = "its update lowers the safety margin by 2.1 nats, others 0.2"


def vetting(**changes: Any) -> dict[str, Any]:
    body = {
        "action": "set-aside", "false_alarms": 0.02,
        "scores": {"one": {"functional": 0.2, "distance": None},
                   "two": {"functional": 2.1, "distance": None}},
        "suspicion": {"one": 0.5, "two": 0.0004}, "watched": ["one"],
        "suspicious": {"two": REASON}, "set_aside": {"two": REASON}, "factors": {}, "share": 0.034,
    }  # fmt: skip
    return {**body, **changes}


def write(folder: Path, bodies: dict[int, dict[str, Any]]) -> Path:
    """A run of two rounds; those that are named were vetted."""
    run = write_run(folder)
    for number, body in bodies.items():
        file = run / f"rounds/{number:04d}/round.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "vetting": body}))
    return run


def report(folder: Path) -> Node:
    return parse(build([folder], folder / "report.html", transcripts=0).read_text())


def test_the_section_shows_who_was_suspicious_and_why(tmp_path: Path) -> None:
    second = vetting(
        suspicion={"one": 0.3, "two": None}, suspicious={}, set_aside={}, watched=["two"]
    )
    found = report(write(tmp_path / "r", {1: vetting(), 2: second}))
    heads, rows = table(found, "Suspicious updates: r")
    assert heads == ["round", "client", "action", "reason"]
    assert [[cell.text for cell in row] for row in rows] == [["1", "two", "set aside", REASON]]
    heads, rows = table(found, "Scores of updates: r")
    assert heads[2:] == ["honest clients that look as bad", "watched", "functional", "distance"]
    assert [cell.text for cell in rows[1]] == ["1", "two", "0.04 %", "", "2.1", "not known"]
    assert [cell.text for cell in rows[3]] == ["2", "two", "not known", "yes", "2.1", "not known"]
    text = found.one("main").text
    assert "1 of 4 updates were suspicious (set aside); the false alarm rate is set to 2 %." in text
    assert "Vetting took at most 3.4 % of the operations" in text
    assert "r: 1 client update was set aside by vetting." in text


def test_the_map_has_a_cell_a_client_and_round_and_words_for_it(tmp_path: Path) -> None:
    found = report(write(tmp_path / "r", {1: vetting(), 2: vetting()}))
    drawn = next(f for f in found.all("figure") if "Suspicion" in f.one("figcaption").text)
    svg = drawn.one("svg")
    cells = [n.attributes["class"] for n in svg.all("rect")]
    # 0.5 is above a tenth, 0.0004 below a thousandth; one row a client
    assert cells == ["cell cell0"] * 2 + ["cell cell3"] * 2
    assert len([n for n in svg.all("line") if n.attributes["class"] == "cross"]) == 4
    assert svg.attributes["role"] == "img"
    names = {n.attributes.get("id") for n in svg.all()}
    assert {svg.attributes["aria-labelledby"], svg.attributes["aria-describedby"]} <= names


def test_a_run_without_vetting_has_no_such_section(tmp_path: Path) -> None:
    run = record.read(RunFolder.open(write_run(tmp_path / "r")))
    assert 'id="vetting"' not in page([run])
    assert run.rounds[0].vetting is None


@pytest.mark.parametrize("value", [None, [], {}, "x", {"suspicion": 3, "scores": [], "share": "x"}])
def test_damaged_parts_count_as_not_recorded(tmp_path: Path, value: Any) -> None:
    run = record.read(RunFolder.open(write(tmp_path / "r", {1: value})))
    one = run.rounds[0].vetting
    assert one is None or (one.suspicion, one.scores, one.share) == ({}, {}, None)
    assert page([run])


def test_many_rounds_fit_and_label_only_some() -> None:
    columns = list(range(1, 101))
    chart = HeatMap("m", "t", "d", [("a", [HeatCell(0)] * 100)], columns)
    svg = parse(f"<main>{chart.svg}</main>")
    right = max(float(n.attributes["x"]) + float(n.attributes["width"]) for n in svg.all("rect"))
    assert right <= 400
    assert len([n for n in svg.all("text") if n.text.isdigit()]) <= 12
    assert HeatMap("m", "t", "d", [("a", [None])], [1]).svg is None
