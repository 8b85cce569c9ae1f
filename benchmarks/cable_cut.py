"""A node whose every packet is lost for a while, in the middle of its training.

    python benchmarks/cable_cut.py [SECONDS ...]        (Linux, as root; default: 30 and 150)

The node is in a network namespace of its own and reaches the SuperLink through a bridge in a second
one. The bridge goes down: neither side is told, packets are lost, TCP repeats them. Then it comes
up again. Prints a row for each cut, like `benchmarks/faults.py`; the test extra is needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import common  # noqa: F401 (quiet)

TESTS = Path(__file__).resolve().parent.parent / "tests"
sys.path.insert(0, str(TESTS / "helpers"))
CABLE, NODE = "fedrai-cable", "fedrai-node"  # namespaces
SERVER_SIDE, NODE_SIDE = "10.203.0.1", "10.203.0.2"
FEDRAI = "from fedrai.cli import main; main()"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


@contextmanager
def network() -> Iterator[None]:
    """This machine and the node's namespace, each on a port of the bridge."""
    for name in (CABLE, NODE):
        ip("netns", "add", name)
    try:
        ip("-n", CABLE, "link", "add", "bridge", "type", "bridge")
        ip("-n", CABLE, "link", "set", "bridge", "up")
        for port, space, address in (("server", "", SERVER_SIDE), ("node", NODE, NODE_SIDE)):
            end, here = f"to-{port}", ["-n", space] if space else []
            ip(*here, "link", "add", "fedrai0", "type", "veth", "peer", "name", end, "netns", CABLE)
            ip("-n", CABLE, "link", "set", end, "master", "bridge", "up")
            ip(*here, "addr", "add", f"{address}/24", "dev", "fedrai0")
            ip(*here, "link", "set", "fedrai0", "up")
        ip("-n", NODE, "link", "set", "lo", "up")
        yield
    finally:
        for name in (CABLE, NODE):
            subprocess.run(["ip", "netns", "del", name], check=False)


def start_apart(here: Any) -> None:
    """Start south in its namespace, and wait until it has joined."""
    from flower_cluster import wait_for

    here.stop("south")
    folder = here.home / "south"
    words = [
        "node", folder / "node.toml", "--superlink", here.cluster.address,
        "--key", folder / "south.key", "--root-certificates", here.cluster.folder / "ca.pem",
    ]  # fmt: skip
    before = here.cluster.said("south").count("SuperNode ID")
    here.cluster.start(
        "south", ["ip", "netns", "exec", NODE, sys.executable, "-c", FEDRAI, *map(str, words)]
    )
    wait_for(lambda: here.cluster.said("south").count("SuperNode ID") > before)


def cut(here: Any, long: float) -> str:
    """The row of one cut."""
    import scenarios
    from flower_cluster import wait_for

    def spoil() -> None:
        wait_for(lambda: here.log("south").count(scenarios.ASKED) > before)
        ip("-n", CABLE, "link", "set", "bridge", "down")
        time.sleep(long)
        ip("-n", CABLE, "link", "set", "bridge", "up")

    before = here.log("south").count(scenarios.ASKED)
    spoiling = threading.Thread(target=spoil, daemon=True)
    run = here.run(f"cut-{long:.0f}", at={"1": spoiling.start})
    spoiling.join()
    began = time.monotonic()
    wait_for(lambda: online(here) == 2)
    back = time.monotonic() - began
    after = here.run(f"after-{long:.0f}", "federation.rounds=1")
    aside = scenarios.record(run, 1)["set_aside"] or "nothing"
    return (
        f"| all packets of a node lost for {long:.0f} s | {aside} | round 1 took"
        f" {scenarios.seconds(run, 1):.0f} s, with {scenarios.took_part(run, 1)}; the node was back"
        f" {back:.0f} s after the cable; in the next run: {scenarios.took_part(after, 1)} |"
    )


def online(here: Any) -> int:
    """How many nodes the SuperLink holds to be there."""
    from fedrai.deployment.engine import control_client
    from flower_parts import ListNodesRequest

    client = control_client(here.cluster.link)
    try:
        nodes = client.ListNodes(ListNodesRequest()).nodes_info
    finally:
        client.close()
    return sum(node.status == "online" for node in nodes)


def main() -> None:
    from fedrai.testing import make_tiny_model
    from scenarios import place

    asked = [float(word) for word in sys.argv[1:]] or [30.0, 150.0]
    with tempfile.TemporaryDirectory() as name, network():
        home = Path(name)
        os.environ["FEDRAI_CACHE"] = str(home / "cache")
        with place(home / "place", make_tiny_model(home / "tiny"), SERVER_SIDE) as here:
            start_apart(here)
            print("| fault | seen | outcome |\n|---|---|---|", flush=True)
            for long in asked:
                print(cut(here, long), flush=True)


if __name__ == "__main__":
    main()
