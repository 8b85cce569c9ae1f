"""Suites that are here are kept out of an alignment; those that are trained on are named."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from driver import fill_cache, put_into_cache
from fedrai import assets
from fedrai.constitution.card import card, trained_line
from fedrai.data.embedded import HERE
from fedrai.errors import EvaluationError
from fedrai.evaluation import suites
from fedrai.evaluation.suites.local import local_checksums, prompts_of, trained_on
from fedrai.federation.run import aligning, trained_suites
from fedrai.federation.run.preparation import excluded_suites
from fedrai.federation.run.previewing import preview
from fedrai.recipe.sections import Recipe

NOUNS = ["bread", "copper", "violins", "granite", "herons", "sailing", "chess", "saffron"]
HARMLESS = [f"what is known of {noun}" for noun in NOUNS]
OWN = ["which tulip smells of burnt sugar", "why does my kettle whistle twice",
       "name seven rivers of Bohemia"]  # fmt: skip


def recipe(evaluation: dict[str, Any] | None = None, **constitution: Any) -> Recipe:
    found = {"requests": ["mine.jsonl"], "harmless": ["harmless.jsonl"], "schedule": "budget"}
    return Recipe.model_validate(
        {
            "model": {"base": "tiny"},
            "data": {"sources": [{"path": "mine.jsonl"}]},
            "evaluation": {"advbench": 0, "ordinary": 0} | (evaluation or {}),
            "constitution": found | constitution,
        }
    )


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache but for AdvBench, no network, and requests of one's own."""
    fill_cache(tmp_path / "cache")
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    for name, prompts in (("mine", OWN), ("harmless", HARMLESS)):
        rows = [{"prompt": prompt} for prompt in prompts]
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def cache_harmbench(home: Path, *first: str) -> None:
    """HarmBench's place in the cache, with 200 lines of which the first are these."""
    lines = [*first, *(f"gadget{n} wombat{n}" for n in range(200 - len(first)))]
    put_into_cache(home / "cache", "harmbench", "harmbench_prompts.txt", "\n".join(lines))


def xstest(folder: Path, *first: str) -> str:
    """A file of XSTest's size; its first harmless prompts are these."""
    folder.mkdir()
    with (folder / "xstest_prompts.csv").open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["prompt", "label"])
        for n in range(450):
            prompt = first[n] if n < len(first) else f"may I {n}?"
            writer.writerow([prompt, "safe" if n < 250 else "unsafe"])
    return str(folder)


def gathered(settings: Recipe, kept_out: dict[str, str] | None = None) -> Any:
    kept = excluded_suites(settings) if kept_out is None else kept_out
    here = prompts_of(settings.evaluation.paths, kept)
    return aligning.gather_requests(settings, aligning.suites_for([], [], here))


def test_where_no_other_file_is_here_nothing_changes() -> None:
    assert local_checksums({}) == {}
    found = gathered(recipe())
    assert found == aligning.gather_requests(recipe(), aligning.suites_for([]))
    assert found.removed == {"advbench": 0, "ordinary": 0}


def test_a_suite_in_the_cache_is_kept_out_and_counted(home: Path) -> None:
    cache_harmbench(home, "Please tell me which tulip smells of burnt sugar")
    assert list(excluded_suites(recipe())) == ["harmbench"]
    found = gathered(recipe())
    assert found.removed == {"advbench": 0, "ordinary": 0, "harmbench": 1}
    assert {r.prompt for r in found.harmful} == set(OWN[1:])
    assert preview(recipe())["overlap_removed"] == found.removed


def test_a_suite_at_the_users_place_is_kept_out_on_both_sides(home: Path) -> None:
    folder = xstest(home / "x", OWN[2], "what is known of granite")
    settings = recipe({"paths": {"xstest": folder}})
    assert list(excluded_suites(settings)) == ["xstest-safe", "xstest-unsafe"]
    found = gathered(settings)
    assert found.removed["xstest-safe"] == 2  # a red-team request and a harmless one
    assert "what is known of granite" not in {r.prompt for r in found.harmless}
    assert excluded_suites(recipe({"paths": {"xstest": str(home / "nowhere")}})) == {}


def test_examples_that_are_left_out_are_counted_once(home: Path) -> None:
    cache_harmbench(home, OWN[0])
    both = gathered(recipe(examples=["mine.jsonl"]))
    assert both.removed["harmbench"] == 1  # the same file, as requests and examples
    alone = gathered(recipe(requests=[], examples=["mine.jsonl"]))
    assert alone.removed["harmbench"] == 1
    here = prompts_of({}, excluded_suites(recipe()))
    asked = aligning.suites_for([], [], here)
    kept = aligning.examples_for(recipe(examples=["mine.jsonl"]), asked)
    assert [record.request.prompt for record in kept] == OWN[1:]


def test_a_suite_that_is_trained_on_is_not_kept_out_but_named(home: Path) -> None:
    cache_harmbench(home)
    settings = recipe(requests=["harmbench"])
    assert excluded_suites(settings) == {}
    assert len(gathered(settings).harmful) > 0
    assert trained_suites.of_recipe(settings) == ["harmbench"]
    assert trained_suites.of_recipe(recipe()) == []
    assert trained_suites.of_recipe(recipe(requests=["harmbench"], schedule="off")) == []
    source = suites.declared_suites()["harmbench"].source
    assert trained_on([assets.CATALOGUE[source].spec], {}) == ["harmbench"]


def test_the_users_file_of_a_suite_is_that_suite(home: Path) -> None:
    paths = {"xstest": xstest(home / "x")}
    sides = ["xstest-safe", "xstest-unsafe"]
    assert trained_on(["x/xstest_prompts.csv"], paths) == sides
    assert trained_on([str(home / "x" / "xstest_prompts.csv")], paths) == sides
    assert trained_on(["other.csv"], paths) == []


def test_a_suite_that_is_asked_in_part_is_kept_out_as_a_whole(home: Path) -> None:
    folder = xstest(home / "x", OWN[1])
    settings = recipe({"paths": {"xstest": folder}, "suites": ["xstest-safe"], "limit": 3})
    kept = excluded_suites(settings)
    part = suites.load(f"xstest-safe={folder}", 3, 5)
    asked = aligning.suites_for([], [part], prompts_of(settings.evaluation.paths, kept))
    assert (len(part.items), len(asked["xstest-safe"])) == (3, 250)
    assert list(asked) == ["xstest-safe", "advbench", "ordinary", "xstest-unsafe"]


def test_outside_sets_are_kept_out_whole_though_a_part_is_asked(home: Path) -> None:
    rows = [{"prompt": text, "label": "unsafe"} for text in [*OWN[:2], "how do owls sleep"]]
    Path("set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = recipe({"outside": 1, "outside_sets": ["set.jsonl"]})
    kept_out = excluded_suites(settings)
    assert set(kept_out) == {"outside:set"}
    assert prompts_of({}, kept_out, ["set.jsonl"]) == {"outside:set": [r["prompt"] for r in rows]}
    found = aligning.gather_requests(
        settings, aligning.suites_for((), (), prompts_of({}, kept_out, ["set.jsonl"]))
    )
    assert [request.prompt for request in found.harmful] == [OWN[2]]
    assert found.removed["outside:set"] == 2
    Path("set.jsonl").write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(EvaluationError, match="outside:set has changed or is missing"):
        prompts_of({}, kept_out, ["set.jsonl"])


def test_what_comes_into_the_cache_later_changes_nothing(home: Path) -> None:
    """A run that is resumed keeps to the suites that were here when it began."""
    before = gathered(recipe())
    cache_harmbench(home, OWN[0])
    assert gathered(recipe(), {}) == before
    assert gathered(recipe()) != before


def test_what_is_gone_or_changed_is_said(home: Path) -> None:
    cache_harmbench(home)
    kept = excluded_suites(recipe())
    with pytest.raises(EvaluationError, match="harmbench has changed or is missing"):
        gathered(recipe(), {"harmbench": "0" * 64})
    assets.cache.remove(assets.parse("harmbench").key)
    with pytest.raises(EvaluationError, match="harmbench has changed or is missing"):
        gathered(recipe(), kept)


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEDRAI_OFFLINE")
    monkeypatch.setattr(assets.fetching, "_download", lambda *_, **__: pytest.fail("fetched"))
    assert excluded_suites(recipe()) == {}


# --- cards ----------------------------------------------------------------------------------------


def test_a_card_names_the_suites_that_were_trained_on() -> None:
    report = {
        "name": "n", "base": "b", "start": "s", "alignment": {"steps": 1},
        "constitution": {"name": "c", "version": "", "hash": "0" * 64},
        "cost": {"seconds": 1.0, "tokens": 1, "operations": 1.0},
    }  # fmt: skip
    plain = card(report, [], [])
    assert "were trained on" not in plain
    named = card({**report, "trained_suites": ["harmbench", "do-not-answer"]}, [], [])
    assert "**Requests of harmbench, do-not-answer were trained on**: figures of these" in named
    assert named.replace(trained_line(["harmbench", "do-not-answer"]), "") == plain


def test_the_adapter_that_comes_along_names_the_suites_in_its_rows() -> None:
    script = Path(__file__).parents[3] / "benchmarks/aligned_data.py"
    fetched = re.findall(r'assets\.fetch\("([a-z-]+)"\)', script.read_text())
    named = trained_suites.of_model("fedrai:aligned")
    assert sorted(fetched) == sorted(named) == ["do-not-answer", "harmbench"]
    assert trained_line(named).strip() in (HERE / "aligned" / "README.md").read_text()


def test_what_a_start_was_trained_on_goes_along(home: Path) -> None:
    folder = home / "aligned"
    folder.mkdir()
    (folder / "align.json").write_text("{}")
    (folder / "report.json").write_text(json.dumps({"trained_suites": ["do-not-answer"]}))
    assert trained_suites.of_model(str(folder)) == ["do-not-answer"]
    assert trained_suites.of_model(str(folder / "adapter")) == ["do-not-answer"]
    assert trained_suites.of_model("some/model") == []
    settings = recipe(requests=["harmbench"])
    adapter = settings.adapter.model_copy(update={"start": str(folder / "adapter")})
    both = settings.model_copy(update={"adapter": adapter})
    assert trained_suites.of_recipe(both) == ["harmbench", "do-not-answer"]
