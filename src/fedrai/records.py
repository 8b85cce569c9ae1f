"""Frozen records that cross a boundary between stages.

`Message`, `Example`, `Tokens` and `PreferencePair` contain a client's text or token ids and stay on
the client. `TrainingStep` and `TrainResult` contain numbers only.
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


Conversation = tuple[Message, ...]
"""Turns, oldest first. If the last is the user's, a guard judges that request; if it is the
assistant's, it judges that answer in the light of what stands before it."""


@dataclass(frozen=True, slots=True)
class Example:
    """One row of training data: a conversation that ends with an assistant's turn.

    Attributes:
        messages: the turns, oldest first; at least one user turn and a last assistant turn.
        origin: file and line of the row ("rows.jsonl, line 7"); safe to print.
        label: value of the recipe's label column, for Dirichlet partitions; empty: none.
        harmful: whether the *source* is declared harmful. Used in experiments for partitions and
            counts, never by training.
        source: label of its source in the recipe, for partitions and counts; safe to print.
        rejected: of a preference pair, the same conversation with the answer that is not preferred;
            `messages` then end with the preferred one. Empty: the row is no pair.
    """

    messages: tuple[Message, ...]
    origin: str
    label: str = ""
    harmful: bool = False
    source: str = ""
    rejected: tuple[Message, ...] = ()

    @property
    def shared_turns(self) -> int:
        """Of a pair: the number of turns that both conversations begin with."""
        pairs = enumerate(zip(self.messages, self.rejected, strict=False))
        short = min(len(self.messages), len(self.rejected))
        return next((n for n, (one, other) in pairs if one != other), short)


@dataclass(frozen=True, slots=True)
class BadRow:
    """An unusable row: its file and line, and the reason (without its text)."""

    origin: str
    problem: str


Problem = Literal["empty", "unparsed", "no-answer", "failed"]
"""Why a guard has no probability for a conversation: it is empty, the guard's output is none of its
labels, an endpoint did not answer, or scoring raised an error."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A guard's verdict on one conversation.

    Attributes:
        probability: that it is unsafe, 0 to 1, calibrated if the guard is; None: not scored, which
            is neither safe nor unsafe.
        categories: hazard categories, the likeliest first; empty if the guard has none.
        guard: id and revision of the guard, `name@revision`.
        problem: why there is no probability; None if there is one.
    """

    probability: float | None
    guard: str
    categories: tuple[str, ...] = ()
    problem: Problem | None = None

    def __post_init__(self) -> None:
        if (self.probability is None) is (self.problem is None):
            raise ValueError("a verdict has either a probability or a problem")
        if self.probability is not None and not 0 <= self.probability <= 1:
            raise ValueError(f"a probability must be from 0 to 1, got {self.probability}")


@dataclass(frozen=True, slots=True)
class VerdictBatch:
    """Verdicts in the order of the conversations, and their cost.

    Attributes:
        verdicts: one for each conversation.
        tokens: tokens that went through a local model, without padding; 0 where unknown.
        operations: floating-point operations, counted from shapes; 0 where unknown.
    """

    verdicts: tuple[Verdict, ...]
    tokens: int = 0
    operations: float = 0.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """A tokenized conversation.

    Attributes:
        ids: token ids, length T.
        mask: length T, true for the assistant's tokens, which count in the loss.
    """

    ids: tuple[int, ...]
    mask: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two answers to one prompt, each tokenized with it; the masks mark the answers.

    Attributes:
        chosen: the prompt and the answer that is preferred.
        rejected: the same prompt and the other answer.
    """

    chosen: Tokens
    rejected: Tokens


TrainingRow = Tokens | PreferencePair
"""A tokenized row of a client: a conversation to learn from, or two answers to compare."""


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One optimiser step of local training, reported while it runs."""

    step: int
    steps: int
    loss: float
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class TrainResult:
    """The result of a local training.

    Attributes:
        losses: mean cross-entropy per label token of each step, in nats.
        tokens: tokens that went through the model, without padding.
        label_tokens: tokens that counted in the loss.
        operations: floating-point operations as `costs.training_operations` counts them.
        seconds: wall time of the loop.
        preference: figures of the preference tuning; None: there were no pairs.
    """

    losses: Sequence[float]
    tokens: int
    label_tokens: int
    operations: float
    seconds: float
    preference: PreferenceResult | None = None


@dataclass(frozen=True, slots=True)
class PreferenceResult:
    """The result of a preference tuning.

    Margin and accuracy are means over the second half of the steps: in the first step, policy and
    reference are often the same, and neither means anything.

    Attributes:
        losses: mean loss of the pairs of each step.
        margin: mean of beta times the log-ratio of policy to reference, chosen minus rejected.
        accuracy: share of pairs with a margin above 0.
    """

    losses: Sequence[float]
    margin: float
    accuracy: float
