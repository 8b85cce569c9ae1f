"""The tutorial of docs/deployment.md, "three hospitals on one laptop", line by line.

What stands in its code blocks is what runs here; only the base model is a tiny one, the guard is
one of words, since tests fetch nothing, the port a free one, and `fedrai deploy start` becomes the
process that it would become.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Call, commands
from fedrai import recipe
from fedrai.deployment.setup import starting
from fedrai.runs import RunFolder
from flower_cluster import Cluster, free_port, wait_for

pytestmark = pytest.mark.slow

NAMES = ("hospital-a", "hospital-b", "hospital-c")
TEXT = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("## Three hospitals on one laptop\n")[2].partition("\n## ")[0]
BLOCKS = re.findall(r"```bash\n(.*?)```", SECTION, re.DOTALL)
FETCH = "fedrai assets fetch smollm2-135m-instruct"
START = "fedrai deploy start "
GUARD = '\n[guards.words]\nkind = "rules"\nwords = ["such a message"]\n'


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "terminals").mkdir()
    found = Cluster(tmp_path / "terminals", f"localhost:{free_port()}", {})
    try:
        yield found
    finally:
        found.stop()


def write_recipe(file: Path, model: Path) -> None:
    """The shipped recipe, for a tiny model: a file goes before a shipped recipe of its name."""
    text = recipe.shipped()["hospitals"].read_text(encoding="utf-8")
    assert FETCH.rpartition(" ")[2] == recipe.load(Path("hospitals")).model.base
    text = re.sub(r'base = "\S+"', f'base = "{model}"\ndevice = "cpu"', text)
    text, changed = re.subn(r'^mode = "drop"', 'guard = "words"\nmode = "drop"', text, flags=re.M)
    assert changed == 1
    file.write_text(text + GUARD)


def start(cluster: Cluster, folder: Path, model: Path) -> None:
    """What `fedrai deploy start` becomes; a node in a fork, so that torch is not imported again."""
    found = starting.command_of(folder)
    program, *words = found.command
    if Path(program).name != "fedrai":
        env = [f"{key}={value}" for key, value in found.environment.items()]
        cluster.start(folder.name, ["env", "-C", str(folder), *env, *found.command])
        wait_for(lambda: "Uvicorn running" in cluster.said(folder.name))
        return
    cluster.start_fedrai(
        model, folder.name, *words, folder=str(found.folder), environment=dict(found.environment)
    )


def do(line: str, cluster: Cluster, fedrai: Call, home: Path, model: Path) -> str:
    """A line of the tutorial; gives what it printed."""
    if line.startswith(START):
        start(cluster, home / line.removeprefix(START), model)
        return ""
    words = shlex.split(line.replace("--server localhost", f"--server {cluster.address}"))
    assert words.pop(0) == "fedrai"
    found = fedrai(*words)
    assert found.code in (0, None), f"{line}\n{found.out}{found.err}"
    return found.out


def test_every_line_of_the_tutorial_works(
    tmp_path: Path, tiny_model: Path, started: Cluster
) -> None:
    write_recipe(tmp_path / "hospitals", tiny_model)
    fedrai, printed = commands(tmp_path), {}
    assert BLOCKS[0].startswith(FETCH)
    for block in (BLOCKS[0].removeprefix(f"{FETCH}\n"), *BLOCKS[1:]):
        if block.startswith("cat "):
            subprocess.run(["bash", "-ec", block], cwd=tmp_path, check=True)
            continue
        likewise = NAMES if NAMES[0] in block and "init" not in block else NAMES[:1]
        for name in likewise:
            for line in block.replace(NAMES[0], name).splitlines():
                printed[line] = do(line, started, fedrai, tmp_path, tiny_model)
        if "fedrai deploy init" in block:
            for name in NAMES:  # a recipe's guards do not travel
                with (tmp_path / f"consortium/nodes/{name}/node.toml").open("a") as file:
                    file.write(GUARD)

    assert "data train.jsonl: 4 rows" in printed["fedrai deploy check consortium/nodes/hospital-a"]
    assert printed["fedrai deploy register consortium/server"].count(": registered") == 3
    run = RunFolder(tmp_path / "runs" / "hospitals")
    assert run.rounds() == [1, 2]
    assert run.events()[-1]["event"] == "finished"
    for number in run.rounds():
        sent = run.read_json(f"rounds/{number:04d}/round.json")["clients"]
        used = {name: sent[name]["num-examples"] for name in sent}
        assert used == {"hospital-a": 4.0, "hospital-b": 3.0, "hospital-c": 3.0}
        assert sent["hospital-b"]["filter-dropped"] == 1.0
    assert (run.path / "report.html").is_file()
