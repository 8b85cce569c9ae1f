"""From the name of a guard to the guard: embedded, trained, of the hub, or of a recipe's table.

Each kind is imported when it is needed, so that a list of names costs nothing.

A new built-in kind of guard needs: a module in `guards/kinds`, a section in `recipe/safety.py` that
`GuardTable` and `GUARD_KINDS` list, and a branch in `_guard_from_table`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedrai import assets, plugins, recipe
from fedrai.data import embedded
from fedrai.errors import GuardError
from fedrai.guards.base import Guard
from fedrai.recipe.safety import (
    AnyOfGuards,
    CascadeGuard,
    Classifier,
    Endpoint,
    Generative,
    InstalledGuard,
    Rules,
)
from fedrai.recipe.sections import EMBEDDED, GuardTable

PLUGINS: plugins.Group = "fedrai.guards"
FOLDER = embedded.HERE / "guard"
PLAIN_LENGTH = 2048  # tokens of a prompt, for a generative guard without a table
FILE = re.compile(r"(?P<file>.+\.toml)(?::(?P<name>.+))?", re.DOTALL)
Tables = Mapping[str, GuardTable]


@dataclass(frozen=True, slots=True)
class GuardEntry:
    """A guard that has a name.

    Attributes:
        name: what a recipe writes.
        kind: how it works.
        what: description in one line.
        licence: licence of its weights.
        ready: whether it can be used here without a hub.
    """

    name: str
    kind: str
    what: str
    licence: str
    ready: bool


def available_guards() -> list[GuardEntry]:
    """The embedded guard, those of installed packages, hub guards whose format is known."""
    from fedrai.guards.kinds.formats import FORMATS

    own = GuardEntry(EMBEDDED, "trained", "MiniLM, LoRA and a head; requests and answers",
                "Apache-2.0", (FOLDER / "guard.json").is_file())  # fmt: skip
    entries = {EMBEDDED: own}
    for name in plugins.names(PLUGINS):
        entries.setdefault(
            name, GuardEntry(name, "plug-in", plugins.package(PLUGINS, name), "", True)
        )
    for entry in FORMATS.values():
        what = f"format {entry.name}" + ("; asks for consent" if entry.gated else "")
        for model in entry.models:
            entries.setdefault(model, GuardEntry(model, "generative", what, entry.licence, False))
    return list(entries.values())


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
            with `[guards.NAME]` tables (`file.toml` for its last one, which may name those before
            it; `file.toml:NAME` for another); a model of the hub or on disk whose format is
            known; or a name that an installed package offers.
        tables: guards of the recipe.
        device: for the embedded guard, folders and models named directly.
        progress: shows downloads.

    Raises:
        GuardError: there is no such guard, or it cannot be used.
        RecipeError: a file of tables cannot be read, or a value in it is not allowed.
        ModelError, AssetError: its model cannot be had.
    """
    return _load(spec, _LoadContext(tables or {}, device, progress))


@dataclass(frozen=True, slots=True)
class _LoadContext:
    """How names are resolved, and what the guards are loaded with.

    Attributes:
        tables: guards by name.
        device: for guards without a table.
        progress: shows downloads.
        enclosing: composed guards whose parts are being loaded, the outermost first.
    """

    tables: Tables
    device: str
    progress: assets.Progress | None
    enclosing: tuple[tuple[str, GuardTable], ...] = ()


def _load(spec: str, context: _LoadContext) -> Guard:
    if spec in context.tables:
        return _guard_from_table(spec, context)
    folder = FOLDER if spec == EMBEDDED else Path(spec).expanduser()
    if (folder / "guard.json").is_file():
        from fedrai.guards.kinds import trained

        return trained.load(folder, device=context.device, progress=context.progress)
    if spec == EMBEDDED:
        raise GuardError(
            "this installation has no embedded guard",
            hint="fedrai guard list names others; fedrai guard train makes one",
        )
    if (match := FILE.fullmatch(spec)) is not None and not folder.is_dir():
        return _guard_from_file(Path(match["file"]).expanduser(), match["name"], context)
    return _guard_from_model(spec, context)


def _guard_from_file(file: Path, name: str | None, context: _LoadContext) -> Guard:
    tables = read_tables(file)
    chosen = name or list(tables)[-1]
    if chosen not in tables:
        raise GuardError(f"{file} has no [guards.{chosen}]", hint=f"it has: {', '.join(tables)}")
    return _guard_from_table(chosen, replace(context, tables={**context.tables, **tables}))


def read_tables(file: Path) -> dict[str, GuardTable]:
    """The `[guards.NAME]` tables of a TOML file.

    Raises:
        RecipeError: it cannot be read, or a value in it is not allowed.
        GuardError: it has none.
    """
    tables = recipe.load_guards(file)
    if not tables:
        raise GuardError(f"{file} has no [guards.NAME] table", hint="see docs/guards.md")
    return tables


def _guard_from_model(spec: str, context: _LoadContext) -> Guard:
    from fedrai.guards.kinds.formats import FORMATS, OtherOwnerError, format_for

    try:
        format_for(spec)
    except GuardError as error:
        if spec in plugins.names(PLUGINS):
            return _guard_from_plugin(spec, {})
        if isinstance(error, OtherOwnerError):
            raise
        names = [*context.tables, *(entry.name for entry in available_guards())]
        near = difflib.get_close_matches(spec, names, n=1)
        raise GuardError(
            f"no guard {spec!r}: not a known name, a folder with guard.json, a TOML file or a"
            " model of a known format" + (f" (did you mean {near[0]}?)" if near else ""),
            hint="fedrai guard list; other models need a [guards.NAME] table with kind and model"
            f" (formats: {', '.join(FORMATS)}); {plugins.installed(PLUGINS)}",
        ) from error
    from fedrai.guards.kinds import generative

    settings = Generative(
        kind="generative", model=spec, device=context.device, max_length=PLAIN_LENGTH
    )
    return generative.load(settings, progress=context.progress)


def _guard_from_plugin(name: str, settings: Mapping[str, Any]) -> Guard:
    """The guard of an installed package.

    Raises:
        DependencyError: it is not there, or its package cannot be used.
        GuardError: what it returns is not a guard.
    """
    guard = plugins.make(PLUGINS, name, **settings)
    thresholds = getattr(guard, "thresholds", None) or {}
    texts = [getattr(guard, part, None) for part in ("name", "revision")]
    is_named = all(isinstance(text, str) and text for text in texts)
    if not (is_named and {"strict", "loose"} <= set(thresholds) and callable(guard.judge)):
        raise GuardError(
            f"the plug-in {name!r} of {plugins.package(PLUGINS, name)} is not a guard: it"
            " needs name, revision, thresholds (strict and loose) and judge",
            hint="see docs/extending.md",
        )
    checked: Guard = guard
    return checked


def _guard_from_table(name: str, context: _LoadContext) -> Guard:
    table = context.tables[name]
    if isinstance(table, CascadeGuard | AnyOfGuards):
        return _guard_from_guards(name, table, context)
    if isinstance(table, Rules):
        return _rules(name, table)
    if isinstance(table, InstalledGuard):
        return _guard_from_plugin(table.plugin, table.settings)
    if isinstance(table, Endpoint):
        from fedrai.endpoint import Access
        from fedrai.guards.kinds.remote import RemoteGuard, RemoteSettings

        fields = table.model_dump(exclude={"kind"})
        return RemoteGuard(Access.from_settings(fields), RemoteSettings(**fields), name=name)
    return _guard_from_weights(name, table, context.progress)


def _guard_from_weights(
    name: str, table: Generative | Classifier, progress: assets.Progress | None
) -> Guard:
    if isinstance(table, Generative):
        from fedrai.guards.kinds import generative

        return generative.load(table, name=name, progress=progress)
    from fedrai.guards.kinds import classifier

    return classifier.load(table, name=name, progress=progress)


def _rules(name: str, table: Rules) -> Guard:
    from fedrai.guards.kinds.rules import RulesGuard, from_file

    if not table.file:
        return RulesGuard(table.patterns, table.words, categories=table.categories, name=name)
    if table.patterns or table.words or table.categories:
        raise GuardError(f"guards.{name} has a file and rules of its own", hint="keep one of them")
    return from_file(Path(table.file).expanduser(), name=name)


def _guard_from_guards(
    name: str, table: CascadeGuard | AnyOfGuards, context: _LoadContext
) -> Guard:
    from fedrai.guards.kinds.cascade import AnyOf, Cascade

    chain = (*context.enclosing, (name, table))
    if (name, table) in context.enclosing:
        raise GuardError(
            f"guards.{name} contains itself ({' > '.join(outer for outer, _ in chain)})",
            hint="a `cascade` or `any` guard must not contain itself, directly or indirectly",
        )
    inner = replace(context, enclosing=chain)
    specs = [table.first, table.second] if isinstance(table, CascadeGuard) else table.guards
    guards = [_load(spec, inner) for spec in specs]
    if isinstance(table, CascadeGuard):
        return Cascade(guards[0], guards[1], table.low, table.high, name=name)
    return AnyOf(guards, name=name)
