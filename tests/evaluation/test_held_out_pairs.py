"""Held-out preference pairs: likelihoods of both answers, and ratios to the base model."""

from __future__ import annotations

import pytest
import torch

from fedrai.evaluation.figures import scores
from fedrai.evaluation.measure import measure
from fedrai.evaluation.preference import Choice, Preferences, against
from fedrai.evaluation.records import Questions, pool
from fedrai.model import LanguageModel
from fedrai.records import Message, PreferencePair
from fedrai.runs.costs import Ledger
from fedrai.training.likelihood import answer_log_probabilities
from fedrai.training.prefer.tokens import pair_tokens


@pytest.fixture
def pairs(tiny: LanguageModel) -> list[PreferencePair]:
    sides = [("q?", "yes indeed", "no"), ("And now?", "ok", "never again"), ("Why?", "so", "hm")]
    return [
        pair_tokens(
            tiny.chat,
            [Message("user", prompt), Message("assistant", good)],
            [Message("user", prompt), Message("assistant", bad)],
            1,
            96,
        )
        for prompt, good, bad in sides
    ]


def questions(pairs: list[PreferencePair]) -> Questions:
    return Questions((), (), (), 8, 2, 0.0, 1.0, 0, pairs=pairs)


def test_pairs_are_compared_by_likelihood_and_by_what_changed(
    tiny: LanguageModel, pairs: list[PreferencePair]
) -> None:
    generator = torch.Generator().manual_seed(5)
    moved = {
        name: part + 0.4 * torch.rand(part.shape, generator=generator)
        for name, part in tiny.fresh_adapter(1).items()
    }
    rows = [row for pair in pairs for row in (pair.chosen, pair.rejected)]
    with tiny.using(None):
        base = answer_log_probabilities(tiny, rows, batch_size=1)
        alone = measure(tiny, questions(pairs))
    with tiny.using(moved):
        values = answer_log_probabilities(tiny, rows, batch_size=1)
        result = measure(tiny, questions(pairs))
    own, rewards = (result.preferences[n] for n in ("held-out-pairs", "held-out-rewards"))
    assert [c.chosen for c in own.choices] == pytest.approx(values[::2], abs=1e-4)
    ratios = [v - b for v, b in zip(values, base, strict=True)]
    assert [c.chosen for c in rewards.choices] == pytest.approx(ratios[::2], abs=1e-4)
    assert [c.rejected for c in rewards.choices] == pytest.approx(ratios[1::2], abs=1e-4)
    right = sum(ratios[2 * n] > ratios[2 * n + 1] for n in range(3))
    figures = scores(result)
    assert (figures["held-out-rewards"]["right"], figures["held-out-rewards"]["count"]) == (
        right,
        3,
    )
    assert (
        figures["held-out-pairs"]["value"]
        == sum(values[2 * n] > values[2 * n + 1] for n in range(3)) / 3
    )
    assert set(alone.preferences) == {"held-out-pairs"}  # nothing moved
    assert set(pool([result, alone]).preferences) == {"held-out-pairs"}
    assert len(pool([result, result]).preferences["held-out-rewards"].choices) == 6


def test_ratios_are_differences_of_log_probabilities() -> None:
    own = Preferences((Choice(0, "", -2.0, -3.0, 4, 2), Choice(1, "", None, None, 0, 0)), Ledger())
    base = Preferences((Choice(0, "", -4.0, -2.5, 4, 2), Choice(1, "", None, None, 0, 0)), Ledger())
    one, other = against(own, base).choices
    assert (one.chosen, one.rejected) == (2.0, -0.5)
    assert (one.summed, one.normalised) == (2.5, 2.0 / 4 + 0.5 / 2)
    assert other.summed is None
