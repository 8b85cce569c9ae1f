"""From the name of a guard to the guard: embedded, trained, of the hub, or of a recipe's table.

Each kind is imported when it is asked for, so that a list of names costs nothing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedrai import assets, embedded
from fedrai.errors import GuardError
from fedrai.guards.base import Guard
from fedrai.schema import GuardTable
from fedrai.schema.safety import (
    Cascading,
    Classifier,
    Either,
    Endpoint,
    Generative,
    Rules,
)

EMBEDDED = "embedded"
Tables = Mapping[str, GuardTable]


@dataclass(frozen=True, slots=True)
class Entry:
    """A guard that has a name.

    Attributes:
        name: what a recipe writes.
        kind: how it works.
        what: in a line.
        licence: of its weights.
        ready: whether it can be used here without a hub.
    """

    name: str
    kind: str
    what: str
    licence: str
    ready: bool


def known() -> list[Entry]:
    """The embedded guard, then every hub guard whose format is known."""
    from fedrai.guards.formats import FORMATS

    own = Entry(EMBEDDED, "trained", "SmolLM2's body, LoRA and a head; requests and answers",
                "Apache-2.0", True)  # fmt: skip
    found = [own]
    for entry in FORMATS.values():
        consent = "; asks for consent" if entry.gated else ""
        found += [
            Entry(model, "generative", f"format {entry.name}{consent}", entry.licence, False)
            for model in entry.models
        ]
    return found


def load(
    spec: str,
    *,
    tables: Tables | None = None,
    device: str = "auto",
    progress: assets.Progress | None = None,
) -> Guard:
    """The guard that a name stands for.

    Args:
        spec: `embedded`; a name in `tables`; a folder that `fedrai guard train` made; a TOML file
            with `[guards.NAME]` tables (`file.toml` for the only or last one, `file.toml:NAME` for
            another); or a model of the hub or on disk whose format is known.
        tables: guards of the recipe.
        device: for the embedded guard, folders and models named directly.
        progress: shows downloads.

    Raises:
        GuardError: there is no such guard, or it cannot be used.
        ModelError, AssetError: its model cannot be had.
    """
    tables = tables or {}
    if spec in tables:
        return _of_table(spec, tables, device, progress)
    folder = embedded.HERE / "guard" if spec == EMBEDDED else Path(spec).expanduser()
    if (folder / "guard.json").is_file() or spec == EMBEDDED:
        from fedrai.guards import trained

        return trained.load(folder, device=device, progress=progress)
    file, _, name = spec.partition(".toml")
    if _ and not name.strip(":/").count("/"):
        found = read_tables(Path(f"{file}.toml").expanduser())
        return load(name.removeprefix(":") or list(found)[-1], tables={**tables, **found},
                    device=device, progress=progress)  # fmt: skip
    return _of_model(spec, tables, device, progress)


def read_tables(file: Path) -> dict[str, GuardTable]:
    """The `[guards.NAME]` tables of a TOML file.

    Raises:
        GuardError: it cannot be read, or has none that can be used.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
        found = TypeAdapter(dict[str, GuardTable]).validate_python(content.get("guards", {}))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise GuardError(f"{file}: guards.{where}: {first['msg']}") from error
    except (OSError, ValueError) as error:
        raise GuardError(f"{file} cannot be read as TOML ({type(error).__name__})") from error
    if not found:
        raise GuardError(f"{file} has no [guards.NAME] table", hint="see docs/guards.md")
    return found


def _of_model(spec: str, tables: Tables, device: str, progress: assets.Progress | None) -> Guard:
    from fedrai.guards.formats import FORMATS, format_for

    plain = spec.removeprefix("hf:").split("@")[0]
    try:
        format_for(plain)
    except GuardError as error:
        names = ", ".join([EMBEDDED, *tables])
        raise GuardError(
            f"no guard {spec!r}: it is none of {names}, no folder with guard.json, and no model"
            " whose format is known",
            hint="fedrai guard list; other models need a [guards.NAME] table with kind and model"
            f" (formats: {', '.join(FORMATS)})",
        ) from error
    from fedrai.guards import generative

    return generative.load(spec, device=device, progress=progress)


def _of_table(name: str, tables: Tables, device: str, progress: assets.Progress | None) -> Guard:
    table = tables[name]
    if isinstance(table, Cascading | Either):
        return _of_guards(name, table, tables, device, progress)
    if isinstance(table, Rules):
        return _rules(name, table)
    if isinstance(table, Endpoint):
        from fedrai.guards.remote import RemoteGuard

        fields = table.model_dump(exclude={"kind", "url", "model"})
        return RemoteGuard(table.url, table.model, **fields, name=name)
    return _of_weights(name, table, progress)


def _of_weights(
    name: str, table: Generative | Classifier, progress: assets.Progress | None
) -> Guard:
    if isinstance(table, Generative):
        from fedrai.guards import generative

        fields: dict[str, Any] = table.model_dump(exclude={"kind", "model"})
        fields["format"] = table.format or None
        return generative.load(table.model, **fields, name=name, progress=progress)
    from fedrai.guards import classifier

    return classifier.load(
        table.model,
        unsafe_labels=table.unsafe_labels or None,
        pair=table.pair,
        dtype=table.dtype,
        device=table.device,
        name=name,
        progress=progress,
    )


def _rules(name: str, table: Rules) -> Guard:
    from fedrai.guards.rules import RulesGuard, from_file

    if not table.file:
        return RulesGuard(table.patterns, table.words, categories=table.categories, name=name)
    if table.patterns or table.words or table.categories:
        raise GuardError(f"guards.{name} has a file and rules of its own", hint="keep one of them")
    return from_file(Path(table.file).expanduser(), name=name)


def _of_guards(
    name: str,
    table: Cascading | Either,
    tables: Tables,
    device: str,
    progress: assets.Progress | None,
) -> Guard:
    from fedrai.guards.cascade import AnyOf, Cascade

    rest = {key: value for key, value in tables.items() if key != name}  # none contains itself
    wanted = [table.first, table.second] if isinstance(table, Cascading) else table.guards
    guards = [load(spec, tables=rest, device=device, progress=progress) for spec in wanted]
    if isinstance(table, Cascading):
        return Cascade(guards[0], guards[1], table.low, table.high, name=name)
    return AnyOf(guards, name=name)
