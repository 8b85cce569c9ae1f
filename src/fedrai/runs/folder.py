"""The run folder: all files of a run, written so that a kill at any moment loses nothing.

    checksums.sha256      of files that are written once: `recipe.toml`, `run.json`, filter ledgers
    recipe.toml           the resolved recipe
    run.json              its hash, all versions, sizes of the clients' data (`record`)
    events.jsonl          the events, one a line, flushed as they happen
    rounds/0003/adapter/  the global adapter after round 3, a PEFT folder (local mode: one a client)
    rounds/0003/round.json, server.safetensors
    evaluations/0003/     answers by suite, and metrics.json
    pending/0004/         updates of the round in progress, and in constitution/ its alignment
    defence/              what defences make once in a run
    constitution/0003/    state that the alignment of round 3 leaves for later ones
    clients/NAME.log      the client's own log
    residuals/NAME/       what the client's lossy messages have lost, by round
    variates/NAME/        the client's own control variates by round (SCAFFOLD)
    summary.json          key figures; rewritten after every round and evaluation
    damaged/              damaged files that were replaced

Each folder of a round, an evaluation or an alignment has its own `checksums.sha256`. A file or
folder is written beside its place and then renamed, so it appears whole or not at all. Nothing that
follows from other files is stored: the next round is one more than the last folder in `rounds/`.
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
from fedrai.runs.files import digest_of, write_text
from fedrai.runs.schema import SCHEMA, check_schema

if TYPE_CHECKING:
    from torch import Tensor

LOCK = ".lock"
SET_ASIDE = "damage-set-aside"
"""The event of a repair after damage: a run that was finished continues from there."""


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path, recipe_toml: str, info: Mapping[str, Any]) -> RunFolder:
        """Start a run in a new or empty folder.

        Raises:
            RunError: the folder is not empty, or cannot be written.
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
        """Open an existing run.

        Raises:
            RunError: it does not exist.
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
            ChecksumError: it has changed.
        """
        checksums.check_file(self.path / "recipe.toml")
        return self.path / "recipe.toml"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from working on this run.

        Raises:
            RunError: another process holds the lock.
        """
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise RunError(
                f"another process is working on {self.path}", hint="wait for it, or stop it first"
            ) from None
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(self.path, error) from error

    @property
    def info(self) -> dict[str, Any]:
        """`run.json`.

        Raises:
            RunError: it is missing or damaged, or a later version of FedRAI wrote it.
        """
        return check_schema(self.path / "run.json", self.read_json("run.json"))

    def event(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Append an event; returns it."""
        record = {"time": _now(), "event": kind, **fields}
        with self._writing():
            files.append_line(self.path / "events.jsonl", files.json_line(record).encode())
        return record

    def events(self) -> list[dict[str, Any]]:
        """All events; an incomplete or damaged line is left out.

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
        """Whether the run reached its end, and no repair since then needs more rounds."""
        ends = [e["event"] for e in self.events() if e["event"] in ("finished", SET_ASIDE)]
        return ends[-1:] == ["finished"]

    def repair(self) -> None:
        """Clean up after a kill: incomplete lines, half-written files and obsolete folders.

        Obsolete are the `pending` folders of committed rounds, and the `constitution` folders of
        rounds that are not committed: when such a round runs again, it must not read its own state.

        Raises:
            RunError: the folder cannot be written.
        """
        with self._writing():
            files.end_line(self.path / "events.jsonl")
            for path in list(self.path.rglob(".new-*")):  # one may be inside another
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            last = self.last_round()
            obsolete = [self.pending(n) for n in _numbers(self.path / "pending") if n <= last]
            obsolete += [self.alignment(n) for n in _numbers(self.alignments) if n > last]
            for folder in obsolete:
                shutil.rmtree(folder)

    def last_round(self) -> int:
        """The last committed round; 0 before the first."""
        return max(self.rounds(), default=0)

    def rounds(self) -> list[int]:
        """Numbers of the committed rounds."""
        return _numbers(self.path / "rounds")

    def evaluations(self) -> list[int]:
        """Numbers of the evaluated rounds; 0 is the model before the first."""
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
        """Write a round's folder with `write`, then delete its pending updates."""
        self.write_folder(self.round_folder(number), write)
        shutil.rmtree(self.pending(number), ignore_errors=True)

    def pending(self, number: int) -> Path:
        """The folder with the updates of a round in progress."""
        return self.path / "pending" / f"{number:04d}"

    def residuals(self, client: str) -> Path:
        """The folder of what a client's lossy messages have lost."""
        return self.path / "residuals" / client

    def variates(self, client: str) -> Path:
        """The folder of a client's control variates."""
        return self.path / "variates" / client

    @property
    def alignments(self) -> Path:
        """State that alignments leave for later rounds: a folder for each, by number."""
        return self.path / "constitution"

    def alignment(self, number: int) -> Path:
        """State that the alignment of a round leaves."""
        return self.alignments / f"{number:04d}"

    def alignment_state(self, number: int, adapter: Mapping[str, Tensor]) -> Path:
        """The folder from which the alignment of a round in progress can be resumed.

        Args:
            number: round number, from 1.
            adapter: the adapter it starts from; the state of another adapter's is deleted.
        """
        folder = self.pending(number) / "constitution"
        file, digest = folder / "adapter.sha256", digest_of(adapter)
        with self._writing():
            if not file.is_file() or file.read_bytes() != digest.encode():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                write_text(file, digest)
        return folder

    def save_pending(
        self, number: int, client: str, arrays: Mapping[str, Tensor], note: Mapping[str, str]
    ) -> None:
        """Store one client's part of the round in progress."""
        folder = self.pending(number)
        with self._writing():
            folder.mkdir(parents=True, exist_ok=True)
            files.save_sealed(folder / f"{client}.safetensors", arrays, note)

    def load_pending(self, number: int, client: str) -> tuple[dict[str, Tensor], dict[str, str]]:
        """One client's part of the round in progress, as `save_pending` stored it.

        Raises:
            RunError, ChecksumError: it is missing or damaged.
        """
        return files.load_sealed(self.pending(number) / f"{client}.safetensors")

    def write_folder(
        self, target: Path, write: Callable[[Path], None], *, listed: bool = True
    ) -> None:
        """Write a folder whole or not at all.

        Args:
            target: the folder.
            write: fills it.
            listed: add a list of its checksums, so that damage is detected later.

        Raises:
            RunError: it cannot be written.
        """
        with self._writing(), files.new_folder(target) as fresh:
            with files.disk_errors():
                write(fresh)
            if listed:
                write_text(fresh / checksums.LISTING, checksums.listing(fresh))

    def check_round(self, number: int) -> None:
        """Check that a round is as it was committed.

        Raises:
            RunError: a file of it is missing or damaged.
        """
        folder = self.round_folder(number)
        for name in checksums.changed(folder):
            repeat = f"`fedrai run --resume {self.path}` runs the last round again"
            raise RunError(
                f"{folder / name} is missing, or damaged: its SHA-256 differs from the one in"
                f" {checksums.LISTING}",
                hint=repeat if number == self.last_round() else "restore it from a backup",
            )

    def write_json(self, name: str, value: Mapping[str, Any], *, listed: bool = False) -> None:
        """Write a JSON file whole or not at all.

        Args:
            name: relative to the run.
            value: its content.
            listed: add its checksum to the run's list; for files that are written once.

        Raises:
            RunError: it cannot be written.
        """
        text = files.json_text(value)
        with self._writing():
            (self.path / name).parent.mkdir(exist_ok=True)
            write_text(self.path / name, text)
            if listed and checksums.has_listing(self.path):  # earlier versions' runs have none
                write_text(
                    self.path / checksums.LISTING, checksums.with_text(self.path, name, text)
                )

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run.

        Raises:
            RunError: it is missing, or not JSON.
            ChecksumError: it has changed.
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
        with self._writing():
            folder.mkdir(exist_ok=True)
            files.append_line(folder / f"{client}.log", f"{_now()} {line}\n".encode())


def check_free(path: Path) -> None:
    """Check that a run can start at `path`, without writing.

    Raises:
        RunError: it is a file or not empty, or its nearest existing parent cannot be written.
    """
    if path.exists():
        if not path.is_dir():
            raise RunError(
                f"{path} is a file; expected a folder", hint="choose another folder with --out"
            )
        if any(path.iterdir()):
            started = (path / "run.json").is_file()
            raise RunError(
                f"{path} already holds {'a run' if started else 'files'}",
                hint=f"resume it with `fedrai run --resume {path}`, or choose another with --out"
                if started
                else "choose another folder with --out",
            )
    parent = next(p for p in [path, *path.parents] if p.exists())
    if not os.access(parent, os.W_OK):
        raise RunError(f"{parent} cannot be written", hint="choose another folder with --out")


def find_runs(root: Path) -> list[RunFolder]:
    """The runs at or below a folder, by name; four levels deep (NAME/VALUE/seed-N/ARM)."""
    records = [f for depth in range(5) for f in root.glob(f"{'*/' * depth}run.json")]
    return [RunFolder(file.parent) for file in sorted(records)]


def _numbers(folder: Path) -> list[int]:
    if not folder.is_dir():
        return []
    return sorted(int(f.name) for f in folder.iterdir() if f.is_dir() and f.name.isdecimal())


def write_error(path: Path, error: OSError) -> RunError:
    """The error for a run folder that cannot be written."""
    return RunError(
        f"cannot write the run in {path}: {error.strerror or error}",
        hint=f"free disk space or fix the permissions, then `fedrai run --resume {path}`"
        if (path / "run.json").is_file()
        else "choose another folder with --out",
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
