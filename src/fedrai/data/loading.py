"""Datasets to examples: files, hub datasets and the embedded sets, every row checked.

A row is `messages` (several turns) or prompt and response. A bad row is named by file and line,
never by its text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedrai import assets
from fedrai.data import embedded
from fedrai.data.columns import Cell, RowColumns, find_columns, matches, printable_names
from fedrai.data.formats import SUFFIXES, Row, format_of, read_file
from fedrai.data.lists import FORMAT_HINT, NOT_JSON, NOT_OBJECT
from fedrai.data.opening import DEFAULT_OPTIONS, ENCODING_HINT, ReadOptions
from fedrai.data.texts import (
    SystemTurns,
    as_text,
    characters,
    check_order,
    is_conversation,
    turns_of,
    with_system,
)
from fedrai.errors import DataError, DependencyError
from fedrai.recipe.sections import Columns, Source
from fedrai.records import BadRow, Example, Message

EMBEDDED = "fedrai:"
DATASET_HINT = (
    "Name a file, a hub dataset (org/name), or a set that comes along: "
    + ", ".join(f"{EMBEDDED}{name}" for name in embedded.DATASETS)
    + "."
)
SKIP = 'mend the rows, or set data.on_bad_rows = "skip"'


@dataclass(frozen=True, slots=True)
class Dataset:
    """What a dataset gave: its usable rows, and what could not be used or was not read.

    Attributes:
        examples: usable rows.
        bad_rows: the others.
        unread: columns with texts that could be answers too and were not read, in how many rows.
    """

    examples: tuple[Example, ...]
    bad_rows: tuple[BadRow, ...]
    unread: Mapping[str, int] = field(default_factory=dict)


def load(
    spec: str,
    *,
    columns: Columns | None = None,
    harmful: bool = False,
    split: str = "train",
    where: Mapping[str, Cell] | None = None,
    bad_rows: str = "stop",
    reading: ReadOptions = DEFAULT_OPTIONS,
    system_turns: SystemTurns = "keep",
) -> Dataset:
    """Read one dataset.

    Args:
        spec: file, hub dataset, asset, or `fedrai:NAME`.
        columns: names of the columns.
        harmful: whether the source is declared harmful.
        split: split of a hub dataset.
        where: only rows whose columns have these values (see `columns.cell_equals`).
        bad_rows: "stop" raises on a bad row, "skip" leaves bad rows out and returns them.
        reading: encoding, separator and limits of a file.
        system_turns: whether a system turn stays, is put before the first request, or goes.

    Raises:
        DataError: no such file or format, no rows, or a bad row under "stop".
    """
    names = columns or Columns()
    good: list[Example] = []
    bad: list[BadRow] = []
    seen: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    for origin, row in rows(spec, split, reading):
        if isinstance(row, str):
            bad.append(BadRow(origin, row))
            continue
        if not matches(row, where or {}):
            continue
        seen.update(row.keys())
        try:
            places = find_columns(row, names)
            messages = with_system(_messages(row, places), system_turns)
        except ValueError as error:
            bad.append(BadRow(origin, str(error)))
            continue
        label = row.get(names.label)
        good.append(Example(messages, origin, "" if label is None else str(label), harmful))
        unread.update(places.unread)
    if bad and bad_rows == "stop":
        raise DataError(summary(bad), hint="; or ".join([SKIP, *_hints(bad, seen, names)]))
    if bad and not good:
        raise DataError(
            f"{spec} holds no usable row; {most_common_problem(bad)}",
            hint="; or ".join(_hints(bad, seen, names)),
        )
    if not good:
        raise DataError(f"{spec} holds no usable row")
    return Dataset(tuple(good), tuple(bad), dict(unread))


def load_source(source: Source, bad_rows: str) -> Dataset:
    """Read one dataset as a recipe names it.

    Args:
        source: the recipe's section.
        bad_rows: `stop` or `skip`.

    Raises:
        AssetError, DataError: it cannot be had or used.
    """
    return load(
        source.path,
        columns=source.columns,
        harmful=source.harmful,
        split=source.split,
        where=source.where,
        bad_rows=bad_rows,
        reading=ReadOptions(
            encoding=source.encoding,
            separator=source.separator,
            max_row_mb=source.max_row_mb,
            max_unpacked_mb=source.max_unpacked_mb,
        ),
        system_turns=source.system_turns,
    )


def encoding_hint(bad: Sequence[BadRow], *, is_whole: bool = False) -> str:
    """What helps where rows are in another encoding, or a file in another format; else empty.

    Args:
        bad: rows that could not be read.
        is_whole: whether these are all rows of a file.
    """
    if any(row.problem == "not UTF-8" for row in bad):
        return ENCODING_HINT
    formless = all(row.problem.startswith((NOT_JSON, NOT_OBJECT)) for row in bad)
    return FORMAT_HINT if is_whole and formless else ""


def summary(bad: Sequence[BadRow]) -> str:
    """The first bad rows, and how many more there are."""
    named = "; ".join(f"{row.origin}: {row.problem}" for row in bad[:3])
    return named + (f"; and {len(bad) - 3} more bad rows" if len(bad) > 3 else "")


def most_common_problem(bad: Sequence[BadRow]) -> str:
    """The first row with the commonest problem, and how many have it."""
    problem, count = Counter(row.problem for row in bad).most_common(1)[0]
    first = next(row for row in bad if row.problem == problem)
    others = f" ({count:,} of {len(bad):,} bad rows)" if len(bad) > 1 else ""
    return f"{first.origin}: {problem}{others}"


def _hints(bad: Sequence[BadRow], seen: Mapping[str, int], columns: Columns) -> list[str]:
    """What else may help: the encoding, the format, or the columns of the file."""
    if hint := encoding_hint(bad, is_whole=not seen):
        return [hint]
    pair = {columns.prompt, columns.response}
    names = printable_names(seen)
    if columns.messages in seen or pair <= seen.keys() or not names:
        return []
    return [f"name those to read in data.sources.columns; the columns are {names}"]


def rows(
    spec: str, split: str = "train", reading: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[tuple[str, Row | str]]:
    """The rows of a dataset as they are.

    Args:
        spec: file, hub dataset, asset, or `fedrai:NAME`.
        split: split of a hub dataset.
        reading: encoding, separator and limits of a file.

    Yields:
        (origin, row); a row that cannot even be parsed comes as a string: what is wrong with it.

    Raises:
        DataError: no such file or format, or it cannot be read as a whole.
    """
    if spec.startswith(EMBEDDED):
        yield from embedded.rows(spec.removeprefix(EMBEDDED))
        return
    if _names_hub_dataset(spec):
        yield from _hub(spec, split, reading)
        return
    path = assets.fetch(spec, instead=DATASET_HINT)
    if path.is_dir():
        raise DataError(
            f"{spec} is a folder; expected a file", hint=f"formats: {', '.join(SUFFIXES)}"
        )
    yield from read_file(path, reading)


def is_local(spec: str) -> bool:
    """Whether a spec names a file on this machine."""
    known = spec.startswith(EMBEDDED) or spec in assets.CATALOGUE or _names_hub_dataset(spec)
    return not known and assets.parse(spec).scheme == "path"


def _names_hub_dataset(spec: str) -> bool:
    local = Path(spec).expanduser()
    whole = spec.startswith("hf:datasets/") and spec.count("/") == 2
    bare = spec.count("/") == 1 and ":" not in spec and format_of(local) not in SUFFIXES
    return whole or (bare and not local.exists() and not spec.startswith((".", "~", "/")))


def _hub(spec: str, split: str, reading: ReadOptions) -> Iterator[tuple[str, Row | str]]:
    try:
        import datasets
    except ImportError as error:
        raise DependencyError(
            f"the hub dataset {spec} needs the package datasets", hint="pip install 'fedrai[data]'"
        ) from error
    name, _, revision = spec.removeprefix("hf:datasets/").partition("@")
    try:
        rows = datasets.load_dataset(name, revision=revision or None, split=split)
    except Exception as error:
        raise DataError(
            f"cannot load the hub dataset {name} ({type(error).__name__})",
            hint=f"check the name, split {split!r}, the network, HF_TOKEN; or name a local file",
        ) from error
    for number, row in enumerate(rows, 1):
        long = characters(row) > reading.row_bytes
        yield f"{name}, row {number}", reading.too_long if long else row


def _messages(row: Row, places: RowColumns) -> tuple[Message, ...]:
    """The conversation of a row, in the order that a training takes.

    Raises:
        ValueError: a text is missing or cannot be read, or turns are in another order.
    """
    talk = places.messages
    messages = _pair(row, places) if talk is None else turns_of(row[talk])
    check_order(messages)
    return messages


def _pair(row: Row, places: RowColumns) -> tuple[Message, ...]:
    """Request and answer; either may be a list of turns, as TRL has them."""
    asked, answered = places.prompt or "", places.response or ""
    request, answer = row.get(asked), row.get(answered)
    before = turns_of(request) if _listed(request) else (_user(row, asked, places.context),)
    if _listed(answer):
        return (*before, *turns_of(answer))
    return (*before, Message("assistant", as_text(answer, answered)))


def _listed(value: object) -> bool:
    return not isinstance(value, str) and is_conversation(value)


def _user(row: Row, prompt: str, context: str | None) -> Message:
    text = as_text(row.get(prompt), prompt)
    more = as_text(row.get(context), context, blank=True) if context else ""
    return Message("user", f"{text}\n\n{more}" if more.strip() else text)
