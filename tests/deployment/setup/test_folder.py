"""The consortium's folder: who gets what, modes, nothing written over, one node more."""

import copy
import os
import re
import stat
import tomllib
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from fedrai import recipe
from fedrai.cli import cli
from fedrai.deployment import setup
from fedrai.deployment.setup import certificates, settings, starting
from fedrai.deployment.setup.settings import Address
from fedrai.errors import DeploymentError, FederationError, RecipeError

NAMES = ("hospital-a", "hospital-b", "hospital-c")


def consortium(**changes):
    given = {"name": "three", "server": Address("fl.example.org", 8443), "nodes": NAMES}
    return setup.Consortium(**{**given, **changes})


@pytest.fixture
def folder(tmp_path):
    setup.init(tmp_path / "three", consortium())
    return tmp_path / "three"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_and_files_are_their_owners_only(folder):
    for path in (folder, *folder.rglob("*")):
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path


def test_modes_do_not_depend_on_the_umask(tmp_path):
    before = os.umask(0)
    try:
        setup.init(tmp_path / "open", consortium(nodes=("a",)))
    finally:
        os.umask(before)
    assert mode(tmp_path / "open/nodes/a/node.key") == 0o600
    assert mode(tmp_path / "open/nodes") == 0o700


def test_each_folder_holds_its_own_secrets_and_nothing_of_another(folder):
    private = {path.relative_to(folder).as_posix(): path.read_bytes()
               for path in folder.rglob("*") if path.suffix in (".key", ".secret")}  # fmt: skip
    assert sorted(private) == [
        "ca/ca.key",
        *(f"nodes/{name}/node.key" for name in NAMES),
        "server/server.key",
        "server/superexec.secret",
    ]
    assert len(set(private.values())) == 6
    files = [path for path in folder.rglob("*") if path.is_file()]
    for place, secret in private.items():
        lines = [line for line in secret.split(b"\n") if line and not line.startswith(b"-")]
        body = lines[-1] if len(lines) < 3 else lines[-2]  # the private part of the base64
        assert [f.relative_to(folder).as_posix() for f in files if body in f.read_bytes()] == [
            place
        ]
    for name in NAMES:
        others = [other for other in NAMES if other != name]
        for file in (folder / "nodes" / name).iterdir():
            assert not any(other in file.read_text() for other in others), file


def test_keys_and_certificates_fit_together(folder):
    root = (folder / "ca/ca.pem").read_bytes()
    found = (folder / "server/server.pem").read_bytes()
    assert certificates.signed_by(found, root)
    assert certificates.read_certificate(found).names == (
        "fl.example.org",
        "localhost",
        "127.0.0.1",
        "::1",
    )
    for name in NAMES:
        assert (folder / "nodes" / name / "ca.pem").read_bytes() == root
        line = certificates.public_line((folder / "nodes" / name / "node.key").read_bytes())
        assert (folder / f"server/nodes/{name}.pub").read_bytes() == line


def test_settings_are_read_back(folder):
    server, node = settings.read(folder / "server"), settings.read(folder / "nodes/hospital-b")
    assert (server.role, str(server.address)) == ("server", "127.0.0.1:8443")
    assert server.secret == (folder / "server/superexec.secret").resolve()
    assert (node.role, str(node.address)) == ("node", "fl.example.org:8443")
    assert node.root_certificate == (folder / "nodes/hospital-b/ca.pem").resolve()


def test_the_secret_is_the_file_that_the_settings_name(folder):
    from fedrai.cli.run import _engine

    server, file = folder / "server", folder / "server/deployment.toml"
    (server / "other.secret").write_text("other")
    file.write_text(file.read_text().replace(settings.SECRET, "other.secret"))
    assert _engine("flower", server).link.secret == b"other"
    assert str((server / "other.secret").resolve()) in starting.command_of(server).command
    file.write_text(file.read_text().replace('secret = "other.secret"', ""))
    assert _engine("flower", server).link.secret == (server / settings.SECRET).read_bytes()
    (server / settings.SECRET).unlink()
    with pytest.raises(FederationError, match="cannot read"):
        _engine("flower", server)


def test_node_toml_is_valid_and_holds_every_key_of_the_policy(folder):
    from fedrai.recipe.node import NodePolicy

    file = folder / "nodes/hospital-a/node.toml"
    node = recipe.load_node(file)
    assert (node.name, node.data.sources[0].path) == ("hospital-a", "train.jsonl")
    assert node.policy == NodePolicy()
    assert set(tomllib.loads(file.read_text())["policy"]) == set(NodePolicy.model_fields)


def test_nothing_is_written_over(folder):
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(DeploymentError, match="nothing was changed"):
        setup.init(folder, consortium())
    with pytest.raises(DeploymentError, match="the node hospital-a already exists") as caught:
        setup.add_node(folder, "Hospital-A")
    assert str(folder / "nodes/hospital-a") in caught.value.hint
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    from fedrai.deployment.setup import folder as folders

    monkeypatch.setattr(
        folders.texts, "readme", lambda _: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(DeploymentError, match="cannot write"):
        setup.init(tmp_path / "three", consortium())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "..", "../b", "a/b", "-x", "a b", "server", "CA", "x" * 65])
def test_names_that_cannot_be(tmp_path, name):
    with pytest.raises(DeploymentError, match="not a valid node name"):
        setup.init(tmp_path / "bad", consortium(nodes=(name,)))
    assert list(tmp_path.iterdir()) == []


def test_one_node_more(folder):
    others = {path: path.read_bytes() for path in (folder / "nodes").rglob("*") if path.is_file()}
    made = setup.add_node(folder, "hospital-d")
    assert str(settings.read(made).address) == "fl.example.org:8443"
    assert setup.read(folder).nodes == (*NAMES, "hospital-d")
    assert (folder / "server/nodes/hospital-d.pub").is_file()
    assert others.items() <= {p: p.read_bytes() for p in others}.items()
    with pytest.raises(DeploymentError, match="hospital-d already exists"):
        setup.add_node(folder, "hospital-d")
    more = CliRunner().invoke(cli, ["deploy", "add-node", str(folder), "hospital-e"])
    assert "give it only to the operator of hospital-e" in more.output


def test_a_renewed_certificate_is_trusted_by_the_nodes_as_they_are(folder):
    before = (folder / "server/server.pem").read_bytes()
    setup.renew(folder, 10)
    found = (folder / "server/server.pem").read_bytes()
    assert found != before
    assert certificates.signed_by(found, (folder / "nodes/hospital-a/ca.pem").read_bytes())
    assert certificates.is_key_of(found, (folder / "server/server.key").read_bytes())
    assert mode(folder / "server/server.key") == 0o600


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fl.example.org", "fl.example.org:8000"),
        ("fl.example.org:9092", "fl.example.org:9092"),
        ("10.0.0.5:1", "10.0.0.5:1"),
        ("::1", "[::1]:8000"),
        ("[2001:db8::5]:443", "[2001:db8::5]:443"),
    ],
)
def test_addresses(text, expected):
    assert str(settings.parse_address(text, 8000)) == expected
    assert settings.parse_address(expected) == settings.parse_address(text, 8000)


@pytest.mark.parametrize(
    "text",
    ["", ":80", "http://x:80", "a b:80", "x:0", "x:65536", "x:y", "[::1", "-x:80", 'x";y:80'],
)
def test_no_addresses(text):
    with pytest.raises(DeploymentError, match="is not HOST:PORT"):
        settings.parse_address(text, 8000)


def test_every_address_of_a_machine_is_no_address_of_a_server(tmp_path):
    with pytest.raises(DeploymentError, match="all addresses of a machine"):
        setup.init(tmp_path / "x", consortium(server=Address("0.0.0.0", 8000)))


def test_the_programs_understand_the_commands(folder):
    from flower_parts import _parse_args_run_superlink

    start = starting.command_of(folder / "nodes/hospital-b")
    assert Path(start.command[0]).name == "fedrai"
    command = copy.copy(cli.commands[start.command[1]])  # a context leaves its mark on a command
    given = command.make_context("node", list(start.command[2:])).params
    assert (given["superlink"], given["insecure"]) == ("fl.example.org:8443", False)
    files = [given[name] for name in ("node_file", "root_certificates", "key")]
    assert [(start.folder / file).name for file in files] == ["node.toml", "ca.pem", "node.key"]
    assert all((start.folder / file).is_file() for file in files)
    server = starting.command_of(folder / "server")
    link = _parse_args_run_superlink().parse_args(server.command[3:])
    assert (link.enable_supernode_auth, link.insecure, link.database) == (True, False, "state.db")
    assert (link.runtime_dependency_install, link.isolation) == (False, "process")


def test_everything_that_calls_home_is_off_everywhere(folder):
    names = ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK",
             "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION")  # fmt: skip
    values = dict(zip(names, ("0", "1", "1"), strict=True))
    for place, unit in (("server", "superlink"), ("nodes/hospital-a", "supernode")):
        assert values.items() <= starting.command_of(folder / place).environment.items()
        service = (folder / place / f"fedrai-{unit}.service").read_text()
        composed = yaml.safe_load((folder / place / "compose.yaml").read_text())
        assert values.items() <= composed["services"][unit]["environment"].items()
        for name, value in values.items():
            assert f"\nEnvironment={name}={value}\n" in service
    assert composed["services"]["supernode"].get("ports") is None


def test_units_name_no_folder_that_nobody_makes(folder):
    """systemd ends a unit whose ReadWritePaths= is not there with 226/NAMESPACE."""
    for place, unit, home in (
        ("server", "superlink", "server"), ("nodes/hospital-a", "supernode", "node"),
    ):  # fmt: skip
        text = (folder / place / f"fedrai-{unit}.service").read_text()
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        found = dict(line.split("=", 1) for line in lines if "=" in line and "FLWR" not in line)
        assert found["ReadWritePaths"] == found["WorkingDirectory"] == f"/opt/fedrai/{home}"
        assert f"# Copy this folder to /opt/fedrai/{home} " in text
        assert (found["CacheDirectory"], found["CacheDirectoryMode"]) == ("fedrai", "0700")
        assert "\nEnvironment=FEDRAI_CACHE=/var/cache/fedrai\n" in text


def test_the_servers_readme_says_what_runs_inside_its_container(folder, tmp_path):
    text = (folder / "server/README.md").read_text()
    (service,) = yaml.safe_load((folder / "server/compose.yaml").read_text())["services"].items()
    name, settings_ = service
    assert settings_["volumes"] == [".:/deployment"]
    for command in ("deploy register .", "run RECIPE --engine flower --deployment ."):
        assert f"\ndocker compose exec -w /deployment {name} fedrai {command}" in text
    setup.init(tmp_path / "open", consortium(insecure=True))
    plain = (tmp_path / "open/server/README.md").read_text()
    assert f"\ndocker compose exec -w /deployment {name} fedrai run RECIPE" in plain
    assert "deploy register" not in plain


def test_readmes_name_commands_that_exist(folder):
    for file in folder.rglob("README.md"):
        for words in re.findall(r"fedrai (deploy [a-z-]+|run)", file.read_text()):
            group = cli
            for word in words.split():
                assert word in group.commands, words
                group = group.commands[word]


def test_plain_connections_are_asked_for_and_said_everywhere(tmp_path):
    run = CliRunner().invoke(
        cli, ["deploy", "init", str(tmp_path / "x"), "--server", "localhost", "--node", "a",
              "--insecure"],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    assert not list((tmp_path / "x").rglob("*.pem")) + list((tmp_path / "x").rglob("*.key"))
    for place in ("server", "nodes/a"):
        assert "--insecure" in starting.command_of(tmp_path / "x" / place).command
    for file in (tmp_path / "x").rglob("README.md"):
        assert "any node may join" in file.read_text()
    with pytest.raises(DeploymentError, match="no nodes to register"):
        setup.register(tmp_path / "x/server")
    with pytest.raises(DeploymentError, match="no certificates"):
        setup.renew(tmp_path / "x", 10)


def test_tls_is_never_left_out_quietly(folder):
    file = folder / "nodes/hospital-a/deployment.toml"
    file.write_text(file.read_text().replace('root_certificate = "ca.pem"', ""))
    with pytest.raises(DeploymentError, match="needs root_certificate"):
        starting.command_of(folder / "nodes/hospital-a")
    file.write_text('role = "node"\naddress = "x:1"\ninsecur = true\n')
    with pytest.raises(DeploymentError, match="unknown key 'insecur'"):
        settings.read(folder / "nodes/hospital-a")


def test_a_relative_base_model_is_warned_of(tmp_path):
    (tmp_path / "r.toml").write_text(
        '[model]\nbase = "./models/tiny"\n[[data.sources]]\npath = "fedrai:ordinary"\n'
    )
    words = ["deploy", "init", str(tmp_path / "x"), "--server", "localhost", "--node", "a"]
    run = CliRunner().invoke(cli, [*words, "--recipe", str(tmp_path / "r.toml")])
    assert run.exit_code == 0, run.output
    assert "model.base = ./models/tiny is a relative path" in run.stderr
    for name in ("/models/tiny", "hf:org/name", "smollm2-135m-instruct"):
        assert setup.relative_models(consortium(base_models=(name,))) == ()


def test_no_deployment_is_set_up_for_a_recipe_with_an_attack(tmp_path):
    attack = '[model]\nbase = "x"\n[[data.sources]]\npath = "y"\n[attack]\nkind = "noise"\n'
    (tmp_path / "r.toml").write_text(attack)
    words = ["deploy", "init", str(tmp_path / "x"), "--server", "localhost", "--node", "a"]
    run = CliRunner().invoke(cli, [*words, "--recipe", str(tmp_path / "r.toml")])
    assert isinstance(run.exception, RecipeError)
    assert "[attack] is for experiments in one process only" in run.exception.message
    assert not (tmp_path / "x").exists()


def test_the_recipe_names_the_base_model(tmp_path):
    run = CliRunner().invoke(
        cli, ["deploy", "init", str(tmp_path / "x"), "--server", "localhost:9000", "--node", "a",
              "--recipe", "quickstart"],
    )  # fmt: skip
    assert run.exit_code == 0, run.output
    allowed = recipe.load_node(tmp_path / "x/nodes/a/node.toml").policy.base_models
    assert allowed == [recipe.load(Path("quickstart")).model.base]
    assert setup.read(tmp_path / "x").base_models == tuple(allowed)
    setup.add_node(tmp_path / "x", "b")
    assert recipe.load_node(tmp_path / "x/nodes/b/node.toml").policy.base_models == allowed
