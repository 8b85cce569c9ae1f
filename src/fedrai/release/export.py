"""Exporting: an adapter or a merged model in a folder of its own, with its card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from fedrai import assets, model, recipe, runs
from fedrai.errors import ModelError, ReleaseError
from fedrai.federation.run.targets import base_spec
from fedrai.federation.run.targets import target as load_target
from fedrai.federation.run.trained_suites import of_recipe
from fedrai.model import is_adapter
from fedrai.release import ExportedModel, card, relabel_merged
from fedrai.runs import RunFolder
from fedrai.runs.files import write_text
from fedrai.runs.record import summarise

CARD = "README.md"
UNRELEASED = "UNRELEASED.txt"
NOT_RELEASED = "This model has not passed the gate of its consortium: nothing vouches for it.\n"
Save = Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export.

    Attributes:
        merged: the whole model, with the adapter merged in.
        number: round of a run; None: the last.
        client: owner of the adapter, for runs in local mode.
        licence: licence on the card of a run; empty: that of the base model, if it is known.
        base: spec of the base model, if it has moved since the run or the adapter was written.
        with_base: copy the base model beside the adapter, into `base/`.
        standing: of a run's model: "released" by the gate, or "unreleased" and handed out all the
            same, which its card and a file beside it say. Empty: a run is not exported.
    """

    merged: bool = False
    number: int | None = None
    client: str = ""
    licence: str = ""
    base: str = ""
    with_base: bool = False
    standing: Literal["", "released", "unreleased"] = ""


def export(path: Path, out: Path, options: ExportOptions) -> Path:
    """Write an adapter, or the model with it merged in, to a folder of its own.

    A run gets a card written from its records; an adapter keeps its own card.

    Args:
        path: a run, an adapter folder or `fedrai:aligned`.
        out: the new folder.
        options: what to export.

    Raises:
        RunError: no such run or round, or the folder already exists.
        ReleaseError: it is a run's model, which is not released.
        AssetError, ModelError: the adapter or its base model cannot be used.
    """
    spec = str(path)
    run = None if is_adapter(spec) else RunFolder.open(path)
    if run is not None and not options.standing:
        raise ReleaseError(
            f"the model of {path} is not released: it has not passed the gate",
            hint=f"fedrai release {path} judges it; --unreleased hands it out as it is",
        )
    runs.check_free(out)
    if run is None and not options.merged:
        base = _base_of(spec, options)
        copy = partial(model.copy_adapter, model.adapter_folder(spec))
        return _write(out, _with_base(copy, base, options), _own_card(spec))
    target = load_target(spec, options.number, options.client, base=options.base)
    if target.adapter is None:
        raise ModelError(f"{path} has no adapter yet")
    card_text = _run_card(run, options) if run is not None else relabel_merged(_own_card(spec))
    if options.merged:
        whole = partial(target.model.save_merged, state=target.adapter)
        return _write(out, _marked(whole, options), card_text)
    save = partial(target.model.save_adapter, state=target.adapter)
    base = Base(target.recipe.model.base, target.model.fingerprint)
    return _write(out, _marked(_with_base(save, base, options), options), card_text)


def _write(out: Path, save: Save, card_text: str) -> Path:
    """Write a model and its card, if it has one."""

    def write(folder: Path) -> None:
        save(folder)
        if card_text:
            write_text(folder / CARD, card_text)

    RunFolder(out.parent).write_folder(out, write, listed=False)
    return out


def _marked(save: Save, options: ExportOptions) -> Save:
    """Save a model and, if it is not released, a file whose name says so."""

    def save_marked(folder: Path) -> None:
        save(folder)
        if options.standing == "unreleased":
            write_text(folder / UNRELEASED, NOT_RELEASED)

    return save_marked


# --- the base model -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Base:
    """A base model: its spec, and the fingerprint of its files."""

    spec: str
    digest: str

    @property
    def is_local(self) -> bool:
        """Whether its spec is a path of this machine."""
        return assets.parse(self.spec).scheme == "path"


def _base_of(name: str, options: ExportOptions) -> Base | None:
    """The base model of an adapter; None if it is unknown and not needed."""
    try:
        spec = base_spec(name, options.base)
    except ModelError:
        if options.with_base:
            raise
        digest = model.read_base_record(model.adapter_folder(name))
        return Base("", digest) if digest else None
    base = Base(spec, "")
    if not base.is_local:
        return base
    return replace(base, digest=model.fingerprint(model.model_folder(spec)))


def _with_base(save: Save, base: Base | None, options: ExportOptions) -> Save:
    """Save an adapter with what identifies its base model: a fingerprint, or a copy."""

    def save_both(folder: Path) -> None:
        save(folder)
        if base is None:
            return
        if options.with_base:
            model.copy_base(base.spec, folder)
        if base.digest and (not base.spec or base.is_local):
            model.write_base_record(folder, base.digest)
            if base.spec:
                model.remember_base(base.spec, base.digest)

    return save_both


# --- the card -------------------------------------------------------------------------------------


def _run_card(run: RunFolder, options: ExportOptions) -> str:
    settings = recipe.load(run.recipe_file)
    number = run.last_round() if options.number is None else options.number
    return card(
        ExportedModel(
            settings.model_dump(mode="json"), run.info, summarise(run), number, options.client,
            options.merged, options.licence, of_recipe(settings), options.with_base,
            options.standing,
        )
    )  # fmt: skip


def _own_card(spec: str) -> str:
    """The card of an adapter, also beside the folder of one by `fedrai align`; empty without."""
    folder = model.adapter_folder(spec)
    files = [folder / CARD]
    files += [folder.parent / CARD] if (folder.parent / "align.json").is_file() else []
    file = next((file for file in files if file.is_file()), None)
    return file.read_text(encoding="utf-8") if file else ""
