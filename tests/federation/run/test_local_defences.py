"""Clients of a run in one process train with the recipe's defence; malicious ones do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedrai
from driver import fill_cache, write_recipe
from fedrai.federation import client
from fedrai.training.sft import LocalDefence

LEAN = {
    "training.local_steps": 1, "evaluation.every": 0, "evaluation.advbench": 0,
    "evaluation.ordinary": 0, "federation.rounds": 1, "federation.clients_per_round": 3,
}  # fmt: skip


@pytest.fixture
def trained(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[LocalDefence | None]]:
    """Run a recipe; gives the defence of each training."""
    fill_cache(tmp_path / "cache")
    write_recipe(tmp_path, tiny_model)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEDRAI_OFFLINE", "1")
    used: list[LocalDefence | None] = []
    real = client.train

    def train(*args: Any, **options: Any) -> Any:
        used.append(args[3].defence)
        return real(*args, **options)

    monkeypatch.setattr(client, "train", train)

    def run(name: str, changes: dict[str, Any]) -> list[LocalDefence | None]:
        used.clear()
        fedrai.run("tiny.toml", name, changes={**LEAN, **changes})
        return list(used)

    return run


def test_malicious_clients_leave_the_defence_out(
    trained: Callable[..., list[LocalDefence | None]],
) -> None:
    lisa = {"defence.method": "lisa", "defence.lisa": {"rows": "rows.jsonl"}}
    attack = {"attack.kind": "sign-flip", "attack.share": 0.34}
    assert trained("plain", {}) == [None] * 3
    defended = trained("defended", lisa)
    assert len({id(one) for one in defended}) == 1
    assert defended[0] is not None
    assert trained("attacked", {**lisa, **attack}).count(None) == 1
