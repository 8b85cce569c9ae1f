"""How long a node takes to answer a round: resident process against a fresh one for every message.

    python benchmarks/node_start.py                  # a tiny random model
    python benchmarks/node_start.py MODEL [ROUNDS]   # a real one, such as smollm2-135m-instruct

A SuperLink and one SuperNode run on loopback, without TLS. Peer: the same node as Flower 1.42 runs
it by itself (`flower-supernode`, a process for every message). Both train one step a round on the
same rows; the first round of both loads everything and is not counted.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from common import report
from fedrai import recipe
from fedrai.deployment.engine import FlowerEngine
from fedrai.deployment.link import Link
from fedrai.federation.run import running
from fedrai.runs import RunFolder
from fedrai.testing import make_tiny_model

RECIPE = """\
name = "node-start"
[model]
base = "{model}"
dtype = "float32"
device = "cpu"
[data]
max_length = 64
[[data.sources]]
path = "{folder}/rows.jsonl"
[training]
local_steps = 1
batch_size = 2
[federation]
clients = 1
rounds = {rounds}
[evaluation]
advbench = 0
ordinary = 0
"""
NODE = """\
name = "one"
device = "cpu"
[data]
sources = [{path = "rows.jsonl"}]
[policy]
filter = "any"
"""
QUIET = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else ""
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 4
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = model or str(make_tiny_model(folder / "tiny"))
        rows = [{"prompt": f"item {n}?", "response": f"it is {n * n}"} for n in range(8)]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "node.toml").write_text(NODE)
        text = RECIPE.format(model=base, folder=folder, rounds=rounds)
        (folder / "recipe.toml").write_text(text)
        resident, fresh = (measured(folder, kind) for kind in ("resident", "fresh"))
    report("resident node, round", resident, "fresh processes", fresh, "s")
    print(f"fresh minus resident: {statistics.median(fresh) - statistics.median(resident):.1f} s")


def measured(folder: Path, kind: str) -> list[float]:
    """Seconds of each round after the first."""
    with superlink(folder / kind) as link, node(folder, link, kind):
        settings = recipe.load(folder / "recipe.toml")
        run = running.run(settings, folder / f"run-{kind}", engine=FlowerEngine(link))
    return durations(RunFolder(run))


def durations(run: RunFolder) -> list[float]:
    """From a round's start to its end, by the run's own record."""
    from datetime import datetime

    started, found = 0.0, []
    for event in run.events():
        moment = datetime.fromisoformat(event["time"]).timestamp()
        if event["event"] == "round-started":
            started = moment
        elif event["event"] == "round-finished":
            found.append(moment - started)
    return found[1:]


@contextmanager
def superlink(folder: Path) -> Iterator[Link]:
    """A SuperLink on loopback whose tasks need a secret."""
    folder.mkdir()
    secret, port = secrets.token_hex(32), free_port()
    (folder / "secret").write_text(secret)
    command = [
        sys.executable, "-m", "fedrai.deployment.superlink", "--insecure", "--host", "127.0.0.1",
        "--port", str(port), "--isolation", "process",
        "--superexec-auth-secret-file", str(folder / "secret"),
    ]  # fmt: skip
    with process(command, folder / "superlink.log"):
        wait_until_open(port)
        yield Link(f"127.0.0.1:{port}", insecure=True, secret=secret.encode())


@contextmanager
def node(folder: Path, link: Link, kind: str) -> Iterator[None]:
    """One node: ours, or Flower's own."""
    file = folder / "node.toml"
    ours = [sys.executable, "-c", "from fedrai.cli import main; main()", "node", str(file),
            "--superlink", link.address, "--insecure"]  # fmt: skip
    flowers = ["flower-supernode", "--superlink", link.address, "--insecure", "--host", "127.0.0.1",
               "--port", str(free_port()), "--node-config", f'config="{file}"']  # fmt: skip
    with process(ours if kind == "resident" else flowers, folder / f"{kind}.log"):
        yield


@contextmanager
def process(command: Sequence[str], log: Path) -> Iterator[None]:
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **QUIET, "PATH": beside, "FLWR_HOME": str(log.parent / "flower")}
    with log.open("wb") as out:
        running = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        try:
            yield
        finally:
            running.terminate()
            try:
                running.wait(15)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def wait_until_open(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the SuperLink did not start")


if __name__ == "__main__":
    main()
