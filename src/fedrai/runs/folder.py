"""The run folder: everything a run leaves, written so that a kill at any moment loses nothing.

    checksums.sha256      of what is written once: `recipe.toml`, `run.json`, the filter's ledgers
    recipe.toml           the resolved recipe
    run.json              its hash, versions of everything, sizes of the clients' data (`record`)
    events.jsonl          what happened, one line an event, flushed as it happens
    rounds/0003/adapter/  the global adapter after round 3, a PEFT folder (local mode: one a client)
    rounds/0003/round.json, server.safetensors
    evaluations/0003/     answers by suite, and metrics.json
    pending/0004/         updates of the round in progress, and in constitution/ its alignment
    constitution/0003/    what the alignment of round 3 leaves for later ones
    clients/NAME.log      the client's own log
    summary.json          key figures; rewritten after every round and evaluation
    damaged/              what was found damaged and made anew

Each folder of a round, an evaluation or an alignment has its own `checksums.sha256`. A file or
folder appears whole or not at all (written beside, then renamed). What follows from other
files is derived, never stored twice: the next round is one more than the last folder in `rounds/`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from fedrai.assets import checksums
from fedrai.errors import RunError
from fedrai.runs import files
from fedrai.runs.files import digest_of, load_tensors, save_tensors, write_text
from fedrai.runs.schema import SCHEMA, checked

if TYPE_CHECKING:
    from torch import Tensor

LOCK = ".lock"
SET_ASIDE = "damage-set-aside"
"""The event of damage that is made good: a run that was finished goes on from there."""

__all__ = ["RunFolder", "check_free", "digest_of", "find_runs", "load_tensors", "save_tensors",
           "write_text"]  # fmt: skip


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
        body = {**info, "schema": SCHEMA, "created": _now()}

        def write(folder: Path) -> None:
            write_text(folder / "recipe.toml", recipe_toml)
            write_text(folder / "run.json", files.json_text(body))

        run.write_folder(path, write)
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run that exists.

        Raises:
            RunError: there is none.
            ChecksumError: its `run.json` is damaged.
        """
        if not (path / "run.json").is_file():
            raise RunError(
                f"{path} is not a run folder (no run.json)", hint="`fedrai runs` lists runs"
            )
        checksums.check_file(path / "run.json")
        return cls(path)

    @property
    def recipe_file(self) -> Path:
        """`recipe.toml`, as the run wrote it.

        Raises:
            ChecksumError: it is another one now.
        """
        checksums.check_file(self.path / "recipe.toml")
        return self.path / "recipe.toml"

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
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            yield
        finally:
            guard.release()

    @property
    def info(self) -> dict[str, Any]:
        """`run.json`.

        Raises:
            RunError: it is missing or damaged, or a later version of FedRAI wrote it.
        """
        return checked(self.path / "run.json", self.read_json("run.json"))

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append an event; returns it."""
        record = {"time": _now(), "event": kind, **fields}
        try:
            files.append_line(self.path / "events.jsonl", files.json_line(record).encode())
        except OSError as error:
            raise write_error(self.path, error) from error
        return record

    def events(self) -> list[dict[str, Any]]:
        """All whole events; a line that a kill cut short, or that is damaged, is left out.

        Raises:
            RunError: the file cannot be read.
        """
        file = self.path / "events.jsonl"
        try:
            values = files.json_lines(file)
        except OSError as error:
            raise RunError(f"cannot read {file}: {error.strerror}") from error
        return [v for v in values if isinstance(v, dict) and isinstance(v.get("event"), str)]

    def is_finished(self) -> bool:
        """Whether the run went to its end, and nothing of it has to be made again."""
        ends = [e["event"] for e in self.events() if e["event"] in ("finished", SET_ASIDE)]
        return ends[-1:] == ["finished"]

    def repair(self) -> None:
        """After a kill: end a cut line of the event log, drop half-written and leftover folders.

        Of `pending` those of committed rounds are left over, of `constitution` those of other ones:
        a round that is done again must not find what it left itself.

        Raises:
            RunError: the folder cannot be written.
        """
        try:
            files.end_line(self.path / "events.jsonl")
            for left in list(self.path.rglob(".new-*")):  # one may lie within another
                shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
            done = self.last_round()
            left_over = [self.pending(n) for n in _numbers(self.path / "pending") if n <= done]
            left_over += [self.alignment(n) for n in _numbers(self.alignments) if n > done]
            for folder in left_over:
                shutil.rmtree(folder)
        except OSError as error:
            raise write_error(self.path, error) from error

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

    def alignment(self, number: int) -> Path:
        """What the alignment of a round leaves."""
        return self.alignments / f"{number:04d}"

    def alignment_work(self, number: int, adapter: Mapping[str, Tensor]) -> Path:
        """Where the alignment of a round in progress keeps what it needs to go on.

        Args:
            number: of the round.
            adapter: that it starts from; the state of an alignment of another one is dropped.
        """
        folder = self.pending(number) / "constitution"
        file, digest = folder / "adapter.sha256", digest_of(adapter)
        try:
            if not file.is_file() or file.read_bytes() != digest.encode():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                write_text(file, digest)
        except OSError as error:
            raise write_error(self.path, error) from error
        return folder

    def save_pending(
        self, number: int, client: str, arrays: Mapping[str, Tensor], note: Mapping[str, str]
    ) -> None:
        """Keep one client's part of the round in progress."""
        folder = self.pending(number)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            files.save_sealed(folder / f"{client}.safetensors", arrays, note)
        except OSError as error:
            raise write_error(self.path, error) from error

    def load_pending(self, number: int, client: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """One client's part of the round in progress, as `save_pending` kept it.

        Raises:
            RunError, ChecksumError: it is missing or damaged.
        """
        return files.load_sealed(self.pending(number) / f"{client}.safetensors")

    def write_folder(
        self, target: Path, write: Callable[[Path], None], *, listed: bool = True
    ) -> None:
        """Make a folder whole or not at all.

        Args:
            target: the folder.
            write: fills it.
            listed: put a list of its checksums into it, so that damage is seen later.

        Raises:
            RunError: it cannot be written.
        """
        try:
            with files.new_folder(target) as fresh:
                with files.disk_errors():
                    write(fresh)
                if listed:
                    write_text(fresh / checksums.LISTING, checksums.listing(fresh))
        except OSError as error:
            raise write_error(self.path, error) from error

    def check_round(self, number: int) -> None:
        """See that a round is as it was committed.

        Raises:
            RunError: a file of it is missing or damaged.
        """
        folder = self.round_folder(number)
        for name in checksums.changed(folder):
            again = f"`fedrai run --resume {self.path}` does the last round again"
            raise RunError(
                f"{folder / name} is missing, or damaged: its SHA-256 is not the one in"
                f" {checksums.LISTING}",
                hint=again if number == self.last_round() else "put it back from a copy",
            )

    def write_json(self, name: str, value: Mapping[str, Any], *, listed: bool = False) -> None:
        """Write a JSON file whole or not at all.

        Args:
            name: relative to the run.
            value: what it holds.
            listed: put its checksum into the run's list: it is not written again.

        Raises:
            RunError: it cannot be written.
        """
        text = files.json_text(value)
        try:
            (self.path / name).parent.mkdir(exist_ok=True)
            write_text(self.path / name, text)
            if listed and checksums.has_listing(self.path):  # not in a run from before there were
                write_text(
                    self.path / checksums.LISTING, checksums.with_text(self.path, name, text)
                )
        except OSError as error:
            raise write_error(self.path, error) from error

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run.

        Raises:
            RunError: it is missing, or no JSON.
            ChecksumError: it is not what was written.
        """
        file = self.path / name
        try:
            body = file.read_bytes()
            value: dict[str, Any] = files.parse_json(body)
        except (OSError, ValueError) as error:
            raise RunError(f"{file} cannot be read ({type(error).__name__})") from error
        checksums.check_bytes(file, body)
        return value

    def client_log(self, client: str, line: str) -> None:
        """Add a line to a client's own log.

        Raises:
            RunError: it cannot be written.
        """
        folder = self.path / "clients"
        try:
            folder.mkdir(exist_ok=True)
            files.append_line(folder / f"{client}.log", f"{_now()} {line}\n".encode())
        except OSError as error:
            raise write_error(self.path, error) from error


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
    found = [f for depth in range(5) for f in root.glob(f"{'*/' * depth}run.json")]
    return [RunFolder(file.parent) for file in sorted(found)]


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(f.name) for f in folder.iterdir() if f.is_dir() and f.name.isdecimal())


def write_error(path: Path, error: OSError) -> RunError:
    """What to say where a run cannot be written."""
    return RunError(
        f"cannot write the run in {path}: {error.strerror or error}",
        hint=f"make room or mend the rights, then `fedrai run --resume {path}`"
        if (path / "run.json").is_file()
        else "--out names another folder",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
