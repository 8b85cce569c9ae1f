"""Faults of a deployment, made on purpose on a cluster of processes; what was seen is returned.

The quick ones are tests (`test_faults.py`); `benchmarks/faults.py` goes through all of them.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from driver import write_rows
from fedrai import recipe
from fedrai.deployment.engine import FlowerEngine
from fedrai.deployment.setup import settings
from fedrai.errors import RunError
from fedrai.federation.run import running
from fedrai.model import read_adapter
from fedrai.runs import RunFolder, files
from fedrai.runs.files import digest_of
from flower_cluster import HERE, Cluster, cluster, key_files, register, wait_for

NAMES = ("north", "south")
RECIPE = """\
name = "faults"
seed = 5
[model]
base = "{model}"
dtype = "float32"
device = "cpu"
[adapter]
rank = 4
[data]
max_length = 96
[data.partition]
scheme = "files"
files = "{folder}/sites/*.jsonl"
[training]
local_steps = 30
batch_size = 4
learning_rate = 0.02
[federation]
clients = 2
rounds = 2
min_clients = 1
round_timeout = 400
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
filter = "any"
"""
ASKED = "asked to train"
Action = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """What a fault did.

    Attributes:
        fault: what was done.
        shown: what the operator saw.
        outcome: what came of it.
        run: that it was done to.
    """

    fault: str
    shown: str
    outcome: str
    run: RunFolder


@dataclass(frozen=True)
class Place:
    """A cluster with two nodes that have loaded their model."""

    home: Path
    model: Path
    cluster: Cluster
    engine: FlowerEngine
    up: set[str] = field(default_factory=set)

    def run(self, name: str, *changes: str, at: dict[str, Action] | None = None) -> RunFolder:
        """A run; `at` says what to do at the start of round `1`, `2` ... of it."""
        asked = recipe.load(self.home / "recipe.toml", list(changes))
        with acting(at or {}):
            return RunFolder(running.run(asked, self.home / name, engine=self.engine))

    def alone(self) -> RunFolder:
        """The recipe in this process."""
        if not (self.home / "here").is_dir():
            running.run(recipe.load(self.home / "recipe.toml"), self.home / "here")
        return RunFolder(self.home / "here")

    def log(self, node: str) -> str:
        """A node's own log."""
        file = self.home / node / f"{node}.log"
        return file.read_text() if file.is_file() else ""

    def start(self, node: str, address: str = "") -> None:
        """Start a node, unless it is up, and wait until it has joined."""
        if node in self.up:
            return
        folder = self.home / node
        self.cluster.start_node(self.model, folder / "node.toml", folder / f"{node}.key", address)
        self.up.add(node)
        wait_for(lambda: "SuperNode ID" in self.cluster.said(node))

    def stop(self, node: str) -> None:
        """End a node as its operator does, and wait until it has left."""
        if node in self.up:
            self.cluster.signal(node, signal.SIGTERM)
            self.cluster.exit_code(node)
            self.up.discard(node)

    def when_training(self, node: str, number: int) -> Action:
        """An action: as soon as a node is asked to train again, send it a signal."""
        before = self.log(node).count(ASKED)

        def send() -> None:
            wait_for(lambda: self.log(node).count(ASKED) > before)
            self.cluster.signal(node, number)
            if number == signal.SIGKILL:
                self.up.discard(node)

        return threading.Thread(target=send, daemon=True).start


@contextmanager
def acting(at: dict[str, Action]) -> Iterator[None]:
    """Within the block, do something when a round starts."""
    real = RunFolder.event

    def event(run: RunFolder, kind: str, **fields: Any) -> dict[str, Any]:
        found = real(run, kind, **fields)
        if kind == "round-started" and str(fields["round"]) in at:
            at[str(fields["round"])]()
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "event", event)
        yield


@contextmanager
def place(home: Path, model: Path, host: str = HERE) -> Iterator[Place]:
    """A cluster whose nodes have done one run.

    Args:
        home: for all that is written.
        model: the base model.
        host: the IP address of this machine that the SuperLink listens on.
    """
    (home / "sites").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (home / name).mkdir()
        for file in (home / "sites" / f"{name}.jsonl", home / name / "rows.jsonl"):
            write_rows(file, 8 + number, first=20 * number)
        (home / name / "node.toml").write_text(NODE.format(name=name))
    (home / "recipe.toml").write_text(RECIPE.format(model=model, folder=home))
    with cluster(home / "server", {"FEDRAI_CACHE": str(home / "cache")}, host) as found:
        here = Place(home, model, found, FlowerEngine(found.link, home / "server" / "nodes"))
        (home / "server" / "nodes").mkdir()
        for name in NAMES:
            key, public = key_files(home / name, name)
            register(found.link, public, name)
            shutil.copy(key.with_suffix(".pub"), home / "server" / "nodes")
            here.start(name)
        write_settings(found)
        here.run("first", "federation.rounds=1")
        yield here


def write_settings(found: Cluster) -> None:
    """`deployment.toml`, for `fedrai run --deployment`."""
    (found.folder / settings.FILE).write_text(
        f'role = "server"\naddress = "{found.address}"\nroot_certificate = "ca.pem"\n'
        f'secret = "{settings.SECRET}"\n'
    )


def record(run: RunFolder, number: int) -> dict[str, Any]:
    """A round's record."""
    return run.read_json(f"rounds/{number:04d}/round.json")


def set_aside(run: RunFolder, number: int) -> dict[str, str]:
    """Whose updates did not go into a round, and why."""
    return dict(record(run, number)["set_aside"])


def took_part(run: RunFolder, number: int) -> list[str]:
    """Whose updates went into a round."""
    return sorted(record(run, number)["clients"])


def digests(run: RunFolder) -> list[str]:
    """The adapters of all rounds."""
    return [digest_of(read_adapter(run.round_folder(n) / "adapter")) for n in run.rounds()]


def seconds(run: RunFolder, number: int) -> float:
    """How long a round took, by the run's record."""
    from datetime import datetime

    times = [
        datetime.fromisoformat(e["time"]).timestamp()
        for e in run.events()
        if e.get("round") == number and e["event"] in ("round-started", "round-finished")
    ]
    return times[-1] - times[0]  # fmt: skip


def missed_after(run: RunFolder) -> float:
    """Seconds from the start of round 1 until a client was set aside in it."""
    from datetime import datetime

    times = [
        datetime.fromisoformat(e["time"]).timestamp()
        for e in run.events()
        if e["event"] in ("round-started", "client-set-aside") and e["round"] == 1
    ]
    return times[1] - times[0]


# --- the faults -----------------------------------------------------------------------------------


def node_killed(here: Place) -> Seen:
    """SIGKILL to a node in the middle of training; its SuperNode hears of it and leaves."""
    here.start("south")
    run = here.run("killed", at={"1": here.when_training("south", signal.SIGKILL)})
    assert set_aside(run, 1) == {"south": "no-reply-in-time"}
    assert took_part(run, 1) == took_part(run, 2) == ["north"]
    return Seen(
        "`fedrai node` killed (SIGKILL) while it trains",
        "`south: no-reply-in-time`, then `nodes: north`",
        f"its SuperNode ended with it and took its leave: missed after"
        f" {missed_after(run):.0f} s of the round, which went on with the other's update",
        run,
    )


def machine_lost(here: Place) -> Seen:
    """SIGKILL to a node and to its SuperNode in the middle of training: nobody takes leave."""
    here.start("south")

    def lost() -> None:
        wait_for(lambda: here.log("south").count(ASKED) > before)
        for process in (here.cluster.supernode("south"), here.cluster.pid("south")):
            os.kill(process, signal.SIGKILL)
        here.up.discard("south")

    before = here.log("south").count(ASKED)
    run = here.run("lost", at={"1": threading.Thread(target=lost, daemon=True).start})
    assert set_aside(run, 1) == {"south": "no-reply-in-time"}
    assert took_part(run, 1) == took_part(run, 2) == ["north"]
    return Seen(
        "a node and its SuperNode killed (SIGKILL) while it trains, as when its machine is lost",
        "`south: no-reply-in-time`, then `nodes: north`",
        f"missed after {missed_after(run):.0f} s of the round, whose deadline was 400 s; it went"
        " on with the other's update",
        run,
    )


def node_hangs(here: Place) -> Seen:
    """SIGSTOP to a node while it trains; it wakes up after the round."""
    here.start("south")
    run = here.run(
        "hangs", "federation.round_timeout=20",
        at={"1": here.when_training("south", signal.SIGSTOP),
            "2": lambda: here.cluster.signal("south", signal.SIGCONT)},
    )  # fmt: skip
    assert set_aside(run, 1) == {"south": "no-reply-in-time"}
    assert took_part(run, 2) == ["north", "south"]
    assert record(run, 2)["late_replies"] == 1
    return Seen(
        "node hangs (SIGSTOP) while it trains, and goes on (SIGCONT) in the next round",
        "`south: no-reply-in-time`",
        "the round closed at its deadline (20 s) with the other's update; in the next one the node"
        " took part, and its late reply was counted (`late_replies` = 1) and dropped",
        run,
    )


def server_killed(here: Place) -> Seen:
    """SIGKILL to `fedrai run` when one update of round 2 is in; then --resume."""
    here.start("south")
    folder = here.home / "server-killed"
    here.cluster.start_fedrai(
        here.model, "run", "run", here.home / "recipe.toml", "--out", folder,
        "--engine", "flower", "--deployment", here.cluster.folder,
    )  # fmt: skip
    wait_for(lambda: (folder / "rounds" / "0001").is_dir())
    here.cluster.signal("south", signal.SIGSTOP)
    wait_for(lambda: (folder / "pending" / "0002" / "north.safetensors").is_file())
    here.cluster.signal("run", signal.SIGKILL)
    here.cluster.signal("south", signal.SIGCONT)
    run = RunFolder(running.resume(folder, engine=here.engine))
    again = [e["client"] for e in run.events() if e["event"] == "client-kept"]
    assert run.rounds() == [1, 2]
    assert again == ["north"]
    assert digests(run) == digests(here.alone())
    return Seen(
        "`fedrai run` killed (SIGKILL) with one update of round 2 in",
        "`fedrai run --resume` goes on: client-kept",
        "nothing of round 1 and no kept update was done again; the adapters are those of an"
        " uninterrupted run, to the bit",
        run,
    )


def disk_full(here: Place) -> Seen:
    """No space is left on the server's disk when round 2 is written; then --resume."""
    here.start("south")
    real, full = files.sync, threading.Event()

    def sync(path: Path) -> None:
        if full.is_set() and "0002" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "sync", sync)
        with pytest.raises(RunError) as error:
            here.run("full", at={"2": full.set})
    assert "No space left on device" in error.value.message
    run = RunFolder(running.resume(here.home / "full", engine=here.engine))
    assert digests(run) == digests(here.alone())
    return Seen(
        "the server's disk is full when round 2 is written",
        f"cannot write the run in ...: No space left on device; {error.value.hint}",
        "round 1 stayed; with space again, --resume went on to the same adapters, to the bit",
        run,
    )


def superlink_restarted(here: Place) -> Seen:
    """SIGKILL to the SuperLink in round 1; started again at once with its state."""

    here.start("south")

    def restart() -> None:
        found = here.cluster.processes[0]
        found.kill()
        found.wait()
        here.cluster.start_superlink()

    run = here.run("restarted", at={"1": restart})
    assert took_part(run, 1) == took_part(run, 2) == list(NAMES)
    return Seen(
        "SuperLink killed (SIGKILL) in round 1 and started again",
        "nothing; nodes and `fedrai run` repeat their requests",
        f"the round took {seconds(run, 1):.0f} s; no update was lost",
        run,
    )


def node_comes_late(here: Place) -> Seen:
    """The node is started while a run goes on, and leaves again between rounds."""
    here.stop("south")
    run = here.run(
        "late", "federation.rounds=4", "federation.round_timeout=20",
        at={"1": lambda: here.start("south"), "3": lambda: here.stop("south")},
    )  # fmt: skip
    assert [took_part(run, n) for n in run.rounds()] == [
        ["north"], ["north", "south"], ["north"], ["north"],
    ]  # fmt: skip
    shown = set_aside(run, 3)
    assert shown in ({}, {"south": "no-reply-in-time"})
    return Seen(
        "node started in round 1 of a run, and stopped (SIGTERM) at the start of round 3",
        f"`nodes: north, south`; in round 3 {shown.get('south', 'nothing')}",
        f"it took part in round 2; round 3 closed without it after {seconds(run, 3):.0f} s"
        " (deadline 20 s), and the run went on",
        run,
    )


def network_cut(here: Place) -> Seen:
    """All packets of a node wait for half a minute in the middle of a round."""
    here.stop("south")
    address = here.cluster.start_proxy()
    proxy = here.cluster.processes[-1]
    here.start("south", address)

    def cut() -> None:
        wait_for(lambda: here.log("south").count(ASKED) > before)
        proxy.send_signal(signal.SIGSTOP)
        time.sleep(30)
        proxy.send_signal(signal.SIGCONT)

    before = here.log("south").count(ASKED)
    run = here.run("cut", at={"1": threading.Thread(target=cut, daemon=True).start})
    assert took_part(run, 1) == took_part(run, 2) == list(NAMES)
    return Seen(
        "no packet of a node gets through for 30 s (a proxy between them is stopped)",
        "nothing",
        f"the round took {seconds(run, 1):.0f} s; the node went on by itself",
        run,
    )


QUICK = (node_hangs, server_killed, disk_full)
ALL: tuple[Callable[[Place], Seen], ...] = (
    *QUICK, superlink_restarted, node_killed, machine_lost, node_comes_late, network_cut,
)  # fmt: skip
