"""Records as files: what was asked, said and found, and training data that others can load.

    records.jsonl       one `RevisionRecord` a line, in the order of the requests
    sft.jsonl           {"messages": [...]}: TRL's SFTTrainer
    preferences.jsonl   {"prompt": [...], "chosen": [...], "rejected": [...]}: DPOTrainer

The last two are TRL's conversational formats (huggingface.co/docs/trl, Dataset formats). All of
them hold texts of the server's own requests and of its model, nothing of a client's rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fedrai.constitution.records import TRAINED, Outcome, RevisionRecord
from fedrai.errors import RunError
from fedrai.evaluation.refusal import Reply
from fedrai.runs.files import json_line, sealed_part, write_bytes, writing

T = TypeVar("T")


def write_records(path: Path, records: Sequence[RevisionRecord], after: int = 0) -> None:
    """Write records behind the first `after` lines of a file; what stood there then is gone.

    One chunk after the other, each with the number of records before it, builds the file up; a
    chunk that was half written when the process ended is so replaced by the whole one.

    Args:
        path: the file; made if needed, with its folders.
        records: the records.
        after: whole lines of the file to keep.

    Raises:
        RunError: the file cannot be written, or has fewer lines.
    """
    body = b"".join(_line(record.to_json()) for record in records)
    with writing(path, RunError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "w+b") as file:
            file.truncate(_end_of(file, after, path))
            file.seek(0, os.SEEK_END)
            file.write(body)
            file.flush()
            os.fsync(file.fileno())


def _end_of(lines: Iterable[bytes], count: int, path: Path) -> int:
    """Bytes of the first `count` lines."""
    sizes = [len(line) for line, _ in zip(_whole(lines), range(count), strict=False)]
    if len(sizes) < count:
        raise RunError(f"{path} has {len(sizes)} whole records, expected {count}")
    return sum(sizes)


def _whole(lines: Iterable[bytes]) -> Iterator[bytes]:
    return (line for line in lines if line.endswith(b"\n"))


def read_records(path: Path) -> list[RevisionRecord]:
    """Read records; see `read_lines`."""
    return read_lines(path, RevisionRecord.from_json, "record")


def read_lines(path: Path, form: Callable[[dict[str, Any]], T], what: str) -> list[T]:
    """Read lines of JSON; a last line that was cut off is left out, and no file means none.

    Args:
        path: the file.
        form: makes of a line's value what it stands for.
        what: that is called, for the error.

    Raises:
        RunError: the file cannot be read, or another line holds none.
        ChecksumError: the file was sealed (`files.seal`), and does not hold what it did then.
    """
    try:
        lines = list(_whole(sealed_part(path).splitlines(keepends=True)))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(form(json.loads(line)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            hint = "delete the file to begin again"
            raise RunError(f"{path}, line {number}: this is no {what}", hint=hint) from None
    return found


def export(folder: Path, records: Iterable[RevisionRecord]) -> tuple[int, int]:
    """Write `sft.jsonl` and `preferences.jsonl`.

    Args:
        folder: where; made if needed.
        records: only those with a revision count. A pair is made where the revision was kept and
            the first answer does not decline by itself; of a harmless request, in any case.

    Returns:
        How many rows and pairs there are.

    Raises:
        RunError: a file cannot be written.
    """
    kept = [r for r in records if r.outcome in TRAINED and r.revision is not None]
    pairs = [r for r in kept if _prefers(r)]
    write_lines(folder / "sft.jsonl", (_sft(r) for r in kept))
    write_lines(folder / "preferences.jsonl", (_preference(r) for r in pairs))
    return len(kept), len(pairs)


def _prefers(record: RevisionRecord) -> bool:
    """Whether a record makes a pair."""
    declines = record.request.harmful and record.first_refuses == Reply.REFUSAL
    differs = record.first.strip() not in ("", record.revision)
    return record.outcome is Outcome.KEPT and differs and not declines


def _sft(record: RevisionRecord) -> dict[str, Any]:
    turns = [("user", record.request.prompt), ("assistant", record.revision)]
    return {"messages": [{"role": role, "content": text} for role, text in turns]}


def _preference(record: RevisionRecord) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": record.request.prompt}],
        "chosen": [{"role": "assistant", "content": record.revision}],
        "rejected": [{"role": "assistant", "content": record.first}],
    }


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write lines of JSON, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    with writing(path, RunError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, b"".join(map(_line, rows)))


def _line(value: dict[str, Any]) -> bytes:
    """One line of JSON in ASCII: half characters and odd line ends cannot break it."""
    return json_line(value).encode("ascii")
