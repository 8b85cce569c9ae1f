"""What `fedrai export` does: an adapter or a merged model in a folder of its own, with its card."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from fedrai import model, recipe, runs
from fedrai.errors import ModelError
from fedrai.exporting import Exported, card, relabelled
from fedrai.model import is_adapter
from fedrai.runs import RunFolder, write_text
from fedrai.runtimes.trained import of_recipe
from fedrai.summary import summarise
from fedrai.targets import target

CARD = "README.md"


def export(
    path: Path, out: Path, *, merged: bool, number: int | None, client: str, licence: str = ""
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

    Raises:
        RunError: no such run or round, or the folder is in the way.
        AssetError, ModelError: the adapter cannot be used.
    """
    run = None if is_adapter(str(path)) else RunFolder.open(path)
    runs.check_free(out)
    text = _kept_card(str(path), merged) if run is None else ""
    if run is None and not merged:
        return _written(out, partial(model.copy_adapter, model.adapter_folder(str(path))), text)
    chosen = target(str(path), number, client)
    if chosen.adapter is None:
        raise ModelError(f"{path} has no adapter yet")
    if run is not None:
        text = _run_card(run, run.last_round() if number is None else number, client, merged,
                         licence)  # fmt: skip
    save = chosen.model.save_merged if merged else chosen.model.save_adapter
    return _written(out, partial(save, state=chosen.adapter), text)


def _written(out: Path, save: Callable[[Path], None], text: str) -> Path:
    def write(folder: Path) -> None:
        save(folder)
        if text:
            write_text(folder / CARD, text)

    RunFolder(out.parent).write_folder(out, write, listed=False)
    return out


def _run_card(run: RunFolder, number: int, client: str, merged: bool, licence: str) -> str:
    settings = recipe.load(run.recipe_file)
    found = Exported(settings.model_dump(mode="json"), run.info, summarise(run), number, client,
                     merged, licence, of_recipe(settings))  # fmt: skip
    return card(found)


def _kept_card(spec: str, merged: bool) -> str:
    """The card of an adapter; one that `fedrai align` made has it beside its folder."""
    folder = model.adapter_folder(spec)
    places = [folder / CARD]
    places += [folder.parent / CARD] if (folder.parent / "align.json").is_file() else []
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        return ""
    text = file.read_text(encoding="utf-8")
    return relabelled(text) if merged else text
