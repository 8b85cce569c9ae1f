"""Answers that people have labelled: XSTest's completions, PyRIT's refusal set, and your own.

Reads, does not judge; see `agreement.py`. CSV with a header, JSONL, or whatever `data` reads:

- XSTest (Röttger et al. 2024, https://arxiv.org/abs/2308.01263): `prompt`, `completion` and
  `final_label`, one of "1_full_compliance", "2_full_refusal", "3_partial_refusal". Its `type` tells
  whether the request is unsafe ("contrast_...").
- PyRIT's scorer evaluation: a comment line, then `objective`, `assistant_response` and
  `human_score`, 1 for a refusal and 0 for none; it knows no partial refusal, and does not say which
  of its requests are unsafe.
- Yours: `prompt`, `answer` and `label`, such as an evaluation's answers with that column added (see
  `labelling.py`); rows whose `label` is empty are left out. `suite` and `asks` (safe, unsafe) tell
  where a row is from; without them the name of the file does, where it is that of a suite.

Errors name file and row, never a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from fedrai import assets, data
from fedrai.errors import DataError, EvaluationError
from fedrai.evaluation.suites.declared import declared_suites


class Label(StrEnum):
    """What a person or a judge says an answer does."""

    FULL = "full refusal"
    """It declines."""

    PARTIAL = "partial refusal"
    """It declines and still helps in part, or the other way round."""

    COMPLIANCE = "compliance"
    """It goes along."""


XSTEST = {
    "1_full_compliance": Label.COMPLIANCE,
    "2_full_refusal": Label.FULL,
    "3_partial_refusal": Label.PARTIAL,
}
XSTEST_FILE = re.compile(r"^xstest_v2_completions_(\w+?)(?:_streval)?$")
PYRIT = {"0": Label.COMPLIANCE, "1": Label.FULL}
OWN = {label.value: label for label in Label} | {
    "refusal": Label.FULL, "partial": Label.PARTIAL, **XSTEST
}  # fmt: skip
FORMATS = (  # columns of request, answer and label, and the labels
    ("prompt", "completion", "final_label", XSTEST),
    ("objective", "assistant_response", "human_score", PYRIT),
    ("prompt", "answer", "label", OWN),
)
KINDS = ("safe", "unsafe")


class PromptAndAnswer(Protocol):
    """A request and its answer: what a judge reads."""

    @property
    def prompt(self) -> str:
        """The request."""

    @property
    def answer(self) -> str:
        """The assistant's text."""


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """One answer that people have labelled.

    Attributes:
        source: the asset it is from, or the file, without folder and ending; "xstest gpt4" for
            XSTest's "xstest_v2_completions_gpt4_streval.csv".
        prompt: the request.
        answer: the assistant's text.
        label: the people's label.
        asks: whether the request is "safe" or "unsafe"; empty where that is not known.
        file: the file or asset that it is from, as it was named.
        row: its number there; rows without a label count too.
    """

    source: str
    prompt: str
    answer: str
    label: Label
    asks: str = ""
    file: str = ""
    row: int = 0


def request_kind(suite: str, judge: str = "", direction: str = "") -> str:
    """Whether a suite's requests are "safe" or "unsafe"; empty where that is not known.

    Args:
        suite: its name.
        judge: of its declaration; empty: that of a known suite.
        direction: of its declaration.
    """
    found = declared_suites().get(suite)
    if not judge and found is not None:
        judge, direction = found.judge, found.direction
    if suite == "ordinary" or judge == "rating":
        return "safe"
    if judge == "strongreject":
        return "unsafe"
    return {"up": "unsafe", "down": "safe"}.get(direction, "") if judge == "refusal" else ""


def load(
    files: Sequence[str],
    on_unlabelled: Callable[[str, int], None] = lambda _source, _count: None,
    reading: data.ReadOptions = data.DEFAULT_OPTIONS,
) -> list[LabelledAnswer]:
    """The labelled answers of `files`, in their order.

    Args:
        files: paths, or names of assets such as `pyrit-refusal`.
        on_unlabelled: called with a file and how many of its rows have no label yet.
        reading: encoding, separator and limits of the files.

    Raises:
        EvaluationError: a file cannot be read, is of no known form, or has no labelled rows.
        AssetError: an asset cannot be fetched.
    """
    named = [_named(file) for file in files]
    sources = [source for source, _ in named]
    for source in sources:
        if sources.count(source) > 1:
            raise EvaluationError(f"two files have the name {source}, which tells sources apart")
    return [
        replace(row, file=file)
        for file, (source, path) in zip(files, named, strict=True)
        for row in _read(source, path, on_unlabelled, reading)
    ]


def from_rows(rows: Sequence[Mapping[str, Any]]) -> list[LabelledAnswer]:
    """Labelled answers that are in memory; rows whose label is empty are left out.

    Raises:
        EvaluationError: a row has other columns than those of `FORMATS`, or no such label.
    """
    return list(_labelled("rows", Path("rows"), rows))


def _named(file: str) -> tuple[str, Path]:
    if file in assets.CATALOGUE and not Path(file).exists():
        return file, assets.fetch(file)
    return XSTEST_FILE.sub(r"xstest \1", Path(file).stem), Path(file)


def _read(
    source: str, path: Path, on_unlabelled: Callable[[str, int], None], reading: data.ReadOptions
) -> list[LabelledAnswer]:
    rows = _rows(path, reading)
    if not rows:
        raise EvaluationError(f"{path} has no rows of labelled answers")
    found = list(_labelled(source, path, rows))
    if not found:
        raise EvaluationError(
            f"none of the {len(rows):,} rows of {path} has a label",
            hint=f"write one of these into the column label: {', '.join(Label)}",
        )
    if len(found) < len(rows):
        on_unlabelled(source, len(rows) - len(found))
    return found


def _rows(path: Path, reading: data.ReadOptions) -> Sequence[Mapping[str, Any]]:
    """The rows of a file; one whose name tells no format is CSV.

    Raises:
        EvaluationError: the file cannot be read, or a row of it.
    """
    known = data.format_of(path) in data.SUFFIXES
    read = data.read_file if known else data.rows_of_csv
    found = []
    try:
        for origin, row in read(path, replace(reading, comments=True)):
            if isinstance(row, str):
                raise EvaluationError(f"{origin}: {row}")
            found.append(row)
    except DataError as error:
        raise EvaluationError(error.message, hint=error.hint) from None
    return found


def _labelled(
    source: str, path: Path, rows: Sequence[Mapping[str, Any]]
) -> Iterator[LabelledAnswer]:
    found = next((form for form in FORMATS if set(form[:3]) <= set(rows[0])), None)
    if found is None:
        raise EvaluationError(
            f"{path} is neither of XSTest's form nor of PyRIT's, and has no labels of yours",
            hint="expected the columns "
            + ", or ".join(", ".join(columns[:3]) for columns in FORMATS),
        )
    prompt, answer, label, known = found
    for number, row in enumerate(rows, 1):
        value = row.get(label)
        written = " ".join(value.split()).lower() if isinstance(value, str) else ""
        if known is OWN and not written and value in (None, ""):
            continue
        given = known.get(written)
        if missing := [name for name in (prompt, answer) if name not in row]:
            raise EvaluationError(
                f"{path}, row {number}: there is no column {missing[0]!r}, which row 1 has",
                hint="give all rows of a file the same columns",
            )
        texts = [row[prompt] or "", row[answer]]
        if given is None or not all(isinstance(text, str) for text in texts):
            raise EvaluationError(
                f"{path}, row {number}: {label} has none of its labels, or a text is missing",
                hint=f"labels are {', '.join(known)}",
            )
        name, asks = _origin(source, row, known is OWN)
        yield LabelledAnswer(name, str(texts[0]), str(texts[1]), given, asks, row=number)


def _origin(source: str, row: Mapping[str, Any], own: bool) -> tuple[str, str]:
    """The name of a row's source, and whether its request is safe or unsafe."""
    if not own:
        kind = row.get("type")
        return source, ("unsafe" if kind.startswith("contrast_") else "safe") if kind else ""
    suite, asks = str(row.get("suite") or ""), row.get("asks")
    name = f"{source}, {suite}" if suite and suite != source else source
    return name, str(asks) if asks in KINDS else request_kind(suite or source)
