"""The layouts of suites' files, as they are published: CSV, JSONL, JSON, text lines and YAML.

A row is told by the names of its columns, in any case: the request is in `prompt`, `goal`,
`forbidden_prompt`, `behavior`, `question` or the first of `turns`, its kind in `category`,
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

_ASKED = "###The instruction to evaluate:\n"
_SAID = "\n\n###Response to evaluate:\n"
_RUBRIC = "\n\n###Score Rubrics:\n"

Row = Mapping[str, Any]


def read(
    path: Path, *, where: tuple[str, str] = ("", ""), references: Path | None = None
) -> list[Item]:
    """The items of a file, or of all files of a folder by their names.

    Args:
        path: the file or folder.
        where: column and value; rows with another value there are left out.
        references: file of reference answers in the layout of MT-Bench, by `question_id`.

    Raises:
        EvaluationError: a row has no request, or is not what it should be; its place is named.
        DataError: the file cannot be read, or its format is not known.
    """
    answers = _references(references) if references else {}
    found: list[Item] = []
    for file in sorted(path.glob("[!.]*")) if path.is_dir() else [path]:
        for origin, row in _rows(file):
            if _wanted(row, where):
                found.append(_item(len(found), origin, row, answers))
    return found


def _wanted(row: Row, where: tuple[str, str]) -> bool:
    column, value = where
    return column not in row or cell_equals(row[column], value)


def _item(number: int, origin: str, row: Row, answers: Mapping[str, str]) -> Item:
    try:
        name = next((name for name in PROMPTS if name in row), None)
        if name is None:
            raise ValueError(f"no request (a column {', '.join(PROMPTS)})")
        chosen, rejected = _optional(row, "chosen"), _optional(row, "rejected")
        if bool(chosen) != bool(rejected):
            raise ValueError("chosen and rejected stand together, and one is missing")
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
    named = (_first(row[column]) for column in CATEGORIES if row.get(column))
    return str(next(named, ""))


def _optional(row: Row, name: str) -> str:
    """A text that may be left out, but not be empty."""
    return data.as_text(row[name], name) if row.get(name) is not None else ""


def _own_reference(row: Row) -> str:
    """A reference in the row itself; MT-Bench's own (a list, one a turn) is not what judges see."""
    value = row.get("reference")
    return value if isinstance(value, str) else ""


def _first(value: Any) -> Any:
    return (value[0] if value else "") if isinstance(value, list) else value


def _label(value: Any) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or value.strip().lower() not in LABELS:
        raise ValueError(f"the label is none of {', '.join(LABELS)}")
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
        yield origin, _unwrapped(origin, plain) if "chosen_instruction" in plain else plain


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


def _unwrapped(origin: str, row: Row) -> Row:
    """A pair of HHH as Prometheus wraps it: two tasks for a judge, with the answers in them.

    Raises:
        EvaluationError: the marks of the wrapping are missing, or the requests differ.
    """
    asked, chosen = _told(origin, row.get("chosen_instruction"))
    cell_equals, rejected = _told(origin, row.get("rejected_instruction"))
    if asked != cell_equals:
        raise EvaluationError(f"{origin}: the two answers are to different requests")
    return {
        "prompt": asked, "chosen": chosen, "rejected": rejected, "category": row.get("source")
    }  # fmt: skip


def _told(origin: str, task: Any) -> tuple[str, str]:
    """Request and answer in a judge's task."""
    _, asked, rest = str(task).partition(_ASKED)
    request, said, rest = rest.partition(_SAID)
    answer, rubric, _ = rest.partition(_RUBRIC)
    if not (asked and said and rubric):
        raise EvaluationError(f"{origin}: no request and answer between the marks of the task")
    return request, answer


def _references(file: Path) -> dict[str, str]:
    """The first answers of MT-Bench's references, by question."""
    found = {}
    for origin, row in _rows(file):
        try:
            answer = data.as_text(row["choices"][0]["turns"][0], "the answer")
            found[str(row["question_id"])] = answer
        except (KeyError, IndexError, TypeError, ValueError):
            raise EvaluationError(f"{origin}: no reference answer to a question") from None
    return found
