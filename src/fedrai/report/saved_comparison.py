"""`comparison.json`, which `fedrai compare` writes beside its runs, as a record for the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrai.report.charts import Point
from fedrai.report.measures import OUTSIDE_REFUSED, OUTSIDE_SAFE
from fedrai.report.tables import Table, row
from fedrai.runs import RunFolder
from fedrai.runs.record.values import as_number, part, word

FILE = "comparison.json"


@dataclass(frozen=True, slots=True)
class ArmPoint:
    """An arm's figures, means over its seeds.

    Attributes:
        label: shown for it.
        value: value on the axis; empty without one.
        figures: figures by measure, with the ends of their intervals.
        arm: its name; empty for what training starts from.
    """

    label: str
    value: str
    figures: Mapping[str, Point]
    arm: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """How much more than the reference arm an arm declines on outside sets, paired by question.

    Attributes:
        arm: its name, with its value on the axis.
        measure: what is declined: `outside-safe`, or `outside-refused`.
        difference: from -1 to 1, with its 95 % interval.
    """

    arm: str
    measure: str
    difference: Point

    @property
    def is_settled(self) -> bool:
        """Whether its interval leaves out 0."""
        low, high = self.difference.low, self.difference.high
        return low is not None and high is not None and (low > 0 or high < 0)


@dataclass(frozen=True, slots=True)
class SavedComparison:
    """A comparison as it was written.

    Attributes:
        axis: the recipe key it varies; empty: none.
        against: the reference arm.
        points: what runs start from, and the arms.
        arms: the table of arms.
        differences: the table of differences from the reference arm.
        notes: notes on how to read them.
        gaps: the differences over outside sets.
    """

    axis: str
    against: str
    points: tuple[ArmPoint, ...]
    arms: Table
    differences: Table
    notes: tuple[str, ...]
    gaps: tuple[Gap, ...] = ()

    @classmethod
    def from_json(cls, body: Any) -> SavedComparison:
        """A comparison from its file, as far as that can be read."""
        content = body if isinstance(body, Mapping) else {}
        arms = [arm for arm in _list(content.get("arms")) if isinstance(arm, Mapping)]
        start = content.get("start")
        against = word(content, "against")
        return cls(
            axis=word(content, "axis"),
            against=against,
            points=(
                *([_point(start, is_start=True)] if isinstance(start, Mapping) else []),
                *map(_point, arms),
            ),
            arms=_table("Arms: means over seeds", content.get("table")),
            differences=_table(f"Differences from {against}", content.get("differences_table")),
            notes=tuple(str(note) for note in _list(content.get("notes"))),
            gaps=tuple(_gaps(_list(content.get("differences")))),
        )


def read_comparisons(paths: Iterable[Path]) -> list[SavedComparison]:
    """The comparisons in some folders; folders without one are skipped.

    Raises:
        RunError: a file is damaged.
    """
    folders = [path for path in dict.fromkeys(paths) if (path / FILE).is_file()]
    return [SavedComparison.from_json(RunFolder(path).read_json(FILE)) for path in folders]


def arms_in(path: Path) -> Sequence[str]:
    """Names of the arms of the comparison in a folder, in the recipe's order; none without one.

    Raises:
        RunError: a file is damaged.
    """
    body: Any = RunFolder(path).read_json(FILE) if (path / FILE).is_file() else {}
    arms = _list(body.get("arms")) if isinstance(body, Mapping) else []
    return list(dict.fromkeys(word(arm, "arm") for arm in arms if isinstance(arm, Mapping)))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _table(caption: str, body: object) -> Table:
    """A table; rows of another length than its headings are left out."""
    content = body if isinstance(body, Mapping) else {}
    columns = [str(cell) for cell in _list(content.get("columns"))]
    rows = [[str(cell) for cell in _list(cells)] for cells in _list(content.get("rows"))]
    return Table(caption, columns, [row(*cells) for cells in rows if len(cells) == len(columns)])


def _point(arm: Mapping[str, Any], is_start: bool = False) -> ArmPoint:
    figures = part(arm, "figures")
    points = {str(name): _figure(part(figures, str(name))) for name in figures}
    measured = {name: point for name, point in points.items() if point is not None}
    name = word(arm, "arm")
    label = word(arm, "label") or name
    return ArmPoint(label, word(arm, "value"), measured, "" if is_start else name)


def _gaps(differences: Sequence[Any]) -> Iterator[Gap]:
    for one in differences:
        if not isinstance(one, Mapping):
            continue
        measure, point = word(one, "measure"), _figure(part(one, "figure"))
        if measure in (OUTSIDE_SAFE, OUTSIDE_REFUSED) and point is not None:
            value = word(one, "value")
            yield Gap(word(one, "arm") + (f" at {value}" if value else ""), measure, point)


def _figure(figure: Mapping[str, Any]) -> Point | None:
    value = as_number(figure.get("value"))
    ends = (as_number(figure.get(end)) for end in ("low", "high"))
    return None if value is None else Point(0.0, value, *ends)
