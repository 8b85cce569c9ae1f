"""The run folder: everything a run leaves, written so that a kill at any moment loses nothing.

    recipe.toml           the resolved recipe
    run.json              its hash, versions of everything, sizes of the clients' data
    events.jsonl          what happened, one line an event, flushed as it happens
    rounds/0003/adapter/  the global adapter after round 3, a PEFT folder (local mode: one a client)
    rounds/0003/round.json, server.safetensors
    evaluations/0003/     answers by suite, and metrics.json
    pending/0004/         updates of the round in progress, and in constitution/ its alignment
    constitution/0003/    what the alignment of round 3 leaves for later ones
    clients/NAME.log      the client's own log
    summary.json          key figures; rewritten after every round and evaluation

A file or folder appears whole or not at all (written beside, then renamed). What follows from other
files is derived, never stored twice: the next round is one more than the last folder in `rounds/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from fedrai.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

LOCK = ".lock"


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, recipe_toml: str, info: Mapping[str, Any]) -> RunFolder:
        """Start a run in a new or empty folder.

        Raises:
            RunError: the folder holds something already, or cannot be written.
        """
        check_free(path)
        run = cls(path)

        def write(folder: Path) -> None:
            write_text(folder / "recipe.toml", recipe_toml)
            body = json.dumps({**info, "created": _now()}, indent=2)
            write_text(folder / "run.json", body + "\n")

        run.write_folder(path, write)
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run that exists.

        Raises:
            RunError: there is none.
        """
        if not (path / "run.json").is_file():
            raise RunError(
                f"{path} is not a run folder (no run.json)", hint="`fedrai runs` lists runs"
            )
        return cls(path)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from working on this run.

        Raises:
            RunError: one does already.
        """
        guard = FileLock(self.path / LOCK)
        try:
            guard.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"another process is working on {self.path}", hint="wait for it, or stop it first"
            ) from None
        try:
            yield
        finally:
            guard.release()

    @property
    def info(self) -> dict[str, Any]:
        """`run.json`."""
        return self.read_json("run.json")

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append an event; returns it."""
        record = {"time": _now(), "event": kind, **fields}
        try:
            with (self.path / "events.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return record

    def events(self) -> list[dict[str, Any]]:
        """All whole events; a line that a kill cut short is left out."""
        found = []
        file = self.path / "events.jsonl"
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return found

    def mend(self) -> None:
        """After a kill: end a cut line of the event log, drop half-written and leftover folders.

        Of `pending` those of committed rounds are left over, of `constitution` those of other ones:
        a round that is done again must not find what it left itself.
        """
        file = self.path / "events.jsonl"
        if file.is_file() and file.stat().st_size and not file.read_bytes().endswith(b"\n"):
            with file.open("a", encoding="utf-8") as opened:
                opened.write("\n")
        for left in list(self.path.rglob(".new-*")):  # one may lie within another
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        for number in _numbers(self.path / "pending"):
            if number <= self.last_round():
                shutil.rmtree(self.pending(number))
        for number in _numbers(self.alignments):
            if number > self.last_round():
                shutil.rmtree(self.alignments / f"{number:04d}")

    def last_round(self) -> int:
        """The last committed round; 0 before the first."""
        return max(self.rounds(), default=0)

    def rounds(self) -> list[int]:
        """Numbers of the committed rounds."""
        return _numbers(self.path / "rounds")

    def evaluations(self) -> list[int]:
        """Rounds that have been evaluated; 0 is the base model."""
        return [n for n in _numbers(self.path / "evaluations") if self.metrics_file(n).is_file()]

    def round_folder(self, number: int) -> Path:
        """The folder of a round."""
        return self.path / "rounds" / f"{number:04d}"

    def evaluation_folder(self, number: int) -> Path:
        """The folder of an evaluation."""
        return self.path / "evaluations" / f"{number:04d}"

    def metrics_file(self, number: int) -> Path:
        """The figures of an evaluation."""
        return self.evaluation_folder(number) / "metrics.json"

    def commit_round(self, number: int, write: Callable[[Path], None]) -> None:
        """Write a round's folder with `write`, then drop the round's pending updates."""
        self.write_folder(self.round_folder(number), write)
        shutil.rmtree(self.pending(number), ignore_errors=True)

    def pending(self, number: int) -> Path:
        """Where updates of a round in progress are kept."""
        return self.path / "pending" / f"{number:04d}"

    @property
    def alignments(self) -> Path:
        """What alignments leave for those of later rounds: a numbered folder each."""
        return self.path / "constitution"

    def alignment_work(self, number: int, adapter: Mapping[str, Tensor]) -> Path:
        """Where the alignment of a round in progress keeps what it needs to go on.

        Args:
            number: of the round.
            adapter: that it starts from; the state of an alignment of another one is dropped.
        """
        folder = self.pending(number) / "constitution"
        file, digest = folder / "adapter.sha256", digest_of(adapter)
        try:
            if not file.is_file() or file.read_text(encoding="utf-8") != digest:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                write_text(file, digest)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        return folder

    def save_pending(
        self, number: int, client: str, arrays: Mapping[str, Tensor], note: Mapping[str, str]
    ) -> None:
        """Keep one client's part of the round in progress."""
        folder = self.pending(number)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(folder / f"{client}.safetensors", arrays, note)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write_folder(self, target: Path, write: Callable[[Path], None]) -> None:
        """Make a folder whole or not at all."""
        fresh = target.with_name(f".new-{target.name}")
        try:
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            write(fresh)
            for file in fresh.rglob("*"):
                if file.is_file():
                    _sync(file)
            fresh.rename(target)
            _sync(target.parent)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON file whole or not at all."""
        try:
            write_text(self.path / name, json.dumps(value, indent=2) + "\n")
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run.

        Raises:
            RunError: it is missing or damaged.
        """
        try:
            value: dict[str, Any] = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / name} cannot be read ({type(error).__name__})") from error
        return value

    def client_log(self, client: str, line: str) -> None:
        """Add a line to a client's own log.

        Raises:
            RunError: it cannot be written.
        """
        folder = self.path / "clients"
        try:
            folder.mkdir(exist_ok=True)
            with (folder / f"{client}.log").open("a", encoding="utf-8") as file:
                file.write(f"{_now()} {line}\n")
        except OSError as error:
            raise _unwritable(self.path, error) from error


def check_free(path: Path) -> None:
    """See that a run can start at `path`, without writing.

    Raises:
        RunError: it exists and is not empty, is no folder, or its nearest parent cannot be written.
    """
    if path.exists():
        if not path.is_dir():
            raise RunError(
                f"{path} is a file; expected a folder", hint="--out names another folder"
            )
        if any(path.iterdir()):
            started = (path / "run.json").is_file()
            raise RunError(
                f"{path} already holds {'a run' if started else 'files'}",
                hint=f"`fedrai run --resume {path}` goes on with it; --out names another folder"
                if started
                else "--out names another folder",
            )
    parent = next(p for p in [path, *path.parents] if p.exists())
    if not os.access(parent, os.W_OK):
        raise RunError(f"{parent} cannot be written", hint="--out names another folder")


def find_runs(root: Path) -> list[RunFolder]:
    """The runs at or below a folder, by name; four levels deep (NAME/VALUE/seed-N/ARM)."""
    files = [f for depth in range(5) for f in root.glob(f"{'*/' * depth}run.json")]
    return [RunFolder(file.parent) for file in sorted(files)]


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    fresh = path.with_name(f".new-{path.name}")
    fresh.write_text(text, encoding="utf-8")
    _sync(fresh)
    fresh.replace(path)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, str]) -> None:
    """Write a safetensors file with notes, whole or not at all."""
    from safetensors.torch import save_file

    fresh = path.with_name(f".new-{path.name}")
    save_file({name: tensors[name].contiguous() for name in sorted(tensors)}, fresh, dict(note))
    _sync(fresh)
    fresh.replace(path)


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors on the CPU: names, shapes and values, in hex."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and notes of a safetensors file."""
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as file:
        note: dict[str, str] = file.metadata() or {}
    return load_file(path), note


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(f.name) for f in folder.iterdir() if f.is_dir() and f.name.isdigit())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot write the run in {path}: {error.strerror or error}",
        hint=f"make room or mend the rights, then `fedrai run --resume {path}`"
        if (path / "run.json").is_file()
        else "--out names another folder",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
