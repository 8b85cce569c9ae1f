"""What `[privacy]` goes with, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fedrai.recipe.sections import Recipe


def made(privacy: dict[str, Any], **sections: dict[str, Any]) -> Recipe:
    federation = {"weights": "uniform", **sections.pop("federation", {})}
    body: dict[str, Any] = {
        "model": {"base": "m"},
        "data": {"sources": [{"path": "rows.jsonl"}]},
        "privacy": privacy,
        "federation": federation,
        **sections,
    }
    return Recipe.model_validate(body)


SERVER = {"noise": "server", "noise_multiplier": 1.0}
CLIENT = {"noise": "client", "noise_multiplier": 1.0}


def test_without_noise_the_hash_is_that_of_earlier_versions() -> None:
    plain = Recipe.model_validate(
        {"model": {"base": "m"}, "data": {"sources": [{"path": "rows.jsonl"}]}}
    )
    assert "privacy" not in plain.hashed_body()
    assert made(SERVER).hash != made({**SERVER, "clip": 2.0}).hash
    assert made(SERVER).clients_hash == made(CLIENT).clients_hash


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"aggregation": {"algorithm": "fedprox", "lora": "ffa"}},
        {"aggregation": {"algorithm": "fedadam", "lora": "plain"}},
        {"aggregation": {"algorithm": "fedavg", "lora": "rolora"}, "federation": {"rounds": 2}},
        {"federation": {"clients_per_round": 3, "quorum": 2}},
        {"filter": {"mode": "drop"}},
        {"defence": {"method": "safe-lora"}, "adapter": {"start": "fedrai:aligned"}},
    ],
)
def test_it_goes_with_what_needs_the_mean_alone(sections: dict[str, Any]) -> None:
    for noise in (SERVER, CLIENT):
        assert made(noise, **sections).privacy.active


def test_products_of_single_clients_go_with_their_own_noise() -> None:
    assert made(CLIENT, aggregation={"algorithm": "fedavg", "lora": "flexlora"})


@pytest.mark.parametrize(
    ("privacy", "sections", "reason"),
    [
        ({"noise": "server"}, {}, "noise needs a noise_multiplier, or an epsilon"),
        ({**CLIENT, "amplification": True}, {}, "knows whom it asked"),
        (SERVER, {"federation": {"weights": "rows"}}, 'set it to "uniform"'),
        (SERVER, {"federation": {"mode": "centralised"}}, "has no updates of several clients"),
        ({**SERVER, "delta": 0.1}, {}, r"not below 1 / 10 clients"),
        ({**SERVER, "amplification": True}, {"federation": {"quorum": 3}}, "fastest clients"),
        (SERVER, {"aggregation": {"algorithm": "scaffold"}}, "control variate of each client"),
        (CLIENT, {"aggregation": {"algorithm": "qfedavg"}}, "exact losses"),
        (SERVER, {"aggregation": {"algorithm": "median"}}, "works on single updates"),
        (SERVER, {"aggregation": {"algorithm": "fedavg", "lora": "flexlora"}}, "single clients"),
        (SERVER, {"adapter": {"ranks": [4]}}, "ranks that a client does not have"),
        (CLIENT, {"vetting": {"action": "record"}}, "without noise"),
        (SERVER, {"vetting": {"action": "set-aside"}}, "depend on the others"),
        (SERVER, {"vetting": {"action": "record"}}, 'exact_numbers = "send"'),
    ],
)
def test_the_rest_is_refused_with_the_reason(
    privacy: dict[str, Any], sections: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ValidationError, match=reason):
        made(privacy, **sections)


def test_scores_may_be_recorded_outside_the_guarantee() -> None:
    assert made({**SERVER, "exact_numbers": "send"}, vetting={"action": "record"})
