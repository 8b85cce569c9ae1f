"""Reads a constitution: FedRAI's TOML, or the JSON layout of other projects.

JSON layout: `{"constitutions": [{"critic", "revision"}], "system_chat": [[{"role", "content"}]]}`,
as in the Constitutional AI examples of Hugging Face's llm-swarm; a bare list of pairs is read too.
Principles get the ids `principle-1`, `principle-2`, ...
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fedrai.constitution.document import Constitution, Demonstration, Principle
from fedrai.data import embedded
from fedrai.errors import ConstitutionError
from fedrai.filter.ledger import CATEGORIES
from fedrai.recipe.constitution_file import (
    ConstitutionFile,
    DemonstrationTable,
    PairsFile,
    PrinciplePair,
    PrincipleTable,
    Turn,
)
from fedrai.recipe.toml_files import parse_toml
from fedrai.records import Message

EMBEDDED = "embedded"
TURNS = 6  # of a demonstration
MOST = 10  # problems in one error
MEMBERS: Mapping[str, type[BaseModel]] = {
    "principles": PrincipleTable,
    "demonstrations": DemonstrationTable,
    "constitutions": PrinciplePair,
    "system_chat": Turn,
}
ONE = {
    "principles": "principle",
    "demonstrations": "demonstration",
    "categories": "category",
    "constitutions": "pair",
    "system_chat": "dialogue",
}
M = TypeVar("M", bound=BaseModel)


def load(spec: str | Path) -> Constitution:
    """Read and check a constitution.

    Args:
        spec: "embedded", or a file: JSON if its name ends in `.json`, else TOML.

    Raises:
        ConstitutionError: it cannot be read; or lists all problems in it.
    """
    path = embedded.HERE / "constitution.toml" if spec == EMBEDDED else Path(spec)
    if path.suffix.lower() == ".json":
        return _from_pairs(_validate(PairsFile, _json(path), path), path)
    return _from_tables(_validate(ConstitutionFile, _toml(path), path), path)


def _toml(path: Path) -> Any:
    try:
        return parse_toml(_text(path))
    except ValueError as error:
        raise ConstitutionError(f"{path} is not valid TOML: {error}") from error


def _json(path: Path) -> Any:
    try:
        value = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ConstitutionError(f"{path} is not valid JSON: {error}") from error
    return {"constitutions": value} if isinstance(value, list) else value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConstitutionError(
            f"cannot read the constitution {path}: {error.strerror}",
            hint=f'use "{EMBEDDED}" for the built-in constitution',
        ) from error
    except UnicodeDecodeError as error:
        raise ConstitutionError(f"{path} is not UTF-8 (byte {error.start})") from error


# --- TOML -----------------------------------------------------------------------------------------


def _from_tables(file: ConstitutionFile, path: Path) -> Constitution:
    _refuse(path, [*_wrong_principles(file.principles), *_wrong_demonstrations(file)])
    principles = {
        table.id: Principle(**table.model_dump() | {"categories": tuple(table.categories)})
        for table in file.principles
    }
    examples = tuple(_demonstration(t, principles[t.principle]) for t in file.demonstrations)
    return Constitution(file.name, file.version, tuple(principles.values()), examples)


def _demonstration(table: DemonstrationTable, principle: Principle) -> Demonstration:
    return Demonstration(
        principle=principle.id,
        request=table.request,
        answer=table.answer,
        critique_request=principle.critique_request,
        critique=table.critique,
        revision_request=principle.revision_request,
        revision=table.revision,
        form=table.form,
    )


def _wrong_principles(tables: Sequence[PrincipleTable]) -> Iterator[str]:
    first: dict[str, int] = {}
    for number, table in enumerate(tables, 1):
        place = f"principle {number} ({table.id})"
        if first.setdefault(table.id, number) != number:
            yield f"{place}: principle {first[table.id]} has the same id"
        for name in dict.fromkeys(table.categories):
            if name not in CATEGORIES:
                yield f"{place}: no category {name!r}{_near(name, CATEGORIES)}"
            if table.categories.count(name) > 1:
                yield f"{place}: category {name!r} is repeated"


def _wrong_demonstrations(file: ConstitutionFile) -> Iterator[str]:
    ids = [table.id for table in file.principles]
    for number, table in enumerate(file.demonstrations, 1):
        if table.principle not in ids:
            yield f"demonstration {number}: no principle {table.principle!r}" + _near(
                table.principle, ids
            )


# --- the JSON layout ------------------------------------------------------------------------------


def _from_pairs(file: PairsFile, path: Path) -> Constitution:
    _refuse(path, _wrong_dialogues(file.system_chat))
    principles = tuple(
        Principle(f"principle-{n}", f"Principle {n}", "", pair.critic, pair.revision)
        for n, pair in enumerate(file.constitutions, 1)
    )
    by_texts = {(p.critique_request, p.revision_request): p.id for p in reversed(principles)}
    examples = tuple(_from_dialogue(dialogue, by_texts) for dialogue in file.system_chat)
    return Constitution(path.stem, "", principles, examples)


def _from_dialogue(
    dialogue: Sequence[Turn], by_texts: Mapping[tuple[str, str], str]
) -> Demonstration:
    """The last six turns; the principle is the one with exactly the same two requests."""
    request, answer, ask, critique, ask_again, revision = [
        turn.content for turn in dialogue[-TURNS:]
    ]
    before = tuple(Message(turn.role, turn.content) for turn in dialogue[:-TURNS])
    principle = by_texts.get((ask, ask_again), "")
    return Demonstration(principle, request, answer, ask, critique, ask_again, revision, before)


def _wrong_dialogues(dialogues: Sequence[Sequence[Turn]]) -> Iterator[str]:
    for number, dialogue in enumerate(dialogues, 1):
        if len(dialogue) < TURNS or len(dialogue) % 2:
            yield (
                f"dialogue {number} has {len(dialogue)} turns, expected {TURNS}"
                " (request, answer, critique request, critique, revision request, revision)"
                " or a larger even number"
            )
        for k, turn in enumerate(dialogue):
            if turn.role != ("user", "assistant")[k % 2]:
                yield f"dialogue {number}, turn {k + 1}: user and assistant must alternate"
                break


# --- errors ---------------------------------------------------------------------------------------


def _validate(model: type[M], body: Any, path: Path) -> M:
    try:
        return model.model_validate(body)
    except ValidationError as error:
        _refuse(path, (_explain(e, model) for e in error.errors(include_url=False)))
        raise


def _refuse(path: Path, problems: Iterable[str]) -> None:
    if lines := list(problems):
        more = f"; and {len(lines) - MOST} more" if len(lines) > MOST else ""
        text = "".join(c if c.isprintable() else "?" for c in "; ".join(lines[:MOST]))
        raise ConstitutionError(f"{path}: {text}{more}", hint="see docs/constitution.md")


def _explain(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    *above, last = error["loc"] or ("the file",)
    if error["type"] == "extra_forbidden":
        known = list((MEMBERS[str(above[0])] if above else model).model_fields)
        return f"{_place(above)}unknown key {last}{_near(str(last), known)}"
    if error["type"] == "missing":
        return f"{_place(above)}{last} is missing"
    if error["type"] == "value_error":
        return f"{_place([*above, last])}{error['ctx']['error']}"
    message = str(error["msg"]).removeprefix("Input ")
    message = "should be a table of keys" if error["type"] == "model_type" else message
    return f"{_place([*above, last])}{message}, got {_short(error['input'])}"


def _place(loc: Sequence[str | int]) -> str:
    """("principles", 2, "title") as "principle 3, title: "; numbers count from 1."""
    parts: list[str] = []
    for part in loc:
        if isinstance(part, str):
            parts.append(part)
        elif parts[-1] in ONE:
            parts[-1] = f"{ONE[parts[-1]]} {part + 1}"
        else:
            parts.append(f"turn {part + 1}")
    return f"{', '.join(parts)}: " if parts else ""


def _near(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(known)})"


def _short(value: object) -> str:
    """A short value itself; of a longer one only its type and length."""
    short = isinstance(value, str | int | float) and len(repr(value)) <= 40
    return repr(value) if short else f"a {type(value).__name__} of {len(str(value))} characters"
