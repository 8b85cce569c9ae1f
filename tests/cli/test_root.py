"""The command line: what each command prints and writes, and one clear line for each mistake."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

from commands import Call, Outcome, commands
from driver import fill_cache, write_recipe
from fedrai import __version__, assets, recipe
from fedrai.errors import FederationError
from fedrai.federation.run import local, preparation
from fedrai.model import LanguageModel, read_adapter
from fedrai.model.generate import Sampling, generate
from fedrai.rates import rate_from_json
from fedrai.records import Message

SHORT = ("-o", "federation.rounds=2", "-o", "evaluation.every=0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Where commands run: a recipe, its rows, a cache, and a link to the tiny model."""
    folder = tmp_path_factory.mktemp("cli")
    fill_cache(folder / "cache")
    write_recipe(folder, tiny_model)
    (folder / "tiny").symlink_to(tiny_model)
    return folder


@pytest.fixture(scope="module")
def call(folder: Path) -> Call:
    return commands(folder)


@pytest.fixture(scope="module")
def finished(call: Call) -> Outcome:
    """`runs/tiny`: two rounds, evaluated before and after."""
    done = call("run", "tiny.toml", *SHORT)
    assert done.code == 0, done.err
    return done


# --- mistakes -------------------------------------------------------------------------------------

ROWS = {
    "empty.jsonl": '{"prompt": "a", "response": "b"}\n{"prompt": "a", "response": " "}\n',
    "broken.jsonl": '{"prompt": "a", "response": "b"}\n\nhello\n',
}
SKIP = 'fix the rows, or set data.on_bad_rows = "skip"'
EXPLAINED = "`fedrai recipe new NEW.toml` writes a recipe with every key explained"
SHOWN = "`fedrai recipe show tiny.toml` prints every key with its value"
MISTAKES: dict[str, tuple[list[str], str, str]] = {
    "misspelt key": (
        ["run", "misspelt.toml"],
        "misspelt.toml: unknown key training.learning_rat (did you mean learning_rate?)",
        EXPLAINED,
    ),
    "not TOML": (
        ["run", "broken.toml"],
        "broken.toml is not valid TOML: Invalid value (at line 1, column 8)",
        "",
    ),
    "no recipe": (
        ["run", "nowhere.toml"],
        "no recipe at nowhere.toml",
        "shipped recipes: {shipped}; or `fedrai recipe new`",
    ),
    "override without a value": (
        ["run", "tiny.toml", "-o", "federation.rounds"],
        "-o federation.rounds: expected section.key=value",
        "for example -o federation.rounds=3",
    ),
    "override of no key": (
        ["run", "tiny.toml", "-o", "federation.round=3"],
        "-o federation.round=3: unknown key federation.round (did you mean rounds?)",
        SHOWN,
    ),
    "override with a wrong value": (
        ["run", "tiny.toml", "-o", "federation.rounds=many"],
        "-o federation.rounds=many: federation.rounds: expected a whole number, got 'many'",
        SHOWN,
    ),
    "no data file": (
        ["run", "tiny.toml", "-o", "data.sources.0.path=./nowhere.jsonl"],
        "There is no file or folder {folder}/nowhere.jsonl.",
        "Name a file, a hub dataset (org/name), or an embedded set: fedrai:ordinary,"
        " fedrai:ordinary-held-out, fedrai:safe-answers, fedrai:red-team, fedrai:look-alikes,"
        " fedrai:look-alike-answers, fedrai:harmful, fedrai:harmful-held-out. A relative path"
        " starts from {folder}.",
    ),
    "row without text": (
        ["run", "tiny.toml", "-o", "data.sources.0.path=./empty.jsonl"],
        "empty.jsonl, line 2: response is empty",
        SKIP,
    ),
    "row that is not JSON": (
        ["run", "tiny.toml", "-o", "data.sources.0.path=./broken.jsonl"],
        "broken.jsonl, line 3: not JSON (column 1)",
        SKIP,
    ),
    "no model": (
        ["run", "tiny.toml", "-o", "model.base=./nowhere"],
        "There is no file or folder {folder}/nowhere.",
        "Name a model's folder, a .gguf file, a hub id (org/name), or smollm2-135m-instruct."
        " A relative path starts from {folder}.",
    ),
    "nothing to talk to": (
        ["chat", "nowhere"],
        "There is no file or folder {folder}/nowhere.",
        "Name a run or an adapter by its folder, `fedrai:aligned`, or a model: a folder, a .gguf"
        " file, a hub id (org/name), or a name of `fedrai assets list`; `fedrai runs` lists runs."
        " A relative path starts from {folder}.",
    ),
    "folder is a file": (
        ["run", "tiny.toml", "--out", "rows.jsonl"],
        "rows.jsonl is a file; expected a folder",
        "choose another folder with --out",
    ),
    "folder is not empty": (
        ["run", "tiny.toml", "--out", "cache"],
        "cache already holds files",
        "choose another folder with --out",
    ),
    "folder cannot be made": (
        ["run", "tiny.toml", "--out", "/proc/nowhere/run"],
        "cannot write the run in /proc/nowhere/run: No such file or directory",
        "choose another folder with --out",
    ),
    "nothing to resume": (
        ["run", "--resume", "nowhere"],
        "nowhere is not a run folder (no run.json)",
        "`fedrai runs` lists runs",
    ),
    "nothing to export": (
        ["export", "nowhere"],
        "nowhere is not a run folder (no run.json)",
        "`fedrai runs` lists runs",
    ),
    "labels without harmful rows": (
        ["run", "tiny.toml", "-o", "filter.mode=drop", "-o", "filter.guard=labels"],
        'tiny.toml: recipe: filter.guard = "labels" is for experiments: it needs sources with'
        " harmful = true",
        EXPLAINED,
    ),
    "no such arm": (
        ["recipe", "show", "tiny.toml", "--arm", "x"],
        "no arm 'x'; the recipe has: none",
        "",
    ),
    "too many clients": (
        ["run", "tiny.toml", "-o", "federation.clients=99"],
        "25 rows cannot be divided over 99 clients",
        "",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_line_and_leaves_nothing(name: str, call: Call, folder: Path) -> None:
    arguments, message, hint = MISTAKES[name]
    text = (folder / "tiny.toml").read_text()
    (folder / "misspelt.toml").write_text(text.replace("learning_rate", "learning_rat"))
    (folder / "broken.toml").write_text("name = \n")
    for file, rows in ROWS.items():
        (folder / file).write_text(rows)
    before = set(folder.rglob("*"))
    found = call(*arguments)
    assert found.code == 2
    assert found.out == ""
    lines = found.err.splitlines()
    names = {"folder": folder, "shipped": ", ".join(sorted(recipe.shipped()))}
    assert lines[0] == f"error: {message.format(**names)}"
    assert len(lines) <= 2
    if hint:
        assert lines[1:] == [f"  {hint.format(**names)}"]
    assert set(folder.rglob("*")) == before


def test_misspelt_asset_names_the_right_one(call: Call) -> None:
    found = call("run", "tiny.toml", "-o", "model.base=smollm2-135m")
    assert found.code == 2
    assert "Did you mean 'smollm2-135m-instruct'?" in found.err


def test_unwritable_folder_is_refused(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # root may all
    found = call("run", "tiny.toml", "--out", "new/run")
    assert (found.code, found.err) == (
        2,
        "error: . cannot be written\n  choose another folder with --out\n",
    )
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "give a RECIPE, or --resume FOLDER"),
        (
            ["run", "tiny.toml", "--resume", "x"],
            "give a RECIPE or --resume FOLDER, not both: a run keeps its recipe",
        ),
        (
            ["run", "--resume", "x", "-o", "seed=3"],
            "--resume takes its recipe and folder from the run; drop -o and --out",
        ),
        (
            ["run", "--resume", "x", "--out", "y"],
            "--resume takes its recipe and folder from the run; drop -o and --out",
        ),
        (["run", "tiny.toml", "--ouf", "x"], "--ouf"),
        (["eval", "tiny", "--advbench", "521"], "521 is not in the range 0<=x<=520"),
    ],
)
def test_wrong_usage_shows_how_to_get_help(
    arguments: list[str], message: str, call: Call, folder: Path
) -> None:
    found = call(*arguments)
    assert found.code == 2
    assert found.err.startswith(f"Usage: fedrai {arguments[0]} ")
    assert f"Try 'fedrai {arguments[0]} --help' for help." in found.err
    assert message in found.err
    assert not (folder / "x").exists()


def test_too_few_updates_exit_with_1_and_the_way_on(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise FederationError("round 1: 0 of 2 updates are usable", hint="look there")

    monkeypatch.setattr(local, "execute", fail)
    found = call("run", "tiny.toml", "--out", "failed")
    assert found.code == 1
    assert found.err == (
        "error: round 1: 0 of 2 updates are usable\n"
        "  look there; resume with: fedrai run --resume failed\n"
    )


# --- run, runs ------------------------------------------------------------------------------------


def test_run_prints_plain_lines_and_what_to_do_next(finished: Outcome, folder: Path) -> None:
    assert "\x1b" not in finished.err + finished.out
    lines = finished.err.splitlines()
    assert all(re.match(r"\d\d:\d\d:\d\d  ?", line) for line in lines)
    said = [line[9:] for line in lines]
    assert said[0] == "evaluating the base model"
    assert sum(line.startswith("round ") for line in said) == 2
    assert sum(bool(re.match(r"  client-0\d  loss ", line)) for line in said) == 4
    assert "after round 2" in finished.out
    assert finished.out.endswith(
        "run: runs/tiny\n  talk to it:  fedrai chat runs/tiny\n"
        "  release it:  fedrai release runs/tiny\n"
    )
    run = folder / "runs" / "tiny"
    written = tomllib.loads((run / "recipe.toml").read_text())
    assert written["federation"]["rounds"] == 2
    assert recipe.load(run / "recipe.toml") == recipe.load(
        folder / "tiny.toml", ["federation.rounds=2", "evaluation.every=0"]
    )
    started = json.loads((run / "events.jsonl").read_text().splitlines()[0])
    assert started["command"] == f"fedrai run tiny.toml {' '.join(SHORT)}"


def test_run_shows_the_suites_that_its_recipe_asks_for(call: Call, folder: Path) -> None:
    rows = [{"prompt": f"bake cake {n}", "label": "safe"} for n in range(3)]
    (folder / "cakes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suites = 'evaluation.suites=["./cakes.jsonl", "strongreject"]'
    done = call("run", "tiny.toml", *LEAN, "-o", suites, "--out", "runs/suites")
    assert done.code == 0, done.err
    why = "strongreject: not available: StrongREJECT has no source that could be pinned"
    said = [line[9:] for line in done.err.splitlines()]
    (told,) = [line for line in said if line.startswith(why)]
    assert said.index(told) < said.index("evaluating the base model")
    measured = json.loads((folder / "runs/suites/summary.json").read_text())["evaluations"]
    counts = [measured[n]["rates"]["cakes-refused"] for n in "01"]
    assert [found["scored"] + found["unscored"] for found in counts] == [3, 3]
    rates = [rate_from_json(found).format() for found in counts]
    lines = [line for line in said if line.startswith("  cakes-refused ")]
    for line, rate in zip(lines, rates, strict=True):
        assert line.startswith(f"  cakes-refused {rate}, cakes-refused-legacy ")
    cells = [line.split("│") for line in done.out.splitlines() if "│" in line]
    (row,) = [row for row in cells if row[1].strip() == "cakes-refused"]
    for cell, rate in zip(row[2:4], rates, strict=True):
        assert cell.strip().startswith(rate)
    assert done.out.splitlines().count(told) == 1


def test_json_is_all_that_stdout_holds(call: Call, finished: Outcome, folder: Path) -> None:
    again = call("run", "--resume", "runs/tiny", "--json")
    assert again.code == 0
    assert again.err == "runs/tiny is finished; there is nothing to resume\n"
    figures = json.loads(again.out)
    assert figures == json.loads((folder / "runs" / "tiny" / "summary.json").read_text())
    assert (figures["status"], figures["rounds"], figures["clients"]) == ("finished", 2, 3)
    assert sorted(figures["evaluations"]) == ["0", "2"]
    assert figures["costs"]["training"]["tokens"] > 0


def test_second_run_into_the_same_folder_is_refused_at_once(
    call: Call, finished: Outcome, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "prepare", lambda *_: pytest.fail("loaded the model first"))
    before = (folder / "runs" / "tiny" / "events.jsonl").read_bytes()
    found = call("run", "tiny.toml", *SHORT)
    assert found.code == 2
    assert found.err == (
        "error: runs/tiny already holds a run\n"
        "  resume it with `fedrai run --resume runs/tiny`, or choose another with --out\n"
    )
    assert (folder / "runs" / "tiny" / "events.jsonl").read_bytes() == before


def test_runs_lists_them(call: Call, finished: Outcome) -> None:
    shown = call("runs").out
    (row,) = [line for line in shown.splitlines() if "runs/tiny" in line]
    assert [cell.strip() for cell in row.split("│")[1:7]] == [
        "runs/tiny",
        "finished",
        "off",
        "2",
        "3",
        "0 of 25",
    ]
    listed = json.loads(call("runs", "--json").out)
    assert listed["runs/tiny"]["status"] == "finished"
    nothing = call("runs", "cache")
    assert nothing.out == "no runs in cache; start one with: fedrai run quickstart\n"


def test_narrow_terminals_cut_no_name(
    call: Call, finished: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"COLUMNS": "80", "TTY_COMPATIBLE": "1", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    shown = {words: call(*words.split()).out for words in ("runs", "guard list", "suites list")}
    assert "\nruns/tiny\n  status: finished\n  filter: off\n" in "\n" + shown["runs"]
    names = {"guard list": "meta-llama/Llama-Guard-3-1B", "suites list": "jailbreakbench"}
    for words, name in names.items():
        assert re.search(rf"(^|│ ){name}\s", shown[words], re.MULTILINE), shown[words]
    assert not any("…" in text for text in shown.values())


def test_a_table_in_a_pipe_is_as_wide_as_columns_says(
    call: Call, finished: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    def widths() -> dict[str, int]:
        shown = {words: call(*words.split()).out for words in ("runs", "guard list")}
        assert not any("…" in text for text in shown.values())
        return {words: max(map(len, text.splitlines())) for words, text in shown.items()}

    monkeypatch.delenv("COLUMNS", raising=False)
    assert widths()["guard list"] > 120
    monkeypatch.setenv("COLUMNS", "120")
    assert widths()["guard list"] <= 120
    monkeypatch.setenv("COLUMNS", "40")  # too narrow for a table: rows below each other
    assert "\nruns/tiny\n  status: finished\n" in "\n" + call("runs").out
    monkeypatch.setenv("COLUMNS", "wide")
    assert widths()["guard list"] > 120


def in_a_process(*words: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "fedrai", *words], text=True, capture_output=True, check=True,
        env={**os.environ, **variables},
    )  # fmt: skip
    return done.stdout


def test_python_runs_the_package() -> None:
    assert in_a_process("--version") == f"fedrai, version {__version__}\n"


def test_a_shell_completes_commands() -> None:
    """By the lines that docs/cli.md names."""
    docs = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    for shell in ("bash", "zsh", "fish"):
        assert f"_FEDRAI_COMPLETE={shell}_source fedrai" in docs
    assert "_fedrai_completion" in in_a_process(_FEDRAI_COMPLETE="zsh_source")
    found = in_a_process(_FEDRAI_COMPLETE="bash_complete", COMP_WORDS="fedrai ev", COMP_CWORD="1")
    assert found == "plain,eval\n"
    judges = in_a_process(
        _FEDRAI_COMPLETE="bash_complete", COMP_WORDS="fedrai judge eval --judge r", COMP_CWORD="4"
    )
    assert judges == "plain,rule\nplain,rubric\n"


def test_a_run_with_one_model_has_no_model_of_a_client(call: Call, finished: Outcome) -> None:
    found = call("export", "runs/tiny", "--unreleased", "--client", "client-01")
    assert (found.code, found.err) == (
        2,
        "error: this run has one model for all clients\n  remove --client\n",
    )


# --- the safety filter ----------------------------------------------------------------------------

FILTER = """
[guards.words]
kind = "rules"
words = ["it is 4", "it is 49"]
[filter]
mode = "drop"
guard = "words"
"""
LEAN = ("-o", "federation.rounds=1", "-o", "evaluation.advbench=0", "-o", "evaluation.ordinary=0")


@pytest.fixture(scope="module")
def filtering(folder: Path) -> str:
    """A recipe whose filter drops 2 of the 25 rows."""
    (folder / "filter.toml").write_text((folder / "tiny.toml").read_text() + FILTER)
    return "filter.toml"


def test_run_says_what_its_filter_did(call: Call, filtering: str, folder: Path) -> None:
    found = call("run", filtering, "--out", "runs-filtered/drop", *LEAN)
    assert found.code == 0, found.err
    said = [line[9:] for line in found.err.splitlines()]
    assert said[0] == "filter: the guard judges every row"
    assert said[1] == "filter: 2 of 25 rows unsafe, 2 dropped, 0 s"
    assert sum(line.startswith("filter") for line in said) == 2
    assert "filter (drop): 2 of 25 rows unsafe, 2 dropped\n" in found.out
    (row,) = [line for line in call("runs", "runs-filtered").out.splitlines() if "/drop" in line]
    assert [row.split("│")[n].strip() for n in (3, 6)] == ["drop", "0 of 23"]
    summary = json.loads((folder / "runs-filtered/drop/summary.json").read_text())
    assert summary["filter"]["mode"] == "drop"
    assert (summary["rows"], summary["filter"]["total"]["rows"]) == (23, 25)


NO_GUARD = {
    "endpoint": "guards.words={kind='endpoint', url='http://127.0.0.1:9/v1', model='g', retries=0}",
    "rules": "guards.words={kind='rules', file='nowhere.txt'}",
    "folder": "filter.guard=./nowhere",
}


@pytest.mark.parametrize("kind", NO_GUARD)
def test_guard_that_cannot_work_is_one_line_and_no_run(
    call: Call, filtering: str, folder: Path, kind: str
) -> None:
    found = call("run", filtering, "--out", "refused/run", *LEAN, "-o", NO_GUARD[kind])
    assert (found.code, found.out) == (2, "")
    lines = [line for line in found.err.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert len(lines) == 2
    assert lines[0].startswith("error: the safety filter cannot work: ")
    assert re.match(r"  \S", lines[1])
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("kind", NO_GUARD)
def test_run_without_its_filter_says_so_everywhere(call: Call, filtering: str, kind: str) -> None:
    found = call(
        "run", filtering, "--out", f"runs-bare/{kind}", *LEAN, "-o", NO_GUARD[kind],
        "-o", "filter.on_guard_failure=continue",
    )  # fmt: skip
    assert found.code == 0, found.err
    said = [line[9:] for line in found.err.splitlines()]
    first = next(n for n, line in enumerate(said) if line.startswith("NO SAFETY FILTER: "))
    assert not any(line.startswith(("round", "evaluating")) for line in said[:first])
    assert f"\n{said[first]}\n" in found.out
    (row,) = [line for line in call("runs", "runs-bare").out.splitlines() if f"/{kind}" in line]
    assert row.split("│")[3].strip() == "NO SAFETY FILTER"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_filter_has_a_bar_on_a_terminal(
    filtering: str, folder: Path, monkeypatch: pytest.MonkeyPatch, tiny: LanguageModel
) -> None:
    from fedrai.cli.show.display import Display
    from fedrai.federation.run import running

    screen = Terminal()
    for key, value in {"TERM": "xterm", "COLUMNS": "100", "FEDRAI_OFFLINE": "1"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("FEDRAI_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    bare = ["filter.on_guard_failure=continue", "guards.words={kind='rules', file='nowhere.txt'}"]
    lean = [text for text in LEAN if text != "-o"]
    with Display(screen) as display:
        settings = recipe.load(Path(filtering), lean)
        running.run(settings, Path("seen/filtered"), tiny, observer=display)
    shown = screen.getvalue()
    for client in ("client-01", "client-02", "client-03"):
        assert re.search(rf"filter: {client} .*?[89]/[89]", shown), client
    assert "judges every row" not in shown
    assert "\x1b[1;31mNO SAFETY FILTER" not in shown
    with Display(screen) as display:
        settings = recipe.load(Path(filtering), [*lean, *bare])
        running.run(settings, Path("seen/bare"), tiny, observer=display)
    assert "\x1b[1;31mNO SAFETY FILTER: nowhere.txt cannot be read" in screen.getvalue()


def test_compare_says_what_each_filter_did(call: Call, filtering: str, folder: Path) -> None:
    arms = (
        '[arms.off.filter]\nmode = "off"\n[arms.drop]\n'
        '[arms.bare]\nfilter = {on_guard_failure = "continue", guard = "./nowhere"}\n'
    )
    (folder / "filters.toml").write_text((folder / filtering).read_text() + arms)
    found = call("compare", "filters.toml", "--out", "filters", *LEAN)
    assert found.code == 0, found.err
    notes = [line for line in found.out.splitlines() if line.startswith("  ")]
    assert notes[:2] == ["  no filter", "  filter (drop): 2 of 25 rows unsafe, 2 dropped"]
    assert notes[2].startswith("  NO SAFETY FILTER: no guard './nowhere'")
    assert len(notes) == 3
    assert re.search(r"drop: filters/drop  \(.*filter \d+ s;", found.out)
    assert not re.search(r"off: filters/off  \(.*filter \d+ s;", found.out)


def test_filter_that_leaves_nothing(call: Call, filtering: str, folder: Path) -> None:
    found = call("run", filtering, "--out", "nothing", *LEAN, "-o", "guards.words.words=['it']")
    assert (found.code, found.out) == (2, "")
    assert found.err.splitlines()[-2:] == [
        "error: the safety filter removed all 25 rows of all clients: 25 unsafe, 0 not scored",
        '  filter.mode = "audit" only counts; `fedrai scan` shows how a guard judges a file',
    ]
    assert not (folder / "nothing").exists()


# --- eval, chat, export ---------------------------------------------------------------------------


def test_eval_of_a_run_writes_what_it_shows(call: Call, finished: Outcome, folder: Path) -> None:
    found = call("eval", "runs/tiny", "--advbench", "3", "--json", "--out", "measured")
    assert found.code == 0, found.err
    shown = json.loads(found.out)
    assert shown.pop("model") == "tiny, round 2"
    assert shown == json.loads((folder / "measured" / "metrics.json").read_text())
    assert shown["rates"]["safe-legacy"]["scored"] == 3
    assert len((folder / "measured" / "advbench.jsonl").read_text().splitlines()) == 3
    run = json.loads((folder / "runs/tiny/evaluations/0002/metrics.json").read_text())
    assert shown["held_out_loss"] == run["held_out_loss"]
    first = json.loads(call("eval", "runs/tiny", "--round", "0", "--advbench", "0", "--json").out)
    base = json.loads((folder / "runs/tiny/evaluations/0000/metrics.json").read_text())
    assert first["held_out_loss"] == base["held_out_loss"]
    assert first["rates"].keys() == {"refused"}


def test_eval_does_not_ask_before_it_can_write(
    call: Call, finished: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "measure_adapters", lambda *_: pytest.fail("asked already"))
    for taken, problem in (("cache", "already holds files"), ("rows.jsonl", "is a file")):
        found = call("eval", "runs/tiny", "--advbench", "3", "--out", taken)
        assert found.code == 2
        assert found.err.startswith(f"error: {taken} {problem}")
        assert found.err.endswith("  choose another folder with --out\n")


def test_eval_of_a_model_and_of_an_adapter_folder(
    call: Call, finished: Outcome, folder: Path
) -> None:
    sizes = ("--advbench", "2", "--ordinary", "2", "--max-new-tokens", "2")
    shown = call("eval", "tiny", *sizes)
    assert shown.code == 0, shown.err
    assert "│ tiny " in shown.out
    model = json.loads(call("eval", "tiny", *sizes, "--json").out)
    assert call("export", "runs/tiny", "--unreleased", "--out", "taken").code == 0
    config = json.loads((folder / "taken" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(folder / "tiny")
    (folder / "taken" / "adapter_config.json").write_text(json.dumps(config))
    adapter = json.loads(call("eval", "taken", *sizes, "--json").out)
    assert adapter["model"] == "taken"
    assert adapter["held_out_tokens"] == model["held_out_tokens"]
    assert adapter["held_out_loss"] != model["held_out_loss"]


def test_eval_of_a_round_that_is_not_there(call: Call, finished: Outcome) -> None:
    found = call("eval", "runs/tiny", "--round", "5")
    assert (found.code, found.err) == (
        2,
        "error: runs/tiny has no round 5; it has 2 rounds\n",
    )


def printable(text: str) -> str:
    return "".join(c for c in text if c.isprintable() and not c.isspace())


def test_chat_shows_base_and_tuned(
    call: Call, finished: Outcome, folder: Path, tiny: LanguageModel
) -> None:
    options = ("--max-new-tokens", "12", "--temperature", "0.02")
    found = call("chat", "runs/tiny", "--prompt", "item 7?", *options)
    assert found.code == 0, found.err

    def said() -> str:
        asked = [[Message("user", "item 7?")]]
        made = generate(tiny, asked, max_new_tokens=12, batch_size=1,
                        sampling=Sampling(0.02))  # fmt: skip
        return made.answers[0]

    tiny.load_adapter(read_adapter(folder / "runs/tiny/rounds/0002/adapter"))
    with tiny.using(None):
        base = said()
    tuned = said()
    assert base != tuned
    assert printable(found.out) == printable(f"base> {base} tuned> {tuned}")
    only = call("chat", "runs/tiny", "--prompt", "item 7?", "--tuned-only", *options)
    assert printable(only.out) == printable(f"tuned> {tuned}")
    plain = call("chat", "tiny", "--prompt", "item 7?", *options)
    assert printable(plain.out) == printable(f"base> {base}")


def test_a_prompt_that_is_not_utf8_is_one_clear_line(call: Call, finished: Outcome) -> None:
    given = call("chat", "tiny", "--prompt", "half \udc83 here?")
    typed = call("chat", "tiny", "--max-new-tokens", "2", typed="half \udc83 here?\n")
    for done in (given, typed):
        assert done.code not in (0, None)
        assert "the prompt is not UTF-8" in done.err
        assert "Traceback" not in done.err


def test_bytes_on_stdin_that_are_not_utf8(folder: Path, tiny_model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from fedrai.cli import main; main()", "chat", str(tiny_model)],
        cwd=folder, env={**os.environ, "FEDRAI_OFFLINE": "1", "PYTHONIOENCODING": "utf-8:strict"},
        input=b"gr\xf6\xdfer?\n", capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert b"the prompt is not UTF-8" in done.stderr
    assert b"Traceback" not in done.stderr
    assert done.returncode not in (0, None)


def test_skipped_rows_and_columns_are_said_by_a_run_and_in_the_list(
    call: Call, folder: Path
) -> None:
    rows = [{"prompt": f"item {n}?", "response": "yes"} for n in range(6)]
    rows[0]["completion"] = "no"
    rows += [{"prompt": "long " * 60, "response": "yes"}] * 3 + [{"prompt": "half"}]
    (folder / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "held.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[4:]))
    some = ["-o", "data.sources.0.path=./some.jsonl", "-o", "data.on_bad_rows=skip",
            "-o", "evaluation.ordinary_source.path=./held.jsonl",
            "-o", "evaluation.ordinary=2"]  # fmt: skip
    short = ["-o", "federation.rounds=1", "-o", "evaluation.every=0", "--out", "skipped/some"]
    done = call("run", "tiny.toml", *some, *short)
    assert done.code == 0, done.err
    line = (
        "4 rows skipped, which cannot be used: no answer within the first 96 tokens (3),"
        " response is empty (1)"
    )
    unread = "columns with answers that are not trained on: completion (1 row)"
    assert line in done.err  # before it trains
    assert line in done.out.splitlines()
    assert unread in done.out.splitlines()
    assert "held-out loss without 4 rows, which cannot be used" in done.out.splitlines()
    listed = call("runs", "skipped").out
    heads, cells = (
        [cell.strip() for cell in re.split("[┃│]", text)]
        for text in listed.splitlines() if "skipped" in text
    )  # fmt: skip
    assert cells[heads.index("skipped rows")] == "4"
    figures = json.loads(call("runs", "skipped", "--json").out)["skipped/some"]
    assert figures["bad_rows"] == 4
    assert call("report", "skipped/some", "--out", "skipped.html").code == 0
    page = (folder / "skipped.html").read_text()
    assert "Rows that could not be used were skipped: some 4." in page
    info = json.loads((folder / "skipped/some/run.json").read_text())
    del info["bad_row_problems"], info["unread_columns"]  # as an older run has it
    (folder / "skipped/some/run.json").write_text(json.dumps(info))
    hurt = call("runs", "skipped")  # not what checksums.sha256 says
    assert (hurt.code, hurt.out) == (0, "")
    assert hurt.err.startswith("not listed: skipped/some/run.json is damaged: ")
    (folder / "skipped/some/checksums.sha256").unlink()
    assert "skipped/some" in call("runs", "skipped").out


def test_chat_reads_until_quit(call: Call, finished: Outcome) -> None:
    found = call("chat", "tiny", "--max-new-tokens", "2", typed="one\n\n/new\ntwo\n/quit\nthree\n")
    assert found.code == 0
    assert found.out.startswith("tiny on tiny. /new starts over, /quit leaves.")
    assert found.out.count(" base> ") == 2
    assert call("chat", "tiny", "--max-new-tokens", "2", typed="one").out.count(" base> ") == 1


IDS = torch.tensor([[1, 90, 91, 92, 201, 2, 30, 31, 32, 33]])


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft 0.21
def test_exported_adapter_loads_with_peft(
    call: Call, finished: Outcome, folder: Path, tiny_model: Path, tiny: LanguageModel
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found = call("export", "runs/tiny", "--unreleased")
    assert (found.code, found.out) == (0, "adapter: runs/tiny-unreleased-adapter\n")
    target = folder / "runs" / "tiny-unreleased-adapter"
    assert sorted(f.name for f in target.iterdir()) == [
        "README.md",
        "UNRELEASED.txt",
        "adapter_config.json",
        "adapter_model.safetensors",
        "base.json",
    ]
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        before = base(IDS).logits
        theirs = PeftModel.from_pretrained(base, target)(IDS).logits
        tiny.load_adapter(read_adapter(folder / "runs/tiny/rounds/0002/adapter"))
        ours = tiny.base(IDS).logits
    assert torch.allclose(theirs, ours, atol=1e-5)
    assert not torch.allclose(theirs, before, atol=1e-2)


def test_merged_model_loads_with_transformers(
    call: Call, finished: Outcome, folder: Path, tiny: LanguageModel
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    found = call("export", "runs/tiny", "--unreleased", "--merged", "--round", "1")
    assert (found.code, found.out) == (0, "merged: runs/tiny-unreleased-merged\n")
    target = folder / "runs" / "tiny-unreleased-merged"
    merged = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32)
    tiny.load_adapter(read_adapter(folder / "runs/tiny/rounds/0001/adapter"))
    with torch.no_grad():
        assert torch.allclose(merged(IDS).logits, tiny.base(IDS).logits, atol=1e-4)
    assert AutoTokenizer.from_pretrained(target).chat_template == tiny.tokenizer.chat_template
    weights = target / "model.safetensors"
    kept = weights.read_bytes()
    again = call("export", "runs/tiny", "--unreleased", "--merged")
    assert again.code == 2
    assert again.err == (
        "error: runs/tiny-unreleased-merged already holds files\n"
        "  choose another folder with --out\n"
    )
    assert weights.read_bytes() == kept


def test_export_into_a_file_or_of_this_folder(call: Call, finished: Outcome, folder: Path) -> None:
    found = call("export", "runs/tiny", "--unreleased", "--out", "rows.jsonl")
    assert (found.code, found.err) == (
        2,
        "error: rows.jsonl is a file; expected a folder\n  choose another folder with --out\n",
    )
    shutil.copytree(folder / "runs" / "tiny", folder / "alone" / "here")
    here = call("export", ".", "--unreleased", cwd=folder / "alone" / "here")
    assert here.code == 0, here.err
    assert (folder / "alone" / "here-unreleased-adapter" / "adapter_config.json").is_file()


# --- compare --------------------------------------------------------------------------------------

ARMS = """
[arms.plain]
[arms.prox.aggregation]
algorithm = "fedprox"
proximal_mu = 1.0
"""


def files(path: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(f): (f.read_bytes(), f.stat().st_mtime_ns)
        for f in path.rglob("*")
        if f.is_file() and f.name != ".lock"
    }


def test_compare_shares_the_base_and_goes_on(
    call: Call, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "arms.toml").write_text((folder / "tiny.toml").read_text() + ARMS)
    found = call("compare", "arms.toml", "--out", "both", *SHORT)
    assert found.code == 0, found.err
    rows = [line.split("│")[1].strip() for line in found.out.splitlines() if line[:1] == "│"]
    assert rows == ["base model", "plain", "prox"]
    assert "plain: both/plain  (training " in found.out
    assert found.out.endswith("talk to one:  fedrai chat both/prox\n")

    def events(arm: str) -> list[tuple[str, int | None]]:
        lines = (folder / "both" / arm / "events.jsonl").read_text().splitlines()
        return [(e["event"], e.get("round")) for e in map(json.loads, lines)]

    assert ("evaluation-started", 0) in events("plain")
    assert ("evaluation-started", 0) not in events("prox")
    assert ("evaluation-shared", 0) in events("prox")
    answers = [
        (folder / "both" / arm / "evaluations/0000/advbench.jsonl").read_bytes()
        for arm in ("plain", "prox")
    ]
    assert answers[0] == answers[1]
    plain, prox = (folder / "both" / arm / "rounds/0002/adapter" for arm in ("plain", "prox"))
    weights = "adapter_model.safetensors"
    assert (plain / weights).read_bytes() != (prox / weights).read_bytes()

    # an arm that was stopped goes on, and the finished one is left alone
    run = folder / "both" / "prox"
    whole, kept = (prox / weights).read_bytes(), files(folder / "both" / "plain")
    lines = (run / "events.jsonl").read_text().splitlines(keepends=True)
    (run / "events.jsonl").write_text("".join(lines[:-1]))
    (run / "rounds" / "0002").rename(folder / "away-1")
    (run / "evaluations" / "0002").rename(folder / "away-2")
    assert call("compare", "arms.toml", "--out", "both", *SHORT).code == 0
    assert (prox / weights).read_bytes() == whole
    assert files(folder / "both" / "plain") == kept

    # and when all are finished there is nothing to do
    before = files(folder / "both")
    monkeypatch.setattr(preparation, "load_model", lambda *_: pytest.fail("loaded a model"))
    monkeypatch.setattr(preparation, "measure_adapters", lambda *_: pytest.fail("evaluated"))
    again = call("compare", "arms.toml", "--out", "both", *SHORT, "--json")
    assert again.code == 0
    assert list(json.loads(again.out)) == ["plain", "prox"]
    assert files(folder / "both") == before


def test_compare_refuses_runs_of_another_recipe(
    call: Call, finished: Outcome, folder: Path
) -> None:
    (folder / "other.toml").write_text((folder / "tiny.toml").read_text())
    found = call("compare", "other.toml", "--out", "runs", *SHORT, "-o", "seed=8")
    assert (found.code, found.err) == (
        2,
        "error: runs/tiny holds a run of another recipe\n  choose another folder with --out\n",
    )


# --- recipes and assets ---------------------------------------------------------------------------


def test_recipe_show_resolves_and_can_be_read_again(call: Call, folder: Path) -> None:
    shown = call("recipe", "show", "tiny.toml", "-o", "seed=3")
    assert shown.code == 0
    (folder / "shown.toml").write_text(shown.out)
    wanted = recipe.load(folder / "tiny.toml", ["seed=3"])
    assert recipe.load(folder / "shown.toml") == wanted
    printed = json.loads(call("recipe", "show", "tiny.toml", "-o", "seed=3", "--json").out)
    assert printed == wanted.model_dump(mode="json")
    (folder / "arms.toml").write_text((folder / "tiny.toml").read_text() + ARMS)
    arm = call("recipe", "show", "arms.toml", "--arm", "prox")
    rule = {"algorithm": "fedprox", "lora": "plain", "proximal_mu": 1.0}
    assert tomllib.loads(arm.out)["aggregation"] == rule


def test_recipe_new_writes_a_commented_recipe_once(call: Call, folder: Path) -> None:
    made = call("recipe", "new", "mine.toml", "--from", "tiny.toml", "-o", "seed=9")
    assert (made.code, made.out) == (0, "recipe: mine.toml\n  run it:  fedrai run mine.toml\n")
    text = (folder / "mine.toml").read_text()
    assert text.startswith("# A FedRAI recipe. Run it:      fedrai run mine.toml\n")
    assert "# Peak learning rate of AdamW.\nlearning_rate = 0.02\n" in text
    assert recipe.load(folder / "mine.toml").seed == 9
    assert 'name = "mine"' in (folder / "mine.toml").read_text()
    again = call("recipe", "new", "mine.toml")
    assert (again.code, again.err) == (
        2,
        "error: mine.toml already exists\n  choose another name\n",
    )
    assert (folder / "mine.toml").read_text() == text


def test_assets_list_says_what_is_cached(call: Call) -> None:
    listed = json.loads(call("assets", "list", "--json").out)
    assert list(listed) == list(assets.CATALOGUE)
    assert [name for name, asset in listed.items() if asset["cached"]] == ["advbench"]
    assert listed["minilm"]["bytes"] == assets.CATALOGUE["minilm"].bytes
    assert listed["minilm"]["licence"] == "Apache-2.0"
    shown = call("assets", "list").out
    for name in assets.CATALOGUE:
        assert f"│ {name} " in shown
    assert re.search(r"advbench .* yes +│ +125\.1 kB │", shown)


# --- a fresh process ------------------------------------------------------------------------------

HELP = """\
import sys
from fedrai.cli import main
sys.argv = ["fedrai", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    assert stop.code == 0, stop.code
heavy = {"torch", "transformers", "peft", "flwr", "pydantic", "numpy", "datasets", "rich"}
print("heavy:", *sorted(heavy & set(sys.modules)))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_is_light(arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HELP, *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "heavy:"
    if arguments == ["--help"]:
        for command in ("run", "compare", "eval", "chat", "runs", "export", "recipe", "assets"):
            assert re.search(rf"^  {command} ", done.stdout, re.MULTILINE)
