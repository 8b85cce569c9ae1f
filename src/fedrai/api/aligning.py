"""One alignment of one model with a constitution, without a federation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrai import recipe as recipes
from fedrai.api.places import Place, Row, folder, observed

if TYPE_CHECKING:
    from fedrai.constitution.records import RevisionRecord


@dataclass(frozen=True, slots=True)
class Alignment:
    """The result of an alignment.

    Attributes:
        path: its folder.
        adapter: the aligned adapter, a PEFT folder in it.
        report: all figures, as in `report.json`.
        records: one row a request: request, category, harmful, first (answer), first_refuses,
            first_unsafe (the guard's probability), revision (None: none passed), unsafe, tries,
            outcome. They hold texts of the server's own requests and of the model.
    """

    path: Path
    adapter: Path
    report: Mapping[str, Any] = field(repr=False)
    records: list[Row] = field(repr=False)


def align(
    model: str = "",
    out: Place | None = None,
    *,
    recipe: Place | None = None,
    changes: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> Alignment:
    """Align a model with a constitution, as `fedrai align` does, or resume an alignment.

    Args:
        model: a folder, hub id or asset; an adapter folder; or a run. Empty: the recipe names it.
        out: the folder; the same alignment in it is resumed. None: `aligned/NAME`.
        recipe: its file, or the name of a shipped one.
        changes: keys to set, such as `{"constitution.steps": 20}`; they override the recipe.
        progress: show the progress on stderr.

    Raises:
        FedRAIError: something cannot be used; no folder is written then.
        KeyboardInterrupt: stopped by the user; call it again to resume.
    """
    from fedrai.federation.run import standalone

    base = {"model.base": model} if model else {}
    settings = recipes.load_alignment(
        Path(recipe) if recipe is not None else None,
        changes=list({**base, **(changes or {})}.items()),
    )
    path = folder(out, "aligned", settings.name)
    with observed(progress) as observer:
        standalone.align(settings, path, observer=observer)
    return read_alignment(path)


def read_alignment(path: Place) -> Alignment:
    """Read the folder of a finished alignment; no model is loaded.

    Raises:
        RunError: there is no alignment, it is not finished, or one of its files is damaged.
    """
    from fedrai.constitution.material import RECORDS
    from fedrai.constitution.records import RevisionRecord
    from fedrai.constitution.storing import read_records
    from fedrai.runs import RunFolder

    place = Path(path)
    report = RunFolder(place).read_json("report.json")
    records = [_record(record) for record in read_records(place / RECORDS, RevisionRecord)]
    return Alignment(place, place / "adapter", report, records)


def _record(record: RevisionRecord) -> Row:
    return {
        "request": record.request.prompt,
        "category": record.request.category,
        "harmful": record.request.harmful,
        "first": record.first,
        "first_refuses": record.first_refuses,
        "first_unsafe": record.first_unsafe,
        "revision": record.revision,
        "unsafe": record.unsafe,
        "tries": record.tries,
        "outcome": str(record.outcome),
    }
