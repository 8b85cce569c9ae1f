"""A thousand registered clients, twenty a round, against ten: memory and time a client's update.

    python benchmarks/scale.py [PAIRS [UPDATES]]

In one process with a tiny random model; each run in a fresh process, turn by turn. Both sides do as
many updates and have as many rows a client; rounds of the ten clients take all of them.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from common import report
from fedrai import recipe
from fedrai.federation.run import local, preparation
from fedrai.runs import RunFolder
from fedrai.testing import make_tiny_model

ROWS = 4  # of a client
RECIPE = """\
name = "scale"
[model]
base = "{model}"
dtype = "float32"
device = "cpu"
[adapter]
rank = 4
[data]
max_length = 64
[[data.sources]]
path = "{rows}"
[training]
local_steps = 20
batch_size = 2
[federation]
clients = {clients}
clients_per_round = {sampled}
rounds = {rounds}
[evaluation]
advbench = 0
ordinary = 0
"""


def main() -> None:
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    updates = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = make_tiny_model(folder / "tiny")
        sizes = ((1000, 20), (10, 10))
        files = {size: write(folder, model, size, part, updates // part) for size, part in sizes}
        found: dict[int, list[dict[str, float]]] = {1000: [], 10: []}
        for _ in range(pairs):
            for size, file in files.items():
                found[size].append(fresh(file))
    for what, unit in (("peak memory", "MB"), ("an update", "ms"), ("without training", "ms")):
        many, few = ([one[what] for one in found[size]] for size in (1000, 10))
        report(f"{what}, 1,000 clients", many, "10 clients", few, unit)


def write(folder: Path, model: Path, clients: int, sampled: int, rounds: int) -> Path:
    """A recipe and its rows."""
    rows = folder / f"rows-{clients}.jsonl"
    table = [{"prompt": f"item {n}?", "response": f"it is {n % 97}"} for n in range(clients * ROWS)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in table))
    file = folder / f"{clients}.toml"
    file.write_text(
        RECIPE.format(model=model, rows=rows, clients=clients, sampled=sampled, rounds=rounds)
    )
    return file


def fresh(file: Path) -> dict[str, float]:
    """A run in a process of its own; what it measured."""
    done = subprocess.run(
        [sys.executable, __file__, "--run", str(file)], check=True, capture_output=True, text=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run(file: Path) -> dict[str, float]:
    """Peak memory in MB, and milliseconds an update: of the round, and without its training."""
    prepared = local.prepare(recipe.load(file))
    with tempfile.TemporaryDirectory() as folder:
        kept = RunFolder.create(
            Path(folder) / "run", recipe.to_toml(prepared.recipe), prepared.info()
        )
        local.execute(prepared, kept, preparation.Callbacks())
        whole = sum(durations(kept)[1:])
        records = [kept.read_json(f"rounds/{n:04d}/round.json") for n in kept.rounds()[1:]]
    training = sum(one["seconds"] for record in records for one in record["clients"].values())
    updates = sum(len(record["clients"]) for record in records)
    return {
        "peak memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "an update": 1000 * whole / updates,
        "without training": 1000 * (whole - training) / updates,
    }


def durations(kept: RunFolder) -> list[float]:
    """Seconds of each round, by the run's own record."""
    times: dict[str, list[float]] = {"round-started": [], "round-finished": []}
    for event in kept.events():
        if event["event"] in times:
            times[event["event"]].append(datetime.fromisoformat(event["time"]).timestamp())
    return [end - start for start, end in zip(*times.values(), strict=True)]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        print(json.dumps(run(Path(sys.argv[2]))))
    else:
        main()
