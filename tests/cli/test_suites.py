"""`fedrai suites`: what is listed, what is shown, and that no prompt is printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedrai.cli import cli
from fedrai.evaluation.suites import declared_suites


@pytest.fixture(autouse=True)
def _nothing_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(cli, ["suites", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_list_names_every_suite_and_where_it_can_be_had():
    found = json.loads(run("list", "--json"))
    assert list(found) == list(declared_suites())
    assert {entry["here"] for entry in found.values()} == {"to fetch", "from your path"}
    assert found["advbench"]["revision"] == "1.1.0"
    assert found["xstest-safe"]["licence"] == "CC-BY-4.0"
    assert found["strongreject"]["here"] == "from your path"
    text = run("list")
    assert "NAME=PATH" in text
    assert "advbench" in text


def test_list_names_the_outside_sets_with_their_manner():
    found = json.loads(run("list", "--outside", "--json"))
    assert "advbench" not in found
    assert (found["role-play"]["side"], found["role-play"]["manner"]) == ("harmful", "role play")
    assert found["sorry-bench"]["source"] == ""
    text = run("list", "--outside")
    assert "jailbreak-templates" in text
    assert "--outside-set NAME=PATH" in text


def test_show_says_why_a_suite_is_not_here():
    found = json.loads(run("show", "advbench", "--json"))
    assert found["available"] is False
    assert (found["count"], found["hint"]) == (520, "fetch it: --fetch")
    assert "items" not in found
    text = run("show", "strongreject")
    assert "available: no" in text
    assert "strongreject=PATH" in text


def test_show_gives_facts_of_a_suite_and_no_prompt(tmp_path):
    rows = [{"prompt": "canary cake recipe", "category": "food"}] * 2
    rows += [{"prompt": "canary garden fence", "category": "wood"}]
    file = tmp_path / "own.jsonl"
    file.write_text("".join(json.dumps({**row, "label": "safe"}) + "\n" for row in rows))
    text = run("show", str(file))
    assert "canary" not in text
    assert "categories: food 2, wood 1" in text
    found = json.loads(run("show", str(file), "--json"))
    assert (found["items"], found["clusters"], found["direction"]) == (3, 2, "down")
    assert (found["available"], found["pinned"]) == (True, False)
    assert "count" not in found


def test_show_takes_the_name_of_both_sides_of_xstest(tmp_path):
    found = json.loads(run("show", "xstest", "--json"))
    assert [(side["name"], side["available"]) for side in found] == [
        ("xstest-safe", False), ("xstest-unsafe", False)]  # fmt: skip
    lines = [f"{n},may I {n}?,homonyms,{'safe' if n < 250 else 'unsafe'}" for n in range(450)]
    (tmp_path / "xstest_prompts.csv").write_text("\n".join(["id,prompt,type,label", *lines]))
    text = run("show", f"xstest={tmp_path}")
    assert [line for line in text.splitlines() if line.startswith("items: ")] == [
        "items: 250", "items: 200"]  # fmt: skip


def test_a_fetch_that_fails_is_no_success():
    assert "available: no" in run("show", "advbench", "--fetch", code=1)
    assert json.loads(run("show", "advbench", "--fetch", "--json", code=1))["available"] is False


def test_show_blames_nobody_for_looking_into_the_cache_only(monkeypatch):
    assert "network use is off (FEDRAI_OFFLINE)" in run("show", "hhh")
    monkeypatch.delenv("FEDRAI_OFFLINE")
    for name in ("hhh", "advbench"):
        text = run("show", name)
        assert "this command uses no network" in text
        assert "OFFLINE" not in text
