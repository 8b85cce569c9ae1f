"""How many prompts a difference between two arms takes."""

from __future__ import annotations

import pytest

from fedrai.report.comparing.differences import Difference
from fedrai.report.comparing.figures import Figure
from fedrai.report.comparing.tables import unsettled


def difference(value: float, low: float, high: float, *seeds: int) -> Difference:
    figure = Figure(value, low, high, "bootstrap", len(seeds), 100)
    return Difference("filter", "harmful", "", "safe", figure, seeds)


@pytest.mark.parametrize(
    ("value", "low", "high", "prompts"),
    [
        (0.04, -0.02, 0.10, 225),  # 0.06 to the nearer end: 100 x 1.5^2
        (-0.04, -0.10, 0.04, 400),  # 0.08: 100 x 2^2
        (0.08, 0.0, 0.16, 100),  # an end at 0: these are just enough
        (0.08, 0.01, 0.15, None),  # settled
        (0.0, -0.05, 0.05, None),  # no difference: no number of prompts settles it
    ],
)
def test_the_interval_narrows_with_the_root_of_the_prompts(
    value: float, low: float, high: float, prompts: int | None
) -> None:
    assert difference(value, low, high, 0).prompts_to_settle == prompts


def test_prompts_do_not_settle_what_seeds_differ_in() -> None:
    assert difference(0.04, -0.02, 0.10, 0, 1).prompts_to_settle is None


def test_a_line_says_what_is_not_settled() -> None:
    assert unsettled([difference(0.04, -0.02, 0.10, 0), difference(0.2, 0.1, 0.3, 0)]) == [
        "not settled: filter minus harmful in AdvBench safe; a difference of this size takes about"
        " 225 prompts, not 100"
    ]
