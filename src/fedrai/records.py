"""Frozen records that cross a boundary between stages.

`Message`, `Example` and `Tokens` carry a client's own text or token ids and stay on the client.
`TrainingStep` and `TrainResult` hold numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]
OnProgress = Callable[[int, int], None]
"""Called with (how many are done, total) as work proceeds; may raise to stop it."""


def ignore(_done: int, _total: int) -> None:
    """The `OnProgress` that shows nothing."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Example:
    """One row of training data: a conversation that ends with an assistant's turn.

    Attributes:
        messages: the turns, oldest first; at least one user turn and a last assistant turn.
        origin: where the row stands ("rows.jsonl, line 7"); safe to print.
        label: the value of the recipe's label column, for Dirichlet partitions; empty if none.
        harmful: whether the *source* is declared harmful. Known only in experiments, used for
            partitions and accounts, never by training.
    """

    messages: tuple[Message, ...]
    origin: str
    label: str = ""
    harmful: bool = False


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be used: where it stands and what is wrong with it (no text of it)."""

    origin: str
    problem: str


Problem = Literal["empty", "unparsed", "no-answer", "failed"]
"""Why a guard has no probability for a conversation: there is nothing to judge, the guard said
something that is none of its labels, an endpoint gave no answer, or scoring raised an error."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a guard says of one conversation.

    Attributes:
        probability: that it is unsafe, 0 to 1, calibrated where the guard has been; None when
            there is none, which is neither safe nor unsafe.
        categories: hazard categories, the likeliest first; empty where the guard names none.
        guard: id and revision of the guard that said it, `name@revision`.
        problem: why there is no probability; None when there is one.
    """

    probability: float | None
    guard: str
    categories: tuple[str, ...] = ()
    problem: Problem | None = None

    def __post_init__(self) -> None:
        if (self.probability is None) is (self.problem is None):
            raise ValueError("a verdict has either a probability or a problem")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"a probability lies between 0 and 1, got {self.probability}")


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenized conversation.

    Attributes:
        ids: token ids, length T.
        mask: length T, true where the token is the assistant's own and counts in the loss.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """What one optimiser step of local training reports while it runs."""

    step: int
    steps: int
    loss: float
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a whole local training reports.

    Attributes:
        losses: mean cross-entropy per label token of each step, in nats.
        tokens: tokens that went through the model, without padding.
        label_tokens: tokens that counted in the loss.
        operations: floating-point operations by the count in `costs.training_operations`.
        seconds: wall time of the loop.
    """

    losses: Sequence[float]
    tokens: int
    label_tokens: int
    operations: float
    seconds: float
