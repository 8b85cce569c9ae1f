"""`training.method`: which sources it takes, and what it does not combine with."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fedrai.recipe.sections import Recipe

ANSWERS = {"path": "a.jsonl"}
PAIRS = {"path": "p.jsonl", "rows": "pairs"}


def recipe(method: str = "dpo", sources: list[dict[str, Any]] | None = None, **more: Any) -> Recipe:
    data = {"sources": sources or {"sft": [ANSWERS], "dpo": [PAIRS]}.get(method, [ANSWERS, PAIRS])}
    table: dict[str, Any] = {
        "model": {"base": "x"},
        "data": data | more.pop("data", {}),
        "training": {"method": method} | more.pop("training", {}),
    }
    return Recipe.model_validate(table | more)


def problem(*arguments: Any, **more: Any) -> str:
    with pytest.raises(ValidationError) as error:
        recipe(*arguments, **more)
    return error.value.errors()[0]["msg"]


def test_defaults_leave_the_hash_of_earlier_recipes_alone() -> None:
    plain = Recipe.model_validate({"model": {"base": "x"}, "data": {"sources": [ANSWERS]}})
    assert plain.hash == "4b253c8f8a88a2f829a5156552917cfcd37610a90f4ca778228f583d8f91d941"
    assert recipe("sft").hash == plain.hash
    body = plain.hashed_body()
    assert not {"method", "dpo"} & set(body["training"])
    assert "rows" not in body["data"]["sources"][0]
    hashes = {recipe().hash, recipe("sft+dpo").hash, plain.hash,
              recipe(training={"dpo": {"beta": 0.2}}).hash}  # fmt: skip
    assert len(hashes) == 4


@pytest.mark.parametrize(
    ("method", "sources", "expected"),
    [
        ("sft", [ANSWERS, PAIRS], 'p.jsonl holds pairs (rows = "pairs")'),
        ("dpo", [ANSWERS], "a.jsonl holds answers"),
        ("dpo", [PAIRS, {**ANSWERS, "harmful": True}], "a.jsonl (harmful) holds answers"),
        ("dpo", [{**PAIRS, "harmful": True}], 'needs a source with rows = "pairs"'),
        ("sft+dpo", [PAIRS], 'needs a source with rows = "answers"'),
        ("sft+dpo", [ANSWERS], 'needs a source with rows = "pairs"'),
    ],
)
def test_a_source_of_the_wrong_kind_is_refused_with_what_to_do(
    method: str, sources: list[dict[str, Any]], expected: str
) -> None:
    message = problem(method, sources)
    assert expected in message
    assert "set " in message or "needs" in message


def test_files_are_read_alike() -> None:
    files = {"partition": {"scheme": "files", "files": "*.jsonl"}}
    assert recipe(data=files).data.sources[0].rows == "pairs"
    assert "all files are read alike" in problem("sft+dpo", data=files)
    assert 'needs a source with rows = "pairs"' in problem(data=files | {"sources": []})


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"defence": {"method": "asft"}, "adapter": {"start": "s"}}, "leave undefended"),
        ({"defence": {"method": "lisa"}}, "leave undefended"),
        ({"aggregation": {"algorithm": "qfedavg"}}, "log 2"),
        ({"vetting": {"action": "record", "scores": ["linear"]}}, "shadow clients"),
        (
            {
                "attack": {"kind": "backdoor"},
                "data": {"sources": [PAIRS, {**PAIRS, "harmful": True}]},
            },
            "no such attack",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(more: dict[str, Any], expected: str) -> None:
    assert expected in problem(**more)


def test_scaffold_takes_rows_of_one_kind() -> None:
    rule = {"aggregation": {"algorithm": "scaffold"}}
    assert recipe(**rule).has_variates
    assert "answers and pairs a client holds" in problem("sft+dpo", **rule)


def test_steps_of_a_round() -> None:
    steps = {"local_steps": 5, "dpo": {"local_steps": 2}}
    found = [recipe(m, training=steps).training.round_steps for m in ("sft", "dpo", "sft+dpo")]
    assert found == [5, 2, 7]
    assert recipe("sft+dpo", training={"local_steps": 5}).training.round_steps == 10


def test_held_out_sources_hold_what_they_are_for() -> None:
    assert 'set rows = "pairs" on it' in problem(evaluation={"pair_source": ANSWERS})
    assert "pairs belong to pair_source" in problem(evaluation={"ordinary_source": PAIRS})
    assert "ipo has no smoothing" in problem(training={"dpo": {"kind": "ipo", "smoothing": 0.1}})
