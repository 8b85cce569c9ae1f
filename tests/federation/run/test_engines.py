"""`fedrai run --engine`: what is asked for together, and what is said when something is missing."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

from driver import write_recipe
from fedrai import recipe
from fedrai.cli import cli
from fedrai.deployment import engine, link
from fedrai.deployment.engine import APP, FlowerEngine
from fedrai.deployment.link import Link, acquire, link_to, runtime_client
from fedrai.deployment.supernode import Connection, Supernode, private_folder, supernode_command
from fedrai.errors import DependencyError, FederationError, RecipeError, RunError
from fedrai.federation.flower_internals import TaskType
from fedrai.federation.run import running, simulation
from fedrai.federation.run.simulation import SimulationEngine
from fedrai.runs import RunFolder
from flower_parts import warn_deprecated_feature


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["r.toml", "--engine", "flower"], "go together"),
        (["r.toml", "--deployment", "here"], "go together"),
        (["r.toml", "--engine", "ray"], "not one of"),
        (["--resume", "r", "--engine", "flower"], "go together"),
    ],
)
def test_engine_and_deployment_go_together(words: list[str], said: str) -> None:
    found = CliRunner().invoke(cli, ["run", *words])
    assert found.exit_code == 2
    assert said in found.output


def test_a_plain_connection_has_no_key() -> None:
    found = CliRunner().invoke(
        cli, ["node", "node.toml", "--superlink", "a:1", "--insecure", "--key", "k"]
    )
    assert found.exit_code == 2
    assert "neither certificates nor a key" in found.output


def test_simulation_says_what_is_missing(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None)
    settings = recipe.load(write_recipe(tmp_path, tiny_model))
    with pytest.raises(DependencyError, match="needs Ray") as error:
        running.run(settings, tmp_path / "run", engine=SimulationEngine())
    assert "fedrai[simulation]" in error.value.hint
    assert not (tmp_path / "run").exists()


def test_the_simulation_leaves_the_environment_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "mine")
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    before = dict(os.environ)
    with simulation._environment(tmp_path):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
        os.environ["PYTHONPATH"] = "Flower's"
    assert dict(os.environ) == before


def test_the_simulation_keeps_one_notice_of_flowers_away(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    with simulation._without_notice():
        warn_deprecated_feature("The `run_simulation` function is deprecated")
        warn_deprecated_feature("another one")
    assert ["another one" in text for text in caplog.messages] == [True]
    warn_deprecated_feature("The `run_simulation` function is deprecated")
    assert len(caplog.messages) == 2


def test_a_recipe_for_one_machine_is_refused_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_recipe(tmp_path, tmp_path / "no-model")
    settings = recipe.load(file, ["federation.mode=centralised"])
    with pytest.raises(RecipeError, match="centralised"):
        running.run(settings, tmp_path / "run", engine=FlowerEngine(Link("127.0.0.1:1")))


def test_a_run_goes_on_with_the_engine_that_it_began_with(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "old", "", {"name": "old"})  # from before there were engines
    with pytest.raises(RunError, match="began with --engine local, and this is --engine flower"):
        running.resume(tmp_path / "old", engine=FlowerEngine(Link("127.0.0.1:1")))


def test_a_superlink_that_is_not_there_is_an_error_with_a_hint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = link.retries
    monkeypatch.setattr(engine, "retries", lambda *_: real(0.2))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"  # nobody listens
        with (
            pytest.raises(FederationError, match=f"cannot reach the SuperLink at {address}"),
            engine.server_app(Link(address, insecure=True)),
        ):
            raise AssertionError("there is none")


def test_files_of_a_link_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FederationError, match=r"cannot read .*ca\.pem"):
        link_to("127.0.0.1:1", tmp_path / "ca.pem", False, None)


def test_the_bundle_holds_a_name_and_no_code() -> None:
    import io
    import tomllib
    import zipfile

    sent: list[Any] = []

    class Control:
        def StartRun(self, request: Any) -> Any:
            sent.append(request)
            return type("Answer", (), {"run_id": 7})

    assert engine._start(Control()) == 7
    with zipfile.ZipFile(io.BytesIO(sent[0].fab.content)) as bundle:
        names = [n for n in bundle.namelist() if not n.startswith(".info/")]
        table = tomllib.loads(bundle.read("pyproject.toml").decode())
    assert names == ["pyproject.toml"]
    components = table["tool"]["flwr"]["app"]["components"]
    assert components == tomllib.loads(APP)["tool"]["flwr"]["app"]["components"]
    for reference in components.values():
        module, _, name = reference.partition(":")
        assert hasattr(__import__(module, fromlist=[name]), name)


def test_a_supernode_gives_its_tasks_only_to_its_node() -> None:
    with private_folder() as folder:
        assert folder.stat().st_mode & 0o077 == 0
        command = supernode_command(
            Connection("fl.example.org:8000", Path("ca.pem"), Path("node.key")), 9094, folder / "s"
        )
    text = " ".join(command)
    assert "--isolation process" in text
    assert re.search(r"--superexec-auth-secret-file \S+/s --host 127\.0\.0\.1 --port 9094", text)
    assert "--root-certificates ca.pem --auth-supernode-private-key node.key" in text
    assert "--insecure" not in text
    assert not folder.exists()


def test_nothing_is_repeated_once_the_other_side_has_ended() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = Link(f"127.0.0.1:{taken.getsockname()[1]}", insecure=True)
        client = runtime_client(nobody, is_running=lambda: False)
        began = time.monotonic()
        with pytest.raises(httpx.TransportError):
            acquire(client, TaskType.CLIENT_APP)
        client.close()
    assert time.monotonic() - began < link.LONGEST_WAIT / 4


@contextmanager
def refusing(status: int, body: bytes) -> Iterator[Link]:
    """An API on loopback that answers every request in this way."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Link(f"127.0.0.1:{server.server_port}", insecure=True)
        server.shutdown()


OTHER = b'{"code": 1001, "detail": "x", "extra": "SuperLink version 1.41.0 detected a mismatch"}'


def test_an_api_of_another_flower_is_an_error_and_not_the_end_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Flower's own clients end the process, from whatever thread they are in."""
    lost: list[str] = []
    monkeypatch.setattr(link, "BEAT", 0.1)
    with refusing(412, OTHER) as other:
        client = runtime_client(other, "token")
        with pytest.raises(
            FederationError, match=f"{other.address} runs another version of Flower"
        ) as error:
            acquire(client, TaskType.CLIENT_APP)
        with link.heartbeat(client, lambda: lost.append("once")):
            time.sleep(0.5)
        link.finish(client, None, "failed")
        client.close()
    assert "fedrai deploy start" in error.value.hint
    assert lost == ["once"]


@pytest.mark.parametrize(
    ("status", "body"), [(403, b'{"code": 2004, "detail": "x"}'), (400, b"<html>")]
)
def test_other_refusals_stay_what_they_are(status: int, body: bytes) -> None:
    with refusing(status, body) as other:
        client = runtime_client(other)
        with pytest.raises(httpx.HTTPStatusError) as error:
            acquire(client, TaskType.CLIENT_APP)
        client.close()
    assert error.value.response.status_code == status


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("Failed.\\n[code: 2004] Failed to activate SuperNode.", "does not know this node's key"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "is not valid for this"),
        ("something else", "the SuperNode ended with code 3"),
    ],
)
def test_the_reason_of_a_supernodes_end_is_one_line(
    said: str, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    script = f"import sys; print('{said}'); sys.exit(3)"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        found = Supernode(process)
        found.listen()
        process.wait()
        error = found.failure()
    assert message in error.message
    assert "\n" not in error.message
    assert not found.is_running()
    assert capfd.readouterr().err.splitlines()[-1] in said  # shown as it came


def test_the_package_is_a_flower_app_with_the_components_of_a_bundle() -> None:
    root = Path(__file__).parents[3]
    app = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["flwr"][
        "app"
    ]
    assert app.pop("config") == {"recipe": "", "out": ""}  # `flwr run -c` takes no other key
    assert app == tomllib.loads(APP)["tool"]["flwr"]["app"]
    for kind, cls in (("serverapp", ServerApp), ("clientapp", ClientApp)):
        module, _, name = app["components"][kind].partition(":")
        assert isinstance(getattr(importlib.import_module(module), name), cls)
