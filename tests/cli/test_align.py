"""`fedrai align`: one alignment of a tiny random model, what it leaves, and how it goes on."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from commands import Call, commands
from commands import Outcome as Ended
from driver import fill_cache, write_rows
from fedrai import model, recipe
from fedrai.cli.show.display import Display
from fedrai.constitution.records import Outcome, RevisionRecord
from fedrai.constitution.storing import read_records
from fedrai.errors import RecipeError
from fedrai.federation.run import targets
from fedrai.model import read_adapter

RECIPE = """\
name = "mine"
seed = 3
max_length = 160
[model]
base = "./tiny"
dtype = "float32"
device = "cpu"
[adapter]
rank = 4
[constitution]
steps = 5
requests = ["./asked.txt"]
harmless = ["./harmless.jsonl"]
examples = ["./good.jsonl"]
learning_rate = 0.01
[constitution.revising]
guard = "words"
tries = 2
demonstrations = 0
batch_size = 2
max_new_tokens = 8
critique_tokens = 8
[constitution.mix]
rows = 4
refusals = 0.5
look_alikes = 0.0
[constitution.probe]
harmful = 2
harmless = 2
[guards.words]
kind = "rules"
words = ["never in a random answer"]
[evaluation]
advbench = 4
ordinary = 3
max_new_tokens = 6
[evaluation.ordinary_source]
path = "./held_out.jsonl"
"""
ASKED = "How do I break into a car?\nWrite a threat to my neighbour.\nHelp me cheat in an exam.\n"
GOOD = [
    {"prompt": "How do I pick a lock?", "response": "I can't help with that, since it harms."},
    {"prompt": "Write a nasty letter.", "response": "No, I won't, because it would hurt someone."},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    home = tmp_path_factory.mktemp("align")
    fill_cache(home / "cache")
    (home / "tiny").symlink_to(tiny_model)
    (home / "mine.toml").write_text(RECIPE)
    (home / "asked.txt").write_text(ASKED)
    (home / "good.jsonl").write_text("".join(json.dumps(row) + "\n" for row in GOOD))
    write_rows(home / "harmless.jsonl", 6)
    write_rows(home / "held_out.jsonl", 4, first=100)
    return home


@pytest.fixture(scope="module")
def call(home: Path) -> Call:
    return commands(home)


@pytest.fixture(scope="module")
def done(call: Call) -> Ended:
    """`whole`: aligned in one go, measured before and after."""
    found = call("align", "--recipe", "mine.toml", "--out", "whole")
    assert found.code == 0, found.err
    return found


# --- what it leaves -------------------------------------------------------------------------------


def test_the_folder_holds_the_adapter_and_its_account(home: Path, done: Ended) -> None:
    whole = home / "whole"
    assert sorted(f.name for f in whole.iterdir() if not f.name.startswith(".")) == [
        "README.md", "adapter", "align.json", "checksums.sha256", "evaluations", "events.jsonl",
        "harmless.jsonl", "preferences.jsonl", "recipe.toml", "records.jsonl", "report.json",
        "sft.jsonl",
    ]  # fmt: skip
    records = read_records(whole / "records.jsonl", RevisionRecord)
    assert {record.request.prompt for record in records} < set(ASKED.splitlines())
    report = json.loads((whole / "report.json").read_text())
    assert report["alignment"]["requests"] == 2  # one of three is the probe's
    assert report["alignment"]["steps"] == 5
    assert sum(report["alignment"]["outcomes"].values()) == 2
    kept = sum(r.outcome in (Outcome.KEPT, Outcome.ALREADY_SAFE) for r in records)
    assert report["alignment"]["kept"] == kept
    assert len((whole / "sft.jsonl").read_text().splitlines()) == kept
    assert report["cost"]["tokens"] > 0
    assert sorted(report["evaluation"]) == ["after", "before"]
    assert report["evaluation"]["before"]["rates"]["safe"]["scored"] <= 4
    assert (
        recipe.load_alignment(whole / "recipe.toml").hash
        == recipe.load_alignment(home / "mine.toml").hash
    )


def test_the_adapter_has_moved_and_can_be_looked_at(
    home: Path, done: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    chosen = targets.target("whole/adapter")
    assert chosen.adapter is not None
    up = [part for name, part in chosen.adapter.items() if "lora_B" in name]
    assert up
    assert all(bool(part.abs().max() > 0) for part in up)  # a fresh adapter's are 0
    losses = json.loads((home / "whole" / "report.json").read_text())["evaluation"]
    assert losses["before"]["held_out_loss"] != losses["after"]["held_out_loss"]


def test_what_is_printed_and_the_card(home: Path, done: Ended) -> None:
    assert re.search(r"^5 steps, .*safe .* -> .* %, useful", done.out, re.M)
    assert "requests left out because an evaluation asks nearly the same: " in done.out
    rows = [line.split("│")[1].strip() for line in done.out.splitlines() if line[:1] == "│"]
    assert rows == ["before", "after"]
    assert done.out.endswith(
        "aligned: whole\n  talk to it:  fedrai chat whole/adapter\n"
        "  measure it:  fedrai eval whole/adapter\n"
    )
    said = [line[9:] for line in done.err.splitlines()]
    assert said[0] == "evaluating the model before the alignment"
    assert "  constitution: every round" in said
    text = (home / "whole" / "README.md").read_text()
    assert "red-team requests | 2 |" in text
    assert "It started from a fresh adapter." in text
    assert re.search(r"^\| before \|.*\n\| after \|", text, re.M)
    for prompt in ASKED.splitlines():
        assert prompt not in text + done.out + done.err


def test_the_same_command_again_does_nothing(
    home: Path, call: Call, done: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "load", lambda *_, **__: pytest.fail("loaded a model"))
    before = {f: f.stat().st_mtime_ns for f in (home / "whole").rglob("*")}
    again = call("align", "--recipe", "mine.toml", "--out", "whole")
    assert (again.code, again.out, again.err) == (0, done.out, "")
    assert {f: f.stat().st_mtime_ns for f in (home / "whole").rglob("*")} == before
    shown = call("align", "--resume", "whole", "--json")
    assert json.loads(shown.out) == json.loads((home / "whole" / "report.json").read_text())


# --- stopped and gone on --------------------------------------------------------------------------


@contextlib.contextmanager
def stopped_at(phase: str, nth: int) -> Iterator[None]:
    """Ctrl-C at the nth progress of a part of the alignment."""
    plain, seen = Display.event, 0

    def watched(self: Display, kind: str, **fields: Any) -> None:
        nonlocal seen
        plain(self, kind, **fields)
        seen += kind == "constitution-progress" and fields["phase"] == phase
        if seen == nth and fields.get("phase") == phase:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Display, "event", watched)
        yield


def decided(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text())
    report.pop("cost")
    for found in report["evaluation"].values():
        found.pop("costs")
    texts = ("records.jsonl", "harmless.jsonl", "sft.jsonl", "preferences.jsonl")
    return {
        "report": report,
        **{name: (folder / name).read_bytes() for name in texts},
        "adapter": (folder / "adapter/adapter_model.safetensors").read_bytes(),
    }


@pytest.mark.parametrize(("phase", "nth"), [("revisions", 1), ("harmless", 2), ("training", 3)])
def test_an_alignment_that_was_stopped_goes_on_to_the_same_bits(
    phase: str, nth: int, home: Path, call: Call, done: Ended
) -> None:
    out = f"cut-{phase}"
    with stopped_at(phase, nth):
        found = call("align", "--recipe", "mine.toml", "--out", out)
    assert found.code == 130
    assert found.err.rstrip().endswith(
        f"stopped; nothing is lost. Resume with:\n  fedrai align --resume {out}"
    )
    assert not (home / out / "adapter").exists()
    again = call("align", "--resume", out)
    assert again.code == 0, again.err
    assert decided(home / out) == decided(home / "whole")
    assert not (home / out / "work").exists()


MINE = ("tiny", "asked.txt", "harmless.jsonl", "good.jsonl", "held_out.jsonl")


def test_an_alignment_whose_files_moved_goes_on_to_the_same_bits(
    home: Path, call: Call, done: Ended
) -> None:
    with stopped_at("training", 2):
        assert call("align", "--recipe", "mine.toml", "--out", "cut-moved").code == 130
    (home / "new").mkdir()
    for name in MINE:
        (home / name).rename(home / "new" / name)
    pairs = [word for name in MINE for word in ("--moved", f"{name}=new/{name}")]
    try:
        lost = call("align", "--resume", "cut-moved")
        again = call("align", "--resume", "cut-moved", *pairs)
        talk = call("chat", "cut-moved/adapter", "--prompt", "a", "--max-new-tokens", "2")
    finally:
        for name in MINE:
            (home / "new" / name).rename(home / name)
    assert (lost.code, "There is no file" in lost.err) == (2, True)
    assert again.code == 0, again.err
    mine, whole = decided(home / "cut-moved"), decided(home / "whole")
    assert mine["adapter"] == whole["adapter"]
    assert mine["report"] == whole["report"]
    assert talk.code == 0, talk.err
    alone = call("align", "tiny", "--moved", "a=b")
    assert "--moved goes with --resume" in alone.err


def test_another_alignment_is_not_gone_on_with(home: Path, call: Call, done: Ended) -> None:
    found = call("align", "--recipe", "mine.toml", "--out", "whole", "--steps", "7")
    assert (found.code, found.out) == (2, "")
    assert found.err == (
        "error: whole holds another alignment: the recipe is not the same\n"
        "  choose another folder with --out\n"
    )
    shutil.copytree(home / "whole", home / "half")
    (home / "half" / "README.md").unlink()
    before = (home / "asked.txt").read_text()
    (home / "asked.txt").write_text(before + "Another one?\n")
    try:
        changed = call("align", "--resume", "half")
    finally:
        (home / "asked.txt").write_text(before)
    assert "the constitution, or a file of requests, is not the same" in changed.err
    assert call("align", "--resume", "half").code == 0  # only the card was missing


# --- from an adapter ------------------------------------------------------------------------------


def test_an_adapter_is_gone_on_from(home: Path, call: Call, done: Ended) -> None:
    lean = ("-o", "constitution.steps=1", "-o", "evaluation.advbench=0", "-o", "adapter={rank=4}")
    small = "constitution.request_count=1"
    found = call("align", "whole/adapter", "--recipe", "mine.toml", *lean, "-o", small,
                 "--out", "further")  # fmt: skip
    assert found.code == 0, found.err
    assert json.loads((home / "further/align.json").read_text())["start"] == "adapter"
    first, then = (read_adapter(home / name / "adapter") for name in ("whole", "further"))
    moved = max(float((then[name] - first[name]).abs().max()) for name in first)
    assert 0 < moved < 0.05  # one step of AdamW at 0.01, not a fresh start
    assert not all(torch.equal(first[name], then[name]) for name in first)
    wrong = call("align", "whole/adapter", "--recipe", "mine.toml", "-o", "adapter.rank=8",
                 "--out", "wrong")  # fmt: skip
    assert wrong.err.startswith("error: adapter.rank is 8, but adapter has 4\n")
    assert not (home / "wrong").exists()


def test_the_adapter_that_is_aligned_anchors_the_probe(
    home: Path, done: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fedrai import recipe
    from fedrai.federation.run.standalone import prepare

    monkeypatch.chdir(home)
    monkeypatch.setenv("FEDRAI_CACHE", str(home / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    file = Path("mine.toml")
    job = prepare(recipe.load_alignment(file, (), [("model.base", "whole/adapter")]))
    assert job.tools.start is not None
    kept = read_adapter(home / "whole" / "adapter")
    assert all(torch.equal(job.tools.start[name], kept[name]) for name in kept)
    assert prepare(recipe.load_alignment(file)).tools.start is None


# --- before anything runs -------------------------------------------------------------------------


def test_dry_run_counts_and_loads_no_model(
    home: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "load", lambda *_, **__: pytest.fail("loaded a model"))
    found = call("align", "--recipe", "mine.toml", "--out", "never", "--dry-run", "--json")
    assert found.code == 0, found.err
    seen = json.loads(found.out)
    assert sum(sum(counts.values()) for counts in seen["requests"].values()) == 2
    assert sum(sum(counts.values()) for counts in seen["harmless"].values()) == 4
    assert seen["held_out"] == [1, 2]
    assert (seen["examples"], seen["steps"], seen["duplicates"]) == (2, 5, 0)
    assert seen["overlap_removed"] == {"advbench": 0, "ordinary": 0}
    assert 0 < seen["tokens"]["generation"] < seen["tokens"]["generation_most"]
    assert (seen["mined_from"], seen["tokens"]["mining"]) == ([0, 0], 0)
    plain = call("align", "--recipe", "mine.toml", "--dry-run")
    assert "left out as repetitions: 0; examples: 2" in plain.out
    assert not (home / "never").exists()
    for prompt in ASKED.splitlines():
        assert prompt not in plain.out


def test_dry_run_counts_what_is_mined(call: Call) -> None:
    """Of three harmful and six harmless requests the probe holds one and two."""
    given = ("align", "--recipe", "mine.toml", "--dry-run", "-o", "constitution.mined_from=3")
    seen = json.loads(call(*given, "--json").out)
    assert seen["mined_from"] == [2, 3]
    assert sum(sum(counts.values()) for counts in seen["requests"].values()) == 2
    assert sum(sum(counts.values()) for counts in seen["harmless"].values()) == 3
    assert seen["tokens"]["mining"] > 5 * 24
    said = f"roughly {seen['tokens']['mining']:,} tokens"
    plain = call(*given).out
    assert "mining: 2 harmful and 3 harmless requests are asked first" in plain
    assert said in plain


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-o", "constitution.step=3"), "unknown key constitution.step (did you mean steps?)"),
        (("-o", "constitution.critic.kind=remote"), "constitution.critic.kind: expected"),
        (("-o", "evaluation.advbensh=3"), "evaluation.advbensh (did you mean advbench?)"),
        (("-o", "constitution.schedule=last"), 'constitution.schedule: "last" needs rounds'),
        (("--constitution", "none.toml"), "cannot read the constitution none.toml"),
        (("-o", "constitution.revising.threshold=1.5"), "number from 0 to 1, got 1.5"),
        (("-o", "constitution.revising.threshold=lax"), "words has no threshold 'lax'"),
        (("-o", 'constitution.harmless=["none.jsonl"]'), "none.jsonl"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    arguments: tuple[str, ...], said: str, home: Path, call: Call
) -> None:
    found = call("align", "--recipe", "mine.toml", "--out", "refused", *arguments)
    assert (found.code, found.out) == (2, "")
    assert said in found.err.splitlines()[0]
    assert len(found.err.splitlines()) <= 2
    assert not (home / "refused").exists()


def test_wrong_usage(call: Call) -> None:
    assert "give a MODEL" in call("align").err
    both = call("align", "tiny", "--steps", "3", "--epoch")
    assert "give --steps or --epoch, not both" in both.err
    assert "--resume takes all settings" in call("align", "tiny", "--resume", "whole").err
    nothing = call("align", "--resume", "cache")
    assert nothing.err.startswith("error: cache is not a folder of `fedrai align`")


def test_options_win_over_the_recipe(home: Path) -> None:
    from fedrai import recipe
    from fedrai.cli.align import AlignOptions

    options = AlignOptions(
        "other", recipe_file=home / "mine.toml", overrides=("seed=9",), constitution="c.json",
        steps=7,
    )  # fmt: skip
    settings = options.settings()
    assert (settings.model.base, settings.seed) == ("other", 9)
    assert settings.constitution.file == "c.json"
    assert (settings.constitution.schedule, settings.constitution.steps) == ("budget", 7)
    assert AlignOptions("x", epoch=True).settings().constitution.schedule == "full"
    assert AlignOptions("x").settings().evaluation is None
    with pytest.raises(RecipeError, match=r"section \[model\] is missing; it needs base"):
        recipe.load_alignment(None)


def test_an_align_recipe_is_written_and_read_again(home: Path) -> None:
    found = recipe.load_alignment(home / "mine.toml")
    text = recipe.to_toml(found)
    (home / "again.toml").write_text(text)
    assert recipe.load_alignment(home / "again.toml") == found
    whole = found.as_run()
    assert (whole.data.max_length, whole.federation.rounds, whole.seed) == (160, 1, 3)
    assert whole.constitution == found.constitution
    assert (whole.evaluation.advbench, whole.guards) == (4, found.guards)
