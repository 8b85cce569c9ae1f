"""Rows to judge, labelled or not.

A guard is shown more kinds of rows than a training takes: a request without an answer, a single
text, turns in any order, blank texts (the guard says "empty"). A row that cannot be read is counted
and named by file and line; it stops nothing, unless no row of its dataset can be read.

No answer is passed over without a word. What stands under a usual name of answers is read as the
answer if there is none in `response`; a row with several such answers cannot be read until one is
named; and columns with text that is not judged are counted in `Rows.not_judged()`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from fedrai import data
from fedrai.data.columns import Cell, matches
from fedrai.errors import DataError
from fedrai.guards.columns import answers_of, described, holds_text, shown
from fedrai.guards.labels import Labels, check_labels, truth_of
from fedrai.records import BadRow, Message

Column = Literal["messages", "prompt", "response", "text", "category"]

LONGEST_CATEGORY = 60  # characters; a longer value is a text, as is one that stands in a turn
TEXT = "(a text)"


@dataclass(frozen=True, slots=True)
class RowColumns:
    """Where a row's texts stand: turns, or request and answer, or one text.

    A dataset that lacks a renamed column may have the usual one, so that datasets can be mixed.
    What is renamed goes before what is not: with `text="answer"`, a request beside it is not read.
    An answer whose column is not renamed may have any of the names in `columns.ANSWERS`; it also
    ends turns that stop at a request.
    """

    messages: str = "messages"
    prompt: str = "prompt"
    response: str = "response"
    text: str = "text"
    category: str = "category"

    def renamed(self) -> tuple[str, ...]:
        """The names that are not the usual ones."""
        names = (self.messages, self.prompt, self.response, self.text, self.category)
        usual = ("messages", "prompt", "response", "text", "category")
        return tuple(name for name, old in zip(names, usual, strict=True) if name != old)

    def find(self, column: Column, raw: Mapping[str, Any]) -> str | None:
        """The name of a column in a row; None if it is not there."""
        named = cast(str, getattr(self, column))
        return next((name for name in (named, column) if name in raw), None)


@dataclass(frozen=True, slots=True)
class GuardRow:
    """One row to judge.

    Attributes:
        conversation: its turns; no message, or blank ones, where it has no text.
        origin: where the row stands; safe to print.
        source: short name of its dataset.
        category: value of the category column; empty if none.
        unsafe: the label; None where the row has none.
        raw: the row as it was read.
        not_judged: columns with text that is not in the conversation, as they may be printed.
    """

    conversation: tuple[Message, ...]
    origin: str
    source: str
    category: str
    unsafe: bool | None
    raw: Mapping[str, Any]
    not_judged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rows:
    """What datasets gave: rows in their order, and rows that could not be read."""

    rows: tuple[GuardRow, ...]
    bad_rows: tuple[BadRow, ...] = ()

    def not_judged(self) -> dict[str, int]:
        """Columns with text that no guard is shown, as they may be printed, and in how many rows.

        Columns of labels, of the category and of `where` are not among them.
        """
        return dict(Counter(name for row in self.rows for name in row.not_judged).most_common())


@dataclass(frozen=True, slots=True)
class LabelledSource:
    """One dataset, and where its truth stands.

    Attributes:
        spec: file (JSONL, JSON, CSV, also gzipped; Parquet), hub dataset, asset, `fedrai:NAME`.
        labels: how to tell whether a row is unsafe; without, rows have no label.
    """

    spec: str
    labels: Labels = field(default_factory=Labels)


def read(
    spec: str,
    *,
    columns: RowColumns = RowColumns(),
    labels: Labels | None = None,
    split: str = "train",
    where: Mapping[str, Cell] | None = None,
) -> Rows:
    """Read one dataset; see `read_all`."""
    return read_all(
        [LabelledSource(spec, labels or Labels())], columns=columns, split=split, where=where
    )


def read_all(
    sources: Sequence[LabelledSource],
    *,
    columns: RowColumns = RowColumns(),
    split: str = "train",
    where: Mapping[str, Cell] | None = None,
    reading: data.ReadOptions = data.DEFAULT_OPTIONS,
) -> Rows:
    """Read datasets in their order.

    Args:
        sources: the datasets; those whose files have one name are told apart by their whole spec.
        columns: names of the columns.
        split: split of hub datasets.
        where: only rows whose columns have these values.
        reading: encoding, separator and limits of files.

    Raises:
        DataError: no such file or format, a dataset without a row that can be read, a column that
            is named but stands in no row, or a label column that says which rows are *safe*.
    """
    for source in sources:
        check_labels(source.labels)
    specs = dict.fromkeys(source.spec for source in sources)
    count = Counter(map(name_of, specs))
    seen: set[str] = set()
    good: list[GuardRow] = []
    bad: list[BadRow] = []
    for source in sources:
        name = name_of(source.spec) if count[name_of(source.spec)] == 1 else source.spec
        found = _read(source, name, columns, split, where or {}, seen, reading)
        good += found.rows
        bad += found.bad_rows
        if not found.rows:
            _check_columns(name, seen, [*columns.renamed(), *(where or {})])
            raise _nothing(name, found.bad_rows)
    labelled = [name for source in sources for name in source.labels.names()]
    named = name_of(sources[0].spec) if len(sources) == 1 else "the datasets"
    _check_columns(named, seen, [*columns.renamed(), *labelled, *(where or {})])
    return Rows(tuple(good), tuple(bad))


def from_memory(
    rows: Iterable[Mapping[str, Any]],
    *,
    columns: RowColumns = RowColumns(),
    labels: Labels | None = None,
    name: str = "rows",
) -> Rows:
    """Rows that are in memory, read as those of a file are.

    Args:
        rows: their columns by name.
        columns: names of the columns.
        labels: how to tell whether a row is unsafe; None: rows have no label.
        name: of the dataset; a row is named by it and its number, from 1.

    Raises:
        DataError: there is no row that can be read.
    """
    good: list[GuardRow] = []
    bad: list[BadRow] = []
    for number, raw in enumerate(rows, 1):
        origin = f"{name}, row {number}"
        try:
            good.append(_row(raw, origin, name, columns, labels or Labels(), ()))
        except ValueError as error:
            bad.append(BadRow(origin, str(error)))
    if not good:
        raise _nothing(name, bad)
    return Rows(tuple(good), tuple(bad))


def name_of(spec: str) -> str:
    """Short name of a dataset: a file's own name, else the spec without its scheme."""
    if data.is_local(spec):
        return Path(spec).name
    return spec.removeprefix("hf:").removeprefix("datasets/").partition("#")[0]


def _read(
    source: LabelledSource,
    name: str,
    columns: RowColumns,
    split: str,
    where: Mapping[str, Cell],
    seen: set[str],
    reading: data.ReadOptions,
) -> Rows:
    """The rows of one dataset; adds the names of its columns to `seen`."""
    good: list[GuardRow] = []
    bad: list[BadRow] = []
    for origin, raw in data.rows(source.spec, split, reading):
        if isinstance(raw, str):
            bad.append(BadRow(origin, raw))
            continue
        seen.update(raw)
        if not matches(raw, where):
            continue
        try:
            good.append(_row(raw, origin, name, columns, source.labels, where))
        except ValueError as error:
            bad.append(BadRow(origin, str(error)))
    return Rows(tuple(good), tuple(bad))


def _row(
    raw: Mapping[str, Any],
    origin: str,
    source: str,
    columns: RowColumns,
    labels: Labels,
    where: Iterable[str],
) -> GuardRow:
    named = columns.find("category", raw)
    other = {*labels.names(), *where, *([named] if named else [])}
    conversation, read = _conversation(raw, columns, other)
    category = _category(raw.get(named or ""))
    if category and any(category == message.content.strip() for message in conversation):
        category = TEXT
    if category == TEXT and named:
        other.discard(named)
    left = [n for n in raw if n not in {*other, *read} and _is_left(raw[n], conversation)]
    truth = truth_of(raw, labels)
    return GuardRow(conversation, origin, source, category, truth, raw, tuple(shown(left, raw)))


def _is_left(value: object, conversation: Sequence[Message]) -> bool:
    """Whether a cell holds text that is not one of the turns."""
    said = isinstance(value, str) and value.strip() in {m.content.strip() for m in conversation}
    return not said and holds_text(value)


Read = tuple[tuple[Message, ...], tuple[str, ...]]
"""A conversation, and the columns that it was read from."""


def _conversation(raw: Mapping[str, Any], columns: RowColumns, other: Collection[str]) -> Read:
    """The conversation of a row; `other` columns hold no turn of it unless a role names them."""
    kinds: list[Column] = ["messages", "prompt", "text"]
    for kind in sorted(kinds, key=lambda kind: getattr(columns, kind) == kind):
        name = columns.find(kind, raw)
        if name is None:
            continue
        if kind == "prompt":
            return _pair(raw, name, _answer(raw, columns, other))
        if kind == "text":
            _check_alone(raw, name, columns, other)
            return (Message("user", _text(raw[name], name)),), (name,)
        if raw[name] is not None and raw[name] != "":
            return _talk(raw, name, columns, other)
    raise ValueError(_without(raw, columns, other))


def _answer(raw: Mapping[str, Any], columns: RowColumns, other: Collection[str]) -> str | None:
    """The column of the answer: as it is named, `response`, or the only one with a usual name.

    Raises:
        ValueError: there are several.
    """
    for name in (columns.response, "response"):
        if not _is_blank(raw.get(name)):
            return name
    answers = [] if columns.response != "response" else answers_of(raw, other)
    if len({repr(raw[name]) for name in answers}) > 1:
        raise ValueError(
            f"answers stand in the columns {', '.join(shown(answers, raw))}; name the one to judge:"
            " --column response=NAME"
        )
    return answers[0] if answers else None


def _is_blank(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _talk(raw: Mapping[str, Any], name: str, columns: RowColumns, other: Collection[str]) -> Read:
    """Turns, and an answer beside them if they end with none."""
    turns = data.turns_of(raw[name], blank=True)
    if turns and turns[-1].role == "assistant":
        return turns, (name,)
    answered = _answer(raw, columns, other)
    answer = _text(raw[answered], shown([answered], raw)[0]) if answered else ""
    if not answered or not answer.strip():
        return turns, (name,)
    return (*turns, Message("assistant", answer)), (name, answered)


def _check_alone(
    raw: Mapping[str, Any], name: str, columns: RowColumns, other: Collection[str]
) -> None:
    """See that no answer stands beside a text that nobody asked for by its name."""
    answered = _answer(raw, columns, {*other, name}) if name == "text" else None
    if answered and raw[answered] != raw[name]:
        answer = shown([answered], raw)[0]
        raise ValueError(
            f"a text in {name!r} and an answer in {answer!r}; say what to judge: --column"
            f" prompt={name} for both, with --judge prompt for the text, or --column text={answer}"
        )


def _without(raw: Mapping[str, Any], columns: RowColumns, other: Collection[str]) -> str:
    answers = shown(answers_of(raw, other), raw)
    kinds = f"{columns.messages!r}, {columns.prompt!r} or {columns.text!r}"
    return (
        f"nothing in a column {kinds}"
        + (f"; {answers[0]!r} stands without a request" if answers else "")
        + f" (it has {described(raw)})"
    )


def _pair(raw: Mapping[str, Any], asked: str, answered: str | None) -> Read:
    """Request and answer; whichever is blank is left out, but not both."""
    prompt = _text(raw[asked], asked)
    read = (asked, answered) if answered else (asked,)
    response = _text(raw[answered], shown([answered], raw)[0]) if answered else ""
    if not response.strip():
        return (Message("user", prompt),), read
    answer = Message("assistant", response)
    return ((Message("user", prompt), answer) if prompt.strip() else (answer,)), read


def _text(value: object, name: str) -> str:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{name} is not text but {type(value).__name__}")
    return value or ""


def _category(value: object) -> str:
    parts = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, Mapping | list | tuple) for part in parts):
        return TEXT
    text = " ".join(", ".join(str(part) for part in parts if part is not None).split())
    clean = "".join(c for c in text if c.isprintable())
    return clean if len(clean) <= LONGEST_CATEGORY else TEXT


def _check_columns(source: str, seen: set[str], named: Iterable[str]) -> None:
    missing = [name for name in named if name not in seen]
    if seen and missing:
        verb = "is" if len(seen) == 1 else "are"
        raise DataError(
            f"no row of {source} has a column {missing[0]!r}",
            hint=f"there {verb} {described(seen)}",
        )


def _nothing(source: str, bad: Sequence[BadRow]) -> DataError:
    if not bad:
        return DataError(f"{source} holds no row, or none that is asked for")
    unsafe_when = (
        "labels are unsafe and safe, harmful and harmless, true and false, yes and no, 1 and 0;"
        " for other words leave out --label and give --unsafe-when, such as label=ja"
    )
    columns = (
        "name the columns: --column messages=NAME, prompt=NAME and response=NAME, or text=NAME for"
        " one text by itself"
    )
    label = "--unsafe-when" in bad[0].problem
    too_long = "raise --max-row-mb" if "max_row_mb" in bad[0].problem else ""
    return DataError(
        f"{source} holds no row that can be read; {bad[0].origin}: {bad[0].problem}",
        hint=unsafe_when
        if label
        else too_long or data.encoding_hint(bad, is_whole=True) or columns,
    )
