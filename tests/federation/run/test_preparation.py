"""What a recipe makes of a client's rows: steps and learning rates."""

from __future__ import annotations

from typing import Any

import pytest

from fedrai.federation.run.preparation import local_steps, sft_settings
from fedrai.recipe.sections import Recipe


def recipe(training: dict[str, Any], **federation: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "model": {"base": "tiny"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "training": {"batch_size": 4, "learning_rate": 0.5, **training},
            "federation": {"clients": 10, "rounds": 2, **federation},
        }
    )


@pytest.mark.parametrize(
    ("epochs", "rows", "steps"),
    [
        (0, 36, 8),  # local_steps, whatever the rows
        (0, 1, 8),
        (1, 36, 9),
        (1, 25, 6),  # 6.25: 24 of 25 rows, where 7 steps would go over 3 rows again
        (1, 26, 7),  # 6.5
        (0.5, 36, 5),  # 4.5
        (1, 1, 1),
        (0.1, 3, 1),  # never none
        (2.5, 40, 25),
    ],
)
def test_epochs_make_steps_in_proportion_to_rows(epochs: float, rows: int, steps: int) -> None:
    given = recipe({"local_steps": 8, "local_epochs": epochs})
    assert local_steps(given, rows) == steps
    assert sft_settings(given, rows).steps == steps


def test_pooled_rows_take_the_steps_of_the_sampled_clients() -> None:
    """Two of ten clients with 36 rows each: 2 x 8 steps, or 2 x 9."""
    pooled = {"mode": "centralised", "clients_per_round": 2}
    assert local_steps(recipe({"local_steps": 8}, **pooled), 360) == 16
    assert local_steps(recipe({"local_epochs": 1}, **pooled), 360) == 18


def test_a_client_goes_through_the_whole_schedule_in_its_own_steps() -> None:
    """With 9 steps a round and with 6 the second round begins at half the peak, and ends at 0."""
    given = recipe({"local_epochs": 1})
    for rows, steps in ((36, 9), (25, 6)):
        rate = sft_settings(given, rows).learning_rate
        assert rate(0) == 0.5
        assert rate(steps) == pytest.approx(0.25)
        assert rate(2 * steps) == pytest.approx(0, abs=1e-12)
