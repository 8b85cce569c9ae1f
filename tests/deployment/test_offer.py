"""The offer: what is in it, what a client makes of it, and what a node's policy refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fedrai import __version__
from fedrai.deployment.offer import (
    check_offer,
    check_threshold,
    make_offer,
    needs_guard,
    read_offer,
    recipe_for,
)
from fedrai.errors import RecipeError
from fedrai.federation.client import RefusedTaskError
from fedrai.federation.protocol import Reason
from fedrai.federation.run.preparation import sft_settings
from fedrai.recipe import load_node
from fedrai.recipe.sections import Node, Offer, Recipe

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def recipe(**changes: Any) -> Recipe:
    table: dict[str, Any] = {
        "name": "secret-name",
        "seed": 7,
        "model": {"base": "smollm2-135m-instruct", "device": "cuda:3"},
        "data": {"sources": [{"path": "/server/only.jsonl"}], "max_length": 96},
        "filter": {"mode": "drop", "guard": "embedded", "threshold": 0.5},
        "training": {"local_steps": 5, "learning_rate": 0.02, "warmup_steps": 3},
        "federation": {"clients": 3, "rounds": 4},
        "constitution": {"schedule": "off", "file": ""},
        "evaluation": {"advbench": 11},
    }
    for key, value in changes.items():
        table[key] = table.get(key, {}) | value if isinstance(value, dict) else value
    return Recipe.model_validate(table)


def node(policy: dict[str, Any] | None = None, **more: Any) -> Node:
    data = {"sources": [{"path": "rows.jsonl"}]}
    return Node.model_validate({"name": "a", "data": data, "policy": policy or {}} | more)


def offer(**changes: Any) -> Offer:
    return read_offer(make_offer(recipe(**changes), "f" * 8))


def test_the_start_as_reference_is_not_in_an_offer() -> None:
    """That of a fresh adapter is the base model, which every node has."""
    pairs = {"sources": [{"path": "p.jsonl", "rows": "pairs"}]}
    tuning = {"method": "dpo", "dpo": {"reference": "start"}}
    assert offer(data=pairs, training=tuning).training.dpo.reference == "start"
    with pytest.raises(RecipeError, match="which an offer does not hold"):
        offer(data=pairs, training=tuning, adapter={"start": "fedrai:aligned"})


@pytest.mark.parametrize(("most", "refused"), [(6, True), (7, False)])
def test_the_steps_of_both_trainings_count_together(most: int, refused: bool) -> None:
    both = {"sources": [{"path": "a.jsonl"}, {"path": "p.jsonl", "rows": "pairs"}]}
    asked = offer(data=both, training={"method": "sft+dpo", "dpo": {"local_steps": 2}})
    owner = node({"filter": "any", "max_local_steps": most}, data=both)
    assert refusal(asked, owner) is (Reason.TOO_MANY_STEPS if refused else None)
    settings = recipe_for(asked, node(data=both | {"sources": both["sources"][1:]}), Path())
    assert settings.training.method == "dpo"  # what it has rows for


def refusal(asked: Offer, owner: Node) -> Reason | None:
    try:
        check_offer(asked, owner)
    except RefusedTaskError as refused:
        return refused.reason
    return None


# --- what is in it --------------------------------------------------------------------------------


def test_the_document_is_canonical_and_holds_nothing_of_the_servers() -> None:
    document = make_offer(recipe(), "f" * 8)
    assert document == make_offer(recipe(), "f" * 8)
    assert document == json.dumps(json.loads(document), sort_keys=True, separators=(",", ":"))
    for word in ("secret-name", "server", "cuda", "advbench", "constitution", "clients"):
        assert word not in document
    assert json.loads(document)["model"]["fingerprint"] == "f" * 8


def test_a_client_trains_as_the_server_would() -> None:
    settings = recipe(aggregation={"algorithm": "fedprox", "proximal_mu": 0.25})
    mine = recipe_for(read_offer(make_offer(settings, "")), node(), Path("/nowhere"))
    there, here = sft_settings(settings, 7), sft_settings(mine, 7)
    assert [here.learning_rate(s) for s in range(20)] == [there.learning_rate(s) for s in range(20)]
    assert (here.steps, here.batch_size, here.proximal_mu) == (5, there.batch_size, 0.25)
    for purpose in ("training", "refusals"):
        assert mine.seed_for(purpose, 2, "a") == settings.seed_for(purpose, 2, "a")
    assert mine.adapter.model_dump(exclude={"start"}) == settings.adapter.model_dump(
        exclude={"start"}
    )
    assert (mine.model.device, mine.data.max_length, mine.filter) == ("auto", 96, settings.filter)


def test_paths_are_the_nodes_own(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    owner = node(data={"sources": [{"path": "rows.jsonl"}, {"path": "fedrai:ordinary"}]})
    sources = recipe_for(offer(), owner, tmp_path).data.sources
    assert [s.path for s in sources] == [str(tmp_path / "rows.jsonl"), "fedrai:ordinary"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"federation": {"mode": "centralised"}}, "centralised"),
        ({"filter": {"calibration": "ward.json"}}, "calibration"),
        ({"filter": {"refusals": "ours.toml"}}, "refusals"),
        ({"filter": {"on_guard_failure": "continue"}}, "continue"),
        ({"attack": {"kind": "noise"}}, "attack.* is for experiments in one process only"),
        (
            {
                "filter": {"guard": "labels"},
                "data": {"sources": [{"path": "bad.jsonl", "harmful": True}]},
            },
            "labels",
        ),
    ],
)
def test_recipes_that_need_one_machine_are_told_so(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        make_offer(recipe(**changes), "")


# --- what a client does not take for an offer -----------------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"fedrai": "0.0.1"}, Reason.OTHER_VERSION),
        ({"fedrai": 1}, Reason.BAD_OFFER),
        ({"rounds": 0}, Reason.BAD_OFFER),
        ({"more": "keys"}, Reason.BAD_OFFER),
        ({"training": {"local_steps": -1}}, Reason.BAD_OFFER),
        ({"filter": {"threshold": 2.0}}, Reason.BAD_OFFER),
        ({"filter": None}, Reason.BAD_OFFER),
    ],
)
def test_other_documents_are_refused(change: dict[str, Any], reason: Reason) -> None:
    table = json.loads(make_offer(recipe(), "")) | change
    with pytest.raises(RefusedTaskError) as refused:
        read_offer(json.dumps(table))
    assert refused.value.reason is reason


@pytest.mark.parametrize("text", ["", "[]", "nan", "{" * 20000, '{"fedrai": null}'])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(RefusedTaskError) as refused:
        read_offer(text)
    assert refused.value.reason is Reason.BAD_OFFER


def test_the_version_is_looked_at_first() -> None:
    """An offer of a later version may have other keys; the reason must still be the version."""
    with pytest.raises(RefusedTaskError) as refused:
        read_offer(json.dumps({"fedrai": f"{__version__}.post1", "new": 1}))
    assert refused.value.reason is Reason.OTHER_VERSION


# --- the policy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "changes", "reason"),
    [
        ({}, {}, None),
        ({"base_models": ["smollm2-135m-instruct"]}, {}, None),
        ({"base_models": ["other"]}, {}, Reason.MODEL_REFUSED),
        ({"max_local_steps": 5, "max_rounds": 4}, {}, None),
        ({"max_local_steps": 4}, {}, Reason.TOO_MANY_STEPS),
        ({"max_local_steps": 4}, {"training": {"local_steps": 5, "local_epochs": 1}}, None),
        ({"max_rounds": 3}, {}, Reason.TOO_MANY_ROUNDS),
        ({}, {"filter": {"mode": "off"}}, Reason.FILTER_REQUIRED),
        ({}, {"filter": {"mode": "audit"}}, Reason.FILTER_REQUIRED),
        ({}, {"filter": {"unscored": "keep"}}, Reason.FILTER_REQUIRED),
        ({"filter": "any"}, {"filter": {"mode": "off"}}, None),
        ({"filter": "any"}, {"filter": {"mode": "audit", "unscored": "keep"}}, None),
        ({"guards": ["embedded"]}, {}, None),
        ({"guards": ["other"]}, {}, Reason.GUARD_REFUSED),
        ({"guards": ["other"], "filter": "any"}, {"filter": {"mode": "off"}}, None),
        ({}, {"filter": {"guard": "org/hub-guard"}}, Reason.GUARD_REFUSED),
        ({}, {"filter": {"guard": "evil/Llama-Guard-3-8B"}}, Reason.GUARD_REFUSED),
        ({}, {"filter": {"guard": "meta-llama/Llama-Guard-3-8B"}}, Reason.GUARD_REFUSED),
        ({}, {"filter": {"guard": f"hf:org/hub-guard@{COMMIT}"}}, Reason.GUARD_REFUSED),
        ({}, {"filter": {"guard": "no-such-guard"}}, Reason.GUARD_REFUSED),
        ({"filter": "any"}, {"filter": {"guard": "org/g", "mode": "audit"}}, Reason.GUARD_REFUSED),
        (
            {"guards": [f"org/hub-guard@{COMMIT}"]},
            {"filter": {"guard": f"org/hub-guard@{COMMIT}"}},
            None,
        ),
        (
            {"guards": [f"org/hub-guard@{COMMIT}"]},
            {"filter": {"guard": "org/hub-guard"}},
            Reason.GUARD_REFUSED,
        ),
        (
            {"guards": [f"org/hub-guard@{COMMIT}"]},
            {"filter": {"guard": f"evil/hub-guard@{COMMIT}"}},
            Reason.GUARD_REFUSED,
        ),
        ({"guards": ["./mine"]}, {"filter": {"guard": "./mine"}}, None),
        ({}, {"filter": {"guard": "/etc/guards"}}, Reason.GUARD_REFUSED),
        ({}, {"filter": {"guard": "../guards"}}, Reason.GUARD_REFUSED),
        ({}, {"filter": {"guard": "guards.toml:mine"}}, Reason.GUARD_REFUSED),
        ({"threshold_at_most": 0.5}, {}, None),
        ({"threshold_at_most": 0.49}, {}, Reason.THRESHOLD_REFUSED),
        ({"threshold_at_most": 0.49}, {"filter": {"threshold": "strict"}}, None),
        ({"threshold_at_most": 0.49, "filter": "any"}, {"filter": {"mode": "audit"}}, None),
        ({}, {"filter": {"judge": "prompt"}}, Reason.JUDGE_REFUSED),
        ({}, {"filter": {"judge": "response", "mode": "replace"}}, Reason.JUDGE_REFUSED),
        ({"judge": ["pair", "prompt"]}, {"filter": {"judge": "prompt"}}, None),
        ({"judge": ["prompt"]}, {}, Reason.JUDGE_REFUSED),
        ({"judge": []}, {"filter": {"judge": "response"}}, None),
        ({"filter": "any"}, {"filter": {"mode": "off", "judge": "response"}}, None),
        ({"max_batch_size": 16, "max_length": 96}, {}, None),
        ({"max_batch_size": 15}, {}, Reason.BATCH_TOO_LARGE),
        ({"max_length": 95}, {}, Reason.ROWS_TOO_LONG),
        ({}, {"messages": {"up": "int4"}}, None),
        ({"messages": "float32"}, {}, None),
        ({"messages": "float32"}, {"messages": {"up": "int8"}}, Reason.MESSAGES_REFUSED),
        ({"messages": "float32"}, {"messages": {"down": "bf16"}}, Reason.MESSAGES_REFUSED),
    ],
)
def test_the_policy_has_the_last_word(
    policy: dict[str, Any], changes: dict[str, Any], reason: Reason | None
) -> None:
    assert refusal(offer(**changes), node(policy)) is reason


def test_an_empty_list_of_guards_means_the_embedded_one_and_the_nodes_own() -> None:
    rules = {"kind": "rules", "words": ["zog"]}
    own = node(guards={"mine": rules})
    assert refusal(offer(filter={"guard": "mine"}), own) is None
    assert refusal(offer(filter={"guard": "embedded"}), own) is None
    assert refusal(offer(filter={"guard": "mine"}), node()) is Reason.GUARD_REFUSED
    listed = node({"guards": ["mine"]}, guards={"mine": rules, "other": rules})
    assert refusal(offer(filter={"guard": "embedded"}), listed) is Reason.GUARD_REFUSED
    assert refusal(offer(filter={"guard": "other"}), listed) is Reason.GUARD_REFUSED


@pytest.mark.parametrize("name", ["org/g", "org/g@main", "hf:org/g", f"org/g@{COMMIT[:12]}",
                                  "hf:org/g@v1/file.gguf", "guards/mine"])  # fmt: skip
def test_a_guard_of_the_hub_is_listed_with_its_commit_or_not_at_all(name: str) -> None:
    with pytest.raises(ValidationError, match="without its commit; expected") as caught:
        node({"guards": [name]})
    assert "40 hex digits" in str(caught.value)
    pinned = f"org/g@{COMMIT}"
    for fine in (pinned, f"hf:{pinned}", f"hf:{pinned}/file.gguf", "embedded", "./g", "g.toml:g"):
        assert node({"guards": [fine]}).policy.guards == [fine]
    table = {"kind": "rules", "words": ["zog"]}
    assert node({"guards": [name]}, guards={name: table}).guards.keys() == {name}


@pytest.mark.parametrize("key", ["calibration", "refusals"])
def test_files_of_the_servers_choice_are_not_opened(key: str) -> None:
    """A server that does not check itself could name any file of the node."""
    table = json.loads(make_offer(recipe(), ""))
    table["filter"][key] = "/etc/passwd"
    assert refusal(read_offer(json.dumps(table)), node()) is Reason.GUARD_REFUSED


@pytest.mark.parametrize("policy", [{}, {"filter": "any"}, {"guards": ["labels"]}])
def test_labels_and_a_silent_failure_are_never_taken(policy: dict[str, Any]) -> None:
    for change in ({"guard": "labels"}, {"on_guard_failure": "continue"}):
        table = json.loads(make_offer(recipe(), ""))
        table["filter"] |= change
        wanted = {"guard": Reason.GUARD_REFUSED, "on_guard_failure": Reason.FILTER_REQUIRED}
        found = refusal(read_offer(json.dumps(table)), node(policy))
        assert found in {wanted[key] for key in change} | (
            {Reason.GUARD_REFUSED} if policy.get("guards") else set()
        )


def test_a_named_threshold_is_held_against_the_policy_as_a_number() -> None:
    own = {"strict": 0.2, "loose": 0.6}
    for bound, number in ((0.4, 0.4), ("strict", 0.2), ("loose", 0.6)):
        owner = node({"threshold_at_most": bound})
        check_threshold(number, own, owner.policy)
        with pytest.raises(RefusedTaskError) as refused:
            check_threshold(number + 0.01, own, owner.policy)
        assert refused.value.reason is Reason.THRESHOLD_REFUSED


@pytest.mark.parametrize(
    ("bound", "asked", "needed"),
    [
        ("loose", "loose", False),
        ("loose", "strict", False),
        ("strict", "loose", True),
        ("loose", 0.1, True),
        (1.0, "loose", False),
        (0.9, "loose", True),
        (0.9, "strict", True),
        (0.9, 0.8, False),
    ],
)
def test_a_guard_is_loaded_for_its_thresholds_only_where_they_decide(
    bound: Any, asked: Any, needed: bool
) -> None:
    policy = node({"threshold_at_most": bound}).policy
    assert needs_guard(offer(filter={"threshold": asked}).filter, policy) is needed
    assert not needs_guard(offer(filter={"threshold": asked, "mode": "audit"}).filter, policy)


# --- the node's own file --------------------------------------------------------------------------


def test_a_node_file_is_validated_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text('name = "a"\n[data]\nsources = [{path = "rows.jsonl"}]\n')
    found = load_node(file)
    policy = found.policy
    assert (policy.filter, policy.threshold_at_most, policy.judge) == (
        "required",
        "loose",
        ["pair"],
    )
    assert found.device == "auto"
    for text, word in (
        ('name = "a b"\n[data]\nsources = [{path = "x"}]', "name"),
        ('name = "a"\n[data]\nsources = []', "data.sources"),
        ('name = "a"\n[data]\nsources = [{path = "x"}]\n[policy]\nfiltre = "any"', "filter"),
        ('name = "a"\n[data]\nsources = [{path = "x"}]\n[policy]\nsend = ["loss"]', "send"),
        ('name = "a"\n[data]\nsources = [{path = "x"}]\n[policy]\nthreshold_at_most = 2', "0 to 1"),
    ):
        file.write_text(text)
        with pytest.raises(RecipeError, match=word):
            load_node(file)
