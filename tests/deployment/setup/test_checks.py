"""`fedrai deploy check` against real servers on loopback: good, wrong, ended, silent."""

import json
import socket
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from packaging.requirements import Requirement

from fedrai.cli import cli
from fedrai.deployment import setup
from fedrai.deployment.setup import certificates, checks, machine, probing
from fedrai.deployment.setup.settings import Address
from tls_servers import answer, issue, now, server, tls

CANARY = "PATIENT-4711-CANARY"

UNUSABLE = "2 usable rows, 1 unusable; train.jsonl, line 3: response is empty"


@pytest.fixture
def folder(tmp_path, tiny_model):
    """A consortium whose node has two good rows and one bad, and the tiny model as its base."""
    wanted = setup.Consortium(
        "trial", Address("localhost", 1), ("a",), base_models=(str(tiny_model),)
    )
    setup.init(tmp_path / "trial", wanted)
    rows = [{"prompt": f"{CANARY} {n}", "response": "yes"} for n in range(2)]
    rows.append({"prompt": CANARY, "response": ""})
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "trial/nodes/a/train.jsonl").write_text(text)
    return tmp_path / "trial"


def lines(folder, **options):
    return {line.name: line for line in setup.check(folder, **options)}


def trusting(folder, context_folder, serve, **options):
    """The checks of node a, against a server with the certificate of `context_folder`."""
    with server(serve, tls(context_folder)) as address:
        return lines(folder / "nodes/a", server=address, **options)


def test_a_node_that_can_join(folder):
    found = trusting(folder, folder / "server", answer(now))
    states = {name: line.state for name, line in found.items()}
    assert states.pop("data train.jsonl") == "warning"
    assert states.pop("guards") == "not tried"
    assert set(states.values()) == {"ok"}, found
    assert {"server", "TLS", "certificate", "SuperLink", "clock", "node key", "key"} <= set(states)
    assert found["data train.jsonl"].found == UNUSABLE
    assert found["TLS"].found.startswith("TLSv1.3")


def test_half_a_character_and_an_unclosed_quote_are_named_by_their_lines(folder):
    rows = folder / "nodes/a/train.jsonl"
    rows.write_text(f'{{"prompt": "a", "response": "b"}}\n{{"prompt": "{CANARY} \\ud83d"}}\n')
    found = lines(folder / "nodes/a")["data train.jsonl"]
    assert found.state == "warning"
    assert "train.jsonl, line 2: holds half a character" in found.found
    rows.with_name("train.csv").write_text(f'prompt,response\na,"{CANARY}\nb,c\n')
    file = folder / "nodes/a/node.toml"
    file.write_text(file.read_text().replace("train.jsonl", "train.csv"))
    found = lines(folder / "nodes/a")["data train.csv"]
    assert found.state == "failed"
    assert "train.csv, line 2: a quote is opened" in found.found
    assert CANARY not in found.found + found.advice


def test_no_text_of_a_row_is_shown(folder):
    for arguments in ([], ["--json"]):
        run = CliRunner().invoke(cli, ["deploy", "check", str(folder / "nodes/a"), *arguments])
        assert run.exit_code == 1  # nothing listens at port 1
        assert CANARY not in run.output
    assert {line["name"]: line["state"] for line in json.loads(run.output)}["server"] == "failed"


def test_a_server_of_another_consortium(folder, tmp_path):
    issue(tmp_path / "other", name="trial")  # the same name, other keys
    found = trusting(folder, tmp_path / "other", answer(now))
    assert found["TLS"].state == "failed"
    assert "was not signed by this CA" in found["TLS"].found
    assert "SuperLink" not in found


@pytest.mark.parametrize(
    ("moment", "said"),
    [(timedelta(days=-40), "has expired"), (timedelta(days=2), "is not valid yet")],
)
def test_a_certificate_out_of_its_time(folder, moment, said):
    ca = certificates.Issued(
        (folder / "ca/ca.pem").read_bytes(), (folder / "ca/ca.key").read_bytes()
    )
    made = certificates.make_server(ca, ("localhost",), days=30, now=datetime.now(UTC) + moment)
    (folder / "server/server.pem").write_bytes(made.certificate)
    (folder / "server/server.key").write_bytes(made.key)
    found = trusting(folder, folder / "server", answer(now))
    assert found["TLS"].state == "failed"
    assert said in found["TLS"].found
    assert lines(folder / "server")["certificate"].state == "failed"


def test_a_certificate_for_another_host(folder):
    setup.init(folder.parent / "b", setup.Consortium("b", Address("localhost", 1), ("a",)))
    ca = certificates.Issued(
        (folder / "ca/ca.pem").read_bytes(), (folder / "ca/ca.key").read_bytes()
    )
    made = certificates.make_server(ca, ("elsewhere.example",), days=30)
    (folder / "server/server.pem").write_bytes(made.certificate)
    (folder / "server/server.key").write_bytes(made.key)
    found = trusting(folder, folder / "server", answer(now))
    assert "is for another name" in found["TLS"].found
    assert "not valid for loopback" in lines(folder / "server")["chain"].found


def test_a_certificate_that_ends_soon(folder):
    setup.renew(folder, 12)
    found = trusting(folder, folder / "server", answer(now))
    assert found["certificate"].state == "warning"
    assert found["certificate"].found.endswith("in 12 days")


def test_nothing_listens(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = lines(folder / "nodes/a", server=Address("127.0.0.1", free.getsockname()[1]))
    assert found["server"].found.startswith("nothing listens at 127.0.0.1:")
    assert found["node.toml"].state == "ok"  # the other checks go on


def test_no_such_host(folder):
    found = lines(folder / "nodes/a", server=Address("no-such-host.invalid", 1))
    assert found["server"].found == "cannot resolve no-such-host.invalid"


def test_servers_that_hang(folder, monkeypatch):
    monkeypatch.setattr(probing, "TIMEOUT", 0.3)
    monkeypatch.setattr(probing.connect, "__defaults__", (0.3,))
    silent = lambda connection: connection.recv(1 << 20) and connection.recv(1)  # noqa: E731
    with server(silent) as address:  # takes the connection, says nothing
        assert "does not answer in TLS" in lines(folder / "nodes/a", server=address)["TLS"].found
    found = trusting(folder, folder / "server", silent)  # shakes hands, then says nothing
    assert found["TLS"].state == "ok"
    assert found["SuperLink"].found.endswith("does not answer a request")


def test_other_programs_on_the_port(folder):
    with server(answer(now)) as address:  # plain HTTP
        assert "does not speak TLS" in lines(folder / "nodes/a", server=address)["TLS"].found
    found = trusting(folder, folder / "server", lambda c: c.sendall(b"SSH-2.0-x\r\n"))
    assert "not a SuperLink" in found["SuperLink"].found
    found = trusting(folder, folder / "server", answer(now, "404 Not Found"))
    assert found["SuperLink"].found == "HTTP 404 for /health"


def test_a_server_without_a_date_leaves_the_clock_open(folder):
    assert trusting(folder, folder / "server", answer())["clock"].state == "not tried"


@pytest.mark.parametrize(
    ("off", "state"),
    [(-600, "failed"), (-200, "warning"), (0, "ok"), (5, "warning"), (60, "failed")],
)
def test_clocks(folder, off, state):
    there = answer(lambda: now() - timedelta(seconds=off))  # so that this machine is `off` ahead
    assert trusting(folder, folder / "server", there)["clock"].state == state


def test_skew_by_hand():
    began = datetime(2030, 1, 1, 12, 0, 10, tzinfo=UTC)
    # The server's clock was 12:00:00 to 12:00:02, ours 12:00:10 to 12:00:14: 8 to 14 s ahead.
    found = probing.clock("Tue, 01 Jan 2030 12:00:00 GMT", began, 4.0)
    assert (found.ahead, found.uncertain) == (11.0, 3.0)
    assert probing.clock("soon", began, 1.0) is None
    assert probing.clock(None, began, 1.0) is None


def test_flower_has_the_windows_that_the_clock_is_held_against():
    from flower_parts import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

    assert probing.AHEAD == SYSTEM_TIME_TOLERANCE
    assert probing.BEHIND == TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_may_read(folder, mode):
    (folder / "nodes/a/node.key").chmod(mode)
    (folder / "server/server.key").chmod(mode)
    (folder / "server/superexec.secret").chmod(mode)
    node, there = lines(folder / "nodes/a"), lines(folder / "server")
    assert node["node key"].state == there["server key"].state == there["secret"].state == "failed"
    assert node["node key"].advice == f"chmod 600 {(folder / 'nodes/a/node.key').resolve()}"


def test_a_key_that_is_none(folder):
    (folder / "nodes/a/node.key").write_text("not a key")
    assert "OpenSSH" in lines(folder / "nodes/a")["key"].found
    (folder / "nodes/a/node.key").unlink()
    assert lines(folder / "nodes/a")["node key"].state == "failed"


def test_node_toml_and_data_that_cannot_be_used(folder):
    node = folder / "nodes/a"
    (node / "train.jsonl").unlink()
    assert lines(node)["data train.jsonl"].state == "failed"
    file = node / "node.toml"
    file.write_text(file.read_text().replace("max_rounds", "max_round"))
    found = lines(node)
    assert found["node.toml"].state == "failed"
    assert "max_round" in found["node.toml"].found
    assert "memory" not in found


def test_models_here_missing_and_to_be_fetched(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDRAI_CACHE", str(tmp_path / "cache"))
    file = folder / "nodes/a/node.toml"
    text = file.read_text()
    models = 'base_models = ["smollm2-135m-instruct", "./no-such-folder", "hf:some/model"]'
    file.write_text("\n".join(models if line.startswith("base_models") else line
                              for line in text.splitlines()))  # fmt: skip
    found = lines(folder / "nodes/a")
    assert found["model smollm2-135m-instruct"].state == "warning"
    assert (
        found["model smollm2-135m-instruct"].advice == "fedrai assets fetch smollm2-135m-instruct"
    )
    assert found["model ./no-such-folder"].state == "failed"
    assert found["disk"].state == "warning"
    # 1 GiB, and twice 98,362,432 bytes: 1.27 GB; the other one's size is not known.
    assert found["disk"].found.endswith("1.3 GB needed, and 2 models of unknown size")
    assert found["memory"].state == "not tried"
    assert f"{folder / 'nodes/a'}/no-such-folder" in found["model ./no-such-folder"].found


def test_a_relative_model_lies_below_the_nodes_folder(folder, tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    node = folder / "nodes/a"
    text = (node / "node.toml").read_text()
    (node / "node.toml").write_text(text.replace(f'"{tiny_model}"', '"models/tiny", "./here"'))
    (node / "models").mkdir()
    (node / "models/tiny").symlink_to(tiny_model)
    (tmp_path / "here").symlink_to(tiny_model)  # where the command runs, and not the node
    found = lines(node)
    assert found["model models/tiny"].state == "ok"
    assert found["model ./here"].state == "failed"


def test_weights_are_counted_as_torch_does(tiny_model):
    from safetensors.torch import load_file

    held = load_file(tiny_model / "model.safetensors")
    assert machine.count_weights(tiny_model) == sum(tensor.numel() for tensor in held.values())
    assert machine.count_weights(tiny_model / "config.json") is None


def test_broken_models_have_no_count(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 64)
    assert machine.count_weights(tmp_path) is None
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    assert machine.count_weights(tmp_path / "x.gguf") is None


@pytest.mark.parametrize(("factor", "state"), [(0.4, "failed"), (1.9, "warning"), (2.1, "ok")])
def test_memory_against_the_weights(folder, tiny_model, monkeypatch, factor, state):
    need = 4 * machine.count_weights(tiny_model)
    monkeypatch.setattr(machine, "free_memory", lambda: int(factor * need))
    assert lines(folder / "nodes/a")["memory"].state == state


def test_memory_as_linux_says_it(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    2048 kB\n")
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    assert machine.free_memory() == 2 * 1024 * 1024


def test_a_full_disk(folder, monkeypatch):
    monkeypatch.setattr(machine, "free_disk", lambda _: 1000)
    assert lines(folder / "nodes/a")["disk"].state == "failed"
    assert lines(folder / "server")["disk"].state == "warning"


GUARDS = """
[guards.words]
kind = "rules"
words = ["forbidden"]
[guards.both]
kind = "cascade"
first = "words"
second = "words"
low = 0.1
high = 0.9
"""


def test_guards_are_loaded_when_asked_for(folder):
    file = folder / "nodes/a/node.toml"
    text = file.read_text() + GUARDS
    file.write_text(text)
    checks = lines(folder / "nodes/a", load=True)
    guards = {name: check.state for name, check in checks.items() if name.startswith("guard ")}
    assert guards.keys() == {"guard embedded", "guard words", "guard both"}
    assert (guards["guard words"], guards["guard both"]) == ("ok", "warning")
    assert "is never asked" in checks["guard both"].found
    file.write_text(text.replace("guards = []", 'guards = ["no-such-guard"]'))
    checks = lines(folder / "nodes/a", load=True)
    assert checks["guard no-such-guard"].state == "failed"
    assert "guard embedded" not in checks


def test_a_server_in_order(folder):
    port = free_port()
    for file in (folder / "server/deployment.toml",):
        file.write_text(file.read_text().replace(':1"', f':{port}"'))
    found = lines(folder / "server")
    assert {line.state for line in found.values()} == {"ok"}, found
    assert found["nodes"].found == "1 public keys: a"
    with socket.create_server(("0.0.0.0", port)):
        assert lines(folder / "server")["port"].state == "warning"  # a server that runs already?


def test_files_that_do_not_fit_together(folder):
    issue(folder.parent / "other")
    own = (folder / "server/server.key").read_bytes()
    (folder / "server/server.key").write_bytes((folder.parent / "other/server.key").read_bytes())
    assert "does not match server.pem" in lines(folder / "server")["chain"].found
    (folder / "server/server.key").write_bytes(own)
    (folder / "server/ca.pem").write_bytes((folder.parent / "other/ca.pem").read_bytes())
    assert "did not sign" in lines(folder / "server")["chain"].found
    (folder / "server/server.pem").unlink()
    assert lines(folder / "server")["certificate"].found == "server.pem: No such file or directory"


@pytest.mark.parametrize("other", ["1.41.0", "1.43.0"])
def test_another_flower(monkeypatch, other):
    monkeypatch.setattr(checks, "version", lambda _: other)
    assert [line.state for line in checks.versions()] == ["ok", "failed"]


def test_flower_is_the_one_of_the_requirements():
    text = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    named = map(Requirement, tomllib.loads(text)["project"]["dependencies"])
    assert {item.name: item.specifier for item in named}["flwr"] == checks.FLOWER


def test_exit_codes_and_what_is_no_folder_of_a_deployment(folder, tmp_path):
    with server(answer(now), tls(folder / "server")) as address:
        run = CliRunner().invoke(
            cli, ["deploy", "check", str(folder / "nodes/a"), "--server", str(address)]
        )
    assert run.exit_code == 0, run.output
    assert f"warning   data train.jsonl: {UNUSABLE}\n" in run.output
    found = CliRunner().invoke(cli, ["deploy", "check", str(tmp_path)])
    assert "cannot read" in found.exception.message


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
