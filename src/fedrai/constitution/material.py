"""What an alignment works with: revisions and harmless answers, made anew or taken from before.

While they are made they lie in the work folder, a chunk at a time, so that an interruption loses at
most one chunk; when the alignment is done they move to the folder of its round, where later rounds
find them.

    records.jsonl    critique and revision (`storing`)
    harmless.jsonl   harmless answers
    spent.json       what making them took
    probe.json       what the probe found when the alignment was done
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrai.assets import checksums
from fedrai.constitution.harmless import HarmlessAnswer
from fedrai.constitution.records import RevisionRecord
from fedrai.constitution.storing import read_lines, read_records, write_lines, write_records
from fedrai.errors import ChecksumError, RunError
from fedrai.runs import files
from fedrai.runs.costs import Cost
from fedrai.runs.files import write_text, writing

RECORDS, HARMLESS, SPENT, PROBE = "records.jsonl", "harmless.jsonl", "spent.json", "probe.json"
STEP = ": "  # between a part and its step


@dataclass(frozen=True, slots=True)
class Material:
    """Revisions and harmless answers of one round.

    Attributes:
        records: of critique and revision.
        harmless: answers to harmless requests.
        spent: cost of making them, by what ("revisions", "harmless").
        probe: what the probe found after the alignment that they were made for; empty before.
    """

    records: tuple[RevisionRecord, ...]
    harmless: tuple[HarmlessAnswer, ...]
    spent: dict[str, Cost] = field(default_factory=dict)
    probe: dict[str, Any] = field(default_factory=dict)


class Spending:
    """What parts of an alignment took, across interruptions.

    Counted is the work that the result is made of. What an interruption made in vain, and what is
    done a second time after it, is not: so the account is the same as without one. (Where the
    process is killed between the write of a chunk and that of its cost, that cost is missing.)

    Args:
        folder: where it is kept.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / SPENT
        self._costs = _costs(self._file)

    @property
    def parts(self) -> dict[str, Cost]:
        """Costs by part, those of its steps together."""
        found: dict[str, Cost] = {}
        for name in sorted(self._costs):
            part = name.partition(STEP)[0]
            found[part] = found.get(part, Cost()) + self._costs[name]
        return found

    def part(self, name: str, step: str = "") -> Callable[[int, float], None]:
        """A function that takes what a part took since it began: tokens and operations.

        Args:
            name: of the part.
            step: of a part whose steps are each done as a whole: what the same step took before
                does not count. Without it the part goes on from where it was.
        """
        key, since = f"{name}{STEP}{step}" if step else name, time.perf_counter()
        before = Cost() if step else self._costs.get(key, Cost())

        def put(tokens: int, operations: float) -> None:
            seconds = time.perf_counter() - since
            self.put(key, before + Cost(seconds, tokens, operations))

        return put

    def put(self, name: str, cost: Cost) -> None:
        """Note the cost of a part, in place of what is known of it."""
        self._costs[name] = cost
        _write_costs(self._file, self._costs)


def last_before(kept: Path, number: int) -> Material | None:
    """What the latest alignment of an earlier round left, if there was one."""
    rounds = sorted(int(f.name) for f in kept.glob("[0-9]*") if f.is_dir() and f.name.isdigit())
    earlier = [n for n in rounds if n < number and (_of(kept, n) / PROBE).is_file()]
    return read(_of(kept, earlier[-1])) if earlier else None


def read(folder: Path) -> Material:
    """The material of a folder.

    Raises:
        RunError: a file is not what it should be.
        ChecksumError: a file is damaged.
    """
    for name in (RECORDS, HARMLESS, SPENT, PROBE):
        checksums.check_file(folder / name)
    return Material(
        tuple(read_records(folder / RECORDS)),
        tuple(read_answers(folder / HARMLESS)),
        Spending(folder).parts,
        _json(folder / PROBE),
    )


def keep(kept: Path, number: int, work: Path, found: Material, probe: dict[str, Any]) -> None:
    """Leave the material for later rounds, whole or not at all; the work folder stays as it is."""
    target = _of(kept, number)
    with writing(target, RunError), files.new_folder(target, replaces=True) as fresh:
        write_records(fresh / RECORDS, found.records)
        write_answers(fresh / HARMLESS, found.harmless)
        _write_costs(fresh / SPENT, found.spent)
        _write(fresh / PROBE, probe)
        write_text(fresh / checksums.LISTING, checksums.listing(fresh))


def seal(file: Path) -> None:
    """Note what a file of the work folder holds, so that damage is seen after an interruption.

    Raises:
        RunError: the note cannot be written.
    """
    try:
        files.seal(file)
    except OSError as error:
        raise RunError(f"cannot write beside {file}: {error.strerror}") from error


def read_answers(path: Path) -> list[HarmlessAnswer]:
    """Harmless answers of a file; see `storing.read_lines`."""
    return read_lines(path, HarmlessAnswer.from_json, "answer")


def write_answers(path: Path, answers: Sequence[HarmlessAnswer]) -> None:
    """Write harmless answers, a line each, whole or not at all.

    Raises:
        RunError: the file cannot be written.
    """
    write_lines(path, (answer.to_json() for answer in answers))


def _of(kept: Path, number: int) -> Path:
    return kept / f"{number:04d}"


def _json(path: Path) -> dict[str, Any]:
    """A JSON file; empty if there is none."""
    if not path.is_file():
        return {}
    try:
        value = files.parse_json(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is not JSON", hint="delete it to begin again") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is not a JSON object", hint="delete it to begin again")
    return value


def _costs(path: Path) -> dict[str, Cost]:
    """Costs by part, as `_write_costs` wrote them; none where there is no file."""
    value = _json(path)
    sha256 = value.pop(files.SEAL, None)
    if sha256 not in (None, _digest(value)):
        hint = "delete it: the account of costs begins again"
        raise ChecksumError(f"{path} is damaged: it is not what was written there", hint=hint)
    try:
        return {name: Cost.from_json(cost) for name, cost in value.items()}
    except (TypeError, AttributeError) as error:
        raise RunError(f"{path} holds no costs", hint="delete it to begin again") from error


def _write_costs(path: Path, costs: Mapping[str, Cost]) -> None:
    value = {name: cost.to_json() for name, cost in costs.items()}
    _write(path, {**value, files.SEAL: _digest(value)})


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _write(path: Path, value: Any) -> None:
    with writing(path, RunError):
        write_text(path, files.json_text(value))
