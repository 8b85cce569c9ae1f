"""Every command of `docs/integrations.md`, run as it stands there but for models and data.

Names of hub models become the tiny model, tasks and runs those of this folder. A command that comes
into the page needs a place here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from driver import ENVIRONMENT, fill_cache, run_cases, write_recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
PROGRAMS = ("fedrai", "inspect", "lm-eval", "mlflow", "pip", "tensorboard", "trackio", "wandb")


def documented() -> list[str]:
    """Commands of the page: the lines of its blocks, and what stands between single backticks."""
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", PAGE, flags=re.DOTALL))
    found = [" ".join(text.split()) for text in (*lines, *inline)]
    return list(dict.fromkeys(text for text in found if " " in text and _program(text)))


def _program(text: str) -> bool:
    return text.split()[0] in PROGRAMS


TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {folder}/rows.jsonl}}
  cache_dir: {folder}/cache
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: label
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A folder as a user's: runs, tasks, a suite's file, and a cache without a network."""
    home = tmp_path_factory.mktemp("documented")
    cache = fill_cache(home / "cache")
    file = write_recipe(home / "data", tiny_model)
    file.write_text(file.read_text() + '[tracking]\nkind = "tensorboard"\n')
    results = run_cases(
        [{"name": "run", "argv": ["run", file, "--out", "runs/quickstart/filter"]}],
        tiny_model, home, cache,
    )  # fmt: skip
    assert results["run"]["code"] == 0, results
    tasks = home / "my_tasks"
    tasks.mkdir()
    rows = [{"question": f"{n} and", "choices": ["one", "two"], "label": n % 2} for n in range(4)]
    (tasks / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("arc_easy", "hellaswag", "my_task"):
        (tasks / f"{name}.yaml").write_text(TASK.format(name=name, folder=tasks))
    suite = [f"request {n},kind" for n in range(313)]
    (home / "strongreject_dataset.csv").write_text(
        "forbidden_prompt,category\n" + "\n".join(suite) + "\n"
    )
    (home / "tiny").symlink_to(tiny_model)
    return home


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ, **ENVIRONMENT,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "FEDRAI_CACHE": str(folder / "cache"),
        "INSPECT_LOG_DIR": str(folder / "logs"),
    }  # fmt: skip


def run(folder: Path, command: str) -> str:
    """What a command prints; it must end well."""
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=environment(folder), capture_output=True, text=True,
        check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "fatal" not in done.stderr  # of git, in a folder that is none of its own
    return done.stdout


def inspected(folder: Path, command: str) -> dict[str, object]:
    """The log that an Inspect command leaves."""
    before = set((folder / "logs").glob("*.json"))
    run(folder, f"{command} --log-format json --display none --max-tokens 4")
    [made] = set((folder / "logs").glob("*.json")) - before
    body: dict[str, object] = json.loads(made.read_text())
    assert body["status"] == "success", body
    return body


def served(folder: Path, command: str, port: int) -> None:
    """Start a command that serves a page, see that the page is there, and end it."""
    log = folder / f"served-{port}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            shlex.split(command), cwd=folder, env=environment(folder), stdout=out, stderr=out,
            start_new_session=True,
        )  # fmt: skip
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until and process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
                    assert page.status == 200
                    return
            except OSError:
                time.sleep(0.5)
        pytest.fail(f"no page at port {port}: {log.read_text()}")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def free_port() -> int:
    import socket

    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


# --- one place for each command -------------------------------------------------------------------


def _lm_eval(folder: Path, command: str) -> None:
    given = command.replace("fedrai:aligned", "tiny")
    printed = run(folder, given if "--include" in given else f"{given} --include my_tasks")
    assert "acc" in printed
    assert all(name in printed for name in re.findall(r"--tasks (\S+)", command)[0].split(","))


def _advbench(folder: Path, command: str) -> None:
    log = inspected(
        folder, command.replace("HuggingFaceTB/SmolLM2-135M-Instruct", "tiny").replace("=50", "=2")
    )
    assert len(log["samples"]) == 2  # type: ignore[arg-type]


def _graded(folder: Path, command: str) -> None:
    given = command.replace("openai/NAME", "hf/tiny")
    log = inspected(folder, f"{given} -T limit=2")
    scores = log["results"]["scores"]  # type: ignore[index]
    assert [score["name"] for score in scores] == ["harm"]


def _view(folder: Path, command: str) -> None:
    port = free_port()
    served(folder, f"{command} --port {port}", port)


def _tensorboard(folder: Path, command: str) -> None:
    port = free_port()
    served(folder, f"{command} --port {port}", port)


def _export(folder: Path, command: str) -> None:
    run(folder, command.replace("RUN", "runs/quickstart/filter") + " --out exported")
    assert (folder / "exported" / "README.md").read_text().startswith("---")


def _resume(folder: Path, command: str) -> None:
    run(folder, f"{command} runs/quickstart/filter")


def _suites(folder: Path, command: str) -> None:
    assert "advbench" in run(folder, command)


def _eval(folder: Path, command: str) -> None:
    run(folder, f"{command} tiny --advbench 1 --ordinary 0 --max-new-tokens 2")


def _extra(_folder: Path, command: str) -> None:
    """The extra exists; installing it is what made this test run."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [name] = re.findall(r"fedrai\[([\w-]+)\]", command)
    assert name in extras["optional-dependencies"]


def _wandb_sync(folder: Path, command: str) -> None:
    """It needs an account; that it takes the folder that a run names is in test_tracking.py."""
    assert "PATHS should be run directories" in run(folder, f"{command} --help")


def _mlflow_ui(folder: Path, command: str) -> None:
    """Its server is not in the extra; the file that it names is read in test_tracking.py."""
    assert "--backend-store-uri" in run(folder, "mlflow ui --help")


PLACES: dict[str, tuple[str, Callable[[Path, str], None]]] = {
    "fedrai lm-eval": ("lm_eval", _lm_eval),
    "inspect eval fedrai/advbench": ("inspect_ai", _advbench),
    "inspect eval fedrai/strongreject": ("inspect_ai", _graded),
    "inspect view": ("inspect_ai", _view),
    "tensorboard --logdir": ("tensorboard", _tensorboard),
    "fedrai export": ("fedrai", _export),
    "fedrai run --resume": ("fedrai", _resume),
    "fedrai suites list": ("fedrai", _suites),
    "fedrai eval": ("fedrai", _eval),
    "pip install": ("fedrai", _extra),
    "mlflow ui": ("mlflow", _mlflow_ui),
    "wandb sync": ("wandb", _wandb_sync),
}


def test_the_page_has_its_commands() -> None:
    assert len(documented()) >= 10
    assert "inspect view" in documented()


@pytest.mark.parametrize("command", documented())
def test_a_documented_command_runs(folder: Path, command: str) -> None:
    matching = [name for name in PLACES if command.startswith(name)]
    assert matching, f"docs/integrations.md names `{command}`, and nothing here runs it"
    package, check = PLACES[matching[0]]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (an extra that is not part of `test`)")
    check(folder, command)
