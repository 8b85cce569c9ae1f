"""What the defences of a round did, from `round.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedrai.runs.record.values import Json, as_count, as_number, word


@dataclass(frozen=True, slots=True)
class DefenceRecord:
    """What one method did to the aggregated adapter.

    Attributes:
        method: its name in the recipe.
        moved: how far it moved the layers' matrices; None where it is not known.
        change: how far the round's training and aggregation had moved them.
        layers: layers that it corrected; None: it does not say.
        of: all layers.
        truncation: norm of what the adapter's rank cannot hold, as a part of the whole.
    """

    method: str
    moved: float | None
    change: float | None
    layers: int | None
    of: int | None
    truncation: float | None

    @property
    def relative(self) -> float | None:
        """How far it moved them, as a multiple of what the round had changed."""
        return self.moved / self.change if self.moved is not None and self.change else None

    @classmethod
    def all_of(cls, body: Json) -> tuple[DefenceRecord, ...]:
        """The methods of a round in their order; in earlier versions a defence has no entry."""
        steps = body.get("defence")
        listed = steps if isinstance(steps, list) else []
        return tuple(cls._of(step) for step in listed if isinstance(step, Mapping))

    @classmethod
    def _of(cls, step: Json) -> DefenceRecord:
        return cls(
            word(step, "method"),
            as_number(step.get("moved")),
            as_number(step.get("change")),
            as_count(step.get("layers")),
            as_count(step.get("of")),
            as_number(step.get("truncation")),
        )
