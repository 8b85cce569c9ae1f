"""The preference tuning of a round's clients as a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedrai.runs.record.values import Json, as_number

CLIENT_KEYS = (
    "preference-loss-first", "preference-loss-last", "reward-margin", "reward-accuracy",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PreferenceRecord:
    """Weighted means over the clients that report; None where none does.

    Attributes:
        loss_first: mean loss of the pairs of the first step.
        loss_last: the same of the last step.
        margin: mean reward margin over the second half of the steps; see `PreferenceResult`.
        accuracy: share of pairs with a margin above 0, likewise.
    """

    loss_first: float | None
    loss_last: float | None
    margin: float | None
    accuracy: float | None

    @classmethod
    def from_json(cls, body: Json) -> PreferenceRecord | None:
        """The part `preference` of `round.json`; None if it is empty."""
        names = ("loss_first", "loss_last", "margin", "accuracy")
        return cls(*(as_number(body.get(name)) for name in names)) if body else None

    @classmethod
    def of_client(cls, numbers: Mapping[str, float]) -> PreferenceRecord:
        """What one client reports, by the names of its numbers, also as events spell them."""
        plain = {name.replace("_", "-"): value for name, value in numbers.items()}
        return cls(*(plain.get(key) for key in CLIENT_KEYS))

    def format(self) -> str:
        """The figures in a few words, without those that are missing."""
        ends = [f"{v:.3f}" for v in (self.loss_first, self.loss_last) if v is not None]
        parts = [f"preference loss {' -> '.join(ends)}"] if ends else []
        parts += [] if self.margin is None else [f"margin {self.margin:.3f}"]
        parts += [] if self.accuracy is None else [f"accuracy {100 * self.accuracy:.1f} %"]
        return ", ".join(parts)
