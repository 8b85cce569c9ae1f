"""What `fedrai export` does: an adapter or a merged model in a folder of its own, with its card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from fedrai import assets, model, recipe, runs
from fedrai.errors import ModelError
from fedrai.federation.run.targets import base_spec, target
from fedrai.federation.run.trained_suites import of_recipe
from fedrai.model import is_adapter
from fedrai.release import ExportedModel, card, relabel_merged
from fedrai.runs import RunFolder
from fedrai.runs.files import write_text
from fedrai.runs.record import summarise

CARD = "README.md"


def export(
    path: Path,
    out: Path,
    *,
    merged: bool,
    number: int | None,
    client: str,
    licence: str = "",
    base: str = "",
    with_base: bool = False,
) -> Path:
    """Write an adapter, or the model with it merged in, to a folder of its own.

    A run gets a card made from its records; an adapter keeps the card that it has.

    Args:
        path: a run, an adapter folder or `fedrai:aligned`.
        out: the new folder.
        merged: the whole model.
        number: round of a run; None: the last.
        client: which client's adapter, for runs in local mode.
        licence: for the card of a run; empty: that of the base model, where it is known.
        base: spec of the base model, where it does not lie where the run or the adapter says.
        with_base: copy the base model beside the adapter, into `base/`.

    Raises:
        RunError: no such run or round, or the folder is in the way.
        AssetError, ModelError: the adapter or its base model cannot be used.
    """
    run = None if is_adapter(str(path)) else RunFolder.open(path)
    runs.check_free(out)
    text = _kept_card(str(path), merged) if run is None else ""
    if run is None and not merged:
        source = model.adapter_folder(str(path))
        found = _base_of(str(path), base, needed=with_base)
        copy = partial(model.copy_adapter, source)
        return _written(out, copy, text, partial(_keep_base, found, with_base))
    chosen = target(str(path), number, client, base=base)
    if chosen.adapter is None:
        raise ModelError(f"{path} has no adapter yet")
    if run is not None:
        text = _run_card(run, run.last_round() if number is None else number, client, merged,
                         licence, with_base)  # fmt: skip
    lm = chosen.model
    if merged:
        return _written(out, partial(lm.save_merged, state=chosen.adapter), text)
    found = Base(chosen.recipe.model.base, lm.fingerprint)
    save = partial(lm.save_adapter, state=chosen.adapter)
    return _written(out, save, text, partial(_keep_base, found, with_base))


@dataclass(frozen=True, slots=True)
class Base:
    """A base model: where it is, and the fingerprint of its files."""

    spec: str
    digest: str

    @property
    def local(self) -> bool:
        """Whether only this machine knows it by its spec."""
        return assets.parse(self.spec).scheme == "path"


def _base_of(name: str, base: str, *, needed: bool) -> Base | None:
    """The base model of an adapter; None where it cannot be told and is not needed."""
    try:
        spec = base_spec(name, base)
    except ModelError:
        if needed:
            raise
        digest = model.read_base_record(model.adapter_folder(name))
        return Base("", digest) if digest else None
    found = Base(spec, "")
    return (
        replace(found, digest=model.fingerprint(model.model_folder(spec))) if found.local else found
    )


def _keep_base(base: Base | None, with_base: bool, folder: Path) -> None:
    """Let an exported adapter be read where it lies: by its base's fingerprint, or a copy."""
    if base is None:
        return
    if with_base:
        model.copy_base(base.spec, folder)
    if base.digest and (not base.spec or base.local):
        model.write_base_record(folder, base.digest)
        if base.spec:
            model.remember_base(base.spec, base.digest)


def _written(
    out: Path, save: Callable[[Path], None], text: str, more: Callable[[Path], None] | None = None
) -> Path:
    def write(folder: Path) -> None:
        save(folder)
        if more is not None:
            more(folder)
        if text:
            write_text(folder / CARD, text)

    RunFolder(out.parent).write_folder(out, write, listed=False)
    return out


def _run_card(
    run: RunFolder, number: int, client: str, merged: bool, licence: str, with_base: bool
) -> str:
    settings = recipe.load(run.recipe_file)
    exported = ExportedModel(
        settings.model_dump(mode="json"), run.info, summarise(run), number, client, merged,
        licence, of_recipe(settings), with_base,
    )  # fmt: skip
    return card(exported)


def _kept_card(spec: str, merged: bool) -> str:
    """The card of an adapter; one that `fedrai align` made has it beside its folder."""
    folder = model.adapter_folder(spec)
    places = [folder / CARD]
    places += [folder.parent / CARD] if (folder.parent / "align.json").is_file() else []
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return ""
    text = file.read_text(encoding="utf-8")
    return relabel_merged(text) if merged else text
