"""The arms of a recipe over seeds, and the differences between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedrai import recipe as recipes
from fedrai.api.places import Place, Row, folder, observed
from fedrai.api.running import RecipeLike, load_recipe


@dataclass(frozen=True, slots=True)
class Comparison:
    """The figures of a recipe's arms.

    Attributes:
        path: the folder, with tables, pictures and `comparison.json`.
        against: the reference arm.
        arms: one row an arm and measure: arm, axis_value, measure, value (mean over seeds), low,
            high, interval (its kind), seeds, prompts, unscored.
        differences: the same for an arm minus the reference, with against and verdict.
        runs: one row a run: arm, seed, axis_value, path; see `read_run`.
        notes: how to read these figures.
    """

    path: Path
    against: str
    arms: list[Row] = field(repr=False)
    differences: list[Row] = field(repr=False)
    runs: list[Row] = field(repr=False)
    notes: tuple[str, ...] = field(repr=False)


def compare(
    settings: RecipeLike,
    out: Place | None = None,
    *,
    changes: Mapping[str, Any] | None = None,
    arms: Sequence[str] = (),
    seeds: Sequence[int] = (),
    axis: tuple[str, Sequence[Any]] | None = None,
    against: str = "",
    sharing: bool = True,
    progress: bool = False,
) -> Comparison:
    """Run every arm of a recipe, as `fedrai compare` does; finished runs are not repeated.

    Args:
        settings: the recipe; see `load_recipe`.
        out: the folder. None: `runs/NAME`.
        changes: keys of the recipe to set.
        arms: only these; none: all.
        seeds: used in place of the recipe's.
        axis: a key and the values it takes, such as `("data.harm.share", [0, 0.3])`.
        against: the reference arm; empty: harmful, fedavg, or the first.
        sharing: take over rounds and evaluations that another arm makes alike.
        progress: show the progress on stderr.

    Raises:
        FedRAIError: something cannot be used.
        KeyboardInterrupt: stopped by the user; call it again to resume.
    """
    from fedrai.report import flat
    from fedrai.report.comparing import running
    from fedrai.report.comparing.layout import Axis
    from fedrai.report.comparing.writing import notes

    chosen = recipes.select_arms(load_recipe(settings, changes), arms)
    path = folder(out, "runs", chosen.name)
    along = Axis.parse(f"{axis[0]}={','.join(map(_option_text, axis[1]))}") if axis else None
    with observed(progress) as observer:
        outcome = running.compare(
            chosen, path, seeds=seeds, axis=along, against=against, sharing=sharing,
            observer=observer,
        )  # fmt: skip
    runs = [{"arm": a.name, "seed": a.seed, "axis_value": a.value, "path": str(a.path)}
            for a in outcome.arms]  # fmt: skip
    comparison = outcome.comparison
    return Comparison(
        path, comparison.against, flat.arms(comparison.arms),
        flat.differences(comparison.differences), runs, tuple(notes(comparison)),
    )  # fmt: skip


def _option_text(value: object) -> str:
    """A value as `-o KEY=VALUE` takes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
