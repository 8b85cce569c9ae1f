"""`fedrai compare` with seeds and an axis, on a tiny model: what it runs, shares, writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Call, Outcome, commands
from driver import fill_cache, write_recipe
from fedrai import recipe
from fedrai.federation.run import preparation
from fedrai.progress import about

pytestmark = pytest.mark.slow

LEAN = ("-o", "federation.rounds=1", "-o", "evaluation.every=0", "-o", "evaluation.temperature=0",
        "-o", "training.local_steps=1", "-o", "evaluation.advbench=3",
        "-o", "evaluation.max_new_tokens=3")  # fmt: skip
ARMS = """
[arms.fedavg]
[arms.filter.filter]
mode = "drop"
guard = "words"
[guards.words]
kind = "rules"
words = ["12?"]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    folder = tmp_path_factory.mktemp("compare")
    fill_cache(folder / "cache")
    write_recipe(folder, tiny_model, ARMS)
    return folder


@pytest.fixture(scope="module")
def call(folder: Path) -> Call:
    return commands(folder)


@pytest.fixture(scope="module")
def loads() -> Iterator[list[str]]:
    """Models that were loaded, from here on."""
    seen: list[str] = []
    load = preparation.load_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "load_model", lambda *given: (seen.append("x"), load(*given))[1])
        yield seen


@pytest.fixture(scope="module")
def seeds(call: Call, loads: list[str]) -> Outcome:
    """Two arms with two seeds."""
    found = call("compare", "tiny.toml", "--out", "seeds", "--seeds", "7,8", *LEAN)
    assert found.code == 0, found.err
    return found


def stamps(path: Path) -> dict[str, int]:
    return {str(f): f.stat().st_mtime_ns for f in path.rglob("*") if f.name != ".lock"}


def test_every_arm_has_every_seed(seeds: Outcome, folder: Path, loads: list[str]) -> None:
    found = sorted(f.parent.relative_to(folder / "seeds").as_posix()
                   for f in (folder / "seeds").rglob("run.json"))  # fmt: skip
    assert found == ["seed-7/fedavg", "seed-7/filter", "seed-8/fedavg", "seed-8/filter"]
    assert [recipe.load(folder / "seeds" / run / "recipe.toml").seed for run in found] == [
        7, 7, 8, 8]  # fmt: skip
    assert loads == ["x"]
    lines = [line for line in seeds.err.splitlines() if line.startswith("== ")]
    assert lines[0] == "== run 1 of 4: fedavg, seed 7"
    assert re.fullmatch(r"== run 3 of 4: fedavg, seed 8; (about \d+ min|less than a minute) left",
                        lines[2])  # fmt: skip


def test_seeds_differ_and_the_base_is_asked_once_a_sample(seeds: Outcome, folder: Path) -> None:
    def events(run: str) -> list[str]:
        lines = (folder / "seeds" / run / "events.jsonl").read_text().splitlines()
        return [f"{e['event']} {e.get('round', '')}" for e in map(json.loads, lines)]

    assert "evaluation-shared 0" in events("seed-7/filter")
    assert "evaluation-shared 0" not in events("seed-8/fedavg")  # another sample of AdvBench
    weights = "fedavg/rounds/0001/adapter/adapter_model.safetensors"
    pair = [(folder / f"seeds/seed-{n}" / weights).read_bytes() for n in (7, 8)]
    assert pair[0] != pair[1]


@pytest.mark.parametrize(("temperature", "shared"), [(0, True), (0.5, False)])
def test_seeds_that_ask_the_same_share_the_base(
    call: Call, folder: Path, temperature: float, shared: bool
) -> None:
    """All six ordinary instructions, so that no sample is drawn; sampled answers have a seed."""
    found = call("compare", "tiny.toml", "--out", f"all-{temperature}", "--arm", "fedavg",
                 "--seeds", "1,2", *LEAN, "-o", "evaluation.advbench=0",
                 "-o", "evaluation.ordinary=6",
                 "-o", f"evaluation.temperature={temperature}")  # fmt: skip
    assert found.code == 0, found.err
    events = (folder / f"all-{temperature}/seed-2/fedavg/events.jsonl").read_text()
    assert ("evaluation-shared" in events) is shared


def test_the_table_has_a_row_an_arm(seeds: Outcome, folder: Path) -> None:
    rows = [line.split("│")[1].strip() for line in seeds.out.splitlines() if line[:1] == "│"]
    assert rows == ["base model", "fedavg", "filter"]
    assert "filter minus fedavg" in seeds.out
    assert seeds.out.endswith("talk to one:  fedrai chat seeds/seed-8/filter\n")
    body = json.loads((folder / "seeds/comparison.json").read_text())
    assert [(arm["arm"], arm["seeds"]) for arm in body["arms"]] == [
        ("fedavg", [7, 8]), ("filter", [7, 8])]  # fmt: skip
    losses = [
        json.loads((folder / f"seeds/seed-{n}/fedavg/evaluations/0001/metrics.json").read_text())
        for n in (7, 8)
    ]
    mean = sum(found["held_out_loss"] for found in losses) / 2
    assert body["arms"][0]["figures"]["held-out-loss"]["value"] == pytest.approx(mean)


def test_finished_runs_are_not_made_again(
    call: Call, seeds: Outcome, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = stamps(folder / "seeds")
    monkeypatch.setattr(preparation, "load_model", lambda *_: pytest.fail("loaded a model"))
    same = call("compare", "tiny.toml", "--out", "seeds", "-o", "seeds=[7, 8]", *LEAN)
    assert (same.code, same.err) == (0, "== all 4 runs are finished; none is run again\n")
    assert same.out == seeds.out
    one = call("compare", "tiny.toml", "--out", "seeds", "--seed", "8", *LEAN, "--json")
    assert (one.code, list(json.loads(one.out))) == (0, ["fedavg", "filter"])
    monkeypatch.undo()
    assert {n: t for n, t in stamps(folder / "seeds").items() if "/seed-" in n} == {
        n: t for n, t in before.items() if "/seed-" in n}  # fmt: skip


def test_one_format_alone_or_a_file(call: Call, seeds: Outcome, folder: Path) -> None:
    words = ("compare", "tiny.toml", "--out", "seeds", "--seeds", "7,8", *LEAN)
    shown = call(*words, "--table", "latex")
    assert shown.out == (folder / "seeds/table.tex").read_text()
    written = call(*words, "--table-out", "my.csv")
    assert (written.code, "table: my.csv\n" in written.err) == (0, True)
    assert (folder / "my.csv").read_text() == (folder / "seeds/table.csv").read_text()


@pytest.mark.parametrize("name", ["my.foo", "my"])
def test_a_table_of_an_unknown_ending_is_refused(call: Call, folder: Path, name: str) -> None:
    found = call("compare", "tiny.toml", "--out", "unknown", "--table-out", name, *LEAN)
    assert (found.code, found.out) == (2, "")
    assert f"--table-out {name}: name a .csv, .tex, .md file" in found.err
    assert not (folder / "unknown").exists()
    assert not (folder / name).exists()


def test_the_folder_of_a_run_is_left_alone(call: Call, seeds: Outcome, folder: Path) -> None:
    before = stamps(folder / "seeds")
    found = call("compare", "tiny.toml", "--out", "seeds/seed-7/fedavg", *LEAN)
    assert (found.code, found.err) == (
        2,
        "error: seeds/seed-7/fedavg holds a run; a comparison needs a folder of its own"
        "\n  choose another folder with --out\n",
    )
    assert stamps(folder / "seeds") == before


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3, "less than a minute"), (45, "about 1 min"), (200, "about 3 min"),
        (7500, "about 2 h 5 min"),
    ],
)  # fmt: skip
def test_the_time_left_is_no_more_exact_than_it_is(seconds: float, said: str) -> None:
    assert about(seconds) == said


def test_a_local_arm_and_an_axis(call: Call, folder: Path) -> None:
    (folder / "modes.toml").write_text(
        (folder / "tiny.toml").read_text().split("\n[arms")[0]
        + '\n[arms.fedavg]\n[arms.local.federation]\nmode = "local"\n'
        '[arms.central.federation]\nmode = "centralised"\n'
    )
    found = call("compare", "modes.toml", "--out", "modes", *LEAN,
                 "--axis", "training.learning_rate=0.01,0.02")  # fmt: skip
    assert found.code == 0, found.err
    assert (folder / "modes/learning_rate-0.02/central/run.json").is_file()
    assert re.search(r"== run 6 of 6: central, 0\.02; (about|less than) ", found.err)
    body = json.loads((folder / "modes/comparison.json").read_text())
    assert [(arm["value"], arm["label"]) for arm in body["arms"]] == [
        (value, label) for value in ("0.01", "0.02")
        for label in ("fedavg", "local (mean of clients)", "central")]  # fmt: skip
    legacy = body["arms"][1]["figures"]["safe-legacy"]
    assert legacy["count"] == 3  # prompts; three clients answer each
    tests = [one for one in body["differences"] if one["arm"] == "local"]
    assert tests
    assert not any(one["p"] for one in tests)
    listed = call("runs", ".")
    assert listed.out.count("learning_rate-0.0") == 6
    report = call("report", "modes")
    assert report.code == 0, report.err


def test_the_papers_table_on_a_tiny_model(call: Call, folder: Path, tiny_model: Path) -> None:
    """Its arms but the mean of weights, which needs a start to go back to; guard and requests are
    files of ours, since tests fetch nothing.
    """
    harmful = [str(n * n) for n in range(100, 106)]  # answers of held_out.jsonl
    asked = [{"prompt": f"How do I harm the lamp of street {n}?"} for n in ("one", "two", "six")]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    changes = [
        "filter.guard=words", "guards.words.kind=rules", f"guards.words.words={harmful}",
        "constitution.requests=['asked.jsonl']", "constitution.examples=['asked.jsonl']",
        "constitution.harmless=['rows.jsonl']", "constitution.revising.guard=words",
        "constitution.anchor=0", "constitution.steps=1", "constitution.revising.tries=1",
        "constitution.revising.critique_tokens=8",
        "constitution.revising.max_new_tokens=8", "constitution.revising.demonstrations=0",
        "constitution.probe.harmful=1", "constitution.probe.harmless=1",
        "constitution.request_count=1", "constitution.harmless_count=4",
        "constitution.mix.rows=2", "constitution.mix.pairs=1", "constitution.mix.refusals=0.5",
        "constitution.mix.look_alikes=0", "data.max_length=200",
        f"model.base={tiny_model}", "adapter.start=", "model.dtype=float32", "adapter.rank=4",
        "data.sources.0.path=rows.jsonl", "data.sources.1.path=rows.jsonl",
        "data.sources.2.path=held_out.jsonl", "evaluation.outside=0",
        "data.rows_per_client=4", "federation.clients=4", "federation.clients_per_round=2",
        "federation.rounds=1", "training.local_epochs=0", "training.local_steps=1",
        "evaluation.ordinary_source.path=rows.jsonl", "evaluation.advbench=3",
        "evaluation.ordinary=2", "evaluation.judges=['rule', 'legacy']",
        "evaluation.max_new_tokens=3", "seeds=[0, 1]",
    ]  # fmt: skip
    names = ["clean", "fedavg", "filter", "perfect", "control", "constitution", "both", "local",
             "centralised"]  # fmt: skip
    given = [word for change in changes for word in ("-o", change)]
    given += [word for name in names for word in ("--arm", name)]
    found = call("compare", "paper_table", "--out", "paper", *given)
    assert found.code == 0, found.err
    body = json.loads((folder / "paper/comparison.json").read_text())
    assert [(arm["label"], arm["seeds"]) for arm in body["arms"]] == [
        ("clean", [0, 1]), ("fedavg", [0, 1]), ("filter", [0, 1]), ("perfect", [0, 1]),
        ("control", [0, 1]), ("constitution", [0, 1]), ("both", [0, 1]),
        ("local (mean of clients)", [0, 1]), ("centralised", [0, 1])]  # fmt: skip
    assert body["against"] == "fedavg"
    assert "xstest-safe: not available" in found.out
    figures = {arm["arm"]: arm["figures"] for arm in body["arms"]}
    assert figures["fedavg"]["overhead"]["value"] == 0
    assert figures["constitution"]["overhead"]["value"] > 0
    for name, seed in (("filter", 0), ("both", 1)):
        total = json.loads((folder / f"paper/seed-{seed}/{name}/filter.json").read_text())["total"]
        assert total["dropped"] > 0
    for name in ("constitution", "both"):
        done = json.loads((folder / f"paper/seed-1/{name}/summary.json").read_text())
        assert (done["constitution"]["alignments"], done["constitution"]["steps"]) == (1, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seeds", "1,x"), "expected whole numbers such as 0,1,2"),
        (("--seeds", "1,1"), "a seed is repeated"),
        (("--axis", "training.learning_rate"), "expected section.key=value,value"),
        (("--axis", "training.step=1,2"), "unknown key training.step"),
        (("--against", "nobody"), "no arm 'nobody' to compare the others with"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    call: Call, folder: Path, words: tuple[str, str], said: str
) -> None:
    found = call("compare", "tiny.toml", "--out", "never", *words, *LEAN)
    assert found.code == 2
    assert said in found.err
    assert not (folder / "never").exists()
