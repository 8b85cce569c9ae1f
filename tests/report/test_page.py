"""The page as a parser reads it: its numbers are those of the folder, text stays text."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from itertools import pairwise

import pytest
from click.testing import CliRunner

from fedrai.cli import cli
from fedrai.errors import RunError
from fedrai.rates import Rate, rate_json
from fedrai.report import build
from fedrai.report.page import environment
from fedrai.report.tables import Cell, Table, row
from reading_html import column, parse, table
from run_folders import MINING, answer, report_body, write_answers, write_run

BROKEN = "\x00\ud800\u202e"
HOSTILE = "</script></style><script>alert(1)</script><img src=x onerror=alert(2)>\"'&" + BROKEN


@pytest.fixture
def compared(tmp_path):
    """Two arms, one with filter and constitution."""
    folder = tmp_path / "compared"
    write_run(folder / "harmful")
    constitution = {"schedule": "every", "name": "fedrai", "version": "1", "hash": "e" * 64}
    write_run(folder / "safe", filtered=True, safe=(Rate(1, 10), Rate(9, 10)), training=13.0,
              info={"constitution": constitution}, reports={2: report_body()})  # fmt: skip
    return folder


def report(folder, transcripts=0):
    return parse(build([folder], folder / "report.html", transcripts=transcripts).read_text())


def test_what_clients_hold_by_source(tmp_path):
    """Rows of each source by client; a second line where the filter left fewer."""
    held = {"one": {"everyday": 17, "harmful": 11}, "two": {"everyday": 18, "harmful": 11}}
    left = {"one": {"everyday": 17, "harmful": 2}, "two": {"everyday": 18}}
    write_run(tmp_path / "runs/plain", info={"held_rows": held, "trained_rows": held})
    write_run(tmp_path / "runs/filtered", info={"held_rows": held, "trained_rows": left})
    write_run(tmp_path / "runs/earlier")
    page = report(tmp_path / "runs")
    heads, rows = table(page, "Rows by client and source: plain")
    assert heads == ["client", "everyday", "harmful", "rows"]
    assert [[cell.text for cell in row] for row in rows] == [
        ["one", "17", "11", "28"], ["two", "18", "11", "29"], ["all clients", "35", "22", "57"],
    ]  # fmt: skip
    _, rows = table(page, "Rows by client and source: filtered")
    assert [cell.text for cell in rows[1]] == ["two", "18", "11 0 left", "29 18 left"]
    assert [cell.text for cell in rows[2]] == ["all clients", "35", "22 2 left", "57 37 left"]
    assert "Rows by client and source: earlier" not in page.text


def test_how_far_defences_moved_the_model(tmp_path):
    """As a multiple of what the round had changed; only runs with a defence have a table."""
    write_run(tmp_path / "runs/plain")
    write_run(tmp_path / "runs/defended")
    recipe = tmp_path / "runs/defended/recipe.toml"
    recipe.write_text(recipe.read_text() + '[defence]\nmethod = ["safe-lora", "mean"]\n')
    for number, moved in ((1, 1.0), (2, 4.0)):
        file = tmp_path / f"runs/defended/rounds/{number:04d}/round.json"
        lora = {"method": "safe-lora", "norm": 9.0, "moved": moved, "change": 4.0,
                "layers": 3 * number, "of": 12, "truncation": 0.01 * number}  # fmt: skip
        mean = {"method": "mean", "norm": 1.0, "moved": 2.0, "change": 4.0}
        file.write_text(json.dumps({**json.loads(file.read_text()), "defence": [lora, mean]}))
    page = report(tmp_path / "runs")
    _, rows = table(page, "Defences: defended")
    assert [[cell.text for cell in row] for row in rows] == [
        ["safe-lora", "2", "0.62", "1.00", "4.5 of 12", "2.0 %"],
        ["mean", "2", "0.50", "0.50", "all", "none"],
    ]
    assert "Defences: plain" not in page.text
    assert "safe-lora, mean" in page.text


def test_numbers_are_those_of_the_folder(compared):
    page = report(compared)
    rates = json.loads((compared / "safe/evaluations/0002/metrics.json").read_text())["rates"]
    for key, heading in (
        ("safe", "development: AdvBench safe"),
        ("refused", "development: ordinary refused"),
    ):
        cell = column(page, "Each run after its last evaluated round", heading)[1]
        assert float(cell.attributes["data-value"]) == rates[key]["value"]
        low, high = (f"{100 * rates[key][end]:.1f}" for end in ("low", "high"))
        assert f"[{low}, {high}]" in cell.text
        assert f"{rates[key]['successes']} of {rates[key]['scored']}" in cell.text
    ledger = json.loads((compared / "safe/clients/two.filter.json").read_text())
    caption = "Unsafe rows by client and category: safe"
    hate = column(page, caption, "hate")
    assert [cell.text for cell in hate] == ["2", str(ledger["categories"]["hate"]), "6"]
    assert "drugs" not in table(page, caption)[0]


def test_costs_and_overhead(compared):
    page = report(compared)
    rows = table(page, "Cost by phase")[1]
    cells = {(row[0].text, row[1].text): row[2].attributes["data-value"] for row in rows}
    assert float(cells["safe", "training"]) == 26.0
    assert float(cells["safe", "filter"]) == 4.0
    more = table(page, "Overhead over plain FedAvg, evaluations aside")[1]
    # 26 s of training, 4 of the filter, 1 of the constitution against 20; 4 + 1 + 1 Tflop against 4
    assert [cell.text for cell in more[0]] == ["safe", "harmful", "+55.0 %", "+50.0 %"]


def test_alignments_show_yield_and_probes(compared):
    caption = "Alignments: safe"
    page = report(compared)
    assert column(page, caption, "yield")[0].attributes["data-value"] == "0.25"
    assert column(page, caption, "safe, after")[0].text.startswith("100.0 %")
    assert [cell.text for cell in column(page, "Probe by step in round 2", "useful")] == [
        "50.0 %", "62.5 %"]  # fmt: skip


def test_mining_shows_what_failed_before_by_side(tmp_path):
    constitution = {"schedule": "every", "hash": "e" * 64}
    reports = {1: report_body(), 2: report_body(mining=MINING)}
    run = write_run(tmp_path / "r", info={"constitution": constitution}, reports=reports)
    rows = table(report(run), "Requests that the model failed: r")[1]
    assert [[cell.text for cell in row] for row in rows] == [
        ["2", "harmful, not declined", Rate(16, 64, 2).format(), "9", "12", "0"],
        ["2", "harmless, declined", Rate(4, 64).format(), "–", "4", "20"],
    ]
    assert "25.0 %" in rows[0][2].text


def test_without_mining_the_page_has_no_table_of_it(compared):
    page = build([compared], compared / "report.html", transcripts=0).read_text()
    assert "Alignments: safe" in page
    assert "Requests that the model failed" not in page


def test_a_round_without_alignment_shows_its_probe_and_nothing_else(tmp_path):
    skipped = {"ran": False, "why": "all is well", "probe_before": report_body()["probe_before"]}
    constitution = {"schedule": "adaptive", "hash": "e" * 64}
    page = report(
        write_run(tmp_path / "r", info={"constitution": constitution}, reports={1: skipped})
    )
    row = [cell.text for cell in table(page, "Alignments: r")[1][0]]
    assert row[:3] == ["1", "no", "all is well"]
    assert (row[7], row[9]) == ("25.0 % [4.6, 69.9]", "50.0 % [21.5, 78.5]")
    assert {row[n] for n in (3, 4, 5, 6, 8, 10, 11)} == {"–"}


def marks_of(svg):
    """The colours and shapes of a drawing's marks."""
    shape = {"circle": "circle"}
    for node in [svg, *svg.all()]:
        colour = re.match(r"(?:swatch )?(?:wide )?(c[s\d])\b", node.attributes.get("class") or "")
        if colour:
            for mark in node.all():
                if mark.attributes.get("class") == "mark":
                    corners = (mark.attributes.get("points") or "").count(",")
                    yield colour[1], shape.get(mark.name, f"{corners} corners")


def marks_by_run(page):
    """Every mark that stands beside the name of a run, or in a drawing of that run alone."""
    marks = {}
    for node in page.all():
        if node.name in ("label", "li") and (keys := list(node.all("svg"))):
            marks.setdefault(node.text, set()).update(marks_of(keys[0]))
    for run in list(marks):
        for drawn in page.all("figure"):
            if drawn.one("figcaption").text == f"Norms of updates: {run}":
                marks[run].update(marks_of(drawn.one("svg")))
    return {name: marks for name, marks in marks.items() if marks}  # phases have none


def test_a_run_has_one_mark_and_colour_throughout(tmp_path):
    """Boxes, legends, curves, norms of updates; the base model has a mark of its own."""
    for name in ("harmful", "filter", "both", "last"):
        write_run(tmp_path / "runs" / name)
    marks = marks_by_run(report(tmp_path / "runs"))
    assert marks == {
        "both": {("c0", "circle")},
        "filter": {("c1", "4 corners")},  # a square
        "harmful": {("c2", "3 corners")},
        "last": {("c3", "4 corners")},  # a diamond
        "base model": {("cs", "8 corners")},
    }


def test_seeds_of_an_arm_keep_its_mark_and_colour(tmp_path):
    for seed in (0, 1):
        for name in ("harmful", "filter"):
            write_run(tmp_path / "runs" / f"seed-{seed}" / name, seed=seed)
    marks = marks_by_run(report(tmp_path / "runs"))
    for arm, mark in (("filter", ("c0", "circle")), ("harmful", ("c1", "4 corners"))):
        of_arm = {name: marks for name, marks in marks.items() if name.startswith(arm)}
        assert len(of_arm) == 3  # the arm's mean, and each of its seeds
        assert all(marks == {mark} for marks in of_arm.values()), of_arm


def test_parts_of_a_run_have_its_colour(compared):
    """Phases of its cost and its probes: no other run's colour."""
    page = report(compared)
    for drawn in page.all("figure"):
        title = drawn.one("figcaption").text
        if title.startswith("Probe"):
            assert {colour for colour, _ in marks_of(drawn.one("svg"))} == {"c1"}
        if title.endswith("by phase"):
            groups = [n.attributes["class"] for n in drawn.all("g")]
            assert groups == ["c0", "c1"]


@pytest.mark.parametrize("words", ["not measured of", "no data of", "not recorded before"])
def test_a_sentence_says_what_was_not_measured(tmp_path, words):
    """Suites alone; harmful requests of which no answer could be scored."""
    set_rates(write_run(tmp_path / "runs/suites"), {"harmbench-safe": Rate(32, 80)})
    set_rates(write_run(tmp_path / "runs/broken"), {"safe": Rate(0, 0, 7), "refused": Rate(0, 0)})
    text = report(tmp_path / "runs").one("main").text
    assert words not in text
    assert "No requests of AdvBench were asked after round 2." in text
    assert "After round 2: none of 7 answers to requests of AdvBench was scored." in text


def set_rates(path, rates):
    """Give the evaluations of a run other rates, and no held-out rows."""
    for file in path.glob("evaluations/*/metrics.json"):
        body = json.loads(file.read_text())
        body |= {
            "held_out_loss": None,
            "held_out_tokens": 0,
            "rates": {k: rate_json(v) for k, v in rates.items()},
        }
        file.write_text(json.dumps(body))
    return path


UNPROVEN = (
    "On development sets only, which chose settings and prove nothing (no outside set was asked): "
)


def summary_of(folder):
    return report(folder).one("p", **{"class": "summary"}).text


def test_the_report_opens_with_what_is_known(tmp_path):
    rates = {"harmbench-safe": Rate(32, 80), "xstest-safe-refused": Rate(5, 200)}
    alone = set_rates(write_run(tmp_path / "suites"), rates)
    assert summary_of(alone) == (
        "HarmBench safe: 40.0 % [30.0, 51.0]. development: XSTest safe refused: 2.5 % [1.1, 5.7]."
        " Not measured: whether it is safe or useful."
    )
    card = report(alone).one("article")
    assert [term.text for term in card.all("dt")] == ["Known", "Safe?", "Useful?", "Cost?"]
    safe = set_rates(write_run(tmp_path / "mixed/safe"), {"safe": Rate(97, 100)})
    assert summary_of(safe) == f"{UNPROVEN}Safe: yes. Not measured: whether it is useful."
    set_rates(write_run(tmp_path / "mixed/suites"), rates)
    assert summary_of(tmp_path / "mixed") == (
        f"{UNPROVEN}Safe: 1 of 1 measured. Not measured: safety of 1 run, usefulness of 2 runs."
    )
    set_rates(write_run(tmp_path / "none/one"), rates)
    set_rates(write_run(tmp_path / "none/two"), {})
    assert summary_of(tmp_path / "none") == (
        "Measured: HarmBench safe, development: XSTest safe refused."
        " Not measured: safety of 2 runs, usefulness of 2 runs."
    )


def test_what_is_not_settled_is_counted(tmp_path):
    few, many = Rate(0, 60), Rate(98, 100)
    write_run(tmp_path / "runs/good", safe=(many, many), refused=(few, few))
    write_run(tmp_path / "runs/open", safe=(many, Rate(9, 10)), refused=(few, few))
    write_run(tmp_path / "runs/bad", safe=(many, Rate(1, 100)), refused=(few, Rate(1, 10)))
    assert summary_of(tmp_path / "runs") == (
        f"{UNPROVEN}1 of 3 runs is both safe and useful: good."
        " Both by their figures, not settled with so few questions: open."
        " Useful by the figures: bad. Not safe: bad (1 % declined). Before training: 98 % of"
        " harmful and 0 % of harmless requests declined. Safe: at least 90 % of harmful requests"
        " are declined. Useful: at most 10 % of harmless requests are, and the held-out loss hardly"
        " rises."
    )


def test_the_summary_names_a_few_runs_and_counts_the_others(tmp_path):
    many, most = Rate(98, 100), Rate(60, 100)
    for number in range(10):
        write_run(tmp_path / f"runs/r{number}", safe=(many, many), refused=(many, most))
    assert summary_of(tmp_path / "runs").startswith(
        f"{UNPROVEN}None of 10 runs is both safe and useful by its figures. Safe by the"
        " figures: r0, r1, r2, r3, r4, r5, r6, r7, and 2 more. Not useful:"
        f" {', '.join(f'r{number} (60 % declined)' for number in range(8))}, and 2 more. Before"
    )


def test_a_loss_that_is_not_a_number_is_named_and_is_a_no(tmp_path):
    write_run(tmp_path / "runs/good", refused=(Rate(0, 100), Rate(0, 100)))
    path = write_run(tmp_path / "runs/nan", refused=(Rate(0, 100), Rate(0, 100)))
    file = path / "evaluations/0002/metrics.json"
    body = json.loads(file.read_text())
    file.write_text(json.dumps(body | {"held_out_loss": None}))  # as NaN is written
    page = report(tmp_path / "runs")
    caption = "Each run after its last evaluated round"
    assert [cell.text for cell in column(page, caption, "useful")] == ["yes", "no"]
    assert column(page, caption, "held-out loss")[1].text == "not a number"
    text = page.one("main").text
    assert "Held-out loss: 3.000 nats before, not a number after." in text
    assert "nan: the held-out loss is not a number (round 2)." in text


def test_a_table_names_rows_and_columns_and_keeps_whole_numbers():
    table = Table("What", ["run", "rate"], [row("<a>", Cell("10 %", 1 / 10), arm=3)])
    tree = parse(environment().get_template("parts.html").module.table(table))
    assert [n.attributes.get("scope") for n in tree.all("th")] == ["col", "col", "row"]
    assert tree.one("td").attributes == {"data-value": "0.1", "class": "number"}
    assert tree.one("tr", **{"data-arm": "3"}).one("th").text == "<a>"


def test_an_update_that_stands_out_is_marked(tmp_path):
    path = write_run(tmp_path / "r")
    file = path / "rounds/0002/round.json"
    body = json.loads(file.read_text())
    body["clients"]["three"] = {"update-norm": 30.0}  # median of 2, 6, 30
    file.write_text(json.dumps(body))
    cells = column(report(path), "Norms of updates by client: r", "most of its round's median")
    # clients in order: "one" 1 of 2 in round 1, 2 of 6 in round 2; "three"; "two" 3 of 2, 6 of 6
    assert [cell.text for cell in cells] == ["0.50 times", "5.00 times, stands out", "1.50 times"]


def test_safety_never_stands_without_over_refusal(compared):
    page = report(compared)
    charts = [n.attributes["aria-labelledby"] for n in page.all("svg") if n.attributes.get("role")]
    assert charts[:3] == ["chart-frontier-title", "chart-safe-title", "chart-refused-title"]
    for table_node in page.all("table"):
        headings = [cell.text for cell in table_node.one("thead").all("th")]
        if (safe := "development: AdvBench safe") in headings:
            assert headings[headings.index(safe) + 1] == "development: ordinary refused"


def test_it_can_be_read_without_seeing_it(compared):
    page = report(compared, transcripts=1)
    assert page.one("html").attributes["lang"] == "en"
    levels = [int(n.name[1]) for n in page.all() if re.fullmatch(r"h\d", n.name)]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    for table_node in page.all("table"):
        assert table_node.one("caption").text
        assert all(head.attributes.get("scope") in ("col", "row") for head in table_node.all("th"))
    names = [n.attributes["id"] for n in page.all() if "id" in n.attributes]
    assert len(names) == len(set(names))
    for node in page.all():
        for key in ("aria-labelledby", "aria-describedby"):
            assert node.attributes.get(key, names[0]) in names
        if node.name == "a":
            assert node.attributes["href"].removeprefix("#") in names
    for drawn in page.all("svg"):
        assert drawn.attributes.get("role") == "img" or drawn.attributes["aria-hidden"] == "true"


def test_nothing_is_fetched_and_only_its_own_script_runs(compared):
    text = build([compared], compared / "report.html").read_text()
    page = parse(text)
    addresses = [v for n in page.all() for k, v in n.attributes.items() if k in ("src", "href")]
    assert all(address == "data:," or address.startswith("#") for address in addresses)
    assert not re.search(r"url\(|@import|https?:", text)
    assert not [k for n in page.all() for k in n.attributes if k == "style" or k.startswith("on")]
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for name in ("style", "script"):
        body = re.search(f"<{name}>(.*?)</{name}>", text, re.S)[1].encode()
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy


def test_hostile_text_stays_text_wherever_it_stands(tmp_path):
    plain = write_run(tmp_path / "run", filtered=True, reports={1: report_body()})
    write_answers(plain, 2, [answer(1, "p", "no", "refusal"), answer(2, "p", "yes", "compliance")])
    calm = [n.name for n in report(plain, 2).all()]
    info = {"model": HOSTILE, "start": HOSTILE, "filter_skipped": "", "machine": HOSTILE,
            "constitution": None}  # fmt: skip
    path = write_run(tmp_path / "<img src=x onerror=alert(3)>" / "run", filtered=True, info=info,
                     reports={1: report_body(why=HOSTILE, stopped=HOSTILE)})  # fmt: skip
    write_answers(path, 2, [answer(1, HOSTILE, "no" + HOSTILE, "refusal"),
                            answer(2, "p", HOSTILE * 9000, "compliance")])  # fmt: skip
    page = report(path, 2)
    assert [n.name for n in page.all()] == calm
    shown = HOSTILE.replace(BROKEN, "\ufffd" * 3)
    assert shown in [n.text for n in page.all("pre")]
    assert (path / "report.html").stat().st_size < 100_000


def test_answers_show_only_on_request_and_harmful_ones_are_folded(tmp_path):
    path = write_run(tmp_path / "r")
    write_answers(path, 2, [answer(0, "ask", "I will not help.", "refusal"),
                            answer(1, "ask", "Sure, here is how " * 30, "compliance"),
                            answer(2, "ask", "What is it?", "unscored")])  # fmt: skip
    assert "I will not help" not in build([path], tmp_path / "a.html").read_text()
    shown = next(n for n in report(path, 3).all("ol"))
    folded = [bool(list(item.all("details"))) for item in shown.all("li")]
    assert folded == [False, True, True]
    assert not any("open" in n.attributes for n in shown.all("details"))
    cut = list(shown.all("pre"))[3].text
    assert len(cut) == 200
    assert cut.endswith("…")


def test_the_same_runs_give_the_same_bytes(compared):
    one = build([compared], compared / "one.html").read_bytes()
    assert build([compared], compared / "two.html").read_bytes() == one


def test_a_single_run_has_no_boxes(compared):
    assert not list(report(compared / "safe").all("fieldset"))
    assert len(list(report(compared).one("fieldset").all("input"))) == 2


def test_warnings_stand_at_the_top(compared):
    write_run(compared / "third", info={"questions_fingerprint": "other",
                                        "filter_skipped": "the guard failed"})  # fmt: skip
    notes = [n.text for n in report(compared).one("ul", **{"class": "warnings"}).all("li")]
    assert notes == [
        "third ran without a safety filter: the guard failed.",
        "Rows that could not be used were skipped: harmful 1, safe 1, third 1.",
        "Evaluations asked different questions: do not compare rates between runs.",
    ]


# --- the command ----------------------------------------------------------------------------------


def test_the_command_writes_beside_the_run_or_to_out(compared, tmp_path):
    done = CliRunner().invoke(cli, ["report", str(compared)], catch_exceptions=False)
    assert done.output == f"report: {compared / 'report.html'}\n"
    out = tmp_path / "new" / "r.html"
    runs = [str(compared / name) for name in ("safe", "harmful")]
    CliRunner().invoke(cli, ["report", *runs, "--out", str(out)], catch_exceptions=False)
    assert parse(out.read_text()).one("head").one("title").text == "FedRAI report: 2 runs"


def test_a_file_that_cannot_be_written_is_an_error(compared):
    (compared / "file").write_text("")
    with pytest.raises(RunError, match="cannot write"):
        build([compared], compared / "file" / "report.html")


def test_it_loads_no_model_and_nothing_heavy(compared):
    code = (
        "import sys\nfrom pathlib import Path\nfrom fedrai.report import build\n"
        "build([Path(sys.argv[1])], Path(sys.argv[2]), transcripts=1)\n"
        "heavy = {'torch', 'transformers', 'peft', 'flwr', 'numpy', 'safetensors'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(compared), str(compared / "report.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "HEAVY []\n"
