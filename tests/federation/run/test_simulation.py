"""`--engine simulation`: clients in Ray's processes, in Flower's own simulation (an extra)."""

from __future__ import annotations

from pathlib import Path

import pytest

from driver import write_recipe
from fedrai import recipe
from fedrai.federation.run import running
from fedrai.federation.run.simulation import SimulationEngine
from fedrai.model import read_adapter
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of

pytest.importorskip("ray")
PLAIN = ["evaluation.advbench=0", "evaluation.ordinary=0", "federation.rounds=2"]


def digests(run: RunFolder) -> list[str]:
    return [digest_of(read_adapter(run.round_folder(n) / "adapter")) for n in run.rounds()]


@pytest.mark.filterwarnings("ignore:::ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_adapters_are_those_of_the_run_in_one_process(tmp_path: Path, tiny_model: Path) -> None:
    settings = recipe.load(write_recipe(tmp_path, tiny_model), PLAIN)
    here = RunFolder(running.run(settings, tmp_path / "here"))
    there = RunFolder(running.run(settings, tmp_path / "there", engine=SimulationEngine()))
    assert here.rounds() == there.rounds() == [1, 2]
    assert digests(here) == digests(there)
    assert there.events()[-1]["event"] == "finished"
