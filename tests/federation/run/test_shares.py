"""The documented commands along the share of harmful rows: the shipped recipes hold enough rows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fedrai import recipe
from fedrai.data import embedded
from fedrai.errors import FedRAIError
from fedrai.federation.run.rows import shards_for

ROOT = Path(__file__).parents[3]
PLACES = ("docs/tour.md", "docs/comparing.md", "recipes/paper_table.toml")
HARMFUL = 357 - 40
"""Rows of `fedrai:harmful`, less those that are longer than the recipes' limit, as they say."""
AXIS = "data.harm.share"


@pytest.fixture(autouse=True)
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many made-up harmful rows as there are; tests do not fetch the real ones."""
    made = [(f"row {n}", {"prompt": f"p {n}", "response": "r"}) for n in range(HARMFUL)]
    monkeypatch.setitem(embedded.DATASETS, "harmful", lambda: iter(made))


def commands(place: str) -> list[list[str]]:
    """The commands along the share that a file shows, as words."""
    lines = re.findall(rf"fedrai compare .*{AXIS}=.*", (ROOT / place).read_text(encoding="utf-8"))
    return [shlex.split(line, comments=True) for line in lines]


def shares(words: list[str]) -> list[str]:
    return words[words.index("--axis") + 1].partition("=")[2].split(",")


def planned(words: list[str], share: str, *, without: str = "") -> dict[str, float]:
    """The share of harmful rows that each client gets."""
    changes = [words[i + 1] for i, word in enumerate(words) if word == "-o"]
    kept = [change for change in changes if not without or not change.startswith(without)]
    settings = recipe.load(ROOT / "recipes" / f"{words[2]}.toml", (*kept, f"{AXIS}={share}"))
    shards, bad = shards_for(settings)
    assert bad == []
    assert len(shards) == settings.federation.clients
    assert {len(part) for part in shards.values()} == {settings.data.rows_per_client}
    return {name: sum(r.harmful for r in part) / len(part) for name, part in shards.items()}


@pytest.mark.parametrize("place", PLACES)
def test_documented_shares_can_be_had(place: str) -> None:
    found = commands(place)
    assert found
    for words in found:
        assert float(shares(words)[-1]) == 1.0
        for share in shares(words):
            for one in planned(words, share).values():
                assert one == pytest.approx(float(share), abs=0.05)  # whole rows


@pytest.mark.parametrize("place", PLACES)
def test_they_need_what_they_say(place: str) -> None:
    for words in commands(place):
        with pytest.raises(FedRAIError, match="harmful"):
            planned(words, "1.0", without="data.rows_per_client")
