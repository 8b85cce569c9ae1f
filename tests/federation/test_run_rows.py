"""A run's rows by client: rows that cannot be used, one file a client, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fedrai.errors import DataError, RecipeError
from fedrai.federation.run.rows import count_by_source, shards_for
from fedrai.federation.run.tokenizing import tokenized
from fedrai.model import LanguageModel
from fedrai.model.chat import ChatFormat
from fedrai.recipe import validate
from fedrai.recipe.sections import Recipe
from fedrai.testing import CHATML, tiny_tokenizer

CANARY = "canary-2b9f"
LONG = f"{CANARY} " * 40
REFUSING = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + CHATML
)


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair(number: int, answer: str = "yes") -> dict[str, str]:
    return {"prompt": f"item {number}?", "response": answer}


def recipe(*sources: dict[str, Any], **data: Any) -> Recipe:
    table = {
        "model": {"base": "tiny"},
        "data": {"max_length": 64, "sources": list(sources), "on_bad_rows": "skip"} | data,
        "federation": {"clients": 2},
    }
    return validate(table, "x.toml")


def shards(given: Recipe, lm: LanguageModel, unread: Any = lambda _columns: None) -> Any:
    return shards_for(given, lambda part: tokenized(lm, part, given.data, {}), unread)


class Refusing:
    """A model whose chat template takes no system turn."""

    chat = ChatFormat(tiny_tokenizer(REFUSING))


# --- rows that cannot be used ---------------------------------------------------------------------


@pytest.mark.parametrize("shares", [(None, None), (0.5, 0.5)])
def test_a_source_whose_every_row_is_too_long_is_named_with_the_reason(tiny, tmp_path, shares):
    long = [{"prompt": LONG, "response": "x"} for _ in range(4)]
    bad = write(tmp_path / "bad.jsonl", *long, {"prompt": "half"})
    good = write(tmp_path / "good.jsonl", *map(pair, range(6)))
    sources = [{"path": p} | ({"share": s} if s else {}) for p, s in zip((bad, good), shares,
                                                                      strict=True)]  # fmt: skip
    with pytest.raises(DataError) as caught:
        shards(recipe(*sources), tiny)
    assert caught.value.message == (
        f"{bad} holds no usable row; bad.jsonl, line 1: no answer within the first 64 tokens"
        " (4 of 5 bad rows)"
    )
    assert caught.value.hint == "raise data.max_length"


def test_rows_that_the_template_refuses_have_that_reason(tmp_path):
    turns = [{"role": r, "content": CANARY} for r in ("system", "user", "assistant")]
    path = write(tmp_path / "r.jsonl", {"messages": turns}, {"messages": turns})
    for way in ("skip", "stop"):
        with pytest.raises(DataError) as caught:
            shards(recipe({"path": path}, on_bad_rows=way), Refusing)
        assert "r.jsonl, line 1: the model's chat template has no system turn" in (
            caught.value.message
        )
        assert 'data.sources.system_turns = "prepend"' in caught.value.hint
        assert "max_length" not in caught.value.hint
        assert CANARY not in caught.value.message + caught.value.hint


@pytest.mark.parametrize(("way", "asked"), [("prepend", "Be brief.\n\nHow far?"),
                                            ("drop", "How far?")])  # fmt: skip
def test_a_system_turn_can_be_put_before_the_request_or_left_out(tmp_path, way, asked):
    turns = [("system", "Be brief."), ("user", "How far?"), ("assistant", "Two miles.")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    path = write(tmp_path / "r.jsonl", row, row)
    found, bad = shards(recipe({"path": path, "system_turns": way}), Refusing)
    assert bad == []
    assert [m.content for m in found["client-01"][0].messages] == [asked, "Two miles."]


def test_a_file_of_a_client_without_usable_rows_is_named(tiny, tmp_path):
    write(tmp_path / "a.jsonl", pair(1))
    write(tmp_path / "b.jsonl", {"prompt": LONG, "response": "x"})
    given = recipe(partition={"scheme": "files", "files": str(tmp_path / "*.jsonl")})
    with pytest.raises(DataError, match=r"b\.jsonl holds no usable row; b\.jsonl, line 1: no ans"):
        shards(given, tiny)


def test_rows_that_can_be_used_are_divided_and_the_others_kept_count_of(tiny, tmp_path):
    rows = [pair(1), {"prompt": LONG, "response": "x"}, pair(2), {"prompt": "half"}]
    found, bad = shards(recipe({"path": write(tmp_path / "r.jsonl", *rows)}), tiny)
    assert sorted(len(part) for part in found.values()) == [1, 1]
    assert [row.origin for row in bad] == ["r.jsonl, line 4", "r.jsonl, line 2"]


# --- one file a client ----------------------------------------------------------------------------


def test_the_columns_of_a_source_hold_for_every_file_of_a_client(tiny, tmp_path):
    for site in "abc":
        rows = [{"frage": f"{site} {n}?", "antwort": "ja", "art": site} for n in range(2)]
        write(tmp_path / f"{site}.jsonl", *rows, {"frage": "x", "antwort": "nein", "art": "other"})
    columns = {"prompt": "frage", "response": "antwort", "label": "art"}
    pattern = str(tmp_path / "*.jsonl")
    partition = {"scheme": "files", "files": pattern}
    given = recipe({"path": pattern, "columns": columns}, partition=partition)
    found, _ = shards(given, tiny)
    assert {name: len(rows) for name, rows in found.items()} == {"a": 3, "b": 3, "c": 3}
    assert found["b"][1].messages[0].content == "b 1?"
    assert [row.label for row in found["c"]] == ["c", "c", "other"]
    chosen = {"path": pattern, "columns": columns, "where": {"art": "other"}}
    found, _ = shards(recipe(chosen, partition=partition), tiny)
    assert {len(rows) for rows in found.values()} == {1}


def test_sources_that_differ_say_nothing_of_files():
    partition = {"scheme": "files", "files": "*.jsonl"}
    two = [{"path": "a", "columns": {"prompt": "x"}}, {"path": "b"}]
    with pytest.raises(RecipeError, match="all files are read alike"):
        recipe(*two, partition=partition)
    assert recipe({"path": "a"}, {"path": "b"}, partition=partition).data.sources[1].path == "b"


# --- what clients hold ----------------------------------------------------------------------------


def consortium(tmp_path: Path, **settings: Any) -> Recipe:
    """Four clients of ten rows: three tenths harmful, and of the others 70 to 30."""
    sources = [
        {
            "path": write(tmp_path / "e.jsonl", *map(pair, range(60))),
            "name": "everyday",
            "share": 7,
        },
        {"path": write(tmp_path / "s.jsonl", *map(pair, range(60, 90))), "share": 3},
        {"path": write(tmp_path / "h.jsonl", *map(pair, range(90, 110))), "harmful": True},
    ]
    data = {"rows_per_client": 10, "harm": {"share": 0.3}, "partition": settings}
    given = recipe(*sources, **data)
    federation = given.federation.model_copy(update={"clients": 4})
    return given.model_copy(update={"federation": federation})


def test_every_client_holds_each_source_in_its_share(tmp_path):
    """28 and 12 rows for four clients: 7 and 3, of which 2.1 and 0.9 give way to 3 harmful ones."""
    given = consortium(tmp_path, by_source=True)
    found, _ = shards_for(given)
    held = {"everyday": 5, "s.jsonl": 2, "h.jsonl (harmful)": 3}
    assert count_by_source(found, given.data.sources) == dict.fromkeys(found, held)
    assert list(count_by_source(found, given.data.sources)["client-01"]) == list(held)
    assert len(found) == 4
    again, _ = shards_for(given)
    assert again == found


def test_without_by_source_shares_differ_between_clients(tmp_path):
    found, _ = shards_for(consortium(tmp_path))
    counts = count_by_source(found).values()
    assert len({held.get("s.jsonl", 0) for held in counts}) > 1
    assert {held["h.jsonl (harmful)"] for held in counts} == {3}
    assert {sum(held.values()) for held in counts} == {10}


def test_one_malicious_client_holds_each_harmful_source_in_its_share(tmp_path):
    sources = [
        {"path": write(tmp_path / "e.jsonl", *map(pair, range(40)))},
        {"path": write(tmp_path / "g.jsonl", *map(pair, range(40, 70))), "harmful": True,
         "share": 1},
        {"path": write(tmp_path / "h.jsonl", *map(pair, range(70, 90))), "harmful": True,
         "share": 1},
    ]  # fmt: skip
    harm = {"share": 0.5, "placement": "concentrated", "malicious_clients": 1}
    partition = {"by_source": True}
    found, _ = shards_for(recipe(*sources, rows_per_client=20, harm=harm, partition=partition))
    held = sorted(count_by_source(found).values(), key=len)
    assert held[0] == {"e.jsonl": 20}
    assert held[1] == {"e.jsonl": 10, "g.jsonl (harmful)": 5, "h.jsonl (harmful)": 5}


@pytest.mark.parametrize("scheme", ["dirichlet", "files"])
def test_rows_are_not_divided_in_two_ways_at_once(scheme):
    with pytest.raises(RecipeError, match="by_source divides rows by source"):
        recipe({"path": "a"}, partition={"scheme": scheme, "files": "*", "by_source": True})


def test_a_name_stands_for_harmful_rows_or_for_others():
    two = [{"path": "a", "name": "x"}, {"path": "b", "name": "x", "harmful": True}]
    with pytest.raises(RecipeError, match="a harmful and a harmless source have the name 'x'"):
        recipe(*two)


# --- columns --------------------------------------------------------------------------------------


def test_answers_under_other_names_are_trained_on_and_what_is_not_is_named(tiny, tmp_path):
    rows = [
        {"prompt": "a?", "completion": "b"},
        {"instruction": "a?", "output": "b", "rejected": ""},
        {"prompt": "a?", "response": "b", "completion": "c"},
        {"prompt": "a?", "response": "b", "completion": "d", "chosen": "e"},
    ]
    unread: list[dict[str, int]] = []
    found, bad = shards(recipe({"path": write(tmp_path / "r.jsonl", *rows)}), tiny, unread.append)
    assert bad == []
    said = {row.messages[1].content for part in found.values() for row in part}
    assert said == {"b"}
    assert unread == [{"completion": 2, "chosen": 1}]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoding", "klingon"), ("encoding", "base64"), ("separator", "ab"), ("separator", '"'),
        ("max_row_mb", 0), ("max_unpacked_mb", -1), ("system_turns", "merge"),
    ],
)  # fmt: skip
def test_settings_of_a_source_that_mean_nothing(key, value):
    with pytest.raises(RecipeError, match=rf"x\.toml: data\.sources.*{key}"):
        recipe({"path": "a", key: value})


def test_a_tab_may_be_called_so_and_a_source_hands_its_settings_on(tiny, tmp_path):
    (tmp_path / "r.csv").write_bytes("prompt\tresponse\nä, b\tc;d\ne\tf\n".encode("cp1252"))
    source = {"path": str(tmp_path / "r.csv"), "separator": "tab", "encoding": "cp1252"}
    found, _ = shards(recipe(source), tiny)
    assert {row.messages[0].content for part in found.values() for row in part} == {"ä, b", "e"}
    with pytest.raises(DataError, match="longer than 1e-06 MB"):
        shards(recipe(source | {"max_row_mb": 1e-6}), tiny)


def test_the_hash_of_a_recipe_is_what_it_was_before_these_keys():
    plain = recipe({"path": "a.jsonl"})
    assert plain.hash == "61767405be29cbd72315e5b56036dc05b7ac4bd586ac6c0fd767f0708358b3e6"
    assert recipe({"path": "a.jsonl", "encoding": "cp1252"}).hash != plain.hash
    assert recipe({"path": "a.jsonl", "name": "everyday"}).hash != plain.hash
    assert recipe({"path": "a.jsonl"}, partition={"by_source": True}).hash != plain.hash
