"""The split of all sets against what training reads, and the outside sets against training."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedrai.constitution.overlap import without_overlap
from fedrai.constitution.records import Request
from fedrai.data import embedded
from fedrai.errors import EvaluationError
from fedrai.evaluation.suites import NotAvailable, load
from fedrai.evaluation.suites.outside import outside_suites
from fedrai.evaluation.suites.split import read_split, split, standing, use_of

ROOT = Path(__file__).parents[3]
ALIGNING = sorted((ROOT / "recipes").glob("align_*.toml"))


def specs_of(recipe: dict[str, Any]) -> Iterator[str]:
    section = recipe.get("constitution", {})
    for key in ("examples", "requests", "harmless"):
        yield from section.get(key, [])
    yield from (source["path"] for source in recipe.get("data", {}).get("sources", []))


# --- what training reads --------------------------------------------------------------------------


@pytest.mark.parametrize("file", ALIGNING, ids=lambda file: file.stem)
def test_the_shipped_start_was_trained_on_training_sets_only(file: Path) -> None:
    uses = {spec: use_of(spec) for spec in specs_of(tomllib.loads(file.read_text()))}
    assert uses
    assert set(uses.values()) == {"training"}, uses


def test_no_recipe_trains_on_an_outside_set() -> None:
    for file in sorted((ROOT / "recipes").rglob("*.toml")):
        recipe = tomllib.loads(file.read_text())
        arms = [recipe, *recipe.get("arms", {}).values()]
        for spec in (spec for arm in arms for spec in specs_of(arm)):
            assert use_of(spec) != "outside", f"{file.name}: {spec}"


def test_the_guards_rows_are_of_training_sets() -> None:
    """Every name that `guard_data.py` gives to a source of its rows is in the split."""
    tree = ast.parse((ROOT / "benchmarks/guard_data.py").read_text())
    names = {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "row"
        and isinstance(call.args[0], ast.Constant)
    }
    names |= {"fedrai-contrast", "fedrai-content"}  # made of a variable there
    assert len(names) > 15
    assert {name: use_of(str(name)) for name in names if use_of(str(name)) != "training"} == {}


def test_the_guards_page_names_training_sets_only() -> None:
    text = (ROOT / "docs/guards.md").read_text()
    table = text.partition("| trained on |")[2].partition("\n\n")[0]
    words = table.replace("-", " ").lower()
    assert "harmbench" in words
    for one in split().values():
        if one.use == "outside":
            title = re.split(r",| behind | after | around |\(", one.title)[0].strip()
            assert title.replace("-", " ").lower() not in words, title


# --- outside sets ---------------------------------------------------------------------------------


def test_the_standing_sets_are_enough_and_of_different_manners() -> None:
    sides = {side: [one for one in standing() if one.side == side] for side in
             ("harmful", "harmless")}  # fmt: skip
    manners = {one.manner for one in sides["harmful"]}
    assert len(sides["harmful"]) >= 6
    assert len(sides["harmless"]) >= 3
    for manner in ("question", "imperative", "first person", "role play", "long context",
                   "conversation", "jailbreak template"):  # fmt: skip
        assert manner in manners
    assert {"everyday", "look-alike", "safe twin"} <= {one.manner for one in sides["harmless"]}


def test_a_built_set_says_how_it_was_built() -> None:
    for one in standing():
        assert one.source.partition("#sha256=")[2], one.name
        assert one.note.startswith("Built:") == bool(one.build), one.name


def test_no_outside_request_is_near_to_one_that_the_package_holds_or_pip_fetches() -> None:
    """Of the sets in this machine's cache; `benchmarks/outside_overlap.py` sees the others too."""
    trained = {
        f"fedrai:{name}": [str(row["prompt"]) for _, row in embedded.rows(name)]
        for name in ("ordinary", "safe-answers", "red-team", "look-alikes", "ordinary-held-out")
    }
    for name in ("advbench", "harmbench", "do-not-answer"):
        suite = load(name, offline=True)
        if not isinstance(suite, NotAvailable):
            trained[name] = [item.prompt for item in suite.items]
    built = {one.name for one in standing() if one.build}
    here = [s for s in outside_suites(offline=True) if not isinstance(s, NotAvailable)]
    if not here:
        pytest.skip("no outside set is in the cache: fedrai eval MODEL --outside fetches them")
    for suite in here:
        if suite.declaration.name not in built:
            requests = [Request(item.prompt) for item in suite.items]
            removed = without_overlap(requests, trained, same=1.0).removed
            assert sum(removed.values()) == 0, (suite.declaration.name, removed)


# --- the file -------------------------------------------------------------------------------------


ENTRY = """[[set]]
name = "a"
title = "A"
use = "{use}"
side = "{side}"
manner = "question"
licence = "MIT"
{more}
"""


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"use": "testing"}, "a: use must be one of"),
        ({"side": "wrong"}, "a: side must be one of"),
        ({"side": "both"}, "a: an outside set has one side"),
        ({"more": "colour = 1"}, "unexpected keyword argument 'colour'"),
        ({"more": 'build = "passage"'}, "there is no set ''"),
    ],
)
def test_a_wrong_entry_is_an_error(tmp_path: Path, values: dict[str, str], match: str) -> None:
    file = tmp_path / "split.toml"
    file.write_text(ENTRY.format(**{"use": "outside", "side": "harmful", "more": "", **values}))
    with pytest.raises(EvaluationError, match=match):
        read_split(file)


def test_a_name_is_listed_once(tmp_path: Path) -> None:
    file = tmp_path / "split.toml"
    file.write_text(2 * ENTRY.format(use="outside", side="harmful", more=""))
    with pytest.raises(EvaluationError, match="the set a is listed twice"):
        read_split(file)
