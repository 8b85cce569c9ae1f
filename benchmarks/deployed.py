"""A run across organisations against the same run in one process: its bits, and its time a round.

    python benchmarks/deployed.py                              # a tiny random model
    python benchmarks/deployed.py smollm2-135m-instruct        # a real one, minutes

A SuperLink with TLS and node authentication and three resident nodes run on loopback, each with its
own rows and the embedded guard; the server aligns the last round's model. In float32, one thread
for each process, the adapters of all rounds must be those of the run in one process, to the bit.
Exits with 1 where they are not. Nodes train side by side, as many as there are cores.
"""

from __future__ import annotations

import os
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import common  # noqa: F401 (quiet)

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS / "helpers"))

NAMES = ("north", "south", "west")
ROWS = 24  # of a node
RECIPE = """\
name = "deployed"
seed = 3
[model]
base = "{model}"
dtype = "float32"
device = "cpu"
[adapter]
start = {start}
[data]
max_length = 128
on_bad_rows = "skip"
[data.partition]
scheme = "files"
files = "{folder}/sites/*.jsonl"
[filter]
mode = "drop"
[training]
local_steps = 8
batch_size = 4
[federation]
clients = 3
rounds = 3
min_clients = 3
[constitution]
schedule = "last"
steps = 2
examples = ["fedrai:safe-answers"]
requests = []
harmless = ["fedrai:ordinary"]
harmless_count = 8
[constitution.mix]
rows = 4
pairs = 0
refusals = 0.5
look_alikes = 0.0
[constitution.probe]
harmful = 4
harmless = 4
[evaluation]
advbench = 0
ordinary = 0
"""
NODE = """\
name = "{name}"
device = "cpu"
[data]
sources = [{{path = "rows.jsonl"}}]
[policy]
filter = "required"
"""


def main() -> None:
    from fedrai.testing import make_tiny_model

    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        model = sys.argv[1] if len(sys.argv) > 1 else str(make_tiny_model(home / "tiny"))
        write(home, model)
        print(compared(home, model))


def write(home: Path, model: str) -> None:
    """The recipe, and the rows and files of the nodes."""
    from fedrai.data import embedded

    ordinary = embedded.HERE / "ordinary.jsonl"
    lines = ordinary.read_text(encoding="utf-8").splitlines(keepends=True)
    (home / "sites").mkdir()
    for number, name in enumerate(NAMES):
        (home / name).mkdir()
        rows = "".join(lines[ROWS * number : ROWS * (number + 1)])
        for file in (home / "sites" / f"{name}.jsonl", home / name / "rows.jsonl"):
            file.write_text(rows, encoding="utf-8")
        (home / name / "node.toml").write_text(NODE.format(name=name))
    start = '"fedrai:aligned"' if model == "smollm2-135m-instruct" else '""'
    (home / "recipe.toml").write_text(RECIPE.format(model=model, folder=home, start=start))


def compared(home: Path, model: str) -> str:
    """Both runs, and a table of their rounds; ends the program where an adapter differs."""
    import torch

    from fedrai import recipe
    from fedrai.deployment.engine import FlowerEngine
    from fedrai.federation.run import running
    from fedrai.runs import RunFolder
    from flower_cluster import cluster, key_files, register, wait_for
    from scenarios import digests

    torch.set_num_threads(1)
    settings = recipe.load(home / "recipe.toml")
    with cluster(home / "server", {"OMP_NUM_THREADS": "1"}) as found:
        for name in NAMES:
            key, public = key_files(home / name, name)
            register(found.link, public, name)
            found.start_node(Path(model), home / name / "node.toml", key)
        for name in NAMES:
            wait_for(lambda name=name: "SuperNode ID" in found.said(name))
        engine = FlowerEngine(found.link)
        over = RunFolder(running.run(settings, home / "over", engine=engine))
    here = RunFolder(running.run(settings, home / "here"))
    if digests(here) != digests(over):
        sys.exit("the adapters differ")
    rows = ["| round | in one process, s | deployed, s | ratio |", "|---|---:|---:|---:|"]
    for number in here.rounds():
        one, many = (clients_seconds(run, number) for run in (here, over))
        rows.append(f"| {number} | {one:.1f} | {many:.1f} | {many / one:.2f} |")
    return "\n".join(["adapters of all rounds: the same bits", *rows])


def clients_seconds(run: object, number: int) -> float:
    """From the start of a round to its last update; the server's own work is not in it."""
    times = [
        datetime.fromisoformat(e["time"]).timestamp()
        for e in run.events()  # type: ignore[attr-defined]
        if e.get("round") == number and e["event"] in ("round-started", "client-finished")
    ]
    return times[-1] - times[0]


if __name__ == "__main__":
    main()
