"""Errors of a recipe in terms of its keys: pydantic's errors as sentences."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from fedrai import plugins
from fedrai.recipe.aggregation import RULE_PLUGINS
from fedrai.recipe.sections import ALGORITHMS, GUARD_KINDS, sections

TAGS: Mapping[Any, type[BaseModel]] = {**ALGORITHMS, **GUARD_KINDS}  # in locations of errors
KINDS: Mapping[str, Mapping[str, type[BaseModel]]] = {"algorithm": ALGORITHMS, "kind": GUARD_KINDS}
MOST_KEYS = 20  # wrong keys in one message
LONG = 200  # most characters of a key or value in a message
EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "{ge} or more",
    "less_than": "less than {lt}",
    "less_than_equal": "{le} or less",
}


def problems(
    error: ValidationError, model: type[BaseModel], where: str, overrides: Sequence[str] = ()
) -> tuple[str, bool]:
    """All errors in one line.

    Args:
        error: pydantic's error.
        model: pydantic model of the recipe.
        where: the recipe's file.
        overrides: `section.key=value` strings that were applied to it.

    Returns:
        The line, with the override or file of each error; and whether any error is in the file.
    """
    parts: dict[str, list[str]] = {}
    entries = error.errors(include_url=False)
    for entry in entries[:MOST_KEYS]:
        origin = _override(_place(entry), overrides)
        parts.setdefault(f"-o {truncate(origin)}" if origin else where, []).append(
            _explain(entry, model)
        )
    more = f"; and {len(entries) - MOST_KEYS:,} more" if len(entries) > MOST_KEYS else ""
    line = "; ".join(f"{source}: {'; '.join(texts)}" for source, texts in parts.items()) + more
    return line, where in parts


def truncate(text: str) -> str:
    """A text, truncated if it is long."""
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def _override(place: str, overrides: Sequence[str]) -> str:
    """The last override that set the value at a place; empty: none."""
    for text in reversed(overrides):
        key = text.partition("=")[0].strip()
        if f"{place}.".startswith(f"{key}."):
            return text
    return ""


def _place(error: Mapping[str, Any]) -> str:
    parts = [truncate(str(part)) for part in _without_tag(error["loc"])]
    if error["type"].startswith("union_tag"):
        parts.append(_discriminator(error))
    return ".".join(parts) or "recipe"


def _discriminator(error: Mapping[str, Any]) -> str:
    return str(error["ctx"]["discriminator"]).strip("'")


def _explain(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    place, kind = _place(error), error["type"]
    if kind == "extra_forbidden":
        return _unknown(error["loc"], place, model)
    if kind == "missing":
        return _missing(error["loc"], place, model)
    if kind.startswith("union_tag"):
        return _no_such_kind(error, place)
    got = f", got {truncate(repr(error['input']))}"
    if kind in EXPECTED:
        expected = EXPECTED[kind].format_map(error.get("ctx", {}))
        return f"{place}: expected {expected}{got}{_near(error)}"
    message = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}{'' if kind == 'value_error' else got}"


def _near(error: Mapping[str, Any]) -> str:
    if error["type"] != "literal_error" or not isinstance(error["input"], str):
        return ""
    if len(error["input"]) > LONG:
        return ""
    allowed = error["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
    near = difflib.get_close_matches(error["input"], allowed, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _unknown(loc: Sequence[Any], place: str, model: type[BaseModel]) -> str:
    keys, last = list(_model_at(loc[:-1], model).model_fields), truncate(str(loc[-1]))
    elsewhere = [path for path in _paths(model) if path.rpartition(".")[2] == last]
    near = difflib.get_close_matches(last, keys, n=1) or elsewhere[:3]
    advice = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(keys)}"
    return f"unknown key {place} ({advice})"


def _missing(loc: Sequence[Any], place: str, model: type[BaseModel]) -> str:
    within = dict(sections(_model_at(loc[:-1], model))).get(str(loc[-1]))
    if within is None or _is_list(loc, model):
        return f"{place} is missing"
    needs = [name for name, field in within.model_fields.items() if field.is_required()]
    keys = f"; it needs {', '.join(needs)}" if needs else ""
    return f"section [{place}] is missing{keys}"


def _is_list(loc: Sequence[Any], model: type[BaseModel]) -> bool:
    field = _model_at(loc[:-1], model).model_fields[str(loc[-1])]
    return getattr(field.annotation, "__origin__", None) is list


def _no_such_kind(error: Mapping[str, Any], place: str) -> str:
    kinds = list(KINDS.get(_discriminator(error), ()))
    if _discriminator(error) == "algorithm":
        kinds += plugins.names(RULE_PLUGINS)
    if error["type"] == "union_tag_not_found":
        return f"{place} is missing (known: {', '.join(kinds)})"
    tag = truncate(str(error["ctx"]["tag"]))
    near = difflib.get_close_matches(tag, kinds, n=1)
    advice = f"did you mean {near[0]}?" if near else f"known: {', '.join(kinds)}"
    return f"{place}: there is no {_discriminator(error)} {tag!r} ({advice})"


def _without_tag(loc: Sequence[Any]) -> Sequence[Any]:
    """An error's location without the algorithm or kind that pydantic adds to it."""
    place = {"aggregation": 1, "guards": 2}.get(loc[0]) if loc else None
    return [part for i, part in enumerate(loc) if i != place or part not in TAGS]


def _model_at(loc: Sequence[Any], model: type[BaseModel]) -> type[BaseModel]:
    for part in loc:
        inner = dict(sections(model))
        model = inner[part] if part in inner else TAGS.get(part, model)
    return model


def _paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Plain keys of a model and of its sections, dotted."""
    inner = dict(sections(model))
    yield from (f"{prefix}{name}" for name in model.model_fields if name not in inner)
    for name, section in inner.items():
        yield from _paths(section, f"{prefix}{name}.")
