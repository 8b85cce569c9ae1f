"""The report of a comparison: its tables as written, a point an arm, a colour an arm."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from compared_runs import run
from fedrai.errors import RunError
from fedrai.report import build
from fedrai.report.arms import points_of, styles
from fedrai.report.charts import HEIGHT, LEFT, RIGHT, TOP, WIDTH
from fedrai.report.comparing.layout import Axis
from fedrai.report.comparing.writing import compare_runs, write
from fedrai.report.picture import picture
from fedrai.report.read import read_runs
from fedrai.report.saved_comparison import read_comparisons

T, F = True, False
BOTTOM = 38.0


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Two arms with two seeds and the files of their comparison."""
    plan = []
    for seed in (0, 1):
        under = tmp_path / f"seed-{seed}"
        plan.append(run(under / "fedavg", [F, F, T, F], [F, F], seed=seed))
        plan.append(run(under / "<both>", [T, T, T, T], [T, F], seed=seed))
    write(compare_runs(plan), tmp_path)
    return tmp_path


def page(folder: Path) -> str:
    return build([folder], folder / "report.html").read_text()


def test_tables_are_those_that_were_written(out: Path) -> None:
    text = page(out)
    table = text[text.index("Arms: means over seeds") :]
    cells = re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", table[: table.index("</table>")])
    written = json.loads((out / "comparison.json").read_text())["table"]
    expected = [*written["columns"], *(cell for row in written["rows"] for cell in row)]
    assert [html.unescape(cell) for cell in cells] == expected
    assert "Each arm against fedavg, prompt by prompt" in text
    assert "<both>" not in text


def test_a_point_an_arm_stands_where_its_rates_put_it(out: Path) -> None:
    text = page(out)
    drawn = text[text.index("chart-frontier-0-title") :]
    drawn = drawn[: drawn.index("</svg>")]
    star = re.search(r'<polygon points="([\d.]+),([\d.]+) ', drawn)  # the first: the base model
    assert star is not None
    tip = (LEFT, HEIGHT - BOTTOM - 1.7 * 4)  # nothing refused
    assert (float(star[1]), float(star[2])) == pytest.approx(tip, abs=0.05)
    points = {one.label: one.figures for one in read_comparisons([out])[0].points}
    assert points["<both>"]["safe"].y == 1.0
    assert points["<both>"]["xstest-safe-refused"].y == 0.5
    right = LEFT + 0.5 / 1.05 * (WIDTH - LEFT - RIGHT)
    assert f"{right - 4:.1f},{TOP - 4:.1f}" in drawn  # a corner of the second arm's square


def test_seeds_of_an_arm_share_colour_and_are_named(out: Path) -> None:
    runs = read_runs([out])
    assert [one.label for one in runs] == [
        "fedavg, seed 0", "<both>, seed 0", "fedavg, seed 1", "<both>, seed 1"]  # fmt: skip
    assert styles(runs) == [0, 1, 8, 9]
    assert styles(runs[:2]) == [0, 1]


def test_without_a_comparison_points_come_from_the_runs(out: Path) -> None:
    points = points_of(read_runs([out]))
    assert [one.label for one in points] == ["base model", "fedavg", "<both>"]
    fedavg = points[1].figures["safe"]
    assert (fedavg.y, fedavg.low) == (0.25, None)
    single = points_of(read_runs([out / "seed-0"]))[2].figures["safe"]
    assert single.low == pytest.approx(0.0456, abs=1e-4)  # Wilson's of 1 of 4
    (out / "comparison.json").unlink()
    assert "chart-frontier-title" in page(out)


def test_scores_and_what_is_not_available_are_shown(tmp_path: Path) -> None:
    hhh = {"value": 0.5, "low": 0.25, "high": 0.75, "count": 20, "unscored": 1}
    run(tmp_path / "arm", [T], scores={"hhh": hhh, "mt-bench": {"value": None, "count": 0}},
        unavailable={"xstest-safe": "<no> network"})  # fmt: skip
    text = page(tmp_path)
    assert "0.500 [0.250, 0.750] (20, 1 unscored)" in text
    assert "The suite xstest-safe was not available: &lt;no&gt; network." in text
    assert "mt-bench" not in text


def test_an_axis_is_drawn_by_arm(tmp_path: Path) -> None:
    plan = []
    for value in ("0", "0.5"):
        under = tmp_path / f"share-{value}"
        plan += [replace(run(under / arm, refused), value=value)
                 for arm, refused in (("fedavg", [T, F]), ("both", [T, T]))]  # fmt: skip
    write(compare_runs(plan, Axis("data.harm.share", ("0", "0.5"))), tmp_path)
    text = page(tmp_path)
    drawn = text[text.index("chart-axis-0-safe-title") :]
    drawn = drawn[: drawn.index("</svg>")]
    assert drawn.count("<polyline") == 2
    picture_of = ElementTree.parse(tmp_path / "safety.svg").iter(f"{SVG}text")
    assert [t.text for t in picture_of][-2:] == ["fedavg, 0.5", "both, 0.5"]
    assert "data.harm.share" in drawn


SVG = "{http://www.w3.org/2000/svg}"


def test_the_picture_is_a_file_of_its_own(out: Path) -> None:
    """Points with intervals on both axes, a legend, and nothing that is fetched or run."""
    text = (out / "safety.svg").read_text()
    root = ElementTree.fromstring(text)
    texts = [node.text for node in root.iter(f"{SVG}text")]
    assert texts[-3:] == ["base model", "fedavg", "<both>"]
    assert "development: XSTest safe refused (upwards: development: AdvBench safe)" in texts
    assert texts.count("100 %") == 2  # half of the safe prompts are refused: the axis shows all
    across = [
        float(node.attrib["x1"])
        for node in root.iter(f"{SVG}line")
        if node.attrib["class"] == "interval" and node.attrib["y1"] == node.attrib["y2"]
    ]
    assert across
    assert not re.search(r"script|href|url|import", text)
    assert len(text) < 10_000


def test_small_over_refusals_fill_the_width(tmp_path: Path) -> None:
    few = [run(tmp_path / "a", [T] * 20, [F] * 200), run(tmp_path / "b", [F] * 20, [F] * 200)]
    write(compare_runs(few), tmp_path)
    texts = [t.text for t in ElementTree.parse(tmp_path / "safety.svg").iter(f"{SVG}text")]
    assert "10 %" in texts
    assert texts.count("100 %") == 1


def test_without_two_sides_there_is_no_picture(out: Path) -> None:
    arms = read_comparisons([out])[0].points
    lost = [replace(arm, figures={"safe": arm.figures["safe"]}) for arm in arms]
    assert picture(arms) == (out / "safety.svg").read_text()
    assert (picture(lost), picture([])) == ("", "")


def test_the_verdict_says_what_the_pairs_settle(out: Path) -> None:
    def gap(arm: str, measure: str, *ends: float | None) -> dict[str, object]:
        figure = dict(zip(("value", "low", "high"), ends, strict=True))
        return {"arm": arm, "against": "fedavg", "measure": measure, "figure": figure}

    body = json.loads((out / "comparison.json").read_text())
    body["differences"] = [
        gap("filter", "outside-safe", -0.016, -0.164, 0.12),
        gap("both", "outside-safe", 0.212, 0.062, 0.385),
        gap("both", "outside-refused", -0.05, -0.09, -0.01),
        gap("one-seed", "outside-refused", 0.25, None, None),
        gap("both", "safe", 0.5, 0.4, 0.6), 7,
    ]  # fmt: skip
    (out / "comparison.json").write_text(json.dumps(body))
    text = html.unescape(page(out))
    start = "<p>{} requests of outside sets declined, compared with fedavg by question: {}.</p>"
    harmful = "filter -1.6 points [-16.4, +12.0], within noise; both +21.2 points [+6.2, +38.5]"
    harmless = "both -5.0 points [-9.0, -1.0]; one-seed +25.0 points, within noise"
    assert start.format("Harmful", harmful) in text
    assert start.format("Harmless", harmless) in text


@pytest.mark.parametrize("body", [None, [], {"arms": [3, {"figures": {"safe": {"value": "x"}}}]},
                                  {"table": {"columns": ["a"], "rows": [["b", "c"], 3]}},
                                  {"start": 3, "notes": 7, "axis": "x"}])  # fmt: skip
def test_odd_comparisons_are_shown_as_far_as_they_go(out: Path, body: object) -> None:
    (out / "comparison.json").write_text(json.dumps(body))
    assert "Safety against over-refusal" in page(out) or "Over-refusal" in page(out)


def test_a_damaged_comparison_is_named(out: Path) -> None:
    (out / "comparison.json").write_text("{")
    with pytest.raises(RunError, match=r"comparison\.json cannot be read"):
        page(out)
