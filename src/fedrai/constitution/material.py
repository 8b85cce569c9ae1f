"""The revisions and harmless answers of an alignment, new or reused from an earlier round.

They are written to the work folder chunk by chunk, so that an interruption loses at most one chunk.
When the alignment is done they are copied to the folder of its round, where later rounds read them.

    mined.jsonl      verdicts on the brief answers of mining; in the work folder only
    records.jsonl    critique and revision (`storing`)
    harmless.jsonl   harmless answers
    spent.json       their cost (`spending`)
    probe.json       the probe after the alignment
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrai.assets import checksums
from fedrai.constitution.harmless import HarmlessAnswer
from fedrai.constitution.records import RevisionRecord
from fedrai.constitution.spending import (
    SPENT,
    Spending,
    read_object,
    write_costs,
    write_object,
)
from fedrai.constitution.storing import Storable, read_records, write_records
from fedrai.errors import RunError
from fedrai.runs import files
from fedrai.runs.costs import Cost
from fedrai.runs.files import write_text, writing

RECORDS, HARMLESS, PROBE = "records.jsonl", "harmless.jsonl", "probe.json"
MINED = "mined.jsonl"


@dataclass(frozen=True, slots=True)
class Material:
    """Revisions and harmless answers of one round.

    Attributes:
        records: results of critique and revision.
        harmless: answers to harmless requests.
        spent: their cost by part ("mining", "revisions", "harmless").
        probe: figures of the probe after the alignment; empty before it.
        mining: counts of mining by side, as `mining.taken_requests` gives them; empty without it,
            and in stored material, which is not reused with it.
    """

    records: tuple[RevisionRecord, ...]
    harmless: tuple[HarmlessAnswer, ...]
    spent: dict[str, Cost] = field(default_factory=dict)
    probe: dict[str, Any] = field(default_factory=dict)
    mining: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def last_before(archive: Path, number: int) -> Material | None:
    """The material of the latest earlier round with an alignment, if there is one."""
    rounds = sorted(int(f.name) for f in archive.glob("[0-9]*") if f.is_dir() and f.name.isdigit())
    earlier = [n for n in rounds if n < number and (_round_folder(archive, n) / PROBE).is_file()]
    return read(_round_folder(archive, earlier[-1])) if earlier else None


def read(folder: Path) -> Material:
    """The material of a folder.

    Raises:
        RunError: a file cannot be read.
        ChecksumError: a file is damaged.
    """
    for name in (RECORDS, HARMLESS, SPENT, PROBE):
        checksums.check_file(folder / name)
    return Material(
        tuple(read_records(folder / RECORDS, RevisionRecord)),
        tuple(read_records(folder / HARMLESS, HarmlessAnswer)),
        Spending(folder).parts,
        read_object(folder / PROBE),
    )


def store(archive: Path, number: int, material: Material, probe: Mapping[str, Any]) -> None:
    """Store material for later rounds, whole or not at all.

    Args:
        archive: folder of all rounds.
        number: round number, from 1.
        material: revisions, answers and their costs.
        probe: figures of the probe after the alignment.

    Raises:
        RunError: a file cannot be written.
    """
    target = _round_folder(archive, number)
    with writing(target, RunError), files.new_folder(target, replaces=True) as fresh:
        write_records(fresh / RECORDS, material.records)
        write_records(fresh / HARMLESS, material.harmless)
        write_costs(fresh / SPENT, material.spent)
        write_object(fresh / PROBE, probe)
        write_text(fresh / checksums.LISTING, checksums.listing(fresh))


def write_sealed(file: Path, records: Iterable[Storable]) -> None:
    """Write records and a checksum beside them, so that damage is seen after an interruption.

    Raises:
        RunError: the file or its checksum cannot be written.
    """
    write_records(file, records)
    with writing(file, RunError):
        files.seal(file)


def _round_folder(archive: Path, number: int) -> Path:
    return archive / f"{number:04d}"
