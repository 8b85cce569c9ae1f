"""The split of all sets that the project uses, `split.toml`: training, development and outside.

A figure proves something only on sets that neither trained nor chose anything. The file says which
these are; tests compare it with what the recipes and the guard's scripts read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from fedrai.errors import EvaluationError
from fedrai.recipe.toml_files import read_toml

FILE = Path(__file__).with_name("split.toml")

Use = Literal["training", "development", "outside"]
Side = Literal["harmful", "harmless", "both"]
Build = Literal["", "template", "passage", "conversation"]
USES: tuple[Use, ...] = ("training", "development", "outside")
SIDES: tuple[Side, ...] = ("harmful", "harmless", "both")
BUILDS: tuple[Build, ...] = ("", "template", "passage", "conversation")
LONGEST = 6_000


@dataclass(frozen=True, slots=True)
class NamedSet:
    """One set of the split.

    Attributes:
        name: its name in commands and figures.
        title: its name in the literature.
        use: `training` (rows of it trained something that is shipped), `development` (its figures
            chose something) or `outside` (neither).
        side: whether a good model declines its requests (`harmful`), answers them (`harmless`), or
            its rows say so (`both`; not for outside sets).
        manner: how its requests are put: question, imperative, first person, role play, long
            context, conversation, jailbreak template, everyday, look-alike, safe twin, text.
        licence: SPDX name of the data's licence, or "other".
        source: spec for `assets.fetch`, with its checksum; empty: not in a wheel, so given as a
            path.
        home: its web page, where it has no source.
        called: other names of it in recipes and scripts.
        column: column of the request, or of the passage or question of a `build`; empty: those that
            suites have.
        where: column and value; only these rows are read.
        matching: pattern; only requests with a match are taken.
        without: pattern; requests with a match are left out.
        left_out: numbers of requests, from 0 and counted after the keys above, that nearly equal
            one of a training or development set (`benchmarks/outside_overlap.py`).
        longest: longest item in characters; longer ones are left out.
        build: how items are made of requests and of the material in `source`: a `template` is
            filled with each request, a `passage` comes before it, a `conversation` leads up to it.
            Empty: items are the source's own.
        requests: the outside set whose requests are built into items; with `build`.
        part: (r, k): of these requests, those whose number leaves r when divided by k.
        members: for `template`: names of the files that are used; empty: all.
        answers: for `conversation`: column of the answers in `source`.
        note: what else a reader should know, such as how it was built.
    """

    name: str
    title: str
    use: Use
    side: Side
    manner: str
    licence: str
    source: str = ""
    home: str = ""
    called: tuple[str, ...] = ()
    column: str = ""
    where: tuple[str, str] = ("", "")
    matching: str = ""
    without: str = ""
    left_out: tuple[int, ...] = ()
    longest: int = LONGEST
    build: Build = ""
    requests: str = ""
    part: tuple[int, int] = (0, 1)
    members: tuple[str, ...] = ()
    answers: str = ""
    note: str = ""

    @property
    def is_standing(self) -> bool:
        """Whether `--outside` asks it: an outside set that pip can fetch."""
        return self.use == "outside" and bool(self.source)


@cache
def split() -> Mapping[str, NamedSet]:
    """Every set by its name, in the order of the file."""
    return read_split(FILE)


def read_split(file: Path) -> Mapping[str, NamedSet]:
    """The sets of a file of the form of `split.toml`.

    Raises:
        EvaluationError: an entry has an unknown key or value, lacks one, or repeats a name.
    """
    sets: dict[str, NamedSet] = {}
    for table in read_toml(file)["set"]:
        one = _named_set(table)
        if one.name in sets:
            raise EvaluationError(f"{file.name}: the set {one.name} is listed twice")
        sets[one.name] = one
    for one in sets.values():
        if one.build and one.requests not in sets:
            raise EvaluationError(f"{file.name}: {one.name}: there is no set {one.requests!r}")
    return MappingProxyType(sets)


def standing() -> list[NamedSet]:
    """The outside sets that `--outside` asks, in the order of the file."""
    return [one for one in split().values() if one.is_standing]


def use_of(spec: str) -> Use | None:
    """What a set is used for, by its name, its source or a name that scripts call it.

    None: it is not listed.
    """
    return next((one.use for one in split().values() if spec in _names(one)), None)


def _names(one: NamedSet) -> tuple[str, ...]:
    return (one.name, *one.called, *filter(None, [one.source, one.source.partition("#")[0]]))


def _named_set(table: Mapping[str, Any]) -> NamedSet:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
    try:
        one = NamedSet(**values)
    except TypeError as error:
        raise EvaluationError(f"{FILE.name}: {table.get('name', 'a set')}: {error}") from None
    for key, known in (("use", USES), ("side", SIDES), ("build", BUILDS)):
        if getattr(one, key) not in known:
            raise EvaluationError(f"{FILE.name}: {one.name}: {key} must be one of {known}")
    if one.use == "outside" and one.side == "both":
        raise EvaluationError(f"{FILE.name}: {one.name}: an outside set has one side")
    return one
