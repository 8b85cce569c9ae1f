"""Records as files, and training data that other tools can load.

    records.jsonl       one `RevisionRecord` a line, in the order of the requests
    sft.jsonl           {"messages": [...]}: TRL's SFTTrainer
    preferences.jsonl   {"prompt": [...], "chosen": [...], "rejected": [...]}: DPOTrainer

The last two are TRL's conversational formats (huggingface.co/docs/trl, Dataset formats). They hold
the server's own requests and its model's texts, nothing of a client's rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from fedrai.constitution.records import RevisionRecord
from fedrai.errors import RunError
from fedrai.runs.files import json_line, sealed_part, write_bytes, writing


class Storable(Protocol):
    """A record that is one line of JSON in a file."""

    def to_json(self) -> dict[str, Any]:
        """Plain values by field name."""

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The record that `to_json` wrote."""


S = TypeVar("S", bound=Storable)


def write_records(path: Path, records: Iterable[Storable]) -> None:
    """Write records, one a line, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    _write_lines(path, (record.to_json() for record in records))


def read_records(path: Path, kind: type[S]) -> list[S]:
    """Read records; a last line that was cut off is left out, and no file means no records.

    Args:
        path: the file.
        kind: class of the records.

    Raises:
        RunError: the file cannot be read, or a line is not such a record.
        ChecksumError: the file was sealed (`files.seal`) and has changed since.
    """
    try:
        lines = sealed_part(path).splitlines(keepends=True)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            continue
        try:
            records.append(kind.from_json(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            hint = "delete the file to start again"
            raise RunError(f"{path}, line {number} is not a {kind.__name__}", hint=hint) from None
    return records


def export(folder: Path, records: Iterable[RevisionRecord]) -> tuple[int, int]:
    """Write `sft.jsonl` and `preferences.jsonl`.

    Args:
        folder: where; created if needed.
        records: only those with a revision are used. A pair is written where the revision was kept
            and the first answer does not decline by itself; for a harmless request, in any case.

    Returns:
        The numbers of rows and pairs.

    Raises:
        RunError: a file cannot be written.
    """
    revised = [r for r in records if r.accepted]
    pairs = [r for r in revised if r.is_better and r.first.strip() not in ("", r.revision)]
    _write_lines(folder / "sft.jsonl", (_sft(r) for r in revised))
    _write_lines(folder / "preferences.jsonl", (_preference(r) for r in pairs))
    return len(revised), len(pairs)


def _sft(record: RevisionRecord) -> dict[str, Any]:
    turns = [("user", record.request.prompt), ("assistant", record.revision)]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def _preference(record: RevisionRecord) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": record.request.prompt}],
        "chosen": [{"role": "assistant", "content": record.revision}],
        "rejected": [{"role": "assistant", "content": record.first}],
    }


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write lines of JSON in ASCII: half characters and odd line ends cannot break them."""
    with writing(path, RunError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, b"".join(json_line(row).encode("ascii") for row in rows))
