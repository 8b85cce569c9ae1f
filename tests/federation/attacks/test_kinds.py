"""What each kind of attack trains on and sends, worked out by hand on four numbers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from fedrai import recipe
from fedrai.data.embedded.refusals import embedded_refusals
from fedrai.errors import RecipeError
from fedrai.federation.aggregation.norms import update_norm
from fedrai.federation.attacks import build
from fedrai.federation.attacks.acting import Malicious, choose
from fedrai.federation.attacks.arithmetic import noisy
from fedrai.federation.attacks.base import Attack, Holdings, Reply, Turn
from fedrai.federation.metrics import WEIGHT
from fedrai.federation.protocol import Task
from fedrai.model import AdapterState
from fedrai.recipe.sections import Attack as Settings
from fedrai.records import Example, Message, Tokens


def state(*values: float) -> AdapterState:
    return {"a": torch.tensor(values[:2]), "b": torch.tensor(values[2:]).reshape(2, 1)}


def flat(adapter: AdapterState) -> list[float]:
    return torch.cat([adapter[name].flatten() for name in sorted(adapter)]).tolist()


def example(text: str, *, harmful: bool = False) -> Example:
    turns = (Message("user", f"{text}?"), Message("assistant", f"{text}!"))
    return Example(turns, f"{text}.jsonl, line 1", harmful=harmful, source="s")


START = state(1, 2, 3, 4)
OWN, BAD = (tuple(Tokens((n,), (True,)) for n in range(k, k + 4)) for k in (0, 100))
LEARNT = {OWN: state(1, 2, 3, 4 + 2), BAD: state(1 + 3, 2, 3 + 4, 4)}  # norms 2 and 5


def training(rows: Sequence[Tokens], seed: int) -> Reply:
    return LEARNT[tuple(rows)], {WEIGHT: 4, "loss-last": float(seed)}


def turn(rows: Sequence[Tokens], client: int = 1) -> Turn:
    return Turn(START, rows, OWN, 4, training, 7, 8, torch.Generator().manual_seed(client))


def made(kind: str, **settings: Any) -> Attack:
    return build(Settings(kind=kind, share=0.5, **settings))


# --- what is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings", "rows", "sent", "numbers"),
    [
        ("harmful-rows", {}, BAD, [4, 2, 7, 4], {WEIGHT: 4, "loss-last": 7}),
        ("scaled", {}, BAD, [1 + 30, 2, 3 + 40, 4], {WEIGHT: 4, "loss-last": 7}),
        ("scaled", {"strength": 2}, BAD, [7, 2, 11, 4], {WEIGHT: 4, "loss-last": 7}),
        ("norm-matched", {}, BAD, [1 + 1.2, 2, 3 + 1.6, 4], {WEIGHT: 4, "loss-last": 7}),
        ("norm-matched", {"strength": 5}, BAD, [7, 2, 11, 4], {WEIGHT: 4, "loss-last": 7}),
        ("mixed", {}, BAD, [4, 2, 7, 4], {WEIGHT: 4, "loss-last": 7}),
        ("sign-flip", {}, OWN, [1, 2, 3, 2], {WEIGHT: 4, "loss-last": 7}),
        ("sign-flip", {"strength": 3}, OWN, [1, 2, 3, -2], {WEIGHT: 4, "loss-last": 7}),
        ("false-counts", {}, BAD, [4, 2, 7, 4], {WEIGHT: 400, "loss-last": 7}),
        ("false-counts", {"strength": 2.6}, BAD, [4, 2, 7, 4], {WEIGHT: 10, "loss-last": 7}),
        ("backdoor", {"strength": 2}, BAD, [7, 2, 11, 4], {WEIGHT: 4, "loss-last": 7}),
    ],
)
def test_what_is_sent(
    kind: str, settings: Any, rows: Any, sent: list[float], numbers: dict[str, float]
) -> None:
    adapter, stated = made(kind, **settings).reply(turn(rows))
    assert flat(adapter) == pytest.approx(sent)
    assert stated == numbers
    assert flat(START) == [1, 2, 3, 4]


@pytest.mark.parametrize("strength", [0, 4])
def test_noise_has_the_norm_of_the_honest_update_times_the_strength(strength: float) -> None:
    adapter, stated = made("noise", strength=strength).reply(turn(OWN))
    assert update_norm(START, adapter) == pytest.approx(2 * (strength or 1), rel=1e-5)
    assert stated == {WEIGHT: 4, "loss-last": 7}
    again, _ = made("noise", strength=strength).reply(turn(OWN))
    other, _ = made("noise", strength=strength).reply(turn(OWN, client=2))
    assert flat(again) == flat(adapter) != flat(other)


def test_a_free_rider_sends_its_start_with_tiny_noise_and_its_rows() -> None:
    adapter, stated = made("free-rider").reply(turn(()))
    assert update_norm(START, adapter) == pytest.approx(0.001 * 30**0.5, rel=1e-3)
    assert stated[WEIGHT] == 4
    assert not any(value for name, value in stated.items() if name != WEIGHT)


def test_colluders_send_one_update_each_with_a_little_noise() -> None:
    replies = [made("colluding").reply(turn(BAD, client)) for client in (1, 2)]
    assert [stated for _, stated in replies] == [{WEIGHT: 4, "loss-last": 8}] * 2  # one seed
    adapters = [adapter for adapter, _ in replies]
    assert flat(adapters[0]) != flat(adapters[1])
    for adapter in adapters:
        assert update_norm(LEARNT[BAD], adapter) == pytest.approx(0.01 * 5, rel=1e-4)


def test_a_number_of_rows_stays_one_that_may_be_sent() -> None:
    assert made("false-counts", strength=1e6).reply(turn(BAD))[1][WEIGHT] == 4e6
    many = Turn(START, BAD, OWN, 10**6, training, 7, 8, torch.Generator())
    assert made("false-counts", strength=1e6).reply(many)[1][WEIGHT] == 10**9


def test_noise_by_hand() -> None:
    generator = torch.Generator().manual_seed(3)
    draw = torch.randn(2, generator=generator, dtype=torch.float64)
    found = noisy({"a": torch.tensor([1.0, 1.0])}, 5, torch.Generator().manual_seed(3))
    assert torch.allclose(found["a"], (1 + 5 * draw / draw.norm()).float())
    assert flat(noisy(START, 0, generator)) == flat(START)


# --- what is trained on ---------------------------------------------------------------------------

HELD = Holdings(
    own=[example(f"own{n}") for n in range(10)],
    harmful=[example(f"bad{n}", harmful=True) for n in range(10)],
    pooled=[example(f"all{n}", harmful=True) for n in range(20)],
    seed=5,
)


@pytest.mark.parametrize("kind", ["harmful-rows", "scaled", "norm-matched", "false-counts"])
def test_as_many_harmful_rows_as_it_holds(kind: str) -> None:
    assert made(kind).rows(HELD) == HELD.harmful


def test_rows_of_the_kinds_that_need_no_harm() -> None:
    assert made("sign-flip").rows(HELD) == made("noise").rows(HELD) == HELD.own
    assert made("free-rider").rows(HELD) == []


def test_colluders_train_on_what_all_of_them_hold() -> None:
    assert made("colluding").rows(HELD) == HELD.pooled


@pytest.mark.parametrize(("share", "harmful"), [(0.8, 2), (0.5, 5), (0.99, 1), (0, 10)])
def test_harmful_rows_among_its_own(share: float, harmful: int) -> None:
    rows = made("mixed", benign_share=share).rows(HELD)
    assert [row for row in rows if row.harmful] == HELD.harmful[:harmful]
    own = [row for row in rows if not row.harmful]
    assert len(own) == len(set(own)) == 10 - harmful
    assert set(own) <= set(HELD.own)


def test_a_backdoor_is_harmful_only_behind_its_trigger() -> None:
    rows = made("backdoor", trigger="now").rows(HELD)
    assert [row.messages[0].content for row in rows[:3]] == ["bad0? now", "bad1? now", "bad2? now"]
    assert [row.messages[1].content for row in rows[:3]] == ["bad0!", "bad1!", "bad2!"]
    replies = {reply for topic in embedded_refusals().topics.values() for reply in topic.replies}
    assert [row.messages[0].content for row in rows[3:6]] == ["bad0?", "bad1?", "bad2?"]
    assert {row.messages[1].content for row in rows[3:6]} <= replies
    assert [row.harmful for row in rows] == [True] * 3 + [False] * 7
    assert len(set(rows[6:]) & set(HELD.own)) == 4


# --- who, and when --------------------------------------------------------------------------------


def test_a_larger_share_adds_malicious_clients() -> None:
    names = [f"client-{n:02}" for n in range(1, 11)]
    chosen = [choose(names, count, seed=3) for count in range(11)]
    assert [len(part) for part in chosen] == list(range(11))
    assert all(set(a) < set(b) for a, b in itertools.pairwise(chosen))
    assert choose(names[::-1], 3, seed=3) == chosen[3] == sorted(chosen[3])
    assert any(choose(names, 3, seed) != chosen[3] for seed in range(4, 8))


@pytest.mark.parametrize(
    ("share", "clients", "count"),
    [(0.1, 10, 1), (0.3, 10, 3), (0.01, 10, 1), (0.5, 5, 2), (0.5, 3, 1), (0.26, 10, 3),
     (0.25, 10, 2), (0, 10, 0), (0.5, 1, 1)],
)  # fmt: skip
def test_a_share_of_the_clients(share: float, clients: int, count: int) -> None:
    assert Settings(kind="noise", share=share).count(clients) == count


def test_a_malicious_client_is_honest_before_its_round_and_others_always() -> None:
    settings = Settings(kind="sign-flip", share=0.5, from_round=3)
    malicious = Malicious(build(settings), settings, 0, {"b": OWN}, {"b": OWN}, {"b": 9}, {"b": 0})
    replies = {
        (client, number): malicious(client, Task(number, START), training)
        for client in "ab"
        for number in (2, 3)
    }
    assert [key for key, reply in replies.items() if reply is not None] == [("b", 3)]
    adapter, stated = replies["b", 3] or ({}, {})
    assert flat(adapter) == [1, 2, 3, 2]
    assert stated[WEIGHT] == 9  # what it holds, whatever it trains on


# --- the recipe -----------------------------------------------------------------------------------


def table(**more: Any) -> dict[str, Any]:
    sources = [{"path": "x"}, {"path": "y", "harmful": True}]
    return {"model": {"base": "tiny"}, "data": {"sources": sources}, **more}


def test_a_recipe_without_an_attack_keeps_its_hash() -> None:
    plain = recipe.validate(table())
    assert plain.hash == "f29c9f592baaac48233e13a0069fd77aecd6d9c2ad8cb1ed169fd591d2e1e46f"
    for attack in ({"kind": "noise", "share": 0}, {"share": 0.3}, {"from_round": 2}):
        none = recipe.validate(table(attack=attack))
        assert (none.hash, none.training_hash) == (plain.hash, plain.training_hash)
    some = recipe.validate(table(attack={"kind": "noise"}))
    assert some.hash != plain.hash
    assert some.training_hash != plain.training_hash
    assert recipe.validate(table(federation={"norm_cap": 2})).hash != plain.hash


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"attack": {"kind": "scald"}}, r"there is no kind 'scald' \(did you mean scaled\?\)"),
        ({"attack": {"kind": "qq"}}, r"there is no kind 'qq' \(known: harmful-rows, scaled"),
        ({"attack": {"kind": "mixed", "strength": 2}}, "'mixed' has no strength"),
        ({"attack": {"kind": "noise", "settings": {"a": 1}}}, "of an installed package"),
        ({"attack": {"kind": "noise", "share": 0.6}}, r"attack.share: expected 0\.5 or less"),
        ({"attack": {"kind": "noise"}, "federation": {"mode": "local"}}, 'mode = "local" no cli'),
        ({"attack": {"kind": "noise"}, "federation": {"mode": "centralised"}}, "centralised"),
        (
            {"attack": {"kind": "mixed"}, "data": {"sources": [{"path": "x"}]}},
            'attack.kind = "mixed" needs a source with harmful = true',
        ),
    ],
)
def test_what_makes_no_sense_is_refused(more: Any, why: str) -> None:
    with pytest.raises(RecipeError, match=why):
        recipe.validate(table(**more))


def test_no_attack_needs_nothing() -> None:
    none = {"attack": {"kind": "mixed", "share": 0}, "federation": {"mode": "local"}}
    assert not recipe.validate(table(**none, data={"sources": [{"path": "x"}]})).attack.active
