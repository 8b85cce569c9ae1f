"""A run's tracker, as the recipe's `[tracking]` sets it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrai.recipe.sections import Recipe
from fedrai.recipe.tracking import Tracking
from fedrai.runs import RunFolder
from fedrai.runs.tracking import follow

OWN = ("tensorboard", "wandb")  # write into the run folder if nothing else is said


@contextmanager
def tracked(
    recipe: Recipe, run: RunFolder, say: Callable[[str], None]
) -> Iterator[Callable[[str], None]]:
    """Send figures to the tracker while a run goes on; yields a function to call with each event.

    Args:
        recipe: the run's recipe.
        run: the run folder.
        say: called with the destination, and once if the tracker fails; the run continues.
    """
    tracker = follow(run, _place(recipe, run.path), recipe.model_dump(mode="json"), say)
    if tracker is None:
        yield lambda _kind: None
        return
    try:
        yield tracker.event
    finally:
        tracker.close()


def _place(recipe: Recipe, run: Path) -> Tracking | None:
    section = recipe.tracking
    if section.kind == "none":
        return None
    name = section.name or f"{recipe.name}-seed{recipe.seed}"
    folder = section.folder or (str(run / "tracking") if section.kind in OWN else "")
    if section.folder and section.kind == "tensorboard":  # which tells runs apart by their folders
        folder = str(Path(section.folder) / f"{name}-{recipe.hash[:8]}")
    return section.model_copy(update={"name": name, "folder": folder})
