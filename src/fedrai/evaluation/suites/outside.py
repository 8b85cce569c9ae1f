"""The outside sets of `split.toml` as suites: fetched or from a path, filtered, built, sampled.

A set whose manner nobody publishes is built from others' material, always in the same way: the
requests of an outside set in the templates of a wheel, behind long passages, or at the end of
conversations. The seed draws samples only, so that a set is the same in every run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import yaml

from fedrai import assets, data
from fedrai.assets.hashing import sha256_path
from fedrai.errors import AssetError, ChecksumError, EvaluationError
from fedrai.evaluation.suites.declared import Declaration
from fedrai.evaluation.suites.items import Item
from fedrai.evaluation.suites.loading import NotAvailable, Suite
from fedrai.evaluation.suites.reading import read
from fedrai.evaluation.suites.split import NamedSet, split, standing

PASSAGES = 3  # that come before a request
EXCHANGES = 2  # of a conversation that leads up to a request
_SLOT = re.compile(r"\{\{\s*prompt\s*\}\}")
_OWN = "a file of your own needs a column label: all rows unsafe (to be declined), or all safe"

Fetch = Callable[..., Path]


def outside_suites(
    own: Sequence[str] = (), *, progress: assets.Progress | None = None, offline: bool = False
) -> list[Suite | NotAvailable]:
    """Every outside set, whole: those that pip can fetch, then the user's.

    Args:
        own: `NAME=PATH` of a set of `split.toml`, or a file or `NAME=FILE` of the user's own. A
            path replaces the source of a set with that name.
        progress: shows downloads.
        offline: fetch nothing; then sets that are not here are `NotAvailable`.

    Raises:
        EvaluationError: a name is that of a set that trained or chose something, or is given
            twice; or a file is not a set.
        AssetError: a path of the user does not exist, or bytes do not match their checksum.
    """
    fetch = partial(assets.fetch, progress=progress, offline=offline)
    places = _places(own)
    named = {one.name: one for one in standing()}
    found = [_load(one, places.pop(one.name, ""), fetch) for one in named.values()]
    return found + [_of_path(name, place, fetch) for name, place in places.items()]


def _places(own: Sequence[str]) -> dict[str, str]:
    """The user's paths by the name of the set."""
    places: dict[str, str] = {}
    for spec in own:
        name, sign, place = spec.partition("=")
        if not sign:
            name, place = Path(spec).name.partition(".")[0], spec
        known = split().get(name)
        if known is not None and known.use != "outside":
            raise EvaluationError(
                f"{name} is a {known.use} set: it cannot be an outside set",
                hint=f"ask it with --suite {spec}",
            )
        if name in places:
            raise EvaluationError(f"the outside set {name} is given twice")
        places[name] = place
    return places


def _load(one: NamedSet, place: str, fetch: Fetch) -> Suite | NotAvailable:
    """A set of the split, from the user's path if there is one."""
    if place:
        return _of_path(one.name, place, fetch)
    try:
        prompts, digest = _prompts(one, fetch)
    except ChecksumError:
        raise
    except AssetError as error:
        return NotAvailable(one.name, error.message.rstrip("."), error.hint)
    return _suite(_declaration(one), prompts, assets.parse(one.source).label, digest, pinned=True)


def _of_path(name: str, place: str, fetch: Fetch) -> Suite:
    """A set from the user's file: its side is known by its name, or its rows say it."""
    path = fetch(place, offline=False)
    known = split().get(name)
    items = read(path, column=known.column if known else "")
    labels = {item.label for item in items}
    sides = {frozenset({"unsafe"}): "harmful", frozenset({"safe"}): "harmless"}
    side = known.side if known else sides.get(frozenset(labels), "")
    if not side:
        raise EvaluationError(f"{name}: its rows do not say on which side it is", hint=_OWN)
    declaration = (
        _declaration(known) if known else _declare(name, name, side, manner="your own", licence="")
    )
    prompts = [item.prompt for item in items]
    return _suite(declaration, prompts, assets.parse(place).label, sha256_path(path), pinned=False)


def _declaration(one: NamedSet) -> Declaration:
    dialogue = one.build == "conversation"
    return _declare(
        one.name, one.title, one.side, one.manner, one.licence, one.home, dialogue=dialogue
    )


def _declare(
    name: str,
    title: str,
    side: str,
    manner: str,
    licence: str,
    home: str = "",
    *,
    dialogue: bool = False,
) -> Declaration:
    return Declaration(
        name=name,
        title=title,
        what=f"{side} requests, outside: {manner}",
        home=home,
        licence=licence,
        judge="refusal",
        metric="refused",
        direction="up" if side == "harmful" else "down",
        count=0,
        form="dialogue" if dialogue else "request",
        manner=manner,
    )


def _suite(
    declaration: Declaration, prompts: Sequence[str], origin: str, digest: str, *, pinned: bool
) -> Suite:
    items = tuple(Item(number, prompt) for number, prompt in enumerate(prompts))
    return Suite(declaration, items, len(items), origin, digest, pinned)


# --- items ----------------------------------------------------------------------------------------


def _prompts(one: NamedSet, fetch: Fetch) -> tuple[list[str], str]:
    """A set's items as texts, and the checksum of what they were made of."""
    path = fetch(one.source)
    if not one.build:
        return _selected(one, path), sha256_path(path)
    requests, digest = _prompts(split()[one.requests], fetch)
    rest, divisor = one.part
    taken = requests[rest::divisor]
    built = _BUILDERS[one.build](one, path, taken)
    both = hashlib.sha256(f"{digest} {sha256_path(path)}".encode()).hexdigest()
    return [text for text in built if len(text) <= one.longest], both


def _selected(one: NamedSet, path: Path) -> list[str]:
    """The requests of a file that belong to the set."""
    left_out = set(one.left_out)
    return [text for n, text in enumerate(candidates(one, path)) if n not in left_out]


def candidates(one: NamedSet, path: Path) -> list[str]:
    """A file's requests, each once, before those near to training or development are left out."""
    texts = (item.prompt.strip() for item in read(path, where=one.where, column=one.column))
    return [
        text
        for text in dict.fromkeys(texts)
        if len(text) <= one.longest
        and (not one.matching or re.search(one.matching, text))
        and not (one.without and re.search(one.without, text))
    ]


def _in_templates(one: NamedSet, folder: Path, requests: Sequence[str]) -> list[str]:
    """Each request in a template, in turn."""
    templates = _templates(one, folder)
    return [
        text.join(_SLOT.split(templates[number % len(templates)]))
        for number, text in enumerate(requests)
    ]


def _templates(one: NamedSet, folder: Path) -> list[str]:
    """PyRIT's templates with one slot, by the names of their files."""
    texts = []
    for file in sorted(folder.glob("*.yaml")):
        if not one.members or file.stem in one.members:
            value = str(yaml.safe_load(data.text_of(file)).get("value", ""))
            if _SLOT.search(value) and len(value) <= one.longest:
                texts.append(value.strip())
    if not texts:
        raise EvaluationError(f"{folder} holds no template with a place for a request")
    return texts


def _behind_passages(one: NamedSet, path: Path, requests: Sequence[str]) -> list[str]:
    """Each request after a few passages, which it has nothing to do with."""
    passages = [item.prompt.strip() for item in read(path, column=one.column)]
    return [
        "\n\n".join([*_next(passages, number, PASSAGES), text])
        for number, text in enumerate(requests)
    ]


def _after_exchanges(one: NamedSet, path: Path, requests: Sequence[str]) -> list[str]:
    """Each request as the last turn of a conversation that was harmless so far."""
    rows = [item for item in read(path, column=one.column, answers=one.answers) if item.reference]
    exchanges = [f"{row.prompt.strip()}\n\nAssistant: {row.reference.strip()}" for row in rows]
    return [
        "\n\nHuman: ".join([*_next(exchanges, number, EXCHANGES), text])
        for number, text in enumerate(requests)
    ]


def _next(texts: Sequence[str], number: int, count: int) -> list[str]:
    """The texts of an item: `count` of them, beginning anew at the end."""
    return [texts[(number * count + place) % len(texts)] for place in range(count)]


_BUILDERS: Mapping[str, Callable[[NamedSet, Path, Sequence[str]], list[str]]] = {
    "template": _in_templates,
    "passage": _behind_passages,
    "conversation": _after_exchanges,
}
