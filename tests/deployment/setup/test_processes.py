"""The generated folders with Flower's real processes on loopback: who is let in, who is not."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedrai.deployment import setup
from fedrai.deployment.setup import certificates, probing, starting
from fedrai.deployment.setup.settings import Address
from fedrai.errors import DeploymentError

pytestmark = pytest.mark.slow

PATIENCE = 150.0  # seconds a step; a few on a machine that is not busy


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


class Started:
    """A process of its own group, with its output in a file; ended as a group."""

    def __init__(self, folder, log):
        start = starting.command_of(folder)
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                start.command, cwd=start.folder, env={**os.environ, **start.environment},
                stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def says(self, text):
        return text in self.log.read_text(errors="replace")

    def signal(self, number):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self):
        self.signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.signal(signal.SIGKILL)  # the whole group, whatever is left of it
        self.process.wait(10)


@pytest.fixture
def processes(tmp_path):
    made = []

    def begin(folder):
        made.append(Started(folder, tmp_path / f"{folder.name}-{len(made)}.log"))
        return made[-1]

    yield begin
    for one in made:
        one.signal(signal.SIGTERM)
    for one in made:
        one.end()


def until(seen, *started):
    end = time.monotonic() + PATIENCE
    while not seen():
        logs = "".join(one.log.read_text(errors="replace")[-2000:] for one in started)
        assert time.monotonic() < end, logs
        time.sleep(0.1)


def answers(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.mark.skipif(sys.platform == "win32", reason="process groups")
def test_who_is_let_in(tmp_path, processes):
    port = free_port()
    folder = tmp_path / "three hospitals"
    wanted = setup.Consortium("three", Address("localhost", port), ("a", "late"))
    setup.init(folder, wanted)
    shutil.move(folder / "server/nodes/late.pub", tmp_path / "late.pub")

    with pytest.raises(DeploymentError, match="cannot reach the SuperLink"):
        setup.register(folder / "server")
    link = processes(folder / "server")
    until(lambda: answers(port), link)
    assert setup.register(folder / "server") == {"a": True}
    assert setup.register(folder / "server") == {"a": False}

    checked = {line.name: line for line in setup.check(folder / "nodes/a")}
    assert [checked[name].state for name in ("server", "TLS", "SuperLink", "clock")] == ["ok"] * 4

    known = processes(folder / "nodes/a")
    unregistered = processes(folder / "nodes/late")
    other = setup.Consortium("three", Address("localhost", port), ("a",))
    setup.init(tmp_path / "other", other)
    astray = Path(shutil.copytree(folder / "nodes/a", tmp_path / "astray"))
    shutil.copy(tmp_path / "other/nodes/a/ca.pem", astray / "ca.pem")
    wrong = processes(astray)

    until(lambda: known.says("SuperNode ID"), known, link)
    until(lambda: unregistered.says("Failed to activate SuperNode"), unregistered)
    until(lambda: wrong.says("CERTIFICATE_VERIFY_FAILED"), wrong)
    assert not unregistered.says("SuperNode ID")
    assert not wrong.says("SuperNode ID")

    # Stopped and started again, the SuperLink still knows who is registered.
    link.end()
    until(lambda: not answers(port), link)
    again = processes(folder / "server")
    until(lambda: answers(port), again)
    shutil.move(tmp_path / "late.pub", folder / "server/nodes/late.pub")
    assert setup.register(folder / "server") == {"a": False, "late": True}
    late = processes(folder / "nodes/late")
    until(lambda: late.says("SuperNode ID"), late, again)


def test_a_flower_server_with_a_renewed_certificate_is_trusted(tmp_path, processes):
    port = free_port()
    folder = tmp_path / "c"
    setup.init(folder, setup.Consortium("c", Address("localhost", port), ("a",)))
    setup.renew(folder, 20)
    link = processes(folder / "server")
    until(lambda: answers(port), link)
    with (
        probing.connect(Address("localhost", port)) as plain,
        probing.handshake(plain, Address("localhost", port), folder / "nodes/a/ca.pem") as secure,
    ):
        shown = probing.ask(secure, Address("localhost", port)).certificate
    assert shown == certificates.read_certificate((folder / "server/server.pem").read_bytes())
