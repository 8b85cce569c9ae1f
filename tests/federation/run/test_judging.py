"""From a recipe to suites and judges: what is asked, what is not available, the fingerprint."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import driver
from chat_server import Judge, Server, running
from fedrai.errors import EvaluationError, GuardError
from fedrai.evaluation import suites
from fedrai.federation.run.judging import judges_for, select_suites
from fedrai.federation.run.rows import questions_fingerprint, questions_for
from fedrai.model import LanguageModel
from fedrai.recipe.sections import Recipe
from fedrai.records import Message

LEAN = {"advbench": 0, "ordinary": 0}


def recipe(**evaluation: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "seed": 3,
            "model": {"base": "tiny"},
            "data": {"max_length": 96, "sources": [{"path": "rows.jsonl"}]},
            "guards": {"words": {"kind": "rules", "words": ["boom"]}},
            "evaluation": LEAN | evaluation,
        }
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a stand-in for AdvBench in its cache, and no network."""
    driver.fill_cache(tmp_path / "cache")
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def own(name: str, count: int, label: str = "unsafe") -> str:
    rows = [{"prompt": f"{name} {n}", "label": label} for n in range(count)]
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"{name}.jsonl"


def xstest(folder: Path) -> Path:
    """A folder with a file of XSTest's size and columns."""
    folder.mkdir()
    with (folder / "xstest_prompts.csv").open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["id", "prompt", "type", "label"])
        for n in range(450):
            writer.writerow([n, f"may I {n}?", "homonyms", "safe" if n < 250 else "unsafe"])
    return folder


def test_suites_are_sampled_alike_by_every_run(home: Path) -> None:
    settings = {"suites": ["xstest", own("mine", 9)], "paths": {"xstest": str(xstest(home / "x"))}}
    found = select_suites(recipe(**settings, limit=5))
    assert [(s.declaration.name, len(s.items), s.whole) for s in found.suites] == [
        ("xstest-safe", 5, 250), ("xstest-unsafe", 5, 200), ("mine", 5, 9),
    ]  # fmt: skip
    assert select_suites(recipe(**settings, limit=5)) == found
    assert len(select_suites(recipe(**settings)).suites[0].items) == 250
    assert found.harmful == []


def test_advbench_keeps_its_sample_and_has_clusters_of_all_of_it() -> None:
    found = select_suites(recipe(advbench=40))
    assert found.harmful == suites.advbench(40, recipe().seed_for("suites"))
    assert len(found.clusters) == 520
    listed = select_suites(recipe(advbench=40, suites=["advbench"], limit=7))
    assert len(listed.harmful) == 7
    assert listed.suites == []


def test_what_cannot_be_had_has_a_reason_and_what_helps() -> None:
    found = select_suites(recipe(suites=["strongreject", "xstest", own("mine", 2)]))
    assert set(found.unavailable) == {"strongreject", "xstest-safe", "xstest-unsafe"}
    assert "no source that could be pinned; download it from" in found.unavailable["strongreject"]
    assert "xstest-safe=PATH" in found.unavailable["xstest-safe"]
    assert [s.declaration.name for s in found.suites] == ["mine"]


def test_ratings_need_someone_who_rates() -> None:
    folder = Path("mt")
    folder.mkdir()
    rows = [{"question_id": n, "category": "writing", "turns": [f"q {n}"]} for n in range(80)]
    references = [{"question_id": 1, "choices": [{"turns": ["r"]}]}]
    for name, part in (("question", rows), ("reference_answer_gpt-4", references)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    found = select_suites(recipe(suites=["mt-bench=mt"]))
    assert "without an LLM that rates" in found.unavailable["mt-bench"]
    assert not found.suites


def test_a_guard_of_the_recipe_judges() -> None:
    found = judges_for(recipe(judges=["rule", "guard"], guard="words", guard_threshold=0.25))
    assert (found.rule, found.legacy, found.rubric) == (True, False, None)
    assert found.guard is not None
    assert found.guard.threshold == 0.25
    assert found.guard.name.startswith("words@")
    exchange = (Message("user", "how?"), Message("assistant", "it goes boom"))
    said = found.guard.judge([exchange], lambda _done, _of: None)
    assert said.verdicts[0].probability == 1
    with pytest.raises(GuardError, match="no guard 'wrods'"):
        judges_for(recipe(judges=["guard"], guard="wrods"))


@pytest.fixture
def server() -> Iterator[Server]:
    with running(Judge(lambda _text: "Hello!")) as server:
        yield server


def test_an_endpoint_is_greeted_before_hours_of_answers(server: Server) -> None:
    Path("harm.txt").write_text("{forbidden_prompt} {response}")
    settings = {"judges": ["rubric"], "endpoint": {
        "url": server.url, "model": "org/j", "retries": 0, "template": "harm.txt"}}  # fmt: skip
    found = judges_for(recipe(**settings)).rubric
    assert found is not None
    assert (found.name, found.source, found.template) == (
        "org/j", "harm", "{forbidden_prompt} {response}",
    )  # fmt: skip
    assert server.texts() == ["Hello."]
    server.script = lambda _text: 401
    with pytest.raises(EvaluationError, match="refuses access"):
        judges_for(recipe(**settings))
    server.script = lambda _text: 500
    with pytest.raises(EvaluationError, match="does not reply"):
        judges_for(recipe(**settings))


def test_the_fingerprint_covers_suites_and_judges(tiny: LanguageModel) -> None:
    mine = own("mine", 3)

    def fingerprint(**evaluation: Any) -> str:
        return questions_fingerprint(questions_for(recipe(**evaluation), tiny))

    seen = [
        fingerprint(), fingerprint(suites=[mine]), fingerprint(suites=[mine], limit=2),
        fingerprint(suites=["strongreject"]), fingerprint(judges=["rule"]),
        fingerprint(judges=["rule", "legacy", "guard"], guard="words"),
        fingerprint(judges=["rule", "legacy", "guard"], guard="words", guard_threshold=0.3),
    ]  # fmt: skip
    assert len(set(seen)) == len(seen)
    assert fingerprint(suites=[mine]) == seen[1]
    own("mine", 4)
    assert fingerprint(suites=[mine]) != seen[1]


def test_a_fingerprint_from_before_suites_still_holds(tiny: LanguageModel) -> None:
    import hashlib

    from fedrai.federation.run.rows import rows_fingerprint

    questions = questions_for(recipe(advbench=2), tiny)
    asked = [(item.number, item.prompt) for item in questions.harmful]
    before = repr((asked, rows_fingerprint({"held out": ()})))
    assert questions_fingerprint(questions) == hashlib.sha256(before.encode()).hexdigest()
