"""Datasets to examples: files, hub datasets and the embedded sets, every row checked.

A row has `messages` (several turns) or a prompt and a response. Errors name a bad row by file and
line, never by its text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedrai import assets
from fedrai.data import embedded
from fedrai.data.columns import RowColumns, find_columns, matches, printable_names
from fedrai.data.formats import SUFFIXES, Row, format_of, read_file
from fedrai.data.lists import FORMAT_HINT, NOT_JSON, NOT_OBJECT
from fedrai.data.opening import DEFAULT_OPTIONS, ENCODING_HINT, ReadOptions
from fedrai.data.pairs import pair_of
from fedrai.data.texts import (
    as_text,
    characters,
    check_order,
    is_conversation,
    request_of,
    turns_of,
    with_system,
)
from fedrai.errors import DataError, DependencyError
from fedrai.recipe.sections import Source
from fedrai.records import BadRow, Example, Message

EMBEDDED = "fedrai:"
DATASET_HINT = (
    "Name a file, a hub dataset (org/name), or an embedded set: "
    + ", ".join(f"{EMBEDDED}{name}" for name in embedded.DATASETS)
    + "."
)
SKIP = 'fix the rows, or set data.on_bad_rows = "skip"'


@dataclass(frozen=True, slots=True)
class Dataset:
    """The usable rows of a dataset, and its bad rows and unread columns.

    Attributes:
        examples: usable rows.
        bad_rows: rows that cannot be used.
        unread: columns that were not read although they may hold answers, with numbers of rows.
    """

    examples: tuple[Example, ...]
    bad_rows: tuple[BadRow, ...]
    unread: Mapping[str, int] = field(default_factory=dict)


def load(source: str | Source, bad_rows: str = "stop") -> Dataset:
    """Read one dataset.

    Args:
        source: the recipe's section, or its path alone: a file, hub dataset, asset or
            `fedrai:NAME`.
        bad_rows: "stop" raises on a bad row; "skip" leaves bad rows out and returns them.

    Raises:
        AssetError: it cannot be fetched.
        DataError: no such file or format, no usable row, or a bad row under "stop".
    """
    source = Source(path=source) if isinstance(source, str) else source
    good: list[Example] = []
    bad: list[BadRow] = []
    names: Counter[str] = Counter()
    unread: Counter[str] = Counter()
    for origin, row in rows(source.path, source.split, _read_options(source)):
        if isinstance(row, str):
            bad.append(BadRow(origin, row))
        elif matches(row, source.where):
            names.update(row.keys())
            try:
                example, other = _example(origin, row, source)
                good.append(example)
                unread.update(other)
            except ValueError as error:
                bad.append(BadRow(origin, str(error)))
    _check_rows(source, good, bad, names, stop=bad_rows == "stop")
    return Dataset(tuple(good), tuple(bad), dict(unread))


def _read_options(source: Source) -> ReadOptions:
    return ReadOptions(source.encoding, source.separator, source.max_row_mb, source.max_unpacked_mb)


def _example(origin: str, row: Row, source: Source) -> tuple[Example, tuple[str, ...]]:
    """A usable row, and its columns with answers that are not read.

    Raises:
        ValueError: a text is missing or cannot be read, or turns are in another order.
    """
    label = row.get(source.columns.label)
    text = "" if label is None else str(label)
    if source.rows == "pairs":
        chosen, rejected = (
            with_system(turns, source.system_turns) for turns in pair_of(row, source.columns)
        )
        return Example(chosen, origin, text, source.harmful, source.label, rejected), ()
    columns = find_columns(row, source.columns)
    messages = _pair(row, columns) if columns.messages is None else turns_of(row[columns.messages])
    check_order(messages)
    turns = with_system(messages, source.system_turns)
    return Example(turns, origin, text, source.harmful, source.label), columns.unread


def _check_rows(
    source: Source,
    good: Sequence[Example],
    bad: Sequence[BadRow],
    names: Mapping[str, int],
    *,
    stop: bool,
) -> None:
    """Raise if a bad row stops the loading, or no row is usable."""
    hints = _hints(bad, names, source)
    if bad and stop:
        raise DataError(summary(bad), hint="; or ".join([SKIP, *hints]))
    if not good:
        why = f"; {most_common_problem(bad)}" if bad else ""
        raise DataError(
            f"{source.path} holds no usable row{why}", hint="; or ".join(hints if bad else [])
        )


def encoding_hint(bad: Sequence[BadRow], *, is_whole: bool = False) -> str:
    """A hint for rows in another encoding, or a file in another format; else empty.

    Args:
        bad: rows that could not be read.
        is_whole: whether these are all rows of a file.
    """
    if any(row.problem == "not UTF-8" for row in bad):
        return ENCODING_HINT
    formless = all(row.problem.startswith((NOT_JSON, NOT_OBJECT)) for row in bad)
    return FORMAT_HINT if is_whole and formless else ""


def summary(bad: Sequence[BadRow]) -> str:
    """The first bad rows, and the number of others."""
    first = "; ".join(f"{row.origin}: {row.problem}" for row in bad[:3])
    return first + (f"; and {len(bad) - 3} more bad rows" if len(bad) > 3 else "")


def most_common_problem(bad: Sequence[BadRow]) -> str:
    """The first row with the most common problem, and the number of rows with it."""
    problem, count = Counter(row.problem for row in bad).most_common(1)[0]
    first = next(row for row in bad if row.problem == problem)
    others = f" ({count:,} of {len(bad):,} bad rows)" if len(bad) > 1 else ""
    return f"{first.origin}: {problem}{others}"


def _hints(bad: Sequence[BadRow], counts: Mapping[str, int], source: Source) -> list[str]:
    """Hints for bad rows: the encoding, the format, or the columns of the file."""
    columns = source.columns
    if hint := encoding_hint(bad, is_whole=not counts):
        return [hint]
    pair = {columns.prompt, columns.response}
    if source.rows == "pairs":
        pair = {columns.chosen, columns.rejected}
    names = printable_names(counts)
    if columns.messages in counts or pair <= counts.keys() or not names:
        return []
    return [f"set data.sources.columns; the columns are {names}"]


def rows(
    spec: str, split: str = "train", options: ReadOptions = DEFAULT_OPTIONS
) -> Iterator[tuple[str, Row | str]]:
    """The rows of a dataset, unchanged.

    Args:
        spec: file, hub dataset, asset, or `fedrai:NAME`.
        split: split of a hub dataset.
        options: encoding, separator and limits of a file.

    Yields:
        (origin, row); for a row that cannot be parsed, the problem as a string in its place.

    Raises:
        DataError: no such file or format, or the file as a whole cannot be read.
    """
    if spec.startswith(EMBEDDED):
        yield from embedded.rows(spec.removeprefix(EMBEDDED))
        return
    if _names_hub_dataset(spec):
        yield from _hub(spec, split, options)
        return
    path = assets.fetch(spec, instead=DATASET_HINT)
    if path.is_dir():
        raise DataError(
            f"{spec} is a folder; expected a file", hint=f"formats: {', '.join(SUFFIXES)}"
        )
    yield from read_file(path, options)


def is_local(spec: str) -> bool:
    """Whether a spec names a file on this machine."""
    if spec.startswith(EMBEDDED) or spec in assets.CATALOGUE or _names_hub_dataset(spec):
        return False
    return assets.parse(spec).scheme == "path"


def _names_hub_dataset(spec: str) -> bool:
    local = Path(spec).expanduser()
    whole = spec.startswith("hf:datasets/") and spec.count("/") == 2
    bare = spec.count("/") == 1 and ":" not in spec and format_of(local) not in SUFFIXES
    return whole or (bare and not local.exists() and not spec.startswith((".", "~", "/")))


def _hub(spec: str, split: str, options: ReadOptions) -> Iterator[tuple[str, Row | str]]:
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
        long = characters(row) > options.row_bytes
        yield f"{name}, row {number}", options.too_long if long else row


def _pair(row: Row, columns: RowColumns) -> tuple[Message, ...]:
    """Request and answer; either may be a list of turns, as in TRL."""
    prompt, response = columns.prompt or "", columns.response or ""
    request, answer = row.get(prompt), row.get(response)
    before = turns_of(request) if _is_list(request) else request_of(row, prompt, columns.context)
    if _is_list(answer):
        return (*before, *turns_of(answer))
    return (*before, Message("assistant", as_text(answer, response)))


def _is_list(value: object) -> bool:
    """Whether a value is a list of turns, and not one as text."""
    return not isinstance(value, str) and is_conversation(value)
