"""The layouts of suites' files, as published: CSV, JSONL, JSON, text lines and YAML.

Columns are recognised by their names, in upper or lower case: the request is in `prompt`, `goal`,
`forbidden_prompt`, `behavior`, `question` or the first of `turns`, its category in `category`,
`subset`, `type`, `semanticcategory` or the first of `intents`. `chosen`, `rejected`, `label` and
`reference` are as in `Item`. Errors name file and line, never text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from fedrai import data
from fedrai.data.columns import cell_equals
from fedrai.errors import EvaluationError
from fedrai.evaluation.suites.items import Item

PROMPTS = ("prompt", "goal", "forbidden_prompt", "behavior", "question", "turns")
CATEGORIES = ("category", "subset", "type", "semanticcategory", "intents")
LABELS = {"safe": "safe", "unsafe": "unsafe", "harmless": "safe", "harmful": "unsafe"}

_INSTRUCTION = "###The instruction to evaluate:\n"
_RESPONSE = "\n\n###Response to evaluate:\n"
_RUBRIC = "\n\n###Score Rubrics:\n"

Row = Mapping[str, Any]


def read(
    path: Path,
    *,
    where: tuple[str, str] = ("", ""),
    references: Path | None = None,
    column: str = "",
    answers: str = "",
) -> list[Item]:
    """The items of a file, or of all files of a folder by their names.

    Args:
        path: the file or folder.
        where: column and value; rows with another value in that column are left out.
        references: file of reference answers in MT-Bench's layout, by `question_id`.
        column: name of the request's column; empty: one of `PROMPTS`.
        answers: name of a column that holds each row's own reference, or a list of them; empty:
            `reference`.

    Raises:
        EvaluationError: a row has no request or is malformed; the message names its place.
        DataError: the file cannot be read, or its format is unknown.
    """
    by_question = _references(references) if references else {}
    key, value = where
    files = sorted(path.glob("[!.]*")) if path.is_dir() else [path]
    rows = (
        (origin, _renamed(row, column, answers))
        for file in files
        for origin, row in _rows(file)
        if key not in row or cell_equals(row[key], value)
    )
    return [_item(number, *row, by_question) for number, row in enumerate(rows)]


def _renamed(row: Row, column: str, answers: str) -> Row:
    """A row whose request and reference have the names that suites have."""
    names = {"prompt": column, "reference": answers}
    return {**row, **{new: _first(row[old]) for new, old in names.items() if row.get(old)}}


def _item(number: int, origin: str, row: Row, answers: Mapping[str, str]) -> Item:
    try:
        name = next((name for name in PROMPTS if name in row), None)
        if name is None:
            raise ValueError(f"no request (a column {', '.join(PROMPTS)})")
        chosen, rejected = _optional(row, "chosen"), _optional(row, "rejected")
        if bool(chosen) != bool(rejected):
            raise ValueError("chosen and rejected come in pairs, and one is missing")
        return Item(
            number=number,
            prompt=data.as_text(_first(row[name]), name),
            category=_category(row),
            label=_label(row.get("label")),
            chosen=chosen,
            rejected=rejected,
            reference=answers.get(str(row.get("question_id")), "") or _own_reference(row),
        )
    except ValueError as error:
        raise EvaluationError(f"{origin}: {error}") from None


def _category(row: Row) -> str:
    categories = (_first(row[column]) for column in CATEGORIES if row.get(column))
    return str(next(categories, ""))


def _optional(row: Row, name: str) -> str:
    """A text that may be missing, but not empty."""
    return data.as_text(row[name], name) if row.get(name) is not None else ""


def _own_reference(row: Row) -> str:
    """A reference in the row itself; MT-Bench's list, one a turn, is not for judges."""
    value = row.get("reference")
    return value if isinstance(value, str) else ""


def _first(value: Any) -> Any:
    return (value[0] if value else "") if isinstance(value, list) else value


def _label(value: Any) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or value.strip().lower() not in LABELS:
        raise ValueError(f"the label must be one of {', '.join(LABELS)}")
    return LABELS[value.strip().lower()]


def _rows(file: Path) -> Iterator[tuple[str, Row]]:
    """(origin, row) with column names in lower case."""
    suffix = file.suffix.lower()
    if suffix == ".txt":
        rows: Iterable[tuple[str, data.Row | str]] = data.lines_of(file)
    elif suffix in (".prompt", ".yaml", ".yml"):
        rows = _seeds(file)
    else:
        rows = data.read_file(file)
    for origin, row in rows:
        if isinstance(row, str):
            raise EvaluationError(f"{origin}: {row}")
        plain = {str(name).lower(): value for name, value in row.items()}
        yield origin, _unwrap(origin, plain) if "chosen_instruction" in plain else plain


def _seeds(file: Path) -> Iterator[tuple[str, Row]]:
    """PyRIT's prompts: `seeds`, each with `value` and `harm_categories`."""
    try:
        whole = yaml.safe_load(data.text_of(file))
        seeds = list(whole["seeds"])
        for number, seed in enumerate(seeds, 1):
            row = {"prompt": str(seed["value"]), "category": seed.get("harm_categories")}
            yield f"{file.name}, seed {number}", row
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise EvaluationError(
            f"{file.name} holds no list of seeds ({type(error).__name__})"
        ) from None


def _unwrap(origin: str, row: Row) -> Row:
    """A pair of HHH as Prometheus wraps it: two tasks for a judge, with the answers in them.

    Raises:
        EvaluationError: the headings of the task are missing, or the requests differ.
    """
    prompt, chosen = _request_and_answer(origin, row.get("chosen_instruction"))
    other_prompt, rejected = _request_and_answer(origin, row.get("rejected_instruction"))
    if prompt != other_prompt:
        raise EvaluationError(f"{origin}: the two answers are to different requests")
    return {
        "prompt": prompt, "chosen": chosen, "rejected": rejected, "category": row.get("source")
    }  # fmt: skip


def _request_and_answer(origin: str, task: Any) -> tuple[str, str]:
    """Request and answer in a judge's task."""
    _, instruction, rest = str(task).partition(_INSTRUCTION)
    request, response, rest = rest.partition(_RESPONSE)
    answer, rubric, _ = rest.partition(_RUBRIC)
    if not (instruction and response and rubric):
        raise EvaluationError(f"{origin}: no request and answer between the headings of the task")
    return request, answer


def _references(file: Path) -> dict[str, str]:
    """The first answers of MT-Bench's references, by question."""
    answers = {}
    for origin, row in _rows(file):
        try:
            answer = data.as_text(row["choices"][0]["turns"][0], "the answer")
            answers[str(row["question_id"])] = answer
        except (KeyError, IndexError, TypeError, ValueError):
            raise EvaluationError(f"{origin}: no reference answer to a question") from None
    return answers
