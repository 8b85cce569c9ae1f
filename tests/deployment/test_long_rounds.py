"""A round that takes longer than Flower's patience with a silent node, and loses nobody.

Flower misses a node, or a task, after a minute without a sign of life; `short_heartbeats` makes
that twelve seconds. The training takes fifteen, most of them asleep between the steps.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from driver import write_rows
from fedrai import recipe
from fedrai.deployment import link
from fedrai.deployment.engine import FlowerEngine
from fedrai.federation.run import running
from fedrai.runs import RunFolder
from flower_cluster import cluster, key_files, register, wait_for
from scenarios import NODE, RECIPE, digests, seconds, took_part

pytestmark = pytest.mark.slow

PATIENCE = 12.0  # seconds, as in short_heartbeats
BEAT, PAUSE, STEPS = 1.0, 0.5, 30
CHANGES = ["federation.clients=1", "federation.rounds=1", f"training.local_steps={STEPS}"]


def test_a_node_that_trains_for_long_is_not_lost(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("sites", "north"):
        (tmp_path / folder).mkdir()
    for file in ("sites/north.jsonl", "north/rows.jsonl"):
        write_rows(tmp_path / file, 8)
    (tmp_path / "north" / "node.toml").write_text(NODE.format(name="north"))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(model=tiny_model, folder=tmp_path))
    settings = recipe.load(tmp_path / "recipe.toml", CHANGES)
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(link, "BEAT", BEAT)

    short = os.pathsep.join(
        [str(Path(__file__).with_name("short_heartbeats")), os.environ.get("PYTHONPATH", "")]
    )
    environment = {"PYTHONPATH": short, "FEDRAI_CACHE": str(tmp_path / "cache")}
    with cluster(tmp_path / "server", environment) as found:
        key, public = key_files(tmp_path / "north", "north")
        register(found.link, public, "north")
        found.start_node(tiny_model, tmp_path / "north" / "node.toml", key, beat=BEAT, pause=PAUSE)
        wait_for(lambda: "SuperNode ID" in found.said("north"))
        there = RunFolder(
            running.run(settings, tmp_path / "there", engine=FlowerEngine(found.link))
        )
    assert seconds(there, 1) > max(PATIENCE, PAUSE * STEPS)
    assert took_part(there, 1) == ["north"]
    here = RunFolder(running.run(settings, tmp_path / "here"))
    assert digests(there) == digests(here)
