"""The Flower App of the package, as `flwr run` starts it: it begins, is stopped, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, MessageType, RecordDict

from driver import write_rows
from fedrai import recipe
from fedrai.deployment import app
from fedrai.errors import FedRAIError, RecipeError, RunError
from fedrai.federation.run import running
from fedrai.federation.run.grid import LocalGrid
from fedrai.model import read_adapter
from fedrai.runs import RunFolder
from fedrai.runs.files import digest_of
from scenarios import NAMES, NODE, RECIPE

Nodes = dict[str, app.NodeApp]


class Stopping(LocalGrid):
    """Stops the run when it asks nodes to train in a round."""

    round = 2

    def push_messages(self, messages: Any) -> Any:
        asked = list(messages)
        trains = [m for m in asked if m.metadata.message_type == MessageType.TRAIN]
        if any(int(m.metadata.group_id) == self.round for m in trains):
            raise KeyboardInterrupt
        return super().push_messages(asked)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A recipe, and two nodes with their rows, which a run in one process may read too."""
    home = tmp_path_factory.mktemp("app")
    for place, name in enumerate(NAMES):
        (home / name).mkdir()
        write_rows(home / name / "rows.jsonl", 5 + place, first=20 * place)
        (home / name / "node.toml").write_text(NODE.format(name=name))
        (home / "sites").mkdir(exist_ok=True)
        (home / "sites" / f"{name}.jsonl").write_bytes((home / name / "rows.jsonl").read_bytes())
    text = RECIPE.format(model=tiny_model, folder=home)
    (home / "recipe.toml").write_text(text.replace("local_steps = 30", "local_steps = 2"))
    return home


@pytest.fixture(scope="module")
def nodes(home: Path) -> Iterator[Nodes]:
    patch = pytest.MonkeyPatch()
    patch.setenv("FEDRAI_CACHE", str(home / "cache"))
    yield {name: app.NodeApp(home / name / "node.toml") for name in NAMES}
    patch.undo()


def serve(
    home: Path,
    nodes: Nodes,
    out: Path,
    grid: type[LocalGrid] = LocalGrid,
    file: str = "recipe.toml",
) -> None:
    def answer(message: Message, context: Context) -> Message:
        return nodes[str(context.node_config["client"])].app(message, context)

    there = grid(answer, {name: 7 + place for place, name in enumerate(NAMES)})
    asks = {"recipe": str(home / file), "out": str(out)}
    app.server_app(there, Context(1, 1, {}, RecordDict(), asks))


@pytest.fixture(scope="module")
def stopped(home: Path, nodes: Nodes) -> Path:
    """A run that was stopped after its first round."""
    with pytest.raises(KeyboardInterrupt):
        serve(home, nodes, home / "run", Stopping)
    assert RunFolder.open(home / "run").last_round() == 1
    return home / "run"


def copied(stopped: Path, tmp_path: Path) -> Path:
    for file in (f for f in stopped.rglob("*") if f.is_file()):
        place = tmp_path / "run" / file.relative_to(stopped)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    return tmp_path / "run"


def test_it_goes_on_to_what_a_run_in_one_process_gives(
    home: Path, nodes: Nodes, stopped: Path, tmp_path: Path
) -> None:
    out = copied(stopped, tmp_path)
    serve(home, nodes, out)
    whole = running.run(recipe.load(home / "recipe.toml"), tmp_path / "whole")
    ends = [digest_of(read_adapter(path / "rounds" / "0002" / "adapter")) for path in (out, whole)]
    assert ends[0] == ends[1]
    events = [event["event"] for event in RunFolder.open(out).events()]
    assert events.count("round-finished") == 2
    assert (events[0], events.count("resumed"), events[-1]) == ("started", 1, "finished")
    summary = RunFolder.open(out).read_json("summary.json")
    assert (summary["status"], summary["rounds"]) == ("finished", 2)


@pytest.mark.parametrize(("weights", "up"), [("rows", "float32"), ("tokens", "int8")])
def test_scaffold_on_nodes_is_that_of_one_process(
    home: Path, nodes: Nodes, tmp_path: Path, weights: str, up: str
) -> None:
    """Stopped before round 2, gone on with under another run of Flower, by the same nodes."""
    more = f'[aggregation]\nalgorithm = "scaffold"\n[messages]\nup = "{up}"\n'
    more += f'[federation]\nweights = "{weights}"'
    text = (home / "recipe.toml").read_text().replace("[federation]", more)
    (home / "scaffold.toml").write_text(text)
    with pytest.raises(KeyboardInterrupt):
        serve(home, nodes, tmp_path / "run", Stopping, "scaffold.toml")
    serve(home, nodes, tmp_path / "run", file="scaffold.toml")
    running.run(recipe.load(home / "scaffold.toml"), tmp_path / "whole")
    ends = [RunFolder.open(tmp_path / name) for name in ("run", "whole")]
    adapters = [digest_of(read_adapter(run.round_folder(2) / "adapter")) for run in ends]
    assert adapters[0] == adapters[1]
    states = [(run.round_folder(2) / "server.safetensors").read_bytes() for run in ends]
    assert states[0] == states[1]
    for name in NAMES:
        whole = (ends[1].variates(name) / "0002.safetensors").read_bytes()
        kept = [file.read_bytes() for file in (home / name / f"{name}.variates").glob("*/0002*")]
        assert whole in kept
        lost = [file.read_bytes() for file in (home / name / f"{name}.residuals").glob("*/0002*")]
        ours = ends[1].residuals(name) / "0002.safetensors"
        assert ours.exists() == (up != "float32")
        assert not ours.exists() or ours.read_bytes() in lost
    assert not (ends[0].path / "variates").exists()


def test_a_finished_run_is_left_as_it_is(
    home: Path, nodes: Nodes, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copied(stopped, tmp_path)
    serve(home, nodes, out)
    before = (out / "events.jsonl").read_bytes()
    serve(home, nodes, out)
    assert (out / "events.jsonl").read_bytes() == before
    assert "nothing to resume" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("recipe.toml", "seed = 5", "seed = 6", "recipe.toml changed since the run began"),
        ("run.json", '"engine": "flower"', '"engine": "local"', "began with --engine local"),
        ("recipe.toml", 'mode = "federated"', 'mode = "centralised"', "centralised"),
    ],
)
def test_a_folder_that_changed_is_not_gone_on_with(
    home: Path, nodes: Nodes, stopped: Path, tmp_path: Path, file: str, old: str, new: str,
    message: str,
) -> None:  # fmt: skip
    out = copied(stopped, tmp_path)
    text = (out / file).read_text()
    assert old in text
    (out / file).write_text(text.replace(old, new))
    with pytest.raises(FedRAIError, match=f"{file} (is damaged|changed since the run began)"):
        serve(home, nodes, out)
    (out / "checksums.sha256").unlink()  # as in a folder of an earlier version
    with pytest.raises(FedRAIError, match=message) as found:
        serve(home, nodes, out)
    assert isinstance(found.value, RecipeError if "mode" in old else RunError)
    assert RunFolder.open(out).last_round() == 1


def test_the_configuration_names_both_files(nodes: Nodes) -> None:
    with pytest.raises(RecipeError, match=r"out .* must be an absolute path"):
        app.server_app(
            LocalGrid(app.client_app, {}), Context(1, 1, {}, RecordDict(), {"recipe": "/x"})
        )
