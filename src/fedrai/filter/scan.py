"""Scan any dataset for unsafe rows, and write a copy without them.

    rows -> every answer judged (or the last request) -> tables by category and by source
                                                      -> a copy: drop, replace or flag

With a verdict cache a stopped scan resumes: texts with a cached verdict are not judged again. The
result holds numbers, the guard's name and the names of categories and sources; the copy holds the
rows.
"""

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from datetime import time as time_of_day
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from fedrai.data import encodable
from fedrai.errors import DataError
from fedrai.filter.ledger import CATEGORIES, PROBLEMS
from fedrai.filter.rows import Finding, answers, category_of, find, refusal_at
from fedrai.filter.scanned_pairs import PairScan, pair_scan, swapped_columns
from fedrai.guards.base import Guard, OnProgress, Part, full_name
from fedrai.guards.cache import VerdictCache
from fedrai.guards.rows import GuardRow
from fedrai.rates import Rate, rate, rate_json
from fedrai.records import Verdict
from fedrai.runs.files import new_file, writing

CopyMode = Literal["drop", "replace", "flag", "swap"]
NAMES = 100  # rows of a table; the rarest names beyond that stand together
NAME_CHARACTERS = 60  # a longer "category" is not a name
MORE, LONG, NONE = "(more)", "(too long)", "(none)"
TELLING = 20  # characters from which an answer within another text is a copy of it


@dataclass(frozen=True, slots=True)
class ScanResult:
    """The figures of a scan.

    Attributes:
        guard: `name@revision`.
        threshold: probability from which a row is unsafe.
        part: what the guard read.
        rows: rows that were judged.
        bad_rows: rows without anything that the guard could read; they are in no other figure.
        unsafe: unsafe rows among the scored ones.
        unscored: rows without a probability, by problem.
        by_category: unsafe rows by the dataset's own category.
        by_source: unsafe rows by source.
        found: unsafe rows by the guard's likeliest category, in our names.
        tokens: tokens that went through the guard now.
        operations: floating-point operations of the guard now.
        seconds: wall time.
        findings: one for every row, bad rows too, in their order; not in `to_json`.
        rejected: those on the rejected answers of pairs, None for rows that are none; likewise.
        pairs: figures of the preference pairs; None: there are none.
    """

    guard: str
    threshold: float
    part: Part
    rows: int
    bad_rows: int
    unsafe: Rate
    unscored: Mapping[str, int]
    by_category: Mapping[str, Rate]
    by_source: Mapping[str, Rate]
    found: Mapping[str, int]
    tokens: int
    operations: float
    seconds: float
    findings: tuple[Finding, ...] = field(repr=False)
    rejected: tuple[Finding | None, ...] = field(default=(), repr=False)
    pairs: PairScan | None = None

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The worst verdict of every row, bad rows too, in their order."""
        return tuple(finding.worst for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Plain values, rates with their 95 % Wilson intervals; no text of a row."""
        names = ("guard", "threshold", "part", "rows", "bad_rows", "tokens", "operations",
                 "seconds")  # fmt: skip
        return {
            **{name: getattr(self, name) for name in names},
            "unsafe": rate_json(self.unsafe),
            "unscored": dict(self.unscored),
            "by_category": {name: rate_json(r) for name, r in self.by_category.items()},
            "by_source": {name: rate_json(r) for name, r in self.by_source.items()},
            "found": dict(self.found),
            **({"pairs": self.pairs.to_json()} if self.pairs else {}),
        }


def scan(
    rows: Iterable[GuardRow],
    guard: Guard,
    *,
    threshold: float,
    part: Part = "pair",
    cache: VerdictCache | None = None,
    on_progress: OnProgress = lambda _done, _of: None,
) -> ScanResult:
    """Judge a dataset: every answer of a row, and its last request if that has no answer.

    Of a preference pair both answers are judged; the row is as unsafe as the chosen one.

    Args:
        rows: what to scan.
        guard: the guard.
        threshold: probability from which a row is unsafe.
        part: what the guard reads; see `guards.base.part_of`.
        cache: verdicts of earlier times; with it a stopped scan can be resumed.
        on_progress: called with (texts judged, of how many different ones).

    Raises:
        GuardError: the guard as a whole cannot work.
    """
    started = time.perf_counter()
    rows = tuple(rows)
    twins = [row for row in rows if row.rejected]
    talks = [row.conversation for row in rows] + [row.rejected for row in twins]
    firsts = [row.first for row in (*rows, *twins)]
    every, cost = find(talks, guard, part, threshold, cache, on_progress, firsts)
    findings, others = every[: len(rows)], iter(every[len(rows) :])
    rejected = tuple(next(others) if row.rejected else None for row in rows)
    pairs = zip(rows, findings, strict=True)
    good = [(row, finding) for row, finding in pairs if answers(row.conversation, part)]
    unscored = Counter(finding.worst.problem for _, finding in good)
    categories = Counter(category_of(finding.worst) for _, finding in good if finding.unsafe)
    return ScanResult(
        guard=full_name(guard),
        threshold=threshold,
        part=part,
        rows=len(good),
        bad_rows=len(rows) - len(good),
        unsafe=rate(finding.is_unsafe for _, finding in good),
        unscored={problem: unscored[problem] for problem in PROBLEMS},
        by_category=_table([(row.category, row, finding) for row, finding in good]),
        by_source=_table([(row.source, row, finding) for row, finding in good]),
        found={name: categories[name] for name in CATEGORIES if categories[name]},
        tokens=cost.tokens,
        operations=cost.operations,
        seconds=time.perf_counter() - started,
        findings=tuple(findings),
        rejected=rejected,
        pairs=pair_scan(findings, rejected),
    )


def _table(rows: Sequence[tuple[str, GuardRow, Finding]]) -> dict[str, Rate]:
    """Rates by name, the most frequent first; what may be text and no name is not shown."""
    results = [(_name(name, row), finding.is_unsafe) for name, row, finding in rows]
    sizes = Counter(name for name, _ in results)
    order = sorted(sizes, key=lambda name: (-sizes[name], name))
    groups: dict[str, list[bool | None]] = {}
    for name, unsafe in results:
        groups.setdefault(name if name in order[:NAMES] else MORE, []).append(unsafe)
    return {name: rate(groups[name]) for name in [*order[:NAMES], MORE] if name in groups}


def _name(name: str, row: GuardRow) -> str:
    texts = {message.content.strip() for message in row.conversation}
    plain = name.strip()
    return NONE if not plain else LONG if len(plain) > NAME_CHARACTERS or plain in texts else plain


# --- copies ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CopyCounts:
    """What a filtered copy holds: `written` rows, `replaced` ones among them, without `dropped`.

    In the mode "swap", `replaced` are the pairs whose answers changed places.

    Rows that could not be read are in neither.
    """

    written: int
    dropped: int
    replaced: int


def write_copy(
    rows: Iterable[GuardRow],
    findings: Sequence[Finding],
    path: Path,
    mode: CopyMode = "drop",
    *,
    unscored: Literal["drop", "keep"] = "drop",
    rejected: Sequence[Finding | None] = (),
) -> CopyCounts:
    """Write the rows with their columns as they were, whole or not at all.

    A path that ends with `.csv` gets a CSV, with lists and tables as JSON in their fields and
    nothing where a row lacks a column; any other JSON Lines.

    "drop" leaves unsafe rows out. "replace" puts a refusal in the place of each unsafe answer; a
    row leaves if that answer is not found in its columns, or would still stand elsewhere in them.
    "swap" exchanges the answers of a pair whose chosen one is unsafe and whose rejected one is
    safe; other unsafe rows leave.
    "flag" keeps every row and adds `fedrai_unsafe` (null: not scored), `fedrai_probability` and
    `fedrai_categories`. Unscored and bad rows leave unless `unscored` is "keep".

    Args:
        rows: the rows that were scanned.
        findings: `ScanResult.findings`.
        path: the file.
        mode: what to do with unsafe rows.
        unscored: what to do with rows that are neither safe nor unsafe; not for "flag".
        rejected: `ScanResult.rejected`; empty: no row is a pair.

    Raises:
        DataError: a column holds a value that JSON cannot hold, or the file cannot be written.
    """
    copies: list[dict[str, Any]] = []
    count = replaced = 0
    for row, finding, other in zip(rows, findings, rejected or repeat(None), strict=False):
        count += 1
        raw = _plain(row.raw, row.origin)
        if mode == "flag":
            raw = raw | _flags(finding, other)
        elif finding.unscored and unscored == "drop":
            continue
        elif finding.unsafe:
            copy = _mended(raw, row, finding, other, mode)
            if copy is None:
                continue
            raw, replaced = copy, replaced + 1
        copies.append(raw)
    _write(path, _csv(copies) if path.suffix.lower() == ".csv" else map(_json, copies))
    return CopyCounts(len(copies), count - len(copies), replaced)


def _json(raw: Mapping[str, Any]) -> str:
    return json.dumps(raw, ensure_ascii=not encodable(raw), allow_nan=False)


def _csv(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The lines of a CSV with every column that a row has, in the order in which they come."""
    names = list(dict.fromkeys(name for raw in rows for name in raw))
    yield _fields(names)
    for raw in rows:
        yield _fields([_field(raw.get(name)) for name in names])


def _fields(values: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="").writerow(values)
    return text.getvalue()


def _field(value: Any) -> str:
    """A value as a field; nothing for None, JSON for what is neither text nor number."""
    if value is None:
        return ""
    if isinstance(value, str) and encodable(value):
        return value
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if plain else json.dumps(value, ensure_ascii=not encodable(value))


def _mended(
    raw: dict[str, Any], row: GuardRow, finding: Finding, other: Finding | None, mode: CopyMode
) -> dict[str, Any] | None:
    """An unsafe row as the copy holds it; None: it leaves."""
    if mode == "swap":
        return swapped_columns(raw, row, other)
    return _with_refusals(raw, row, finding) if mode == "replace" else None


def _flags(finding: Finding, other: Finding | None) -> dict[str, Any]:
    flags = {
        "fedrai_unsafe": finding.is_unsafe,
        "fedrai_probability": finding.worst.probability,
        "fedrai_categories": list(finding.worst.categories),
    }
    return flags if other is None else {**flags, "fedrai_rejected_unsafe": other.is_unsafe}


def _with_refusals(raw: dict[str, Any], row: GuardRow, finding: Finding) -> dict[str, Any] | None:
    """The row with a refusal for each unsafe answer; None if such an answer stays in it."""
    for turn, verdict in finding.unsafe:
        message = row.conversation[turn]
        answer = message.content.strip()
        if message.role != "assistant" or not answer:
            return None
        swapped = _swap(raw, answer, refusal_at(row.conversation, turn, verdict, None, seed=0))
        if swapped == raw or _holds(swapped, _forms(answer)):
            return None
        raw = swapped
    return raw


def _swap(value: Any, answer: str, reply: str) -> Any:
    """`value` with `reply` for each text that is `answer`, also within JSON in a text."""
    if isinstance(value, dict):
        return {key: _swap(v, answer, reply) for key, v in value.items()}
    if isinstance(value, list):
        return [_swap(v, answer, reply) for v in value]
    if not isinstance(value, str):
        return value
    if value.strip() == answer:
        return reply
    if value.lstrip().startswith(("[", "{")):  # CSV holds messages as JSON
        try:
            inner = json.loads(value)
        except (ValueError, RecursionError):
            return value
        swapped = _swap(inner, answer, reply)
        return value if swapped == inner else json.dumps(swapped, ensure_ascii=False)
    return value


def _forms(answer: str) -> set[str]:
    """How an answer looks within another text: plain, or escaped in JSON; none if too short."""
    escaped = {json.dumps(answer, ensure_ascii=only)[1:-1] for only in (True, False)}
    return {answer, *escaped} if len(answer) >= TELLING else set()


def _holds(value: Any, forms: set[str]) -> bool:
    """Whether a text in `value` still has the answer in it."""
    if isinstance(value, dict):
        return any(_holds(v, forms) for v in value.values())
    if isinstance(value, list):
        return any(_holds(v, forms) for v in value)
    return isinstance(value, str) and any(form in value for form in forms)


def _plain(value: Any, origin: str) -> Any:
    """The value as JSON holds it: numbers that are not finite become null, times ISO 8601."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v, origin) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v, origin) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, date | datetime | time_of_day):
        return value.isoformat()
    raise DataError(
        f"{origin}: a column holds {type(value).__name__}, which JSON cannot hold",
        hint="leave that column out of the file that is scanned",
    )


def _write(path: Path, lines: Iterable[str]) -> None:
    """Write lines whole or not at all."""
    with writing(path, DataError, "name another file, or free disk space"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            new_file(path, shared=True) as fresh,
            fresh.open("w", encoding="utf-8", newline="") as file,
        ):
            file.writelines(f"{line}\n" for line in lines)
