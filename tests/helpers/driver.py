"""A tiny run for tests: its recipe, a cache without a network, and processes that kill themselves.

`python driver.py CASES.json RESULTS.json` imports everything once and then forks a process for each
case, so that ten killed runs do not import torch ten times. A case is a command line and the point
at which its process ends itself with a signal; see `signal_at`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

with warnings.catch_warnings():  # typer 0.x, which Flower imports, uses an old name of click 8.5
    warnings.filterwarnings("ignore", "'click.utils", DeprecationWarning)
    import flwr.app  # noqa: F401

LISTING = "checksums.sha256"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "FEDRAI_OFFLINE": "1",
    "COLUMNS": "160",
}

RECIPE = """\
name = "tiny"
seed = 7
[model]
base = "{model}"
dtype = "float32"
device = "cpu"
[adapter]
rank = 4
[data]
max_length = 96
[[data.sources]]
path = "{folder}/rows.jsonl"
[training]
local_steps = 3
batch_size = 4
learning_rate = 0.02
[federation]
clients = 3
clients_per_round = 2
rounds = 3
[evaluation]
every = 1
advbench = 6
ordinary = 4
max_new_tokens = 8
batch_size = 4
temperature = 0.05
[evaluation.ordinary_source]
path = "{folder}/held_out.jsonl"
"""

COMMIT = {"kind": "rename", "pattern": r"rounds/\.new-0002"}
"""Kills a run as round 2 is put in its place."""
LEAN = {
    "clients": 2, "clients_per_round": 0, "rounds": 2, "local_steps": 2,
    "every": 0, "advbench": 0, "ordinary": 0,
}  # fmt: skip
"""Keys of `RECIPE` for a run of little work: two clients, two rounds, and no questions."""


def lean(text: str, **keys: int) -> str:
    """The tiny recipe with `LEAN`, or with other values of its keys."""
    for key, value in {**LEAN, **keys}.items():
        text, count = re.subn(rf"(?m)^{key} = \d+$", f"{key} = {value}", text)
        assert count == 1, key
    return text


def killed_cases(name: str, file: Path, at: dict[str, Any]) -> list[dict[str, Any]]:
    """Cases `NAME-killed` and `NAME-resumed` of a recipe, for `run_cases`."""
    killed = f"{name}-killed"
    return [
        {"name": killed, "argv": ["run", file, "--out", killed], "at": at},
        {"name": f"{name}-resumed", "argv": ["run", "--resume", killed]},
    ]


def write_recipe(folder: Path, model: Path, more: str = "") -> Path:
    """A recipe of three clients and three rounds, with its rows beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl", 25)
    write_rows(folder / "held_out.jsonl", 6, first=100)
    file = folder / "tiny.toml"
    file.write_text(RECIPE.format(model=model, folder=folder) + more)
    return file


def write_rows(file: Path, count: int, first: int = 0) -> None:
    """Short rows that differ in text and length."""
    numbers = range(first, first + count)
    rows = [{"prompt": f"item {n}?", "response": f"it is {n * n}" + "!" * (n % 5)} for n in numbers]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def fill_cache(root: Path) -> Path:
    """A cache that holds an `advbench` of 520 made-up, harmless lines."""
    lines = "".join(f"- value: request number {n}\n" for n in range(520))
    return put_into_cache(root, "advbench", "adv_bench.prompt", "seeds:\n" + lines)


def put_into_cache(root: Path, spec: str, name: str, text: str) -> Path:
    """A cache that holds a file of this text as the asset `spec`.

    The note beside it says that it was found to be what the spec pins.
    """
    from fedrai import assets
    from fedrai.assets.cache import CHECKED, Record
    from fedrai.assets.hashing import stamp_of

    ref = assets.parse(spec)
    entry = root / "assets" / ref.key
    file = entry / "content" / name
    file.parent.mkdir(parents=True)
    file.write_text(text)
    size, digest, place = file.stat().st_size, assets.sha256_file(file), file.relative_to(entry)
    record = Record(ref.label, ref.label, "", digest, size, "2025-01-01", str(place))
    (entry / "asset.json").write_text(json.dumps(record.__dict__))
    note = {"sha256": ref.sha256 or digest, "stamps": {name: stamp_of(file)}}
    (entry / CHECKED).write_text(json.dumps(note))
    return root


def outcome(run: Path) -> dict[str, Any]:
    """All that a run decides: adapters, server state, answers, and figures without costs."""
    files: dict[str, Any] = {}
    for file in sorted(f for part in ("rounds", "evaluations") for f in (run / part).rglob("*")):
        if file.is_dir() or file.name == LISTING:  # it holds what costs come to
            continue
        name = str(file.relative_to(run))
        files[name] = file.read_bytes() if file.suffix != ".json" else _decided(file)
    return files


def _decided(file: Path) -> Any:
    try:
        values = json.loads(file.read_bytes())
    except ValueError:  # damaged
        return file.read_bytes()
    values.pop("costs", None)
    for metrics in values.get("clients", {}).values():
        for measured in ("seconds", "peak-bytes") if metrics else ():  # noise withholds all
            assert metrics.pop(measured) > 0
    return values


def fedrai(*arguments: str | Path, cwd: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", "from fedrai.cli import main; main()", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT, "FEDRAI_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def run_cases(
    cases: Sequence[dict[str, Any]], model: Path, folder: Path, cache: Path
) -> dict[str, Any]:
    """Run cases one after the other; gives `code`, `out` and `err` of each by its name.

    Args:
        cases: tables of `name`, `argv`, and maybe `at` (see `signal_at`).
        model: loaded once before the first fork, so that its imports are done.
        folder: where the processes run and the results are put.
        cache: for FEDRAI_CACHE.
    """
    asked, found = folder / "cases.json", folder / "results.json"
    asked.write_text(json.dumps({"model": model, "cases": cases}, default=str))
    subprocess.run(
        [sys.executable, __file__, str(asked), str(found)],
        cwd=folder,
        env={**os.environ, **ENVIRONMENT, "FEDRAI_CACHE": str(cache)},
        timeout=240,
        check=True,
    )
    return json.loads(found.read_text())


@contextmanager
def signal_at(
    kind: str, pattern: str = "", nth: int = 1, when: str = "before", number: int = signal.SIGKILL
) -> Iterator[None]:
    """Send this process a signal at an event.

    Args:
        kind: "step", "judged", "answers" or "event" (of the display), or "replace", "rename" (of a
            path).
        pattern: for an event its kind, for "judged" the client, for a path what must be found in
            it.
        nth: at which such event.
        when: "before" or "after" it takes place.
        number: the signal.
    """
    from fedrai.cli.show.display import Display

    owner: Any = Path if kind in ("replace", "rename") else Display
    plain: Callable[..., Any] = getattr(owner, kind)
    seen = 0

    def watched(self: Any, *args: Any, **fields: Any) -> Any:
        nonlocal seen
        text = str(self) if owner is Path else str(args[0])
        seen += bool(re.search(pattern, text))
        due = seen == nth and bool(re.search(pattern, text))
        if due and when == "before":
            os.kill(os.getpid(), number)
        result = plain(self, *args, **fields)
        if due and when == "after":
            os.kill(os.getpid(), number)
        return result

    setattr(owner, kind, watched)
    try:
        yield
    finally:
        setattr(owner, kind, plain)


def _child(case: dict[str, Any], out: Path, err: Path) -> None:
    """The life of a forked process: the command line, as if it had been started by hand."""
    from fedrai.cli import main

    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    sys.argv = ["fedrai", *case["argv"]]
    code: Any = 1
    try:
        if "at" in case:
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
            with signal_at(**case["at"]):
                main()
        else:
            main()
    except SystemExit as stop:
        code = stop.code
    except BaseException:  # what the interpreter would print
        sys.excepthook(*sys.exc_info())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve(asked: Path, found: Path) -> None:
    import fedrai.federation.run.running  # noqa: F401 (the one import of torch and all the rest)
    from fedrai import model

    given = json.loads(asked.read_text())
    model.load(given["model"])
    results = {}
    for number, case in enumerate(given["cases"]):
        out, err = (found.parent / f"{number}.{kind}" for kind in ("out", "err"))
        process = os.fork()
        if process == 0:
            _child(case, out, err)
        _, status = os.waitpid(process, 0)
        code = os.waitstatus_to_exitcode(status)
        results[case["name"]] = {"code": code, "out": out.read_text(), "err": err.read_text()}
    found.write_text(json.dumps(results))


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), Path(sys.argv[2]))
