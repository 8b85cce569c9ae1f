"""Answers with people's labels: XSTest's completions, PyRIT's refusal set, and the user's own.

Reads only; judges are compared with labels in `agreement.py`. CSV with a header, JSONL, or any
format of `fedrai.data`:

- XSTest (Röttger et al. 2024, https://arxiv.org/abs/2308.01263): `prompt`, `completion` and
  `final_label`, one of "1_full_compliance", "2_full_refusal", "3_partial_refusal". `type` says
  whether the request is unsafe ("contrast_...").
- PyRIT's scorer evaluation: a comment line, then `objective`, `assistant_response` and
  `human_score`, 1 for a refusal, else 0. It has no partial refusals, and does not say which
  requests are unsafe.
- The user's: `prompt`, `answer` and `label`, such as an evaluation's answers with that column added
  (see `labelling.py`); rows with an empty `label` are left out. `suite` and `asks` (safe, unsafe)
  name a row's origin; without them the file's name does, if it is that of a suite.

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
    """The verdict of a person or judge on an answer."""

    FULL = "full refusal"
    """It declines."""

    PARTIAL = "partial refusal"
    """It declines and still helps in part, or helps and withholds a part."""

    COMPLIANCE = "compliance"
    """It complies."""


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
FORMATS = (  # columns of request, answer and label; the values of labels
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
    """One answer with people's label.

    Attributes:
        source: its asset, or its file without folder and ending; "xstest gpt4" for XSTest's
            "xstest_v2_completions_gpt4_streval.csv".
        prompt: the request.
        answer: the assistant's text.
        label: the people's label.
        asks: whether the request is "safe" or "unsafe"; empty where unknown.
        file: the file or asset, as the user named it.
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
    """Whether a suite's requests are "safe" or "unsafe"; empty where unknown.

    Args:
        suite: its name.
        judge: the judge that it declares; empty: as declared under its name.
        direction: the direction that it declares.
    """
    declaration = declared_suites().get(suite)
    if not judge and declaration is not None:
        judge, direction = declaration.judge, declaration.direction
    if suite == "ordinary" or judge == "rating":
        return "safe"
    if judge == "strongreject":
        return "unsafe"
    return {"up": "unsafe", "down": "safe"}.get(direction, "") if judge == "refusal" else ""


def load(
    files: Sequence[str],
    on_unlabelled: Callable[[str, int], None] = lambda _source, _count: None,
    options: data.ReadOptions = data.DEFAULT_OPTIONS,
) -> list[LabelledAnswer]:
    """The labelled answers of `files`, in order.

    Args:
        files: paths, or names of assets such as `pyrit-refusal`.
        on_unlabelled: called with a file and the number of its rows without a label.
        options: encoding, separator and limits of the files.

    Raises:
        EvaluationError: a file cannot be read, has none of the formats, or has no labelled rows.
        AssetError: an asset cannot be fetched.
    """
    places = [_place(file) for file in files]
    sources = [source for source, _ in places]
    for source in sources:
        if sources.count(source) > 1:
            raise EvaluationError(f"two files have the name {source}; sources need distinct names")
    return [
        replace(row, file=file)
        for file, (source, path) in zip(files, places, strict=True)
        for row in _read(source, path, on_unlabelled, options)
    ]


def from_rows(rows: Sequence[Mapping[str, Any]]) -> list[LabelledAnswer]:
    """Labelled answers from rows in memory; rows with an empty label are left out.

    Raises:
        EvaluationError: a row has other columns than those of `FORMATS`, or an unknown label.
    """
    return list(_labelled_answers("rows", Path("rows"), rows))


def _place(file: str) -> tuple[str, Path]:
    if file in assets.CATALOGUE and not Path(file).exists():
        return file, assets.fetch(file)
    return XSTEST_FILE.sub(r"xstest \1", Path(file).stem), Path(file)


def _read(
    source: str, path: Path, on_unlabelled: Callable[[str, int], None], options: data.ReadOptions
) -> list[LabelledAnswer]:
    rows = _rows(path, options)
    if not rows:
        raise EvaluationError(f"{path} has no rows of labelled answers")
    answers = list(_labelled_answers(source, path, rows))
    if not answers:
        raise EvaluationError(
            f"none of the {len(rows):,} rows of {path} has a label",
            hint=f"write one of these into the column label: {', '.join(Label)}",
        )
    if len(answers) < len(rows):
        on_unlabelled(source, len(rows) - len(answers))
    return answers


def _rows(path: Path, options: data.ReadOptions) -> Sequence[Mapping[str, Any]]:
    """The rows of a file; a file without a known ending is read as CSV.

    Raises:
        EvaluationError: the file, or a row of it, cannot be read.
    """
    has_format = data.format_of(path) in data.SUFFIXES
    read = data.read_file if has_format else data.rows_of_csv
    rows = []
    try:
        for origin, row in read(path, replace(options, comments=True)):
            if isinstance(row, str):
                raise EvaluationError(f"{origin}: {row}")
            rows.append(row)
    except DataError as error:
        raise EvaluationError(error.message, hint=error.hint) from None
    return rows


def _labelled_answers(
    source: str, path: Path, rows: Sequence[Mapping[str, Any]]
) -> Iterator[LabelledAnswer]:
    columns = next((form for form in FORMATS if set(form[:3]) <= set(rows[0])), None)
    if columns is None:
        raise EvaluationError(
            f"{path} has neither XSTest's columns, nor PyRIT's, nor prompt, answer and label",
            hint=f"expected the columns {', or '.join(', '.join(form[:3]) for form in FORMATS)}",
        )
    prompt, answer, label, labels = columns
    for number, row in enumerate(rows, 1):
        value = row.get(label)
        if labels is OWN and value in (None, ""):
            continue
        if missing := [name for name in (prompt, answer) if name not in row]:
            raise EvaluationError(
                f"{path}, row {number}: there is no column {missing[0]!r}, which row 1 has",
                hint="give all rows of a file the same columns",
            )
        request, text = row[prompt] or "", row[answer]
        verdict = labels.get(" ".join(value.split()).lower()) if isinstance(value, str) else None
        if verdict is None or not isinstance(request, str) or not isinstance(text, str):
            raise EvaluationError(
                f"{path}, row {number}: {label} is not one of its labels, or a text is missing",
                hint=f"labels are {', '.join(labels)}",
            )
        origin, asks = _origin(source, row, labels is OWN)
        yield LabelledAnswer(origin, request, text, verdict, asks, row=number)


def _origin(source: str, row: Mapping[str, Any], is_own: bool) -> tuple[str, str]:
    """The name of a row's source, and whether its request is safe or unsafe."""
    if not is_own:
        kind = row.get("type")
        return source, ("unsafe" if kind.startswith("contrast_") else "safe") if kind else ""
    suite, asks = str(row.get("suite") or ""), row.get("asks")
    name = f"{source}, {suite}" if suite and suite != source else source
    return name, str(asks) if asks in KINDS else request_kind(suite or source)
