"""What a report shows beside the records of runs (`runs.record`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedrai.report.charts import Point


@dataclass(frozen=True, slots=True)
class Transcript:
    """An answer to one of the server's own red-team requests.

    Attributes:
        suite: where the request comes from.
        number: its place there.
        prompt: the request, cut to what is shown.
        answer: cut to what is shown.
        length: of the whole answer, in characters.
        reply: the refusal judge's word.
    """

    suite: str
    number: int
    prompt: str
    answer: str
    length: int
    reply: str


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of a run that a report shows.

    Attributes:
        number: the evaluation they are from.
        shown: those that were asked for.
        unreadable: lines that could not be read.
    """

    number: int
    shown: tuple[Transcript, ...]
    unreadable: int


@dataclass(frozen=True, slots=True)
class ArmPoint:
    """An arm's figures, means over its seeds.

    Attributes:
        label: what it is called.
        value: of the axis; empty without one.
        figures: by measure, with the ends of their intervals.
        arm: its name; empty for what training starts from.
    """

    label: str
    value: str
    figures: Mapping[str, Point]
    arm: str = ""


@dataclass(frozen=True, slots=True)
class Compared:
    """What `fedrai compare` wrote beside its runs.

    Attributes:
        axis: key that it goes along; empty: none.
        against: arm that others are held against.
        points: what runs start from, and the arms.
        columns: headings of the table of arms.
        rows: of that table.
        gap_columns: headings of the table of differences.
        gap_rows: of that table.
        notes: what a reader must know.
    """

    axis: str
    against: str
    points: tuple[ArmPoint, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    gap_columns: tuple[str, ...]
    gap_rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]
