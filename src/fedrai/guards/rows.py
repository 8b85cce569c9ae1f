"""Rows to judge, labelled or not.

A guard can judge more kinds of rows than training can use: a request without an answer, a single
text, turns in any order, blank texts (the guard says "empty"). A row that cannot be read is counted
and named by file and line. It is an error only if no row of its dataset can be read.

No answer is skipped silently. Text under a usual name of answers is read as the answer if
`response` holds none; a row with several such answers cannot be read until one is named; and
columns with text that is not judged are counted in `Rows.not_judged()`.
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
from fedrai.guards.columns import answers_of, describe_columns, holds_text, printable
from fedrai.guards.labels import Labels, check_labels, truth_of
from fedrai.guards.pairs import Pair, read_pair
from fedrai.guards.row import GuardRow as GuardRow
from fedrai.records import BadRow, Message

Column = Literal["messages", "prompt", "response", "text", "category"]

LONGEST_CATEGORY = 60  # characters; a longer value is a text, as is one that stands in a turn
TEXT = "(a text)"
LABEL_HINT = (
    "labels are unsafe and safe, harmful and harmless, true and false, yes and no, 1 and 0; for"
    " other words use --unsafe-when instead of --label, such as --unsafe-when label=ja"
)
COLUMNS_HINT = (
    "name the columns: --column messages=NAME, prompt=NAME and response=NAME, or text=NAME for one"
    " text by itself"
)


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """Names of the columns that hold turns, or a request and its answer, or one text.

    A dataset that lacks a renamed column may have the usual one, so that datasets can be mixed.
    A renamed column takes precedence: with `text="answer"`, a request beside it is not read.
    An answer whose column is not renamed may have any of the names in `columns.ANSWERS`; it also
    completes turns that end with a request.
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
        chosen = cast(str, getattr(self, column))
        return next((name for name in (chosen, column) if name in raw), None)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of datasets in their order, and the rows that could not be read."""

    rows: tuple[GuardRow, ...]
    bad_rows: tuple[BadRow, ...] = ()

    def not_judged(self) -> dict[str, int]:
        """In how many rows each column has text that no guard reads, by its printable name.

        Columns of labels, of the category and of `where` are not among them.
        """
        return dict(Counter(name for row in self.rows for name in row.not_judged).most_common())


@dataclass(frozen=True, slots=True)
class LabelledSource:
    """One dataset, and how to tell whether its rows are unsafe.

    Attributes:
        spec: file (JSONL, JSON, CSV, also gzipped; Parquet), hub dataset, asset, `fedrai:NAME`.
        labels: how to tell whether a row is unsafe; without, rows have no label.
    """

    spec: str
    labels: Labels = field(default_factory=Labels)


def read_all(
    sources: Sequence[LabelledSource],
    *,
    columns: ColumnNames = ColumnNames(),
    split: str = "train",
    where: Mapping[str, Cell] | None = None,
    options: data.ReadOptions = data.DEFAULT_OPTIONS,
    pairs: bool = False,
) -> Rows:
    """Read datasets in their order.

    Args:
        sources: the datasets; those whose files have one name are told apart by their whole spec.
        columns: names of the columns.
        split: split of hub datasets.
        where: only rows whose columns have these values.
        options: encoding, separator and limits of files.
        pairs: whether `chosen` and `rejected` are read as the two answers of a pair.

    Raises:
        DataError: no such file or format, a dataset without a readable row, a column that is named
            but is in no row, or a label column that says which rows are *safe*.
    """
    for source in sources:
        check_labels(source.labels)
    where = where or {}
    count = Counter(map(name_of, dict.fromkeys(source.spec for source in sources)))
    every = _Dataset("the datasets", columns, pairs=pairs)
    for source in sources:
        name = name_of(source.spec)
        name = name if count[name] == 1 else source.spec
        part = _Dataset(name, columns, source.labels, where, pairs)
        for origin, raw in data.rows(source.spec, split, options):
            part.add(origin, raw)
        every.extend(part)
        if not part.rows:
            _check_columns(part.name, every.names, [*columns.renamed(), *where])
            raise _no_rows(part)
    labels = [name for source in sources for name in source.labels.names()]
    name = name_of(sources[0].spec) if len(sources) == 1 else every.name
    _check_columns(name, every.names, [*columns.renamed(), *labels, *where])
    return Rows(tuple(every.rows), tuple(every.bad_rows))


def from_memory(
    rows: Iterable[Mapping[str, Any]],
    *,
    columns: ColumnNames = ColumnNames(),
    labels: Labels | None = None,
    name: str = "rows",
    pairs: bool = False,
) -> Rows:
    """Rows that are in memory, read as those of a file are.

    Args:
        rows: their columns by name.
        columns: names of the columns.
        labels: how to tell whether a row is unsafe; None: rows have no label.
        name: the dataset's name; a row is named by it and its number, from 1.
        pairs: as in `read_all`.

    Raises:
        DataError: no row can be read.
    """
    dataset = _Dataset(name, columns, labels or Labels(), pairs=pairs)
    for number, raw in enumerate(rows, 1):
        dataset.add(f"{name}, row {number}", raw)
    if not dataset.rows:
        raise _no_rows(dataset)
    return Rows(tuple(dataset.rows), tuple(dataset.bad_rows))


def name_of(spec: str) -> str:
    """Short name of a dataset: a file's own name, else the spec without its scheme."""
    if data.is_local(spec):
        return Path(spec).name
    return spec.removeprefix("hf:").removeprefix("datasets/").partition("#")[0]


@dataclass(slots=True)
class _Dataset:
    """The rows of a dataset, added one after the other; `names` are those of all its columns."""

    name: str
    columns: ColumnNames
    labels: Labels = field(default_factory=Labels)
    where: Mapping[str, Cell] = field(default_factory=dict)
    pairs: bool = False
    rows: list[GuardRow] = field(default_factory=list)
    bad_rows: list[BadRow] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def add(self, origin: str, raw: Mapping[str, Any] | str) -> None:
        """Add a row, or what is wrong with it."""
        if isinstance(raw, str):
            self.bad_rows.append(BadRow(origin, raw))
            return
        self.names.update(raw)
        if not matches(raw, self.where):
            return
        try:
            self.rows.append(self._row(raw, origin))
        except ValueError as error:
            self.bad_rows.append(BadRow(origin, str(error)))

    def extend(self, other: _Dataset) -> None:
        """Add the rows of another dataset."""
        self.rows += other.rows
        self.bad_rows += other.bad_rows
        self.names |= other.names

    def _row(self, raw: Mapping[str, Any], origin: str) -> GuardRow:
        category_column = self.columns.find("category", raw)
        other = {*self.labels.names(), *self.where, *filter(None, [category_column])}
        pair = self._pair(raw) if self.pairs else None
        if pair is None:
            conversation, read = _RawRow(raw, self.columns, other).conversation()
        else:
            conversation, read = pair.chosen, pair.columns
        category = _category(raw.get(category_column or ""))
        if category and any(category == message.content.strip() for message in conversation):
            category = TEXT
        if category == TEXT and category_column:
            other.discard(category_column)
        rest = [n for n in raw if n not in {*other, *read} and _is_unread(raw[n], conversation)]
        truth = truth_of(raw, self.labels)
        unread = tuple(printable(rest, raw))
        rejected, sides = (pair.rejected, pair.sides) if pair else ((), None)
        return GuardRow(
            conversation, origin, self.name, category, truth, raw, unread, rejected, sides
        )

    def _pair(self, raw: Mapping[str, Any]) -> Pair | None:
        """The pair that a row holds; None if it is none, or an answer or a text is named."""
        names = self.columns
        if names.response != "response" or names.text != "text":
            return None
        answered = (names.messages, "messages", "response")
        return read_pair(raw, names.find("prompt", raw) or "prompt", answered)


def _is_unread(value: object, conversation: Sequence[Message]) -> bool:
    """Whether a cell holds text that is not one of the turns."""
    is_turn = isinstance(value, str) and value.strip() in {m.content.strip() for m in conversation}
    return not is_turn and holds_text(value)


Read = tuple[tuple[Message, ...], tuple[str, ...]]
"""A conversation, and the columns that it was read from."""


@dataclass(frozen=True, slots=True)
class _RawRow:
    """A row as it is in its file; `other` columns hold no turn unless they are named for one."""

    raw: Mapping[str, Any]
    columns: ColumnNames
    other: Collection[str]

    def conversation(self) -> Read:
        """The conversation of the row; renamed columns are tried first.

        Raises:
            ValueError: there is none, or more than one.
        """
        kinds: list[Column] = ["messages", "prompt", "text"]
        for kind in sorted(kinds, key=lambda kind: getattr(self.columns, kind) == kind):
            name = self.columns.find(kind, self.raw)
            if name is None:
                continue
            if kind == "prompt":
                return self._pair(name)
            if kind == "text":
                self._check_alone(name)
                return (Message("user", self._text(name)),), (name,)
            if self.raw[name] is not None and self.raw[name] != "":
                return self._turns(name)
        raise ValueError(self._missing())

    def _answer(self, *other: str) -> str | None:
        """The column of the answer: the one named, `response`, or the only one with a usual name.

        Raises:
            ValueError: there are several.
        """
        for name in (self.columns.response, "response"):
            value = self.raw.get(name)
            if value is not None and not (isinstance(value, str) and not value.strip()):
                return name
        if self.columns.response != "response":
            return None
        answers = answers_of(self.raw, {*self.other, *other})
        if len({repr(self.raw[name]) for name in answers}) > 1:
            raise ValueError(
                f"the columns {', '.join(printable(answers, self.raw))} hold answers; name the one"
                " to judge: --column response=NAME"
            )
        return answers[0] if answers else None

    def _turns(self, name: str) -> Read:
        """Turns, and an answer beside them if they end with none."""
        turns = data.turns_of(self.raw[name], blank=True)
        if turns and turns[-1].role == "assistant":
            return turns, (name,)
        column = self._answer()
        answer = self._text(column) if column else ""
        if not column or not answer.strip():
            return turns, (name,)
        return (*turns, Message("assistant", answer)), (name, column)

    def _pair(self, name: str) -> Read:
        """Request and answer; whichever is blank is left out, but not both."""
        column = self._answer()
        prompt = self._text(name)
        response = self._text(column) if column else ""
        read = (name, column) if column else (name,)
        if not response.strip():
            return (Message("user", prompt),), read
        answer = Message("assistant", response)
        return ((Message("user", prompt), answer) if prompt.strip() else (answer,)), read

    def _check_alone(self, name: str) -> None:
        """Raise if an answer stands beside a text whose column is not renamed."""
        column = self._answer(name) if name == "text" else None
        if column and self.raw[column] != self.raw[name]:
            answer = printable([column], self.raw)[0]
            raise ValueError(
                f"both a text in {name!r} and an answer in {answer!r}; say what to judge: --column"
                f" prompt={name} for both, with --judge prompt for the text, or"
                f" --column text={answer}"
            )

    def _missing(self) -> str:
        """What is wrong with a row without a conversation."""
        answers = printable(answers_of(self.raw, self.other), self.raw)
        kinds = f"{self.columns.messages!r}, {self.columns.prompt!r} or {self.columns.text!r}"
        return (
            f"nothing in a column {kinds}"
            + (f"; {answers[0]!r} has no request beside it" if answers else "")
            + f" (it has {describe_columns(self.raw)})"
        )

    def _text(self, name: str) -> str:
        value = self.raw[name]
        if value is not None and not isinstance(value, str):
            asked = name in (self.columns.prompt, self.columns.text)
            shown = name if asked else printable([name], self.raw)[0]
            raise ValueError(f"{shown} is not text but {type(value).__name__}")
        return value or ""


def _category(value: object) -> str:
    parts = value if isinstance(value, list | tuple) else [value]
    if any(isinstance(part, Mapping | list | tuple) for part in parts):
        return TEXT
    text = " ".join(", ".join(str(part) for part in parts if part is not None).split())
    clean = "".join(c for c in text if c.isprintable())
    return clean if len(clean) <= LONGEST_CATEGORY else TEXT


def _check_columns(source: str, names: Collection[str], required: Iterable[str]) -> None:
    missing = [name for name in required if name not in names]
    if names and missing:
        raise DataError(
            f"no row of {source} has a column {missing[0]!r}",
            hint=f"available: {describe_columns(names)}",
        )


def _no_rows(dataset: _Dataset) -> DataError:
    """The error of a dataset without a row to judge, with the hint for its first bad row."""
    bad = dataset.bad_rows
    if not bad:
        return DataError(f"{dataset.name} holds no row, or none that matches --where")
    problem = bad[0].problem
    if "--unsafe-when" in problem:
        hint = LABEL_HINT
    elif "max_row_mb" in problem:
        hint = "raise --max-row-mb"
    else:
        hint = data.encoding_hint(bad, is_whole=True) or COLUMNS_HINT
    return DataError(
        f"{dataset.name} holds no row that can be read; {bad[0].origin}: {problem}", hint=hint
    )
